"""Normals: of each element, and over vectors with a diagonal or a full covariance."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor
from torch.nn.functional import softplus

from pofx.randomness import randn

_LOG_2_PI = math.log(2 * math.pi)

# The narrowest normal of a network has a standard deviation of exp(-6) = 0.0025 of the data's own.
LOWEST_LOG_VAR = -12.0


def above(raw: Tensor, lowest: float) -> Tensor:
    """raw, bent smoothly to stay above ``lowest``: a hard bound would end the gradient."""
    return lowest + softplus(raw - lowest)


@dataclass(frozen=True)
class Normal:
    """N(mu, exp(log_var)), for each element."""

    mu: Float[Tensor, "*B"]
    log_var: Float[Tensor, "*B"]

    def log_prob(self, x: Float[Tensor, "*A"]) -> Float[Tensor, "*C"]:
        """Log-density of each element, nats; x broadcasts against mu."""
        return -0.5 * ((x - self.mu).square() * (-self.log_var).exp() + self.log_var + _LOG_2_PI)

    def sample(self, *, generator: Generator) -> Float[Tensor, "*B"]:
        """One draw of each element."""
        epsilon = torch.randn(self.mu.shape, generator=generator, device=self.mu.device, dtype=self.mu.dtype)
        return self.mu + (0.5 * self.log_var).exp() * epsilon

    @property
    def mode(self) -> Float[Tensor, "*B"]:
        """mu."""
        return self.mu

    @property
    def mean(self) -> Float[Tensor, "*B"]:
        """mu."""
        return self.mu


@dataclass(frozen=True)
class DiscretisedNormal:
    """p(k) = Phi((b_k - mu) / sigma) - Phi((a_k - mu) / sigma) for each element, where level k owns [a_k, b_k).

    Level k of L owns [2k/L - 1, 2(k+1)/L - 1); the first bin reaches down to minus infinity and the last up to
    infinity, so that the levels' probabilities sum to one.

    Args:
        mu: in [-1, 1], where the levels lie.
        log_var: log sigma^2.
        levels: L.
    """

    mu: Float[Tensor, "*B"]
    log_var: Float[Tensor, "*B"]
    levels: int

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of each element, nats; x broadcasts against mu."""
        a, b = _edges(x, self.mu, self.log_var, self.levels)
        first, last = x == 0, x == self.levels - 1
        outer = torch.where(first, torch.special.log_ndtr(b), torch.special.log_ndtr(-a))
        return torch.where(first | last, outer, _log_mass(a, b))

    def sample(self, *, generator: Generator) -> Integer[Tensor, "*B"]:
        """One draw of each element."""
        return _level(Normal(self.mu, self.log_var).sample(generator=generator), self.levels)

    @property
    def mode(self) -> Integer[Tensor, "*B"]:
        """The likeliest level: the one that holds mu, or an outermost one, which owns a whole tail."""
        held = _level(self.mu, self.levels)
        candidates = torch.stack([held, torch.zeros_like(held), torch.full_like(held, self.levels - 1)])
        return candidates.gather(0, self.log_prob(candidates).argmax(0, keepdim=True))[0]

    @property
    def mean(self) -> Float[Tensor, "*B"]:
        """The expected level: the sum over k >= 1 of p(x >= k)."""
        edges = 2 * torch.arange(1, self.levels).to(self.mu) / self.levels - 1
        return torch.special.ndtr((self.mu[..., None] - edges) * (-0.5 * self.log_var[..., None]).exp()).sum(-1)


@dataclass(frozen=True)
class TruncatedNormal:
    """N(mu, exp(log_var)) cut to [-1, 1) and discretised: p(k) is its share in [a_k, b_k), which level k owns.

    No bin has a tail, so that the mode is the level that holds mu: what a network under squared error means by mu.

    Args:
        mu: in [-1, 1], where the levels lie.
        log_var: log sigma^2.
        levels: L.
    """

    mu: Float[Tensor, "*B"]
    log_var: Float[Tensor, "*B"]
    levels: int

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of each element, nats; x broadcasts against mu."""
        return _log_mass(*_edges(x, self.mu, self.log_var, self.levels)) - _log_mass(*self._ends)

    def sample(self, *, generator: Generator) -> Integer[Tensor, "*B"]:
        """One draw of each element, by the inverse of its distribution function."""
        low, high = map(torch.special.ndtr, self._ends)
        u = torch.rand(self.mu.shape, generator=generator, device=self.mu.device, dtype=self.mu.dtype)
        y = self.mu + (0.5 * self.log_var).exp() * torch.special.ndtri(torch.lerp(low, high, u))
        return _level(y, self.levels)

    @property
    def mode(self) -> Integer[Tensor, "*B"]:
        """The level that holds mu."""
        return _level(self.mu, self.levels)

    @property
    def mean(self) -> Float[Tensor, "*B"]:
        """The expected level: the sum over k >= 1 of p(x >= k)."""
        k = torch.arange(1, self.levels).to(self.mu)
        edges, _ = _edges(k, self.mu[..., None], self.log_var[..., None], self.levels)
        low, high = (torch.special.ndtr(end)[..., None] for end in self._ends)
        return ((high - torch.special.ndtr(edges)) / (high - low)).sum(-1)

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        return _edges(torch.zeros_like(self.mu), self.mu, self.log_var, 1)


def _edges(x: Tensor, mu: Tensor, log_var: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The edges of the bins that levels x own, in standard deviations from mu."""
    inverse = (-0.5 * log_var).exp()
    a = (x.to(mu.dtype) * (2 / levels) - 1 - mu) * inverse
    return a, a + 2 / levels * inverse


