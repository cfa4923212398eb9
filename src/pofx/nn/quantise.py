"""Quantisers: vectors to symbols and back, each a small module with one interface.

B observations of S slots, each slot a vector of W numbers; a slot becomes ``depth`` symbols out of ``vocabulary``, so
that an observation is T = S * depth of them: slot by slot, and within a slot from the coarsest on.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pofx.errors import Unusable
from pofx.protocols import Progress
from pofx.randomness import rand, rows_of

Estimator = Literal["straight-through", "rotation"]
Update = Literal["ema", "gradient"]


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

    follows = False  # whether ``after`` has something to do
    biased = ""  # why the gradient is not that of the loss

    def __init__(self, vocabulary: int, width: int, depth: int = 1) -> None:
        super().__init__()
        if vocabulary < 2:
            raise Unusable(f"a codebook needs at least 2 codes, got {vocabulary}; leave it out for the default")
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


class VectorQuantiser(Quantiser):
    """The nearest of K learnt vectors; with depth D the nearest to y, to what that leaves of y, and so on D times.

    Source: van den Oord et al. 2017, arXiv:1711.00937, eq. (1-3); depth: Lee et al. 2022, arXiv:2203.01941, eq. (3-4)
    and (8), with a codebook for each depth as in Zeghidour et al. 2021, arXiv:2107.03312.

    Args:
        codes: K.
        width: W.
        depth: D.
        update: "ema", each code is the running mean of the vectors it is nearest to; "gradient", drawn to them.
        gradient: how it passes the quantiser: as if that were the identity, or turned and stretched as y is.
        decay: of the running means.
        commitment: weight of ||y - sg(e)||^2.
        revive: a code used less than this share of the mean use is put on a vector of the batch; 0: never.
        normalise: y and codes have length 1, so that the nearest has the smallest angle.
    """

    biased = "the step from y to the nearest code has no gradient; the decoder's is passed on in its place"
    follows = True

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        depth: int = 1,
        update: Update = "ema",
        gradient: Estimator = "straight-through",
        decay: float = 0.95,
        commitment: float = 0.25,
        revive: float = 0.3,
        normalise: bool = False,
    ) -> None:
        super().__init__(codes, width, depth)
        if normalise and depth > 1:
            raise Unusable(f"normalise needs depth 1, as what is left of a vector has no length 1, got {depth}")
        self.commitment, self.gradient, self.learnt, self.normalise = (
            commitment, gradient, update == "gradient", normalise
        )  # fmt: skip
        self.codebooks = nn.ModuleList(
            Codebook(codes, width, learnt=self.learnt, decay=decay, revive=revive, normalise=normalise)
            for _ in range(depth)
        )

    def quantise(self, y: Float[Tensor, "B S W"], *, generator: Generator) -> Quantised:
        """The sum of each depth's nearest code; the penalty holds y to the codes, and codes that are learnt to y."""
        rest = y = self._unit(y)
        vectors, penalty = torch.zeros_like(y), torch.zeros_like(y[:, 0, 0])
        carry: dict[str, Tensor] = {}
        for d, book in enumerate(self.books):
            code = book.nearest(rest.detach())
            e = book.vectors[code]
            penalty = penalty + self.commitment * _mean_square(rest - e.detach())
            if self.learnt:
                penalty = penalty + _mean_square(rest.detach() - e)
            carry |= {f"{d}/{name}": t for name, t in book.seen(rest.detach(), code, generator=generator).items()}
            vectors = vectors + e.detach()
            rest = rest - e.detach()
        passed = rotated(y, vectors) if self.gradient == "rotation" else straight_through(y, vectors)
        rate = torch.full_like(penalty, y.shape[1] * self.depth * math.log(self.vocabulary))
        return Quantised(passed, rate, penalty / self.depth, carry)

    def symbols(self, y: Float[Tensor, "B S W"]) -> Int[Tensor, "B T"]:
        """Nearest codes."""
        rest, codes = self._unit(y).detach(), []
        for book in self.books:
            codes.append(book.nearest(rest))
            rest = rest - book.vectors[codes[-1]]
        return torch.stack(codes, dim=-1).flatten(1)

    def vectors(self, z: Int[Tensor, "*B T"]) -> Float[Tensor, "*B S W"]:
        """Sums of codes."""
        each = z.unflatten(-1, (-1, self.depth)).unbind(-1)
        return torch.stack([book.vectors[code] for book, code in zip(self.books, each)]).sum(0)

    @torch.no_grad()
    def start(self, y: Float[Tensor, "B S W"], *, generator: Generator) -> None:
        """k-means, depth after depth."""
        rest = self._unit(y).flatten(0, 1)
        for book in self.books:
            book.start(rest, generator=generator)
            rest = rest - book.vectors[book.nearest(rest)]

    @torch.no_grad()
    def after(self, carry: dict[str, Tensor], progress: Progress) -> None:
        """The running means follow the batch."""
        for d, book in enumerate(self.books):
            book.follow(carry[f"{d}/counts"], carry[f"{d}/sums"], carry[f"{d}/fresh"])

    @property
    def books(self) -> list["Codebook"]:
        """From the coarsest on."""
        return cast(list[Codebook], list(self.codebooks))

    def _unit(self, y: Tensor) -> Tensor:
        y = y.to(self.books[0].table.dtype)
        return F.normalize(y, dim=-1) if self.normalise else y


