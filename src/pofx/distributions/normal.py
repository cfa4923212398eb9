"""Normals with diagonal covariance."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
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

    def kl_to_standard_normal(self) -> Float[Tensor, "*B K"]:
        """KL(self || N(0, I)) of each dimension, nats: (mu^2 + sigma^2 - log sigma^2 - 1) / 2; they add up.

        Source: Kingma and Welling 2014, arXiv:1312.6114, appendix B.
        """
        return 0.5 * (self.mu.square() + self.log_var.exp() - self.log_var - 1)


def standard_normal_log_prob(z: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """log N(z; 0, I) of each vector, nats."""
    return -0.5 * (z.square() + _LOG_2_PI).sum(-1)
