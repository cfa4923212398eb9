"""The page's pictures: sheets of tiles as data URIs, and plots as inline SVG that take their colours from the page.

Plots are drawn by hand: a plot that is part of the page follows its fonts and its light or dark colours, and needs no
plotting library.
"""

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from pofx.domains import Domain, Images, in_unit
from pofx.evaluate.score import Score
from pofx.report.rows import Row, is_likelihood

Point = tuple[float, float]
Number = float | int


@dataclass(frozen=True)
class Series:
    """One line of a plot: its name, its points, and the number of its colour in the page's palette."""

    name: str
    points: tuple[Point, ...]
    colour: int = 1


def tiles(x: Tensor, domain: Images, *, columns: int) -> str:
    """Pictures (N, C, H, W) in a grid, as the address of an embedded PNG; what lies between tiles is transparent."""
    from PIL import Image

    rgb = ((domain.colours(x.cpu()) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)[:, :3]
    if rgb.shape[1] == 2:
        rgb = pad(rgb, (0, 0, 0, 0, 0, 1))  # no blue
    rgb = rgb.expand(-1, 3, -1, -1)
    rgba = torch.cat([rgb, torch.full_like(rgb[:, :1], 255)], dim=1)
    gap, (h, w) = max(1, domain.width // 16), (domain.height, domain.width)
    rows = math.ceil(len(x) / columns)
    sheet = torch.zeros(4, rows * (h + gap) - gap, columns * (w + gap) - gap, dtype=torch.uint8)
    for i, tile in enumerate(rgba):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, top : top + h, left : left + w] = tile
    file = io.BytesIO()
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def nearest(x: Tensor, train: Tensor, domain: Images) -> Tensor:
    """The training picture nearest to each of x, by Euclidean distance of their levels, or colours."""
    flat = domain.colours(x.cpu()).flatten(1)
    best = torch.full((len(x),), math.inf)
    index = torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(train), 4096):
        distance, at = torch.cdist(flat, domain.colours(train[start : start + 4096].cpu()).flatten(1)).min(1)
        index = torch.where(distance < best, at + start, index)
        best = torch.minimum(distance, best)
    return train.cpu()[index]


def plane(real: Float[Tensor, "N D"]) -> Callable[[Tensor], Tensor]:
    """How vectors are shown in two dimensions: as they are, else by the two leading principal axes of the real ones."""
    real = real.cpu().double()
    if real.shape[1] == 1:
        return lambda x: torch.cat([x.cpu().double(), torch.zeros(len(x), 1, dtype=torch.float64)], dim=1)
    if real.shape[1] == 2:
        return lambda x: x.cpu().double()
    mean, scale = real.mean(0), real.std(0).clamp(min=1e-9)
    axes = torch.linalg.svd((real - mean) / scale, full_matrices=False).Vh[:2].T
    return lambda x: (x.cpu().double() - mean) / scale @ axes


def scatter(points: Float[Tensor, "N 2"], box: Float[Tensor, "M 2"], *, colour: int = 0) -> str:
    """A cloud of points in the frame that holds the cloud ``box``: equal frames can be compared by eye."""
    low, high = box.quantile(0.001, dim=0), box.quantile(0.999, dim=0)
    middle, half = (low + high) / 2, float((high - low).max()) * 0.56 or 1.0
    inside = ((points - middle) / half)[((points - middle).abs() <= half).all(1)]
    dots = "".join(f"M{150 + 150 * a:.1f} {150 - 150 * b:.1f}h0" for a, b in inside.tolist())
    missing = len(points) - len(inside)
    note = f'<text x="292" y="292" text-anchor="end">{missing} outside the frame</text>' if missing else ""
    label = f"{len(points)} points"
    return (
        f'<svg class="plot scatter" viewBox="0 0 300 300" role="img" aria-label="{label}">'
        f'<path class="dots c{colour}" d="{dots}"/>{note}</svg>'
    )


