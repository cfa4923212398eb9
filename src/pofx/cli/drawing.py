"""Where what is drawn goes: to the screen as it is drawn, to a file, into an animation."""

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.domains import Images, Tokens
from pofx.errors import Unusable
from pofx.growing import Growth, TextStream
from pofx.rendering import Sampled, natural_suffix
from pofx.runs import Run
from pofx.train.launch import speaks

SCREEN = "-"


class Destination:
    """What ``-o`` names, checked before anything is drawn.

    Args:
        run: whose model draws.
        verb: "sample" or "complete".
        options: of the command.
        columns: tiles in a row of an animated sheet.

    Raises:
        Unusable: a file that does not suit the observations, or one that shows growth where the model cannot.
    """

    def __init__(self, run: Run, verb: str, options: argparse.Namespace, *, columns: int | None = None) -> None:
        self.path: str = options.output or SCREEN
        self.on_screen = self.path == SCREEN
        self.growth: Growth | None = None
        self.stream: TextStream | None = None
        if self.on_screen and not isinstance(run.domain, Tokens):
            suits = ("samples" if verb == "sample" else "completions") + natural_suffix(run.domain)
            raise Unusable(f"{verb} prints texts, and writes {run.domain.kind} to a file; name one, such as -o {suits}")
        if isinstance(run.domain, Images) and Path(self.path).suffix.lower() in Growth.suffixes:
            _require_growth(run, verb, self.path)
            self.growth = Growth(run.domain, columns=columns)
            self.growth.check(self.path)
        elif not self.on_screen:
            Sampled(torch.empty(0), run.domain).place(self.path)
        if isinstance(run.domain, Tokens) and speaks() and (self.on_screen or _shows(options)):
            self.stream = TextStream(run.domain, _print)
        self.grows = run.grows(verb)

    @property
    def given(self) -> dict[str, Any]:
        """How it is drawn: on the screen one by one, so that each streams."""
        watch = (self.growth or self.stream) if self.grows else None
        return {"watch": watch} | ({"chunk": 1} if self.on_screen else {})

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """What is on the screen when a person breaks off stays there, as a line of its own."""
        try:
            yield
        except KeyboardInterrupt:
            if self.stream is not None:
                _print("\n")
            raise

    def take(self, samples: Sampled) -> None:
        """Everything is drawn: writes what is to be written."""
        if self.stream is not None:
            self.stream.finish(samples.x)
        if self.growth is not None:
            self.growth.save(self.path)
        elif not self.on_screen:
            samples.save(self.path)


def _require_growth(run: Run, verb: str, path: str) -> None:
    if not run.grows(verb):
        raise Unusable(
            f"{Path(path).suffix} shows pictures drawn row by row, and {run.name} draws them as a whole; save a .png, "
            "or fit gpt"
        )


def _shows(options: argparse.Namespace) -> bool:
    return sys.stdout.isatty() and not options.quiet


def _print(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def beside_what_was_given(x: Tensor, known: Tensor, done: Sampled) -> Sampled:
    """For each picture the original, what was given of it, and its completion, or all those of a single picture."""
    each = len(x) if (x == x[:1]).all() else 1
    originals, completions = x[::each, None], done.x.unflatten(0, (-1, each))
    rows = torch.cat([originals, originals, completions], dim=1)
    hidden = torch.zeros(rows.shape, dtype=torch.bool)
    hidden[:, 1] = ~known
    columns = (2 + each) * math.ceil(len(rows) / 8)
    return replace(done, x=rows.flatten(0, 1), columns=columns, hidden=hidden.flatten(0, 1))
