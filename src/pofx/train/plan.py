"""A budget of time becomes a planned number of rounds, after a short probe that leaves no trace.

The schedule then goes by rounds and the clock is only the hard stop, so that a run repeats and resumes exactly.
"""

import statistics
import time

import torch

from pofx.train.loop import Trainer

RESERVE = 0.92  # share of the budget that is planned for: the rest is for validation and for a machine that slows down


def measured_round(trainer: Trainer, *, seconds: float) -> float:
    """Median seconds of a round, from rounds that take about ``seconds`` in all and are then undone.

    The first round is not counted: it allocates.
    """
    tensors, plain = trainer.state()
    before = {name: tensor.clone() for name, tensor in tensors.items()}, plain
    trainer.round()
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < 200):
        began = time.perf_counter()
        trainer.round()
        _wait(trainer.device)
        times.append(time.perf_counter() - began)
    _forget(trainer)
    trainer.load(before)
    return statistics.median(times)


def planned_rounds(round_seconds: float, budget: float) -> int:
    """How many rounds fit the budget; at least one."""
    return max(1, int(RESERVE * budget / round_seconds))


def _forget(trainer: Trainer) -> None:
    """An optimiser that never stepped has no state: loading an empty state into it must leave it so."""
    for player in trainer.players:
        for optimiser in player.optimisers:
            optimiser.state.clear()
            optimiser.zero_grad(set_to_none=True)
    trainer.batch = None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
