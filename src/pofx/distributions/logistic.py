"""Logistic distributions cut into the bins that integer levels own.

Level k of L owns [2k/L - 1, 2(k+1)/L - 1) of [-1, 1]; the first bin reaches down to minus infinity and the last up to
infinity, so that the levels' probabilities sum to one.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from pofx.distributions.discrete import Categorical, expected_level


def lowest(levels: int) -> float:
    """The least log-scale: much narrower than a bin, a logistic is a point mass, and would only lose the gradient."""
    return math.log(2 / levels) - 3


@dataclass(frozen=True)
class DiscretisedLogistic:
    """p(k) = sigmoid((b_k - mu) / s) - sigmoid((a_k - mu) / s) for each element, where level k owns [a_k, b_k).

    Args:
        mu: location, in [-1, 1] where the levels lie.
        log_scale: log s.
        levels: L.

    Source: Kingma et al. 2016, arXiv:1606.04934, appendix; Salimans et al. 2017, arXiv:1701.05517, eq. (2).
    """

    mu: Float[Tensor, "*B"]
    log_scale: Float[Tensor, "*B"]
    levels: int

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of each element, nats; x broadcasts against mu.

        With a < b the edges, sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no difference of nearly
        equal numbers, however far out or however narrow.
        """
        k, inverse = x.to(self.mu.dtype), (-self.log_scale).exp()
        bin_width = 2 / self.levels
        a = (k * bin_width - 1 - self.mu) * inverse
        b = a + bin_width * inverse
        first, last, zero = k == 0, k == self.levels - 1, torch.zeros((), dtype=a.dtype, device=a.device)
        above_a = torch.where(first, zero, logsigmoid(-a))
        below_b = torch.where(last, zero, logsigmoid(b))
        # log(1 - exp(a - b)) by expm1 keeps its digits where the bin is narrow; where it is wide, 1e-7 nats are lost.
        inside = (-torch.expm1(-bin_width * inverse)).log()
        return above_a + below_b + torch.where(first | last, zero, inside)

    def sample(self, *, generator: Generator) -> Integer[Tensor, "*B"]:
        """One draw of each element."""
        u = torch.rand(self.mu.shape, generator=generator, device=self.mu.device, dtype=self.mu.dtype)
        return self._level(self.mu + self.log_scale.exp() * u.logit())

    @property
    def mode(self) -> Integer[Tensor, "*B"]:
        """The likeliest level: the one that holds mu, or an outermost one, which owns a whole tail."""
        held = self._level(self.mu)
        candidates = torch.stack([held, torch.zeros_like(held), torch.full_like(held, self.levels - 1)])
        return candidates.gather(0, self.log_prob(candidates).argmax(0, keepdim=True))[0]

    @property
    def mean(self) -> Float[Tensor, "*B"]:
        """The expected level."""
        mu, inverse = self.mu[..., None], (-self.log_scale[..., None]).exp()
        return expected_level(lambda edges: ((mu - edges) * inverse).sigmoid(), self.levels, self.mu)

    def _level(self, y: Float[Tensor, "*B"]) -> Integer[Tensor, "*B"]:
        return ((y + 1) * (self.levels / 2)).floor().clamp(0, self.levels - 1).long()


@dataclass(frozen=True)
class DiscretisedLogisticMixture:
    """p(k) = sum_m softmax(logits)_m p_m(k), each p_m a ``DiscretisedLogistic``; M is the first axis.

    Source: Salimans et al. 2017, arXiv:1701.05517, eq. (2); here the colours of a pixel are independent.
    """

    logits: Float[Tensor, "M *B"]
    mu: Float[Tensor, "M *B"]
    log_scale: Float[Tensor, "M *B"]
    levels: int

    @property
    def _components(self) -> DiscretisedLogistic:
        return DiscretisedLogistic(self.mu, self.log_scale, self.levels)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of each element, nats; x broadcasts against the parameters without their first axis."""
        # M stays in front of whatever axes x has beyond those of one element's parameters.
        front = (slice(None), *[None] * max(0, x.ndim - (self.mu.ndim - 1)))
        components = DiscretisedLogistic(self.mu[front], self.log_scale[front], self.levels)
        return (self.logits.log_softmax(0)[front] + components.log_prob(x)).logsumexp(0)

    def sample(self, *, generator: Generator) -> Integer[Tensor, "*B"]:
        """One draw of each element: a component, then a level."""
        m = Categorical(self.logits.movedim(0, -1)).sample(generator=generator)[None]
        mu, log_scale = self.mu.gather(0, m)[0], self.log_scale.gather(0, m)[0]
        return DiscretisedLogistic(mu, log_scale, self.levels).sample(generator=generator)

    @property
    def mode(self) -> Integer[Tensor, "*B"]:
        """The likeliest of the components' likeliest levels."""
        modes = self._components.mode
        log_p = torch.stack([self.log_prob(mode) for mode in modes])
        return modes.gather(0, log_p.argmax(0, keepdim=True))[0]

    @property
    def mean(self) -> Float[Tensor, "*B"]:
        """The expected level."""
        return (self.logits.softmax(0) * self._components.mean).sum(0)
