"""An order of n rows: a stored permutation while that is small, a computed one where it would not fit in memory."""

import numpy as np
import torch
from torch import Generator, Tensor

STORED = 1 << 24  # rows: a permutation of more, 8 bytes each, is computed place by place
_ROUNDS = 6


class Shuffled:
    """A permutation of 0 .. n-1 that takes no memory: a Feistel network over the next power of four, walked into range.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", the cycle-walking cipher.

    Args:
        n: how many.
        generator: draws the keys; an equal state gives an equal permutation.
    """

    def __init__(self, n: int, generator: Generator) -> None:
        self.n = n
        self.half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
        self.mask = np.uint64((1 << int(self.half)) - 1)
        self.keys = torch.randint(1 << 62, (_ROUNDS,), generator=generator, device=generator.device).tolist()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, places: slice) -> Tensor:
        """The rows at consecutive places, int64."""
        rows = self._permuted(np.arange(*places.indices(self.n), dtype=np.uint64))
        while (outside := rows >= self.n).any():
            rows[outside] = self._permuted(rows[outside])
        return torch.from_numpy(rows.astype(np.int64))

    def _permuted(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self.half, values & self.mask
        for key in self.keys:
            left, right = right, left ^ (_mixed(right + np.uint64(key)) & self.mask)
        return (left << self.half) | right


def shuffled(n: int, generator: Generator) -> Tensor | Shuffled:
    """A permutation of n rows, to be read in slices."""
    return torch.randperm(n, generator=generator) if n <= STORED else Shuffled(n, generator)


def _mixed(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit depends on every bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