class Codebook(nn.Module):
    """K vectors and how often each is used; see ``VectorQuantiser``.

    A table of running means is a buffer: where weights are averaged it is copied, as it is an average already. Averaged
    again it mixes where a code was with where it began anew: up to 4 of 2000 nats worse, and never better by 2.
    """

    table: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self, codes: int, width: int, *, learnt: bool, decay: float, revive: float, normalise: bool = False
    ) -> None:
        super().__init__()
        table = torch.randn(codes, width)
        if learnt:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        self.learnt, self.decay, self.revive, self.normalise = learnt, decay, revive, normalise
        self.register_buffer("counts", torch.full((codes,), 1 / codes))  # running mean share of the slots
        self.register_buffer("sums", table / codes)  # running mean, over slots, of what is nearest

    @property
    def vectors(self) -> Float[Tensor, "K W"]:
        """The codes."""
        return F.normalize(self.table, dim=-1) if self.normalise else self.table

    @torch.no_grad()
    def nearest(self, y: Float[Tensor, "*B W"]) -> Int[Tensor, "*B"]:
        """argmin_k ||y - e_k||, in full precision."""
        e = self.vectors
        with torch.autocast(y.device.type, enabled=False):
            return (e.square().sum(1) / 2 - y @ e.T).argmin(-1)

    @torch.no_grad()
    def seen(self, y: Float[Tensor, "B S W"], code: Int[Tensor, "B S"], *, generator: Generator) -> dict[str, Tensor]:
        """Means over slots: the share of each code, the sum of what is nearest to it; and a vector drawn for each.

        Of a batch in pieces, the mean over pieces of what is drawn is a vector of the whole batch.
        """
        n, slots = code.shape
        flat, (first, total) = y.flatten(0, 1), rows_of(generator, n)
        share = torch.full_like(flat[:, 0], 1 / len(flat))
        at = torch.randint(total * slots, (len(self.counts),), generator=generator, device=y.device) - first * slots
        here = ((at >= 0) & (at < len(flat))).to(y.dtype)[:, None] * (total / n)
        return {
            "counts": torch.zeros_like(self.counts).index_add_(0, code.flatten(), share),
            "sums": torch.zeros_like(self.sums).index_add_(0, code.flatten(), flat / len(flat)),
            "fresh": flat[at.clamp(0, len(flat) - 1)] * here,
        }

    def follow(self, counts: Float[Tensor, "K"], sums: Float[Tensor, "K W"], fresh: Float[Tensor, "K W"]) -> None:
        """N <- g N + (1 - g) n, m <- g m + (1 - g) sum, e = m / N; what is hardly used begins anew.

        Source: van den Oord et al. 2017, arXiv:1711.00937, eq. (6-8); Dhariwal et al. 2020, arXiv:2005.00341, 3.1.
        """
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = (self.counts < self.revive / len(self.counts))[:, None]
        self.counts.masked_fill_(dead[:, 0], 1 / len(self.counts))
        self.sums.copy_(torch.where(dead, fresh / len(self.counts), self.sums))
        if self.learnt:
            self.table.copy_(torch.where(dead, fresh, self.table))
            return
        used = (self.counts > 1e-12)[:, None]  # the quotient of two numbers that have all but vanished says nothing
        self.table.copy_(torch.where(used, self.sums / self.counts[:, None], self.table))

    def start(self, y: Float[Tensor, "N W"], *, generator: Generator) -> None:
        """The table becomes the centres of y's k-means."""
        self.table.copy_(k_means(y, len(self.table), generator=generator))
        self.counts.copy_(torch.bincount(self.nearest(y), minlength=len(self.counts)) / len(y))
        self.sums.copy_(self.table * self.counts[:, None])


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

    def __init__(self, levels: tuple[int, ...]) -> None:
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


