"""Who hears how a run goes, and how a run is asked to stop."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from pofx.train.health import Alarm


class Watcher:
    """Hears how a run goes. This one is silent; the command line's draws a bar."""

    def started(self, name: str, planned: int, step: int, per_round: int) -> None:
        """Training begins, or goes on, at ``step`` of ``planned`` rounds of ``per_round`` observations."""

    def stepped(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """A few times a second: where training stands, and the latest losses."""

    def recorded(self, row: Mapping[str, float]) -> None:
        """A row was added to the history."""

    def said(self, line: str) -> None:
        """One line for a person."""

    def alarmed(self, alarm: Alarm) -> None:
        """A health rule rings."""

    def ended(self) -> None:
        """Training is over, or interrupted."""


@dataclass
class Stop:
    """Set when the person or the machine asks the run to stop."""

    asked: bool = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask politely inside the block: no round is cut in half. A second Ctrl-C is not polite."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
