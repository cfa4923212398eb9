"""Quantisers: vectors to symbols and back, each a small module with one interface.

B observations of S slots, each slot a vector of W numbers; a slot becomes ``depth`` symbols out of ``vocabulary``, so
that an observation is T = S * depth of them: slot by slot, and within a slot from the coarsest on.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pofx.errors import Unusable
from pofx.protocols import Progress
from pofx.randomness import rand

MOST = 2**20  # codes: whoever counts them holds as many numbers


@dataclass(frozen=True)
class Quantised:
    """What a loss needs of vectors y (B, S, W) that were quantised.

    Args:
        vectors: (B, S, W) what a decoder reads; gradients reach y through them.
        rate: (B,) KL(q(z|y) || uniform), nats.
        penalty: (B,) what the quantiser itself asks for: a mean over the S * W numbers, in squares of their unit.
        carry: for ``after``.
    """

    vectors: Float[Tensor, "B S W"]
    rate: Float[Tensor, "B"]
    penalty: Float[Tensor, "B"] | None = None
    carry: dict[str, Tensor] = field(default_factory=dict)


class Quantiser(nn.Module, ABC):
    """Abstract: vectors (B, S, W) to symbols (B, T) and back.

    Args:
        vocabulary: K, symbols to choose from.
        width: W, numbers of a slot.
        depth: symbols of a slot.
    """

    starts = False  # whether ``start`` has something to do
    follows = False  # whether ``after`` has something to do
    biased = ""  # why the gradient is not that of the loss

    def __init__(self, vocabulary: int, width: int, depth: int = 1) -> None:
        super().__init__()
        if not 2 <= vocabulary <= MOST:
            raise Unusable(f"a codebook needs 2 to {MOST} codes, got {vocabulary}; leave it out for the default")
        for name, size in {"code_dim": width, "depth": depth}.items():
            if size < 1:
                raise Unusable(f"{name} must be at least 1, got {size}; leave it out for the default")
        self.vocabulary, self.width, self.depth = vocabulary, width, depth

    @abstractmethod
    def quantise(self, y: Float[Tensor, "B S W"], *, generator: Generator) -> Quantised:
        """For learning. Not ``forward``: it draws, which a compiled graph cannot."""

    @abstractmethod
    def symbols(self, y: Float[Tensor, "B S W"]) -> Int[Tensor, "B T"]:
        """The likeliest symbols of y."""

    @abstractmethod
    def vectors(self, z: Int[Tensor, "*B T"]) -> Float[Tensor, "*B S W"]:
        """What symbols stand for."""

    def logits(self, y: Float[Tensor, "B S W"]) -> Float[Tensor, "B T K"] | None:
        """Of q(z|y), or None where y has one code and no other."""
        return None

    def start(self, y: Float[Tensor, "B S W"], *, generator: Generator) -> None:
        """Begins at the vectors of an encoder that has not learnt yet."""

    def after(self, carry: dict[str, Tensor], progress: Progress) -> None:
        """What follows an optimiser step."""


class FiniteScalar(Quantiser):
    """Each number of a slot is bounded and rounded to one of its levels: the codebook is their product, and not stored.

    Source: Mentzer et al. 2023, arXiv:2309.15505, section 3.1 and appendix A.1.

    Args:
        levels: of each number.
    """

    biased = "rounding has no gradient; that of the identity is taken in its place"
    levels: Tensor
    below: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...] = (8, 8, 8)) -> None:
        if min(levels, default=0) < 2:
            raise Unusable(f"levels must be at least 2 each, got {levels}; leave it out for the default")
        super().__init__(math.prod(levels), len(levels))
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("below", torch.tensor([float(n // 2) for n in levels]), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def bound(self, y: Float[Tensor, "*B W"]) -> Float[Tensor, "*B W"]:
        """Into the range that rounds to the levels, -floor(L/2) to ceil(L/2) - 1; 0 stays about 0."""
        half = (self.levels - 1).to(y.dtype) * (1 - 1e-3) / 2
        offset = (1 - self.levels % 2).to(y.dtype) / 2
        return (y + (offset / half).tan()).tanh() * half - offset

    def quantise(self, y: Float[Tensor, "B S W"], *, generator: Generator) -> Quantised:
        """Bounded, rounded, and scaled to [-1, 1]; nothing is drawn."""
        bounded = self.bound(y)
        rate = torch.full_like(y[:, 0, 0], y.shape[1] * math.log(self.vocabulary))
        return Quantised(straight_through(bounded, bounded.round()) / self.below, rate)

    def symbols(self, y: Float[Tensor, "B S W"]) -> Int[Tensor, "B T"]:
        """The first number counts for least."""
        return ((self.bound(y).round() + self.below).long() * self.basis).sum(-1)

    def vectors(self, z: Int[Tensor, "*B T"]) -> Float[Tensor, "*B S W"]:
        """The inverse of ``symbols``."""
        return (z[..., None] // self.basis % self.levels - self.below) / self.below


class Gumbel(Quantiser):
    """q(z|y) = softmax(A y + b); while training, a mixture of codes softmax((log q + g) / tau), g from Gumbel(0, 1).

    tau falls from 1 by half a cosine. In evaluation mode the code is drawn whole, as q says.

    Source: Jang et al. 2017, arXiv:1611.01144, eq. (2); Ramesh et al. 2021, arXiv:2102.12092, section 2.1.

    Args:
        codes: K.
        width: W.
        coldest: tau at the end.
    """

    follows = True
    temperature: Tensor

    def __init__(self, codes: int, width: int, *, coldest: float = 1 / 16) -> None:
        super().__init__(codes, width)
        if not 0 < coldest <= 1:
            raise Unusable(f"coldest must be in (0, 1], got {coldest}; leave it out for 1/16")
        self.coldest = coldest
        self.score = nn.Linear(width, codes)
        self.table = nn.Parameter(torch.randn(codes, width))
        self.register_buffer("temperature", torch.ones(()))

    def quantise(self, y: Float[Tensor, "B S W"], *, generator: Generator) -> Quantised:
        """A mixture of codes, or in evaluation mode one of them."""
        log_q = self.logits(y).log_softmax(-1)
        u = rand(log_q.shape, generator=generator, device=y.device, dtype=log_q.dtype)
        noisy = log_q - (-u.clamp(min=torch.finfo(u.dtype).tiny).log()).log()
        if self.training:
            chosen = (noisy / self.temperature).softmax(-1)
        else:
            chosen = F.one_hot(noisy.argmax(-1), self.vocabulary).to(log_q.dtype)
        rate = (log_q.exp() * log_q).sum((1, 2)) + y.shape[1] * math.log(self.vocabulary)
        return Quantised(chosen @ self.table, rate)

    def logits(self, y: Float[Tensor, "B S W"]) -> Float[Tensor, "B T K"]:
        """Of q(z|y)."""
        return self.score(y).to(self.table.dtype)

    def symbols(self, y: Float[Tensor, "B S W"]) -> Int[Tensor, "B T"]:
        """The likeliest code of each slot."""
        return self.logits(y).argmax(-1)

    def vectors(self, z: Int[Tensor, "*B T"]) -> Float[Tensor, "*B S W"]:
        """Rows of the table."""
        return self.table[z]

    @torch.no_grad()
    def after(self, carry: dict[str, Tensor], progress: Progress) -> None:
        """Cools down."""
        warm = (1 + math.cos(math.pi * progress.fraction)) / 2
        self.temperature.fill_(self.coldest + (1 - self.coldest) * warm)


def straight_through(y: Float[Tensor, "*B W"], q: Float[Tensor, "*B W"]) -> Float[Tensor, "*B W"]:
    """q, with the gradient of y (Bengio et al. 2013, arXiv:1308.3432)."""
    return y + (q - y).detach()


def code_shares(z: Int[Tensor, "B T"], vocabulary: int, codebooks: int = 1) -> Float[Tensor, "D K"]:
    """Of each codebook, the share of its places in z that each code has; the codebooks take turns in z."""
    each = z.unflatten(1, (-1, codebooks)).unbind(-1)
    return torch.stack([torch.bincount(code.flatten(), minlength=vocabulary) / code.numel() for code in each])