def _log_mass(a: Tensor, b: Tensor) -> Tensor:
    """log(Phi(b) - Phi(a)) = log Phi(b) + log(1 - exp(log Phi(a) - log Phi(b))).

    What lies above zero is mirrored below it, where log Phi keeps its digits.
    """
    mirrored = a + b > 0
    low, high = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return log_high + (-torch.expm1(log_low - log_high)).log()


def _level(y: Float[Tensor, "*B"], levels: int) -> Integer[Tensor, "*B"]:
    """The level that owns y."""
    return ((y + 1) * (levels / 2)).floor().clamp(0, levels - 1).long()


@dataclass(frozen=True)
class DiagonalNormal:
    """N(mu, diag exp(log_var)) over vectors, the last axis."""

    mu: Float[Tensor, "*B K"]
    log_var: Float[Tensor, "*B K"]

    def log_prob(self, z: Float[Tensor, "*A K"]) -> Float[Tensor, "*C"]:
        """Log-density of each vector, nats; z may have leading axes of its own."""
        return Normal(self.mu, self.log_var).log_prob(z).sum(-1)

    def rsample(self, samples: int, *, generator: Generator) -> Float[Tensor, "N *B K"]:
        """z = mu + sigma epsilon, N times; gradients reach mu and log_var.

        Source: Kingma and Welling 2014, arXiv:1312.6114, eq. (10).
        """
        shape, rows = (samples, *self.mu.shape), self.mu.ndim - 1
        epsilon = randn(shape, generator=generator, rows=rows, device=self.mu.device, dtype=self.mu.dtype)
        return self.mu + (0.5 * self.log_var).exp() * epsilon

    def log_prob_by_each(self, z: Float[Tensor, "*A K"]) -> Float[Tensor, "*A B"]:
        """Log-density of each vector under each of B normals, by two products of matrices."""
        centre = self.mu.mean(0)  # near it, squares are small and their difference keeps its digits
        z, mu, precision = z - centre, self.mu - centre, (-self.log_var).exp()
        constant = (mu.square() * precision + self.log_var + _LOG_2_PI).sum(-1)
        return z @ (mu * precision).T - 0.5 * (z.square() @ precision.T + constant)

    def kl_to_standard_normal(self) -> Float[Tensor, "*B K"]:
        """KL(self || N(0, I)) of each dimension, nats: (mu^2 + sigma^2 - log sigma^2 - 1) / 2; they add up.

        Source: Kingma and Welling 2014, arXiv:1312.6114, appendix B.
        """
        return 0.5 * (self.mu.square() + self.log_var.exp() - self.log_var - 1)

    def kl_to(self, other: "DiagonalNormal") -> Float[Tensor, "*B K"]:
        """KL(self || other) of each dimension, nats; they add up."""
        apart = (self.mu - other.mu).square() * (-other.log_var).exp()
        wider = self.log_var - other.log_var
        return 0.5 * (apart + wider.exp() - wider - 1)

    @property
    def mode(self) -> Float[Tensor, "*B K"]:
        """mu."""
        return self.mu


@dataclass(frozen=True)
class FullNormal:
    """N(mu, L L^T) over vectors, the last axis.

    Args:
        tril: L, lower triangular with a positive diagonal.
    """

    mu: Float[Tensor, "*B K"]
    tril: Float[Tensor, "*B K K"]

    def log_prob(self, z: Float[Tensor, "*A K"]) -> Float[Tensor, "*C"]:
        """Log-density of each vector, nats; z may have leading axes of its own."""
        return standard_normal_log_prob(_times(self._inverse(), z - self.mu)) - self._log_det()

    def rsample(self, samples: int, *, generator: Generator) -> Float[Tensor, "N *B K"]:
        """z = mu + L epsilon, N times; gradients reach mu and L."""
        shape, rows = (samples, *self.mu.shape), self.mu.ndim - 1
        epsilon = randn(shape, generator=generator, rows=rows, device=self.mu.device, dtype=self.mu.dtype)
        return self.mu + _times(self.tril, epsilon)

    def log_prob_by_each(self, z: Float[Tensor, "*A K"]) -> Float[Tensor, "*A B"]:
        """Log-density of each vector under each of B normals."""
        inverse = self._inverse()
        epsilon = torch.einsum("bij,...j->...bi", inverse, z) - _times(inverse, self.mu)
        return standard_normal_log_prob(epsilon) - self._log_det()

    def kl_to_standard_normal(self) -> Float[Tensor, "*B K"]:
        """KL(self || N(0, I)) by the chain rule, nats: of each dimension given those before it; they add up."""
        diagonal = self.tril.diagonal(dim1=-2, dim2=-1)
        return 0.5 * (self.mu.square() + self.tril.square().sum(-1) - 2 * diagonal.log() - 1)

    @property
    def mode(self) -> Float[Tensor, "*B K"]:
        """mu."""
        return self.mu

    def _inverse(self) -> Float[Tensor, "*B K K"]:
        identity = torch.eye(self.mu.shape[-1], device=self.mu.device, dtype=self.mu.dtype)
        return torch.linalg.solve_triangular(self.tril, identity, upper=False)

    def _log_det(self) -> Float[Tensor, "*B"]:
        return self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _times(matrix: Float[Tensor, "*B K K"], v: Float[Tensor, "*A K"]) -> Float[Tensor, "*C K"]:
    """Each matrix times its vectors; v may have leading axes of its own."""
    return torch.einsum("...ij,...j->...i", matrix, v)


def standard_normal_log_prob(z: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """log N(z; 0, I) of each vector, nats."""
    return -0.5 * (z.square() + _LOG_2_PI).sum(-1)
