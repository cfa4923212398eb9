"""A loop that calls us, turned into one that we call."""

import threading
from collections.abc import Callable

import torch


class Held:
    """A loop that belongs to others, advanced n steps at a time: it runs in a thread, and waits inside ``tick``."""

    def __init__(self, run: Callable[[Callable[[], None]], None]) -> None:
        self.left, self.error = 0, None
        self.go, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, args=(run,), daemon=True).start()
        self._wait()

    def advance(self, n: int) -> None:
        """n steps of the loop."""
        self.left = n
        self.go.release()
        self._wait()

    def _tick(self) -> None:
        """The loop calls it once for each step, before or after it."""
        if self.left == 0:
            self.stopped.release()
            self.go.acquire()
        self.left -= 1

    def _run(self, run: Callable[[Callable[[], None]], None]) -> None:
        torch.set_num_threads(1)
        try:
            run(self._tick)
            self.error = RuntimeError("the loop ended before the measurement did")
        except BaseException as error:
            self.error = error
        self.stopped.release()

    def _wait(self) -> None:
        self.stopped.acquire()
        if self.error is not None:
            raise self.error
