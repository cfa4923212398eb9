"""Signals, answered in another way inside a block."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Answer = Callable[[int, FrameType | None], Any] | signal.Handlers


@contextmanager
def answering(answer: Answer, *numbers: signal.Signals) -> Iterator[None]:
    """``answer`` is what these signals meet inside; in another thread than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, answer) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
