"""Laws of a code, T symbols that an encoder gives an observation; and of whatever is certain."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor

from pofx.distributions.discrete import Categorical
from pofx.randomness import rand


@dataclass(frozen=True)
class PointMass:
    """One value for each of a batch, and no other: a code, or what a decoder without noise makes.

    Args:
        mode: the values, (*B, ...).
        axes: how many of the last axes one value has.
    """

    mode: Shaped[Tensor, "..."]
    axes: int = 1

    def log_prob(self, z: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """log of the mass at z, of real numbers too, which have no density: 0 where z is the value, else -inf."""
        other = (z != self.mode).flatten(-self.axes).any(-1)
        return torch.zeros(other.shape, device=z.device).masked_fill(other, -torch.inf)

    def sample(self, *, generator: Generator) -> Shaped[Tensor, "..."]:
        """The value; nothing is drawn."""
        return self.mode

    def rsample(self, samples: int, *, generator: Generator) -> Shaped[Tensor, "N ..."]:
        """The value, ``samples`` times."""
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
