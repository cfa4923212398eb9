"""Pictures of a latent: what each of its dimensions does, and where observations lie in it."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from pofx.domains import Domain, Images, Vectors
from pofx.errors import Unusable
from pofx.rendering import Writers, columns_of, save_as, sheet
from pofx.samplers.latents import expected

if TYPE_CHECKING:
    from PIL import Image

CELLS = 20  # decoded pictures along each side of a grid
NAMED = 20  # classes that a legend names, at most
_LETTERS = 13  # pixels


@dataclass(frozen=True)
class Traversal:
    """x where one dimension of a latent at a time is moved: (rows, steps, ...) canonical.

    Args:
        x: a row for each of ``dimensions``, a column for each of ``deviations``.
        dimensions: which of the latent's, counted from 0.
        deviations: where the dimension is, in standard deviations of the codes from their mean.
        movement: mean squared difference of x between the two ends, a figure for each row.
    """

    x: Tensor
    dimensions: tuple[int, ...]
    deviations: tuple[float, ...]
    movement: tuple[float, ...]
    domain: Domain

    @classmethod
    def by_movement(cls, x: Tensor, deviations: Sequence[float], domain: Domain) -> "Traversal":
        """All dimensions in their order (K, S, ...), sorted: those first that move x most.

        Raises:
            Unusable: observations that are neither pictures nor vectors.
        """
        if not isinstance(domain, Images | Vectors):
            raise Unusable(
                f"a traversal shows pictures or vectors, and these are {domain.kind}; 'pofx interpolate' writes them"
            )
        movement = (x[:, -1].double() - x[:, 0].double()).square().flatten(1).mean(1)
        order = movement.argsort(descending=True, stable=True)
        return cls(x[order], tuple(order.tolist()), tuple(deviations), tuple(movement[order].tolist()), domain)

    def first(self, n: int) -> "Traversal":
        """The first n rows."""
        return replace(self, x=self.x[:n], dimensions=self.dimensions[:n], movement=self.movement[:n])

    def save(self, path: str | Path) -> Path:
        """Writes pictures as ``.png``, vectors as ``.csv``, either as ``.npy``, whole or not at all.

        Raises:
            Unusable: another suffix, or a place that cannot be written.
        """
        own: Writers = {".png": self._write_png} if isinstance(self.domain, Images) else {".csv": self._write_csv}
        return save_as(path, {**own, ".npy": self._write_array}, f"traversals of {self.domain.kind}")

    def _write_png(self, path: Path) -> None:
        picture = sheet(self.x.flatten(0, 1), self.domain, columns=len(self.deviations))
        assert picture is not None
        rows = [f"z{k + 1}" for k in self.dimensions]
        labelled(picture, rows, [f"{d:+.3g}" if d else "0" for d in self.deviations]).save(path, format="PNG")

    def _write_csv(self, path: Path) -> None:
        assert isinstance(self.domain, Vectors)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["dimension", "deviations", *columns_of(self.domain)])
            for k, row in zip(self.dimensions, self.x.tolist()):
                writer.writerows([k + 1, f"{d:.9g}", *(f"{v:.9g}" for v in x)] for d, x in zip(self.deviations, row))

    def _write_array(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, self.x.numpy(), allow_pickle=False)


def labelled(picture: "Image.Image", rows: Sequence[str], columns: Sequence[str]) -> "Image.Image":
    """A sheet with the name of each row at its left and of each column above it."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_LETTERS)
    left = 12 + math.ceil(max(font.getlength(name) for name in rows))
    top = 10 + _LETTERS
    page = Image.new(picture.mode, (left + picture.width, top + picture.height), "white")
    page.paste(picture, (left, top))
    draw = ImageDraw.Draw(page)
    high, wide = picture.height / len(rows), picture.width / len(columns)
    for i, name in enumerate(rows):
        draw.text((left - 6, top + (i + 0.5) * high), name, fill="black", font=font, anchor="rm")
    every = math.ceil(max(font.getlength(name) + 4 for name in columns) / wide)  # where all would run together
    middle = (len(columns) - 1) // 2
    for i, name in enumerate(columns):
        if (i - middle) % every == 0:
            draw.text((left + (i + 0.5) * wide, top - 4), name, fill="black", font=font, anchor="ms")
    return page


@dataclass(frozen=True)
class Plane:
    """Where observations lie: (N, 2), or (N, 1) of a latent of one dimension; with the names of the axes.

    Args:
        shares: of the variance along each axis; they sum to one where nothing is left out.
    """

    points: Float[Tensor, "N A"]
    axes: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """The square that holds all points: left, right, bottom, top."""
        low, high = self.points.min(0).values, self.points.max(0).values
        (x, y), half = ((low + high) / 2).tolist(), max(1e-3, 0.525 * float((high - low).max()))
        return x - half, x + half, y - half, y + half


