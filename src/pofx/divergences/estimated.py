"""What a Monte Carlo divergence is: a value, how far it may be off, and what it is an estimate of."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor


class Estimated(NamedTuple):
    """A figure about two laws, from draws of them.

    Args:
        value: the divergence, in its own unit.
        stderr: standard error of ``value``; 0 for an exact one, infinite where the value is.
        n: how many draws of each law it is from; 0 for an exact one.
        kind: "exact"; "unbiased", right in the mean; or "unbiased of a lower bound", whose mean is at most the truth.
    """

    value: float
    stderr: float
    n: int
    kind: Literal["exact", "unbiased", "unbiased of a lower bound"]


def sum_of_means(a: Tensor, b: Tensor) -> tuple[float, float]:
    """mean(a) + mean(b) of independent draws (N,) and (M,), and its standard error; N and M are at least 2."""
    value = (a.mean() + b.mean()).item()
    if not math.isfinite(value):
        return value, math.inf
    return value, math.sqrt((a.var() / len(a) + b.var() / len(b)).item())


@contextmanager
def global_state_from(generator: Generator) -> Iterator[None]:
    """Torch's global random state, seeded from a generator and put back: for torch's own draws, which take none."""
    device = generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
