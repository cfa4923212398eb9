"""Two outcomes, or a table of them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

# Probabilities multiplied before their logarithm is taken, and how far above the smallest float a product is exact.
_TOGETHER = 16
_FAINT = 2.0**24


@dataclass(frozen=True)
class Bernoulli:
    """0 or 1: p(1) = sigmoid(logits), for each element."""

    logits: Float[Tensor, "*B"]

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of each element, nats; x broadcasts against the logits."""
        return logsigmoid((2 * x.to(self.logits.dtype) - 1) * self.logits)

    def summed_log_prob(self, x: Tensor, axes: int) -> Tensor:
        """log_prob(x) summed over the last axes, without gradients: one logarithm for the product of 16 elements.

        A product that is nearly too small for a float is taken apart.
        """
        told = ((2 * x.to(self.logits.dtype) - 1) * self.logits).flatten(-axes)
        size = math.gcd(told.shape[-1], _TOGETHER)
        products = told.sigmoid().unflatten(-1, (size, -1)).prod(-2)
        summed = products.log().sum(-1)
        faint = (products < _FAINT * torch.finfo(products.dtype).tiny).any(-1)
        if faint.any():
            summed[faint] = logsigmoid(told[faint]).sum(-1)
        return summed

    def sample(self, *, generator: Generator) -> Integer[Tensor, "*B"]:
        """One draw of each element."""
        u = torch.rand(self.logits.shape, generator=generator, device=self.logits.device, dtype=self.logits.dtype)
        return (u < self.mean).to(torch.uint8)

    @property
    def mode(self) -> Integer[Tensor, "*B"]:
        """The likelier outcome."""
        return (self.logits > 0).to(torch.uint8)

    @property
    def mean(self) -> Float[Tensor, "*B"]:
        """p(1)."""
        return self.logits.sigmoid()


@dataclass(frozen=True)
class Categorical:
    """Levels 0 .. V-1: p(k) = softmax(logits)_k over the last axis."""

    logits: Float[Tensor, "*B V"]

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of each element, nats; x broadcasts against the logits without their last axis."""
        log_p = self.logits.log_softmax(-1)
        x, _ = torch.broadcast_tensors(x.long(), log_p[..., 0])
        return log_p.expand(*x.shape, -1).gather(-1, x[..., None])[..., 0]

    def sample(self, *, generator: Generator) -> Integer[Tensor, "*B"]:
        """One draw of each element."""
        p = self.logits.softmax(-1)
        return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])

    @property
    def mode(self) -> Integer[Tensor, "*B"]:
        """The likeliest level."""
        return self.logits.argmax(-1)

    @property
    def mean(self) -> Float[Tensor, "*B"]:
        """The expected level."""
        return self.logits.softmax(-1) @ torch.arange(self.logits.shape[-1]).to(self.logits)
