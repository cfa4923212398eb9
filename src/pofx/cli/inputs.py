"""What a command is given: options that were set, observations of a source, a beginning to go on from."""

import argparse
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx import data as sources
from pofx import runs
from pofx.cli.bar import printer
from pofx.cli.parser import SOURCE_FLAGS
from pofx.data.maps import partly_read
from pofx.data.pictures import is_picture, read_picture
from pofx.domains import Domain, Images, Tokens
from pofx.errors import Unusable
from pofx.rendering import tokens_of
from pofx.runs import Run


def chosen(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named options that were set."""
    return {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}


def observations(run: Run, options: argparse.Namespace) -> tuple[Tensor, Tensor | None]:
    """Canonical observations of a source that has the run's domain, with condition rows if the run has a condition."""
    wanted = run.config["source_options"] | chosen(options, SOURCE_FLAGS)
    data = (
        run.data
        if runs.lasting(options.source) == run.config["origin"]
        else run.read(options.source, seed=run.config["seed"], **wanted)
    )
    _require_domain(run, options.source, data.domain)
    if data.condition is not None and data.condition != run.condition:
        raise Unusable(
            f"{options.source} has other conditions than {run.folder} was fitted with; give data of the same"
        )
    parts = ("train", "validation", "test") if options.split == "all" else (options.split,)
    for line in partly_read({name: data.part(name) for name in parts}):
        printer(options)(line)
    rows = [data.part(name).rows() for name in parts]
    c = torch.cat([row for _, row in rows if row is not None]) if run.condition is not None else None
    return torch.cat([x for x, _ in rows]), c


def prompt(run: Run, options: argparse.Namespace, n: int) -> tuple[Tensor, Tensor]:
    """What is known: a text's beginning, the top of pictures, or the first columns of a table."""
    if isinstance(run.domain, Tokens):
        prompt = tokens_of(_text_of(options.input, records=run.domain.end is not None), run.domain)
        if not len(prompt):
            raise Unusable("a prompt has at least one symbol, got none; type one, or draw without one by 'pofx sample'")
        if len(prompt) > run.domain.length:
            raise Unusable(
                f"a prompt has at most {run.domain.length} symbols here, the window that the run was fitted with, got "
                f"{len(prompt)}; give its end alone, or fit with a larger --length"
            )
        x = torch.zeros(n, run.domain.length, dtype=torch.int64)
        x[:, : len(prompt)] = prompt
        return x, torch.arange(run.domain.length) < len(prompt)
    if not 0 <= options.keep <= 1:
        raise Unusable(f"--keep must be in [0, 1], got {options.keep}; 0.5 keeps the upper half")
    x = _to_complete(run, options.input, n)
    axis = -2 if isinstance(run.domain, Images) else -1
    extent = run.domain.shape[axis]
    known = torch.zeros(run.domain.shape, dtype=torch.bool)
    known.narrow(axis, 0, round(options.keep * extent)).fill_(True)
    return x, known


def _require_domain(run: Run, source: str, domain: Domain) -> None:
    if domain != run.domain:
        theirs, ours = described(domain), described(run.domain)
        differs = " of another alphabet, palette or name of columns" if theirs == ours else ""
        raise Unusable(
            f"{source} is {theirs}{differs}, but {run.folder} was fitted on {ours}; give data of the same kind"
        )


def _to_complete(run: Run, source: str, n: int) -> Tensor:
    """One picture n times, or the first n test observations of a source."""
    if isinstance(run.domain, Images) and is_picture(Path(source)):
        return read_picture(Path(source), run.domain).expand(n, *run.domain.shape)
    data = run.data if runs.lasting(source) == run.config["origin"] else sources.load(source, seed=run.config["seed"])
    _require_domain(run, source, data.domain)
    return data.test.rows()[0][:n]


def _text_of(prompt: str, *, records: bool) -> str:
    """The prompt itself, or what is in the file of that name, less the newline that editors put after a record."""
    path = Path(prompt)
    with suppress(OSError):  # a prompt may be too long for a name
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
                return text.removesuffix("\n") if records else text
            except UnicodeDecodeError:
                raise Unusable(f"a prompt is UTF-8 text, and {path} is not; save it as UTF-8") from None
    if path.suffix == ".txt" and not any(c.isspace() for c in prompt):
        raise Unusable(f"there is no file {prompt!r}; check the path, or type a prompt that does not end in .txt")
    return prompt


def described(domain: Domain) -> str:
    """What observations are, for a message."""
    if isinstance(domain, Images):
        values = f"{domain.levels} colours of its own palette" if domain.palette else f"{domain.levels} levels"
        return f"pictures of {domain.channels} x {domain.height} x {domain.width}, {values}"
    if isinstance(domain, Tokens):
        return f"texts of {domain.length} symbols from {domain.vocabulary}"
    return f"vectors of {domain.dim} numbers"
