"""A budget of time becomes a planned number of rounds, after a short probe that leaves no trace.

The schedule then goes by rounds and the clock is only the hard stop, so that a run repeats and resumes exactly.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pofx.train.loop import Trainer

RESERVE = 0.85  # share of the budget that is planned for: the rest is for validation and for a machine that slows down
TOGETHER = 10  # rounds that several processes measure
HOPELESS = 3.0  # a setting whose first round takes so many times the best one's is measured no further


@contextmanager
def use_threads(n: int) -> Iterator[None]:
    """Torch computes with n threads inside the block; equal bits need equal threads, so a run stores its number."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads(trainer: Trainer, *, seconds: float) -> tuple[int, float]:
    """The number of threads with which a round is fastest, and its seconds, from about ``seconds`` of probing each.

    Measured, because more are not always faster: on small networks they wait for each other, and beside another busy
    process a round of two threads was seen to take fifty times that of one.
    """
    most = torch.get_num_threads() if trainer.device.type == "cpu" else 1
    best, threads = float("inf"), 1
    for n in sorted({1, max(1, most // 2), most}):
        with use_threads(n):
            took = measured_round(trainer, seconds=seconds, best=best)
        if took < best:
            best, threads = took, n
    return threads, best


def measured_round(trainer: Trainer, *, seconds: float, best: float = float("inf")) -> float:
    """Median seconds of a round, from rounds that take about ``seconds`` in all and are then undone.

    The first round is not counted, since it allocates, unless it is hopelessly slower than ``best``.
    """
    with undone(trainer):
        times = [_timed(trainer)]
        if trainer.world.size > 1:  # each round needs all processes, whatever their clocks say
            times = [_timed(trainer) for _ in range(TOGETHER)]
        elif times[0] < HOPELESS * best or best == float("inf"):
            times = [_timed(trainer)]
            while sum(times) < seconds and len(times) < 200:
                times.append(_timed(trainer))
    return statistics.median(times)


@contextmanager
def undone(trainer: Trainer) -> Iterator[None]:
    """What is trained inside the block leaves no trace."""
    tensors, plain = trainer.state()
    before = {name: tensor.clone() for name, tensor in tensors.items()}, plain
    yield
    _forget(trainer)
    trainer.load(before)


def _timed(trainer: Trainer) -> float:
    began = time.perf_counter()
    trainer.round()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)
    return time.perf_counter() - began


def planned_rounds(round_seconds: float, budget: float) -> int:
    """How many rounds fit the budget; at least one."""
    return max(1, int(RESERVE * budget / round_seconds))


def _forget(trainer: Trainer) -> None:
    """An optimiser that never stepped has no state: loading an empty state into it must leave it so."""
    for player in trainer.players:
        for optimiser in player.optimisers:
            optimiser.state.clear()
            optimiser.zero_grad(set_to_none=True)
