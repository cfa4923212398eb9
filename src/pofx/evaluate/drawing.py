"""Samples for the scores: drawn once, in growing chunks, each with a generator of its own."""

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.conditions import Classes
from pofx.domains import Domain, Vectors
from pofx.evaluate.pace import Clock, Watch, paced
from pofx.evaluate.score import Score
from pofx.samplers.chunks import sample_many
from pofx.world import ALONE, World

MOST = 2048  # samples where time is plentiful


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Args:
        x: (N, ...) samples.
        c: (N,) the classes asked for, where there are classes.
        chunk: size of the largest chunks.
        speed: samples a second in these.
    """

    x: Tensor
    c: Tensor | None
    chunk: int
    speed: float

    def speed_score(self, split: str) -> Score:
        """Samples a second of wall time."""
        note = f"batches of {self.chunk}"
        return Score("sampling speed", self.speed, "statistic", "samples/s", len(self.x), split=split,
                     note=note)  # fmt: skip


def draw(
    model: Any, n: int, clock: Clock, *, seed: int, device: str | torch.device, watch: Watch, world: World = ALONE
) -> Drawn:
    """Up to n samples; conditions by training frequency, so that their law is the marginal p(x)."""
    largest = chunk_size(model.domain) * world.size
    condition = getattr(model, "condition", None)
    c = balanced(condition, n) if isinstance(condition, Classes) else None
    begun = time.perf_counter()
    sample_many(model, 1, None if c is None else c[:1], seed=seed, role="evaluate/probe", chunk=1, device=device)
    expected = min(clock.left, (time.perf_counter() - begun) * n / world.size)
    watch(f"samples: up to {n}, at most {expected:.1f} s")
    mine: list[Tensor] = []
    took: dict[int, list[float]] = defaultdict(list)  # chunk size to seconds
    for i, rows in enumerate(world.together(paced(n, clock, largest=largest))):
        share, begun = world.share(rows), time.perf_counter()
        size, given = share.stop - share.start, None if c is None else c[share]
        role = world.own(f"evaluate/{i}")
        mine.append(sample_many(model, size, given, seed=seed, role=role, chunk=max(1, size), device=device))
        took[rows.stop - rows.start].append(time.perf_counter() - begun)
    parts = [part for of_chunk in zip(*world.gathered(mine)) for part in of_chunk]
    x, chunk = torch.cat([part for part in parts if len(part)]), max(took)
    return Drawn(x, None if c is None else c[: len(x)], chunk, chunk * len(took[chunk]) / sum(took[chunk]))


def balanced(classes: Classes, n: int) -> Tensor:
    """n class rows of which the first m, for every m, are close to the training frequencies.

    The golden ratio's multiples modulo one fill the unit interval evenly (Weyl 1916).
    """
    position = (0.5 + torch.arange(n, dtype=torch.float64) * 0.6180339887498949) % 1
    ends = torch.tensor(classes.frequencies, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(ends / ends[-1], position, right=True).clamp(max=classes.count - 1)


def chunk_size(domain: Domain) -> int:
    """Samples in one call."""
    return 256 if isinstance(domain, Vectors) else 64
