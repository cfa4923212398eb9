"""Who hears how a run goes, and how a run is asked to stop."""

import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pofx.signals import answering
from pofx.train.health import Alarm


class Watcher:
    """Hears how a run goes. This one is silent; the command line's draws a bar."""

    def opened(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Which run it is that will start: its folder, and what stands in its ``config.json``."""

    def started(self, name: str, planned: int, step: int, per_round: int) -> None:
        """Training begins, or goes on, at ``step`` of ``planned`` rounds of ``per_round`` observations."""

    def stepped(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """A few times a second: where training stands, and the latest losses."""

    def recorded(self, row: Mapping[str, float]) -> None:
        """A row was added to the history: ``step``, ``seconds``, losses, and at times ``validation``."""

    def said(self, line: str) -> None:
        """One line for a person."""

    def alarmed(self, alarm: Alarm) -> None:
        """A health rule rings."""

    def ended(self) -> None:
        """Training is over, or interrupted."""


class Watchers(Watcher):
    """Several as one: what is heard is passed on to each, in their order."""

    def __init__(self, several: Iterable[Watcher]) -> None:
        self.several = tuple(several)

    def opened(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Passed on."""
        for watcher in self.several:
            watcher.opened(folder, config)

    def started(self, name: str, planned: int, step: int, per_round: int) -> None:
        """Passed on."""
        for watcher in self.several:
            watcher.started(name, planned, step, per_round)

    def stepped(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Passed on."""
        for watcher in self.several:
            watcher.stepped(step, seconds, values)

    def recorded(self, row: Mapping[str, float]) -> None:
        """Passed on."""
        for watcher in self.several:
            watcher.recorded(row)

    def said(self, line: str) -> None:
        """Passed on."""
        for watcher in self.several:
            watcher.said(line)

    def alarmed(self, alarm: Alarm) -> None:
        """Passed on."""
        for watcher in self.several:
            watcher.alarmed(alarm)

    def ended(self) -> None:
        """Passed on."""
        for watcher in self.several:
            watcher.ended()


@dataclass
class Stop:
    """Set when the person or the machine asks the run to stop."""

    asked: bool = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask politely inside the block: no round is cut in half. A second Ctrl-C is not polite."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True

    with answering(ask, signal.SIGINT, signal.SIGTERM):
        yield stop
