"""p(x_t | x_<t): one symbol, level or number at a time, from what a network puts out for it; as it is, or sharpened.

Shapes: *B any axes, P numbers of output, V symbols, M components of a mixture.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from pofx.distributions.logistic import DiscretisedLogisticMixture, lowest
from pofx.distributions.normal import LOWEST_LOG_VAR, above
from pofx.errors import Unusable


@dataclass(frozen=True)
class Symbol:
    """One of V symbols: the outputs are the logits of a softmax."""

    vocabulary: int

    @property
    def outputs(self) -> int:
        """P = V."""
        return self.vocabulary

    def log_prob(self, outputs: Float[Tensor, "*B P"], s: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """log p(s), nats."""
        nll = F.cross_entropy(outputs.flatten(0, -2), s.flatten(), reduction="none")
        return -nll.view(s.shape)

    def logits(self, outputs: Float[Tensor, "*B P"]) -> Float[Tensor, "*B V"]:
        """Logits of the symbols."""
        return outputs

    def draw(self, outputs: Float[Tensor, "B P"], *, generator: Generator, **how: Any) -> Int[Tensor, "B"]:
        """One symbol a row; ``how`` is what ``sharpen`` takes."""
        return draw(self.logits(outputs), generator=generator, **how)

    def check(self, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> None:
        """Refuses settings that name no distribution, in one line."""
        _check_temperature(temperature, "the likeliest symbol")
        if top_k is not None and not 1 <= top_k <= self.vocabulary:
            raise Unusable(f"top_k must lie in 1 to {self.vocabulary}, the number of symbols, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise Unusable(f"top_p must lie above 0 and be at most 1, got {top_p}")


@dataclass(frozen=True)
class Bit(Symbol):
    """0 or 1: the output is the logit of 1, half the outputs of a softmax over two symbols."""

    vocabulary: int = 2

    @property
    def outputs(self) -> int:
        """P = 1."""
        return 1

    def log_prob(self, outputs: Float[Tensor, "*B 1"], s: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """log p(s), nats."""
        logit = outputs[..., 0]
        return -F.binary_cross_entropy_with_logits(logit, s.to(logit.dtype), reduction="none")

    def logits(self, outputs: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B 2"]:
        """Logits of 0 and 1."""
        return torch.cat([torch.zeros_like(outputs), outputs], dim=-1)


@dataclass(frozen=True)
class Level(Symbol):
    """One of V levels in order: the outputs are weights, places and widths of M discretised logistics."""

    mixtures: int = 10

    @property
    def outputs(self) -> int:
        """P = 3 M."""
        return 3 * self.mixtures

    def log_prob(self, outputs: Float[Tensor, "*B P"], s: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """log p(s), nats."""
        return self._mixture(outputs).log_prob(s)

    def logits(self, outputs: Float[Tensor, "*B P"]) -> Float[Tensor, "*B V"]:
        """log p of every level."""
        levels = torch.arange(self.vocabulary, device=outputs.device)
        mixture = self._mixture(outputs[..., None, :])
        return mixture.log_prob(levels.expand(*outputs.shape[:-1], -1))

    def _mixture(self, outputs: Tensor) -> DiscretisedLogisticMixture:
        # Bins of 256 levels are finer than numbers of reduced precision near 1.
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        logits, mu, log_scale = _components(outputs, self.mixtures)
        return DiscretisedLogisticMixture(logits, mu, above(log_scale, lowest(self.vocabulary)), self.vocabulary)


@dataclass(frozen=True)
class Number:
    r"""A real number: $p(y) = \sum_m w_m N(y; \mu_m, \sigma_m^2)$, M normals.

    With outputs of zero the components lie side by side from -1.5 to 1.5, for a number of mean 0 and variance 1.
    Source: Bishop 1994, "Mixture density networks", eq. (22) to (25).
    """

    mixtures: int = 10

    @property
    def outputs(self) -> int:
        """P = 3 M."""
        return 3 * self.mixtures

    def log_prob(self, outputs: Float[Tensor, "*B P"], y: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """log p(y), nats: a density."""
        logits, mu, log_sigma = self._mixture(outputs.to(y.dtype))
        log_p = -0.5 * ((y - mu) * (-log_sigma).exp()).square() - log_sigma - 0.5 * math.log(2 * math.pi)
        return (logits.log_softmax(0) + log_p).logsumexp(0)

    def draw(
        self, outputs: Float[Tensor, "B P"], *, generator: Generator, temperature: float = 1.0, **unused: Any
    ) -> Float[Tensor, "B"]:
        """One number a row: a component by its weight to the power of 1 / temperature, then N(mu, temperature sigma^2).

        With one component that is p^(1 / temperature); temperature 0 is the mean of the likeliest component.
        """
        logits, mu, log_sigma = self._mixture(outputs)
        m = draw(logits.T, generator=generator, temperature=temperature)[None]
        noise = torch.randn(m.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        y = mu.gather(0, m) + math.sqrt(temperature) * log_sigma.exp().gather(0, m) * noise
        return y[0]

    def check(self, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> None:
        """Refuses settings that name no distribution, in one line."""
        _check_temperature(temperature, "the middle of the likeliest component")
        if top_k is not None or top_p is not None:
            raise Unusable("top_k and top_p choose among symbols, and these are numbers; use temperature")

    def _mixture(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, mu, log_sigma = _components(outputs, self.mixtures)
        return logits, 1.5 * mu, above(log_sigma, LOWEST_LOG_VAR / 2)


Conditional = Symbol | Level | Number


def sharpen(
    logits: Float[Tensor, "B V"], *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "B V"]:
    """Logits of p^(1/temperature), kept for the ``top_k`` likeliest symbols, then for the fewest that hold ``top_p``.

    Source: top-k: Fan et al. 2018, arXiv:1805.04833, section 5.4; top-p: Holtzman et al. 2020, arXiv:1904.09751,
    section 3.1.

    >>> sharpen(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_p=0.6).softmax(1)
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if top_k is None and top_p is None:
        return logits
    falling, order = logits.sort(dim=-1, descending=True)
    if top_k is not None:
        falling[:, top_k:] = -torch.inf
    if top_p is not None:
        p = falling.softmax(-1)
        falling = falling.masked_fill(cumulated(p) - p >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, falling)


