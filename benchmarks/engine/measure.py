"""Ratios of CPU time between loops, from short blocks that take turns, so that a busy machine slows all.

A loop is a function ``advance(n)`` that makes n steps and reads its loss once, as a run does a few times a second.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

Advance = Callable[[int], None]
RESAMPLES = 10_000


@dataclass(frozen=True)
class Ratio:
    """Paired ratios of one loop's CPU time to another's."""

    pairs: tuple[float, ...]
    milliseconds: tuple[float, float]  # medians for a step of each
    others: float  # cores that other processes used meanwhile

    @property
    def quartiles(self) -> tuple[float, float, float]:
        low, middle, high = statistics.quantiles(self.pairs, n=4)
        return low, middle, high

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the median ratio, by the bootstrap (percentiles)."""
        values = torch.tensor(self.pairs, dtype=torch.float64)
        draws = torch.randint(len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(0))
        # quantile, not median: torch's median of an even number is the lower of the middle two
        medians = values[draws].quantile(0.5, dim=1)
        low, high = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return low, high


@dataclass(frozen=True)
class Turns:
    """CPU seconds of blocks of equal steps, of loops that took turns."""

    times: tuple[list[float], ...]
    steps: int
    others: float  # cores that other processes used meanwhile

    def ratio(self, first: int, second: int) -> Ratio:
        """Of the first loop's time to the second's."""
        a, b = self.times[first], self.times[second]
        milliseconds = (statistics.median(a) * 1000 / self.steps, statistics.median(b) * 1000 / self.steps)
        return Ratio(tuple(x / y for x, y in zip(a, b)), milliseconds, self.others)


def paired(first: Advance, second: Advance, *, pairs: int, seconds: float) -> Ratio:
    """first / second, from blocks of equal steps that take about ``seconds``; which goes first is drawn each time."""
    return taking_turns((first, second), rounds=pairs, steps=block_steps(second, seconds)).ratio(0, 1)


def taking_turns(loops: Sequence[Advance], *, rounds: int, steps: int) -> Turns:
    """A block of every loop in each round, in an order that is drawn."""
    for loop in loops:  # the first steps allocate
        _timed(loop, steps)
    order, began, clock = random.Random(0), time.perf_counter(), Busy()
    times: tuple[list[float], ...] = tuple([] for _ in loops)
    for _ in range(rounds):
        for which in order.sample(range(len(loops)), len(loops)):
            times[which].append(_timed(loops[which], steps))
    return Turns(times, steps, clock.others(time.perf_counter() - began))


def block_steps(advance: Advance, seconds: float) -> int:
    """How many steps take about ``seconds`` of CPU; the first ones, which allocate, are not counted."""
    advance(3)
    return max(2, round(seconds / (_timed(advance, 10) / 10)))


def _timed(advance: Advance, steps: int) -> float:
    with silence():
        began = time.process_time()
        advance(steps)
        return time.process_time() - began


@contextmanager
def silence():
    """What others print is thrown away; a bar that notices that nobody looks draws less than on a terminal."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


class Busy:
    """CPU time of the machine and of this process since it was made."""

    def __init__(self) -> None:
        self.machine, self.own = _machine_seconds(), time.process_time()

    def others(self, wall: float) -> float:
        """Cores that others used; NaN where the system does not say."""
        return (_machine_seconds() - self.machine - (time.process_time() - self.own)) / wall


def _machine_seconds() -> float:
    source = Path("/proc/stat")
    if not source.exists():
        return float("nan")
    user, nice, system, _, _, irq, soft, *_ = (int(v) for v in source.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
