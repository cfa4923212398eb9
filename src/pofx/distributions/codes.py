"""Laws of a code: T symbols that an encoder gives an observation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from pofx.distributions.discrete import Categorical
from pofx.randomness import rand


@dataclass(frozen=True)
class PointMass:
    """One code of T symbols, and no other."""

    mode: Int[Tensor, "*B T"]

    def log_prob(self, z: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """0 where z is the code, else -inf."""
        other = (z != self.mode).any(-1)
        return torch.zeros(other.shape, device=z.device).masked_fill(other, -torch.inf)

    def rsample(self, samples: int, *, generator: Generator) -> Int[Tensor, "N ..."]:
        """The code, ``samples`` times."""
        return self.mode.expand(samples, *self.mode.shape)


@dataclass(frozen=True)
class Symbols:
    """T symbols, each by its own probabilities: q(z) = prod_t softmax(logits_t)[z_t]."""

    logits: Float[Tensor, "*B T K"]

    def log_prob(self, z: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """log q(z), nats."""
        return Categorical(self.logits).log_prob(z).sum(-1)

    def rsample(self, samples: int, *, generator: Generator) -> Int[Tensor, "N ..."]:
        """(samples, ..., T) draws, by the largest of logits and Gumbel noise."""
        shape = (samples, *self.logits.shape)
        u = rand(shape, generator=generator, rows=1, device=self.logits.device, dtype=self.logits.dtype)
        return (self.logits - (-u.clamp(min=torch.finfo(u.dtype).tiny).log()).log()).argmax(-1)

    @property
    def mode(self) -> Int[Tensor, "*B T"]:
        """The likeliest symbols."""
        return self.logits.argmax(-1)
