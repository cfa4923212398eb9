"""Ratios of CPU time between two loops, from short blocks that take turns, so that a busy machine slows both.

A loop is a function ``advance(n)`` that makes n steps and reads its loss once, as a run does a few times a second.
"""

import os
import random
import time
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

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
        low, middle, high = quantiles(self.pairs, n=4)
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


def paired(first: Advance, second: Advance, *, pairs: int, seconds: float) -> Ratio:
    """first / second, from blocks of equal steps that take about ``seconds``; which goes first is drawn each time."""
    steps = block_steps(second, seconds)
    _timed(first, steps)
    order, began, clock = random.Random(0), time.perf_counter(), Busy()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for which in order.sample((0, 1), 2):
            times[which].append(_timed((first, second)[which], steps))
    ratios = tuple(a / b for a, b in zip(*times))
    a, b = (quantiles(t, n=4)[1] * 1000 / steps for t in times)
    return Ratio(ratios, (a, b), clock.others(time.perf_counter() - began))


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
