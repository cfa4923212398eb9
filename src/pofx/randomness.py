"""Randomness is an explicit generator, and every generator derives from (seed, role, rank)."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor


def derive(seed: int, role: str, rank: int = 0) -> int:
    """A 63-bit seed for one role of a run: "init", "data", "noise", "eval", ... Equal arguments, equal seed.

    Hashed, not added: seeds 0 and 1 must not share a stream under different roles.
    """
    digest = hashlib.sha256(f"{seed}/{role}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, role: str, rank: int = 0, *, device: str | torch.device = "cpu") -> Generator:
    """A generator on ``device`` for one role of a run.

    >>> torch.randint(9, (3,), generator=stream(0, "data")).equal(torch.randint(9, (3,), generator=stream(0, "data")))
    True
    """
    return Generator(device=device).manual_seed(derive(seed, role, rank))


class Shared(Generator):
    """A generator for piece ``piece`` of a batch that is cut into ``pieces`` equal ones.

    Cut among processes, or to save memory. ``randn`` and ``rand`` below draw for the whole batch and keep the piece's
    rows, so every piece gets the noise it would have had in the uncut batch, and all leave the generator in one state.
    """

    piece: int = 0
    pieces: int = 1

    @classmethod
    def of(cls, generator: Generator, piece: int, pieces: int) -> "Shared":
        """A generator that goes on where ``generator`` stands; the two advance apart."""
        shared = cls(device=generator.device)
        shared.set_state(generator.get_state())
        shared.piece, shared.pieces = piece, pieces
        return shared


def rows_of(generator: Generator, n: int) -> tuple[int, int]:
    """(first, total): the place of this piece's n rows among those of the whole batch.

    >>> rows_of(Shared.of(stream(0, "noise"), 1, 3), 4), rows_of(stream(0, "noise"), 4)
    ((4, 12), (0, 4))
    """
    if not isinstance(generator, Shared):
        return 0, n
    return generator.piece * n, generator.pieces * n


def randn(shape: tuple[int, ...], *, generator: Generator, rows: int = 0, **options: Any) -> Tensor:
    """Standard normals for a batch whose observations lie along axis ``rows``. What a loss draws, it draws like this.

    >>> g = stream(0, "noise")
    >>> whole = randn((4, 2), generator=stream(0, "noise"))
    >>> torch.cat([randn((2, 2), generator=Shared.of(g, piece, 2)) for piece in (0, 1)]).equal(whole)
    True
    """
    return _drawn(torch.randn, shape, generator, rows, options)


def rand(shape: tuple[int, ...], *, generator: Generator, rows: int = 0, **options: Any) -> Tensor:
    """Uniform in [0, 1); see ``randn``."""
    return _drawn(torch.rand, shape, generator, rows, options)


def _drawn(
    draw: Callable[..., Tensor], shape: tuple[int, ...], generator: Generator, rows: int, options: dict[str, Any]
) -> Tensor:
    if not isinstance(generator, Shared):
        return draw(shape, generator=generator, **options)
    n = shape[rows]
    first, total = rows_of(generator, n)
    return draw((*shape[:rows], total, *shape[rows + 1 :]), generator=generator, **options).narrow(rows, first, n)


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Builds weights under a seeded global state, put back after: torch's initialisers take no generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "init"))
        yield