def in_the_plane(z: Float[Tensor, "N K"], what: str = "latent") -> Plane:
    """Codes as they are where there are two of them, or one; else along their two leading principal axes."""
    z = z.double().flatten(1)
    variance = z.var(0)
    if z.shape[1] <= 2:
        shares = (variance / variance.sum()).tolist()
        return Plane(z, tuple(f"z{k + 1}" for k in range(z.shape[1])), tuple(shares))
    centred = z - z.mean(0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    along = (lengths.square() / lengths.square().sum())[:2].tolist()
    names = tuple(f"principal axis {i + 1} of the {what} ({100 * s:.0f}% of the variance)" for i, s in enumerate(along))
    return Plane(centred @ axes[:2].T, names, tuple(along))


@torch.no_grad()
def decoded_plane(
    model: Any, frame: tuple[float, float, float, float], condition: Tensor | None = None, *, device: str = "cpu"
) -> Tensor:
    """What a latent of two dimensions is decoded to, at the centre of each cell of the frame; rows from the top."""
    left, right, bottom, top = frame
    at = (torch.arange(CELLS) + 0.5) / CELLS
    across, down = left + (right - left) * at, top + (bottom - top) * at
    z = torch.stack([across.expand(CELLS, CELLS), down[:, None].expand(CELLS, CELLS)], dim=-1).to(device)
    told = None if condition is None else condition.to(device)
    return torch.cat([expected(model.decode(row, told)).cpu() for row in z])


@dataclass(frozen=True)
class LatentMap:
    """Points of a latent, coloured by class, and beside them what the plane is decoded to.

    Args:
        labels: the class of each point, or None.
        names: of the classes.
        grid: pictures that fill the frame of the plane, row by row from its top, or None.
    """

    plane: Plane
    labels: Integer[Tensor, "N"] | None
    names: tuple[str, ...]
    grid: Tensor | None
    domain: Domain

    def save(self, path: str | Path) -> Path:
        """Writes a ``.png``, whole or not at all.

        Raises:
            Unusable: another suffix, or a place that cannot be written.
        """
        return save_as(path, {".png": self._write_png}, "maps")

    def _write_png(self, path: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        panels = 1 if self.grid is None else 2
        figure = Figure(figsize=(6.4 * panels, 5.6), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        self._draw_points(axes[0])
        if self.grid is not None:
            self._draw_grid(axes[1])
        figure.savefig(path, format="png")

    def _draw_points(self, axes: Any) -> None:
        points = self.plane.points.numpy()
        axes.set_xlabel(self.plane.axes[0])
        if points.shape[1] == 1:
            groups = [points[self._of(k), 0] for k in range(len(self.names))] or [points[:, 0]]
            axes.hist(groups, bins=60, stacked=True, color=self._colours(), label=self.names or None)
            axes.set_ylabel("observations")
        else:
            self._scatter(axes, points)
        if 0 < len(self.names) <= NAMED:
            axes.legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=2.5)

    def _scatter(self, axes: Any, points: np.ndarray) -> None:
        size = max(3.0, min(16.0, 12000 / max(1, len(points))))
        colours = self._colours()
        drawn = np.array(colours)[np.zeros(len(points), int) if self.labels is None else self.labels.numpy()]
        # Row by row, so that no class lies on top of another.
        axes.scatter(points[:, 0], points[:, 1], s=size, lw=0, alpha=0.8, c=drawn)
        for name, colour in zip(self.names, colours):
            axes.scatter([], [], s=size, lw=0, color=colour, label=name)
        axes.set_ylabel(self.plane.axes[1])
        left, right, bottom, top = self.plane.frame
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")

    def _draw_grid(self, axes: Any) -> None:
        assert self.grid is not None
        picture = sheet(self.grid, self.domain, columns=CELLS, gap=1, scale=1)
        shown = np.asarray(picture)
        axes.imshow(shown, extent=self.plane.frame, cmap="gray" if shown.ndim == 2 else None, vmin=0, vmax=255)
        axes.set_xlabel(self.plane.axes[0])
        axes.set_ylabel(self.plane.axes[1])

    def _of(self, label: int) -> np.ndarray:
        assert self.labels is not None
        return (self.labels == label).numpy()

    def _colours(self) -> list[Any]:
        """A colour for each class."""
        from matplotlib import colormaps

        if len(self.names) <= 1:
            return ["#33558b"]
        if len(self.names) <= NAMED:
            return list(colormaps["tab10" if len(self.names) <= 10 else "tab20"](range(len(self.names))))
        return list(colormaps["turbo"](np.linspace(0, 1, len(self.names))))
