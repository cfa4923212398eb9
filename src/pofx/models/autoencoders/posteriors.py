"""What z is once x is seen: laws q(z|x), made from the numbers that the encoder puts out for x."""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid, silu

from pofx.distributions import DiagonalNormal, FullNormal
from pofx.errors import Unusable
from pofx.nn.masked import Masked, Units, degrees

PosteriorKind = Literal["diagonal", "full", "iaf"]

# Numbers about x that each step of an autoregressive flow reads, and its hidden layers.
_TOLD = 64
_HIDDEN = (128, 128)


class Diagonal(nn.Module):
    """q(z|x) = N(mu, diag sigma^2), from mu and log sigma^2. The numbers of every law begin with these 2 K."""

    @staticmethod
    def numbers(dim: int) -> int:
        """How many the encoder puts out."""
        return 2 * dim

    def forward(self, numbers: Float[Tensor, "*B O"]) -> DiagonalNormal:
        """The law."""
        return DiagonalNormal(*numbers.chunk(2, dim=-1))


class Full(nn.Module):
    """q(z|x) = N(mu, L L^T), L = diag sigma plus what stands below its diagonal.

    Source: Kingma and Welling 2019, arXiv:1906.02691, section 2.5.1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @staticmethod
    def numbers(dim: int) -> int:
        """How many the encoder puts out."""
        return 2 * dim + dim * (dim - 1) // 2

    def forward(self, numbers: Float[Tensor, "*B O"]) -> FullNormal:
        """The law."""
        k = self.dim
        mu, log_var, below = numbers.split([k, k, numbers.shape[-1] - 2 * k], dim=-1)
        row, column = torch.tril_indices(k, k, -1, device=numbers.device)
        lower = numbers.new_zeros(*mu.shape, k)
        lower[..., row, column] = below
        return FullNormal(mu, lower + (0.5 * log_var).exp().diag_embed())


class InverseAutoregressive(nn.Module):
    r"""A diagonal normal, bent by T steps $z_t = \sigma_t z_{t-1} + (1 - \sigma_t) m_t$, the order reversed in between.

    $m_t$ and the logits of $\sigma_t$ of each number come from those before it in $z_{t-1}$ and from the encoder: a
    draw is one pass, and $\log q(z_T|x) = \log q(z_0|x) - \sum_t \sum_k \log \sigma_{t,k}$.

    Source: Kingma et al. 2016, arXiv:1606.04934, algorithm 1, eq. (13)-(14).

    Args:
        dim: K, size of z, at least 2.
        layers: T.
    """

    def __init__(self, dim: int, *, layers: int) -> None:
        super().__init__()
        self.dim = dim
        self.steps = nn.ModuleList(_Step(dim) for _ in range(layers))

    @staticmethod
    def numbers(dim: int) -> int:
        """How many the encoder puts out."""
        return 2 * dim + _TOLD

    def forward(self, numbers: Float[Tensor, "*B O"]) -> "Bent":
        """The law."""
        mu, log_var, told = numbers.split([self.dim, self.dim, _TOLD], dim=-1)
        return Bent(DiagonalNormal(mu, log_var), tuple(self.steps), told)


class _Step(nn.Module):
    """m and log sigma of each number, from those before it and what is told about x."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        units = [Units(range(dim)), *(Units(degrees(size, dim)) for size in _HIDDEN)]
        self.layers = nn.ModuleList(Masked(a, b, context=_TOLD) for a, b in pairwise(units))
        self.head = Masked(units[-1], Units(range(dim), 2), context=_TOLD, strictly=True)
        with torch.no_grad():  # a gate that is nearly open, to begin with (the paper, section 3.2)
            for weight in (self.head.weight, self.head.context.weight):  # type: ignore[union-attr]
                weight.mul_(0.01)
            self.head.bias[1::2] += 2

    def forward(self, z: Float[Tensor, "*N K"], told: Tensor) -> tuple[Float[Tensor, "*N K"], Float[Tensor, "*N K"]]:
        """m and log sigma."""
        h = z
        for layer in self.layers:
            h = silu(layer(h, context=told))
        m, logits = self.head(h, context=told).unflatten(-1, (-1, 2)).unbind(-1)
        return m, logsigmoid(logits)

    def inverse(self, z: Float[Tensor, "*N K"], told: Tensor) -> tuple[Float[Tensor, "*N K"], Float[Tensor, "*N"]]:
        """What this step made z from, one number after another, and log |dz/d it|."""
        before = log_sigma = torch.zeros_like(z)
        for k in range(z.shape[-1]):
            m, log_sigma = self(before, told)
            made = (z - m) * (-log_sigma).exp() + m
            before = torch.cat([before[..., :k], made[..., k : k + 1], before[..., k + 1 :]], dim=-1)
        return before, log_sigma.sum(-1)  # the last round has read all that each of them depends on


