"""What is done with a run that maps one data set onto another: rows mapped, or the map drawn as arrows."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx import data as sources
from pofx.cli.bar import printer
from pofx.cli.inputs import chosen
from pofx.cli.parser import SOURCE_FLAGS
from pofx.domains import Vectors, in_words
from pofx.errors import Unusable
from pofx.files import write_whole
from pofx.randomness import stream
from pofx.rendering import Sampled, columns_of
from pofx.runs import Run

ARROWS = 400  # at most: more hide each other
BATCH = 4096


def transport_and_show(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Where the rows of a file go, in their order; without a file, arrows from some of the source to where they go."""
    if options.grid:
        raise Unusable(f"--grid shows pictures that a latent decodes to, and {run.name} has no latent; leave it out")
    if options.file is None:
        return _draw(run, options)
    x = _rows_of(run, options)
    mapped = _mapped(run, x, options.condition)
    Sampled(mapped, run.domain).save(options.output)
    printer(options)(f"{len(mapped)} rows of {options.file}, each where {run.name} takes it: {options.output}")
    return {"n": len(mapped), "output": options.output}


def _rows_of(run: Run, options: argparse.Namespace) -> Tensor:
    """All rows of the file, in its own order."""
    data = sources.load(options.file, seed=options.seed, **chosen(options, SOURCE_FLAGS))
    if not isinstance(data.domain, Vectors) or data.domain.dims != run.domain.dims:
        raise Unusable(
            f"{run.name} maps rows as wide as it was fitted on, got {options.file} ({in_words(data.domain)}) for "
            f"{in_words(run.domain)}; give the same columns"
        )
    parts = ("train", "validation", "test")
    x = torch.cat([data.part(name).rows()[0] for name in parts])
    places = torch.cat([data.indices[name] for name in parts]) if data.indices else torch.empty(0)
    return x[places.argsort()] if len(places) == len(x) else x


def _mapped(run: Run, x: Tensor, condition: str | None) -> Tensor:
    c = run.rows(condition)
    c = None if c is None else c.to(run.device)
    return torch.cat([run.model.transport(rows.to(run.device), c).cpu() for rows in x.split(BATCH)])


def _draw(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    if not isinstance(run.domain, Vectors) or run.domain.dim != 2:
        raise Unusable(f"arrows are drawn of rows of 2 numbers, got {run.domain.dims}; give FILE to map its rows")
    if Path(options.output).suffix.lower() != ".png":
        raise Unusable(f"arrows are drawn into a .png, got {options.output}; give FILE to write where its rows go")
    if options.n < 1:
        raise Unusable(f"-n must be at least 1, got {options.n}; leave it out for {ARROWS}")
    x = _source_rows(run, min(options.n, ARROWS))  # more of them hide each other
    mapped = _mapped(run, x, options.condition)
    y = run.data.test.rows()[0][:2000]
    names = columns_of(run.domain)
    write_whole(Path(options.output), lambda path: _write_arrows(path, x, mapped, y, names))
    printer(options)(f"{len(x)} rows and where {run.name} takes them: {options.output}")
    return {"n": len(x), "output": options.output}


def _source_rows(run: Run, n: int) -> Tensor:
    """Of the test split of the source, or of the noise that the run maps from."""
    source = run.model.source
    if source is None:
        return torch.randn(n, run.domain.dims, generator=stream(0, "arrows"))
    return source.data.test.rows()[0][:n]


def _write_arrows(path: Path, x: Tensor, mapped: Tensor, y: Tensor, names: tuple[str, ...]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(y[:, 0].numpy(), y[:, 1].numpy(), s=4, lw=0, c="#c9cfd8", label="target")
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=6, lw=0, c="#d1495b", label="source")
    arrows = torch.cat([x, mapped - x], dim=1).T.numpy()
    axes.quiver(*arrows, angles="xy", scale_units="xy", scale=1, width=0.0016, color="#33558b", alpha=0.55)
    axes.set(xlabel=names[0], ylabel=names[1], aspect="equal")
    axes.legend(frameon=False, loc="upper left", markerscale=2.5)
    figure.savefig(path, format="png")