def draw(
    logits: Float[Tensor, "B V"],
    *,
    generator: Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Tensor, "B"]:
    """One symbol per row from the sharpened distribution, by inversion; temperature 0 takes the likeliest.

    The symbol is the first whose cumulative probability exceeds a uniform u, one a row: never one of probability 0.
    """
    if temperature == 0:
        return logits.argmax(-1)
    if temperature != 1 or top_k is not None or top_p is not None:
        logits = sharpen(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    # Doubles, so that the grid of u and the rounding of the sums are finer than any probability that matters.
    cdf = cumulated(logits.softmax(-1, dtype=torch.float64))
    u = torch.rand((len(cdf), 1), generator=generator, dtype=torch.float64, device=cdf.device)
    # Where there is no distribution (NaN) the last symbol is as good as any, and none beyond it is looked up.
    return torch.searchsorted(cdf, u.mul_(cdf[:, -1:]), right=True)[:, 0].clamp_(max=cdf.shape[1] - 1)


def cumulated(p: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
    """Sums of all up to each; on a GPU that must be deterministic, by the CPU: torch has no such sum there."""
    if p.is_cuda and torch.are_deterministic_algorithms_enabled():
        return p.cpu().cumsum(-1).to(p.device)
    return p.cumsum(-1)


def _components(outputs: Tensor, mixtures: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, places and widths (M, *B); with outputs of zero the places run from -1 to 1, each as wide as a step."""
    logits, mu, log_scale = outputs.movedim(-1, 0).chunk(3)
    places = torch.linspace(-1, 1, mixtures).to(outputs) if mixtures > 1 else outputs.new_zeros(1)
    return logits, mu + places.view(-1, *[1] * (mu.ndim - 1)), log_scale + math.log(2 / mixtures)


def _check_temperature(temperature: float, at_zero: str) -> None:
    if not 0 <= temperature < math.inf:
        raise Unusable(f"temperature must be at least 0 and finite (0: {at_zero}), got {temperature}")
