"""Spending a share of the time: chunks that grow, and stop before the share is over."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Clock:
    """Seconds until ``end``, a reading of ``time.perf_counter``."""

    end: float

    @classmethod
    def of(cls, seconds: float | int) -> "Clock":
        """A clock that ends in so many seconds."""
        return cls(time.perf_counter() + seconds)

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.end - time.perf_counter())

    def share(self, fraction: float) -> "Clock":
        """A clock for this fraction of what is left; what it leaves unused stays with this one."""
        return Clock.of(fraction * self.left)


def paced(total: int, clock: Clock, *, largest: int, first: int = 8) -> Iterator[slice]:
    """Slices of 8, 16, 32, ..., ``largest`` rows of ``total``, for as long as the next is expected to end in time.

    The first comes in any case, so that little time still gives something; the last ones are smaller again, to fit.
    Where time is plentiful the slices are the same at every run.
    """
    start, size, seconds_per_row = 0, min(first, largest), 0.0
    while start < total:
        while start and seconds_per_row * size > clock.left:
            size //= 2
            if size < min(first, largest):
                return
        stop, begun = min(start + size, total), time.perf_counter()
        yield slice(start, stop)
        seconds_per_row = (time.perf_counter() - begun) / (stop - start)
        start, size = stop, min(2 * size, largest)


def timed(call: Callable[[int], object], clock: Clock, *, largest: int, patience: float = 0.03) -> float:
    """Seconds per row of ``call(rows)``, from a batch that grows until it takes ``patience`` of the clock.

    The first call, of one row, pays for what is set up once; it counts only where it is a large part of the clock.
    """
    limit, size, begun = patience * clock.left, min(8, largest), time.perf_counter()
    call(1)
    elapsed = time.perf_counter() - begun
    if elapsed > 5 * limit:
        return elapsed
    while True:
        begun = time.perf_counter()
        call(size)
        elapsed = time.perf_counter() - begun
        if elapsed > limit or size >= largest:
            return elapsed / size
        size = min(4 * size, largest)
