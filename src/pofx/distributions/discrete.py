"""Two outcomes, or a table of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

# Probabilities multiplied at most before their logarithm is taken: even of coins, a product is then far from vanishing.
_TOGETHER = 64

# The smallest logit whose probability has all its digits.
_FAINTEST = -60


@dataclass(frozen=True)
class Bernoulli:
    """0 or 1: p(1) = sigmoid(logits), for each element."""

    logits: Float[Tensor, "*B"]

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of each element, nats; x broadcasts against the logits."""
        return logsigmoid((2 * x.to(self.logits.dtype) - 1) * self.logits)

    def summed_log_prob(self, x: Tensor, axes: int, *, last: bool = False) -> Tensor:
        """log_prob(x) summed over the last axes, without gradients: one logarithm for a product of many.

        If this is the ``last`` that is asked, the logits give their place to what is computed.
        """
        sign = 2 * x.to(self.logits.dtype) - 1
        y = (self.logits.mul_(sign) if last else self.logits * sign).flatten(-axes)
        if not y.numel() or y.min() < _FAINTEST:
            return logsigmoid(y).sum(-1)
        p = y.sigmoid_()
        size = next(k for k in range(_TOGETHER, 0, -1) if p.shape[-1] % k == 0)
        products = p.unflatten(-1, (-1, size)).prod(-1)
        summed, smallest = products.log().sum(-1), 2**24 * torch.finfo(p.dtype).tiny
        if products.min() < smallest:  # where factors must be taken one by one
            faint = (products < smallest).any(-1)
            summed[faint] = p[faint].log().sum(-1)
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