def rotated(y: Float[Tensor, "*B W"], q: Float[Tensor, "*B W"]) -> Float[Tensor, "*B W"]:
    """q as a rotation and a scaling of y that are held constant, so that a gradient keeps its angle to the vector.

    R = I - 2 r r' + 2 q^ y^', with unit vectors y^, q^ and r = (y^ + q^) / |y^ + q^|.

    Source: Fifty et al. 2024, arXiv:2410.06424, section 4.
    """
    with torch.no_grad():
        from_, to = F.normalize(y, dim=-1), F.normalize(q, dim=-1)
        r = F.normalize(from_ + to, dim=-1)
        scale = q.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    turned = y - 2 * (y * r).sum(-1, keepdim=True) * r + 2 * (y * from_).sum(-1, keepdim=True) * to
    return scale * turned


@torch.no_grad()
def k_means(y: Float[Tensor, "N W"], k: int, *, generator: Generator, rounds: int = 10) -> Float[Tensor, "K W"]:
    """k centres of y by Lloyd's algorithm, from starts drawn by their squared distance to those before.

    Nothing is read back from the device. A centre that is nearest to nothing stays where it is.

    Source: Arthur and Vassilvitskii 2007 (k-means++).
    """
    chosen = [y[torch.randint(len(y), (1,), generator=generator, device=y.device)]]
    distance = torch.full_like(y[:, 0], torch.inf)
    while len(chosen) < k:
        distance = torch.minimum(distance, (y - chosen[-1]).square().sum(1))
        weights = distance + torch.finfo(y.dtype).tiny  # all are drawn alike once every y is a centre
        chosen.append(y[torch.multinomial(weights, 1, generator=generator)])
    centres = torch.cat(chosen)
    for _ in range(rounds):
        label = (centres.square().sum(1) / 2 - y @ centres.T).argmin(1)
        counts = torch.zeros_like(centres[:, 0]).index_add_(0, label, torch.ones_like(y[:, 0]))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, label, y)
        centres = torch.where(counts > 0, sums / counts, centres)
    return centres


def _mean_square(gap: Float[Tensor, "B S W"]) -> Float[Tensor, "B"]:
    return gap.square().mean((1, 2))


def code_shares(z: Int[Tensor, "B T"], vocabulary: int, codebooks: int = 1) -> Float[Tensor, "D K"]:
    """Of each codebook, the share of its places in z that each code has; the codebooks take turns in z."""
    each = z.unflatten(1, (-1, codebooks)).unbind(-1)
    return torch.stack([torch.bincount(code.flatten(), minlength=vocabulary) / code.numel() for code in each])
