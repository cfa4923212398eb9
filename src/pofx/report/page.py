"""The report: one HTML page that holds everything it shows, and loads nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.conditions import Classes, Condition
from pofx.data.dataset import Data
from pofx.domains import Domain, Images, Tokens, Vectors, in_unit
from pofx.rendering import text_of
from pofx.report.figures import Series, curves, likelihoods, nearest, plane, scatter, tiles
from pofx.report.rows import Row, is_likelihood
from pofx.report.table import brief, headline
from pofx.report.uses import good_for
from pofx.report.verdict import asked, likelihood_questions, memorises, verdict

COLUMNS, LINES = 10, 4  # of a sheet, where classes do not set them
TEXTS, LETTERS, POINTS = 3, 420, 1500
REAL = 12  # the page's colour of real data

_KINDS = {
    "exact": "the likelihood itself",
    "lower bound": "the likelihood is at least this good: read ≤",
    "estimate": "a numerical approximation, off by about its bias: read ~",
    "estimate of a lower bound": "an approximation of a guarantee: neither exact nor guaranteed",
    "pseudo-likelihood": "a sum of conditionals, which is no likelihood",
    "statistic": "measured, on samples beside held-out data or on held-out data in a latent",
}


@dataclass(frozen=True)
class Subject:
    """What was compared, and how.

    Args:
        data: the source with its splits.
        budget: of each model, for people.
        seeds: trainings of each model.
        command: that makes this comparison again.
        coming: models not yet trained, where it was interrupted.
    """

    data: Data
    budget: str
    seeds: int
    command: str
    coming: tuple[str, ...] = ()


def layout(condition: Condition | None) -> tuple[int, Tensor | None]:
    """Columns of a sheet, and the condition rows of its tiles: a column per class where there are few classes."""
    if isinstance(condition, Classes) and 2 <= condition.count <= 12:
        lines = max(2, round(COLUMNS * LINES / condition.count))
        return condition.count, torch.arange(condition.count).repeat(lines)
    return COLUMNS, None


def shown(domain: Domain, condition: Condition | None) -> int:
    """How many samples of each model the page shows."""
    given = layout(condition)[1]
    if isinstance(domain, Images):
        return COLUMNS * LINES if given is None else len(given)
    return TEXTS if isinstance(domain, Tokens) else POINTS


def render(rows: Sequence[Row], subject: Subject) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    data = subject.data
    colours = _colours(rows)
    cast = _Cast(data)
    heads, body = headline(rows, data.domain)
    questions = likelihood_questions(rows)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        title=data.source,
        facts=_facts(subject),
        verdict=[_typeset(line) for line in verdict(rows, data.domain)],
        heads=heads,
        body=list(zip(rows, body)),
        colours=colours,
        charts=[(asked(*q), likelihoods(rows, data.domain, q[1], colours)) for q in questions],
        validation=_validation(rows, data.domain, colours),
        real=cast.real(),
        caption=cast.caption,
        cards=[_card(row, rows, data, cast, colours) for row in rows if row.family != "codecs"],
        scores=[(row, [_line(row, s, data.domain) for s in row.scores]) for row in rows if row.scores],
        kinds={k: v for k, v in _KINDS.items() if any(s.kind == k for row in rows for s in row.scores)},
        problems=data.problems,
        coming=subject.coming,
        command=subject.command,
    )


class _Cast:
    """How observations of one data set are put on the page: tiles, texts or points."""

    def __init__(self, data: Data) -> None:
        self.data, self.domain = data, data.domain
        self.columns, self.given = layout(data.condition if isinstance(data.domain, Images) else None)
        self.plane = plane(data.test.rows()[0]) if isinstance(data.domain, Vectors) else None
        classes = self._classes()
        by_class = f", one column per class: {', '.join(classes.names)}" if classes else ""
        self.caption = {"images": f"held-out pictures{by_class}", "tokens": "held-out text"}.get(
            data.domain.kind, self._axes()
        )

    def real(self) -> dict[str, Any]:
        """Held-out observations, laid out as the samples are."""
        x, c = self.data.test.rows()
        n = shown(self.domain, self.data.condition)
        if (classes := self._classes()) and c is not None and self.given is not None:
            place = {k: iter((c == k).nonzero()[:, 0].tolist()) for k in range(classes.count)}
            index = [next(place[int(k)], -1) for k in self.given]
            x = x[torch.tensor([i for i in index if i >= 0])] if min(index) >= 0 else x[:n]
        return self.drawn(x[:n], colour=REAL)

    def drawn(self, x: Tensor, *, colour: int = 0) -> dict[str, Any]:
        """What shows the observations x."""
        if isinstance(self.domain, Images):
            return {"sheet": tiles(x, self.domain, columns=self.columns), "small": self.domain.width < 40}
        if isinstance(self.domain, Tokens):
            return {"texts": self._texts(x[:TEXTS], self.domain)}
        assert self.plane is not None
        return {"plot": scatter(self.plane(x), self.plane(self.data.test.rows()[0][: 4 * POINTS]), colour=colour)}

    def neighbours(self, x: Tensor) -> dict[str, Any]:
        """The first line of a sheet over the training pictures nearest to it."""
        assert isinstance(self.domain, Images)
        first = x[: self.columns]
        found = nearest(first, self.data.train.rows()[0], self.domain)
        return self.drawn(torch.cat([first.cpu(), found]))

    def _texts(self, x: Tensor, domain: Tokens) -> list[str]:
        return [t if len(t) <= LETTERS else t[:LETTERS].rstrip() + " …" for t in text_of(x.cpu(), domain)]

    def _classes(self) -> Classes | None:
        return self.data.condition if isinstance(self.data.condition, Classes) and self.given is not None else None

    def _axes(self) -> str:
        if not isinstance(self.domain, Vectors) or self.domain.dim <= 2:
            return "held-out points"
        return f"held-out points, by the two leading principal axes of {self.domain.dim} standardised columns"


def _card(row: Row, rows: Sequence[Row], data: Data, cast: _Cast, colours: dict[str, int]) -> dict[str, Any]:
    """Everything that the page says of one model."""
    drawn = row.samples is not None and len(row.samples) > 0
    pictures = drawn and isinstance(data.domain, Images)
    return {
        "row": row,
        "colour": colours.get(row.name, 0),
        "text": _typeset(good_for(row, rows, data.domain)),
        "memorises": row.status == "ok" and memorises(row, rows),
        "drawn": cast.drawn(row.samples, colour=colours.get(row.name, 0)) if row.samples is not None and drawn else {},
        "nearest": cast.neighbours(row.samples) if row.samples is not None and pictures else {},
        "able": sorted(row.able - {"Adapts", "Learns", "Plays", "Watched"}),
        "curves": _training(row, colours),
    }


def _training(row: Row, colours: dict[str, int]) -> str:
    """What the model minimised, by player."""
    names = list(dict.fromkeys(name for entry in row.history for name in entry if name.endswith("/loss")))
    series = [
        Series(name.removesuffix("/loss"), _points(row, name), colours.get(row.name, 1) if i == 0 else 9 + i)
        for i, name in enumerate(names)
    ]
    return curves(series, x_name="seconds", y_name="training loss", height=150)


def _validation(rows: Sequence[Row], domain: Domain, colours: dict[str, int]) -> list[tuple[str, str]]:
    """(title, plot): likelihoods on validation data share one plot; another measure has one of its own."""
    told = [row for row in rows if any("validation" in entry for entry in row.history)]
    alike = [row for row in told if {"Scores", "Bounds"} & row.able]
    plots = []
    if alike:
        series = [
            Series(row.name, tuple((t, in_unit(v, domain)) for t, v in _points(row, "validation")), colours[row.name])
            for row in alike
        ]
        plots.append(
            (f"Validation −log p or its bound, {domain.unit}", curves(series, x_name="seconds", y_name=domain.unit))
        )
    for row in told:
        if row not in alike:
            losses = tuple((t, -v) for t, v in _points(row, "validation"))
            series = [Series(row.name, losses, colours[row.name])]
            plots.append((f"Validation loss of {row.name}", curves(series, x_name="seconds", y_name="loss")))
    return [(title, plot) for title, plot in plots if plot]


def _points(row: Row, name: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(e["seconds"]), float(e[name])) for e in row.history if e.get(name) is not None)


def _line(row: Row, s: Any, domain: Domain) -> dict[str, str]:
    """A score as a line of the long table."""
    told = is_likelihood(s)

    def number(value: float | None) -> str:
        return "" if value is None else f"{abs(in_unit(value, domain)) if told else value:.4g}"

    return {
        "metric": s.metric,
        "given": s.given or "nothing",
        "value": _typeset(brief(s, domain).split("+-")[0].strip()),
        "unit": domain.unit if told else s.unit,
        "kind": s.kind,
        "n": f"{s.n:,}",
        "stderr": number(s.stderr),
        "bias": number(s.bias),
        "floor": "" if s.floor is None else f"{s.floor:.4g}",
        "spread": number(row.spread(s)) if len(row.by_seed) > 1 else "",
        "split": s.split,
        "note": s.note,
    }


def _facts(subject: Subject) -> list[tuple[str, str]]:
    data, domain = subject.data, subject.data.domain
    shape = {
        "images": lambda d: f"{d.height} × {d.width} pixels, {_channels(d)}",
        "tokens": lambda d: f"{d.length} symbols of {d.vocabulary}",
        "vectors": lambda d: f"{d.dim} real numbers",
    }[domain.kind](domain)
    sizes = " / ".join(f"{part.observations:,}" for part in (data.train, data.validation, data.test))
    return [
        ("One observation", shape),
        ("Train / validation / test", sizes),
        ("Split", data.split or "as given"),
        ("Condition", "none" if data.condition is None else data.condition.kind),
        ("Budget", f"{subject.budget} per model"),
        ("Seeds", str(subject.seeds)),
        ("Fingerprint", data.fingerprint()),
    ]


def _channels(domain: Images) -> str:
    if domain.palette:
        return f"a palette of {domain.levels} colours"
    channels = {1: "grey", 3: "colour"}.get(domain.channels, f"{domain.channels} channels")
    return f"{channels}, {domain.levels or 'continuous'} levels"


def _colours(rows: Sequence[Row]) -> dict[str, int]:
    """A colour of the palette for each model; references share the grey, number 0."""
    models = [row.name for row in rows if not row.is_reference]
    return {row.name: 0 for row in rows} | {name: 1 + i % 8 for i, name in enumerate(models)}


def _typeset(text: str) -> str:
    return text.replace("<=", "≤").replace("+-", "±")
