"""What a person sees: the live bar of a run (losses, throughput, time left; only on a terminal), tables and lines."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rich.console import Console

from pofx.train.health import Alarm
from pofx.train.launch import speaks
from pofx.train.watch import Watcher


def page() -> Console:
    """Standard output for tables: as wide as the terminal, and wide enough not to fold where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


class Bar(Watcher):
    """Draws a bar on standard error where that is a terminal; elsewhere, one line at the start and one at the end."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.quiet = quiet
        self.live = self.console.is_terminal and not quiet
        self.progress: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process draws a bar of its own."""
        return partial(Bar, quiet=self.quiet), ()

    def started(self, name: str, planned: int, step: int, per_round: int) -> None:
        """Begins the bar."""
        self.per_round, self.first, self.began = per_round, step, time.perf_counter()
        if planned == 0:
            return
        if not self.live:
            self.console.print(
                f"{name}: {planned} steps of {per_round} observations" + (f", from {step}" if step else "")
            )
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a narrow terminal cuts the losses, nothing else
        self.progress = Progress(
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            TextColumn("{task.completed}/{task.total}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[losses]}", table_column=rest),
            console=self.console,
            transient=True,
            expand=True,
        )
        self.task = self.progress.add_task(name, total=planned, completed=step, losses="")
        self.progress.start()

    def stepped(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Moves it."""
        if self.progress is None:
            return
        rate = (step - self.first) * self.per_round / max(1e-9, time.perf_counter() - self.began)
        ordered = sorted(values.items(), key=lambda item: not item[0].endswith(("/loss", "validation")))
        shown = [f"{k.removeprefix('model/')} {v:.4g}" for k, v in ordered]
        self.progress.update(self.task, completed=step, losses="  ".join([*shown[:4], f"{rate:,.0f}/s"]))

    def said(self, line: str) -> None:
        """Prints a line above the bar."""
        self.console.print(line, style="dim", highlight=False)

    def alarmed(self, alarm: Alarm) -> None:
        """Prints what is wrong and what to try, above the bar."""
        self.console.print(f"warning: {alarm.line}; {alarm.advice}", style="bold yellow", highlight=False, markup=False)

    def ended(self) -> None:
        """Takes the bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def printer(options: argparse.Namespace) -> Callable[[str], None]:
    """What says a line to a person, on standard output; nothing where it is to be quiet."""
    quiet = options.quiet or not speaks()
    return (lambda line: None) if quiet else lambda line: print(line, file=sys.stdout)  # noqa: T201