class Bent:
    """A diagonal normal carried through the steps of an autoregressive flow.

    The density of the latest draws is known from drawing them; that of any other z takes K passes for each step.
    """

    def __init__(self, base: DiagonalNormal, steps: tuple[nn.Module, ...], told: Float[Tensor, "*B E"]) -> None:
        self.base, self.steps, self.told = base, steps, told
        self.drawn: tuple[Tensor, Tensor] | None = None

    def rsample(self, samples: int, *, generator: Generator) -> Float[Tensor, "N *B K"]:
        """N draws; gradients reach what made them."""
        z = self.base.rsample(samples, generator=generator)
        log_q = self.base.log_prob(z)
        z, log_det = self._carried(z)
        self.drawn = z, log_q - log_det
        return z

    def log_prob(self, z: Float[Tensor, "*A K"]) -> Float[Tensor, "*C"]:
        """Log-density of each vector, nats."""
        if self.drawn is not None and z is self.drawn[0]:
            return self.drawn[1]
        log_det = torch.zeros_like(z[..., 0])
        for step in reversed(self.steps):
            z, of_step = step.inverse(z.flip(-1), self.told)  # type: ignore[operator]
            log_det = log_det + of_step
        return self.base.log_prob(z) - log_det

    @property
    def mode(self) -> Float[Tensor, "*B K"]:
        """Where the base's mode is carried: the law's own has no formula."""
        return self._carried(self.base.mu)[0]

    def _carried(self, z: Float[Tensor, "*A K"]) -> tuple[Float[Tensor, "*A K"], Float[Tensor, "*A"]]:
        """Through all steps, and log of the factor by which they stretch."""
        log_det = torch.zeros_like(z[..., 0])
        for step in self.steps:
            m, log_sigma = step(z, self.told)
            z = (m + (z - m) * log_sigma.exp()).flip(-1)
            log_det = log_det + log_sigma.sum(-1)
        return z, log_det


Posterior = Diagonal | Full | InverseAutoregressive
Law = DiagonalNormal | FullNormal | Bent


def numbers(kind: PosteriorKind, dim: int) -> int:
    """How many the encoder puts out for a law of that kind."""
    if kind == "iaf":
        return InverseAutoregressive.numbers(dim)
    return Full.numbers(dim) if kind == "full" else Diagonal.numbers(dim)


def posterior_of(kind: PosteriorKind, dim: int, *, layers: int) -> Posterior:
    """What makes laws of that kind; ``layers`` of a flow.

    Raises:
        Unusable: a flow of one number.
    """
    if kind == "iaf" and dim == 1:
        raise Unusable("an iaf bends some numbers of the latent by others, got latent_dim 1; use posterior diagonal")
    if kind == "iaf":
        return InverseAutoregressive(dim, layers=layers)
    return Full(dim) if kind == "full" else Diagonal()


def stopped(q: Law) -> Law:
    """The same normal, through whose parameters no gradient goes."""
    if isinstance(q, DiagonalNormal):
        return DiagonalNormal(q.mu.detach(), q.log_var.detach())
    return q if isinstance(q, Bent) else FullNormal(q.mu.detach(), q.tril.detach())
