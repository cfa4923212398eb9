"""What reading a large source tells its user: a bar on a terminal, and a line where the cache was damaged."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Neither bars nor lines inside the block."""
    before = _QUIET.set(quiet)
    try:
        yield
    finally:
        _QUIET.reset(before)


def say(line: str) -> None:
    """One line on standard error."""
    if not _QUIET.get():
        print(line, file=sys.stderr)  # noqa: T201


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal; gives what is called with each further amount done."""
    if _QUIET.get() or not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda amount: progress.advance(task, amount)
