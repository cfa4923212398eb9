"""Randomness is an explicit generator, and every generator derives from (seed, role, rank)."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, role: str, rank: int = 0) -> int:
    """A 63-bit seed for one role of a run: "init", "data", "noise", "eval", ... Equal arguments, equal seed.

    Hashed, not added: seeds 0 and 1 must not share a stream under different roles.
    """
    digest = hashlib.sha256(f"{seed}/{role}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, role: str, rank: int = 0, *, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator on ``device`` for one role of a run.

    >>> torch.randint(9, (3,), generator=stream(0, "data")).equal(torch.randint(9, (3,), generator=stream(0, "data")))
    True
    """
    return torch.Generator(device=device).manual_seed(derive(seed, role, rank))


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Builds weights under a seeded global state, put back after: torch's initialisers take no generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "init"))
        yield