def curves(series: Sequence[Series], *, x_name: str, y_name: str, height: int = 220, width: int = 420) -> str:
    """Lines with two axes, each named at its end where there is room."""
    series = [s for s in series if len(s.points) > 1]
    if not series:
        return ""
    left, right, top, bottom = 46, 96 if len(series) > 1 else 14, 14, 34
    xs = [x for s in series for x, _ in s.points]
    low, high = _frame([y for s in series for _, y in s.points])
    across = _scale(min(0.0, *xs), max(xs), left, width - right)
    up = _scale(low, high, height - bottom, top)
    parts = [_grid(low, high, up, left, width - right), _ticks(min(0.0, *xs), max(xs), across, height - bottom)]
    for s in series:
        path = "L".join(f"{across(x):.1f} {up(min(max(y, low), high)):.1f}" for x, y in _thinned(s.points))
        parts.append(f'<path class="line c{s.colour}" d="M{path}"/>')
    if len(series) > 1:
        ends = [up(min(max(s.points[-1][1], low), high)) for s in series]
        for s, y in zip(series, _apart(ends, 13, top + 4, height - bottom)):
            parts.append(
                f'<text class="name c{s.colour}" x="{width - right + 6}" y="{y + 3.5:.1f}">{escape(s.name)}</text>'
            )
    parts.append(f'<text x="{width - right}" y="{height - 4}" text-anchor="end">{escape(x_name)}</text>')
    label = f"{y_name} against {x_name}: {', '.join(s.name for s in series)}"
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def likelihoods(rows: Sequence[Row], domain: Domain, given: str, colours: dict[str, int]) -> str:
    """Every likelihood on one axis, best on top: a dot is exact, an arrow marks a bound, a ring an estimate."""
    told = [
        (r, s) for r in rows for s in r.held_out if is_likelihood(s) and s.given == given and math.isfinite(s.value)
    ]
    if not told:
        return ""
    told.sort(key=lambda e: -e[1].value)
    values = [in_unit(s.value, domain) for _, s in told]
    reaches = [abs(in_unit(_error(s), domain)) for _, s in told]
    low, high = _frame([v + k * e for v, e in zip(values, reaches) for k in (-1, 0, 1)], robust=True)
    width, left, right, line = 720, 128, 150, 27
    height = line * len(told) + 44
    across = _scale(low, high, left + 8, width - right)
    parts = []
    for tick in _nice(low, high, 6):
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} 6V{height - 36}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 19}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text x="{width - right}" y="{height - 4}" text-anchor="end">{domain.unit}, lower is better</text>')
    for i, ((row, s), value) in enumerate(zip(told, values)):
        y, x = 20 + i * line, across(min(max(value, low), high))
        colour = f"c{colours.get(row.name, 0)}"
        parts.append(f'<text class="label" x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>')
        parts.append(_mark(s, x, y, colour, across, domain, beyond=value > high))
        shown = escape(s.shown(domain).removesuffix(domain.unit).replace("+-", "±").replace("<=", "≤").strip())
        parts.append(f'<text class="value" x="{width - right + 14}" y="{y + 4}">{shown}</text>')
    return (
        f'<svg class="plot wide" viewBox="0 0 {width} {height}" role="img" aria-label="held-out likelihoods">'
        f"{''.join(parts)}</svg>"
    )


def _mark(
    s: Score, x: Number, y: Number, colour: str, across: Callable[[Number], Number], domain: Domain, *, beyond: bool
) -> str:
    """One figure: whiskers of two standard errors (or of the bias, where larger), then the kind's own mark."""
    if beyond:
        return f'<path class="mark {colour}" d="M{x - 4:.1f} {y - 5}l7 5l-7 5"/>'
    reach = abs(across(abs(in_unit(_error(s), domain))) - across(0.0))
    parts = [f'<path class="whisker {colour}" d="M{x - reach:.1f} {y}H{x + reach:.1f}"/>'] if reach > 1 else []
    if "bound" in s.kind:
        parts.append(f'<path class="mark {colour}" d="M{x:.1f} {y}h-22m5 -4l-5 4l5 4"/>')
    hollow = "estimate" in s.kind or s.kind == "pseudo-likelihood"
    parts.append(f'<circle class="{"ring" if hollow else "dot"} {colour}" cx="{x:.1f}" cy="{y}" r="4.5"/>')
    return "".join(parts)


def _error(s: Score) -> float:
    """Two standard errors, or the bias, whichever is larger."""
    return max(2 * (s.stderr or 0.0), s.bias or 0.0)


def _frame(values: Iterable[Number], *, robust: bool = False) -> tuple[Number, Number]:
    """Limits of an axis, with a margin; the first wild values of a training curve do not flatten the rest."""
    finite = sorted(v for v in values if math.isfinite(v)) or [0.0, 1.0]
    low, high = finite[0], finite[-1]
    typical = finite[min(len(finite) - 1, int(0.95 * len(finite)))] if not robust else finite[len(finite) // 2]
    if high - low > 4 * (typical - low) > 0:
        high = low + (1.6 if not robust else 3.0) * (typical - low)
    margin = 0.06 * (high - low) or max(0.5, abs(low) * 0.1)
    return low - margin, high + margin


def _scale(low: Number, high: Number, start: Number, end: Number) -> Callable[[Number], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _nice(low: Number, high: Number, count: int) -> list[float]:
    """About ``count`` round numbers from low to high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough), power)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _grid(low: Number, high: Number, up: Callable[[Number], float], left: Number, right: Number) -> str:
    return "".join(
        f'<path class="grid" d="M{left} {up(v):.1f}H{right}"/>'
        f'<text x="{left - 6}" y="{up(v) + 3.5:.1f}" text-anchor="end">{_number(v)}</text>'
        for v in _nice(low, high, 4)
    )


def _ticks(low: Number, high: Number, across: Callable[[Number], float], y: Number) -> str:
    return "".join(
        f'<text x="{across(v):.1f}" y="{y + 15}" text-anchor="middle">{_number(v)}</text>' for v in _nice(low, high, 5)
    )


def _thinned(points: Sequence[Point], keep: int = 160) -> list[Point]:
    """At most ``keep`` points, the last one always among them."""
    every = max(1, math.ceil(len(points) / keep))
    return [*points[:-1:every], points[-1]]


def _apart(places: Sequence[Number], gap: Number, low: Number, high: Number) -> list[Number]:
    """Labels moved down until none covers another, then up from the bottom edge."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    placed: list[Number] = [0.0] * len(places)
    for rank, i in enumerate(order):
        placed[i] = max(places[i], low if rank == 0 else placed[order[rank - 1]] + gap)
    limit = high
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


def _number(value: Number) -> str:
    text = f"{value:.4g}" if abs(value) < 1e5 else f"{value:.0e}"
    return text.replace("-", "−")
