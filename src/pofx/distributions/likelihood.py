"""From what a network puts out to a distribution over one observation, chosen by the domain."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.distributions.discrete import Bernoulli, Categorical
from pofx.distributions.logistic import DiscretisedLogistic, DiscretisedLogisticMixture, lowest
from pofx.distributions.normal import LOWEST_LOG_VAR, DiscretisedNormal, Normal, above
from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.nn.standardise import Standardise

Kind = Literal["auto", "bernoulli", "categorical", "logistic", "normal"]


@dataclass(frozen=True)
class Independent:
    """A distribution over observations of a domain whose dimensions are independent, each by ``base``.

    Of a record that ends, what follows its end is padding: it has no terms, and is drawn as the end.
    """

    base: Any
    domain: Domain

    def log_prob(self, x: Tensor, *, last: bool = False) -> Float[Tensor, "*B"]:
        """log p(x), nats per observation: summed over the observation's dimensions.

        Args:
            last: nothing else will be asked of this distribution, whose numbers may be written over.
        """
        if isinstance(self.base, Bernoulli) and not torch.is_grad_enabled() and self.base.logits.itemsize >= 4:
            return self.base.summed_log_prob(x, len(self.domain.shape), last=last)
        log_p = self.base.log_prob(x)
        if self._end is not None:
            ends = (x == self._end).long()
            log_p = log_p.masked_fill(ends.cumsum(-1) > ends, 0)
        return log_p.flatten(-len(self.domain.shape)).sum(-1)

    def sample(self, *, generator: Generator) -> Tensor:
        """One draw, canonical."""
        return self._canonical(self.base.sample(generator=generator))

    @property
    def mode(self) -> Tensor:
        """The likeliest value of each dimension, canonical."""
        return self._canonical(self.base.mode)

    @property
    def mean(self) -> Tensor:
        """The expected value of each dimension, canonical: integer levels are rounded.

        Symbols, and colours of a palette, have no mean: they are the likeliest.
        """
        if isinstance(self.domain, Tokens) or (isinstance(self.domain, Images) and self.domain.palette):
            return self.mode
        mean = self.base.mean
        return self._canonical(mean if self.domain.dtype.is_floating_point else mean.round())

    @property
    def _end(self) -> int | None:
        return self.domain.end if isinstance(self.domain, Tokens) else None

    def _canonical(self, x: Tensor) -> Tensor:
        x = x.to(self.domain.dtype)
        return x if self._end is None else x.masked_fill((x == self._end).cumsum(-1) > 0, self._end)


@dataclass(frozen=True)
class Likelihood:
    """p(x | parameters): a call maps (*B, P, *shape) real numbers to an ``Independent`` over canonical x.

    Args:
        domain: what one observation is.
        kind: "bernoulli" (2 levels), "categorical" (a probability per level or symbol), "logistic" (discretised, or a
            mixture of them) or "normal" (mean and variance; discretised where there are levels).
        mixtures: M, how many logistics are mixed.
        standardise: of vectors; the parameters are in its units, the distribution in x's own.
    """

    domain: Domain
    kind: Kind
    mixtures: int = 1
    standardise: Standardise | None = None

    @property
    def levels(self) -> int:
        """Of a picture, or symbols of a text; 0 for real numbers."""
        if isinstance(self.domain, Tokens):
            return self.domain.vocabulary
        return getattr(self.domain, "levels", None) or 0

    @property
    def has_spread(self) -> bool:
        """Whether the last of the outputs is the logarithm of a variance or scale."""
        return self.kind == "normal" or (self.kind == "logistic" and self.mixtures == 1)

    @property
    def outputs(self) -> int:
        """P, numbers per dimension."""
        logistic = 2 if self.mixtures == 1 else 3 * self.mixtures
        return {"bernoulli": 1, "categorical": self.levels, "logistic": logistic, "normal": 2}[self.kind]

    def __call__(self, parameters: Float[Tensor, "..."]) -> Independent:
        """The distribution over x."""
        return Independent(self._base(parameters.movedim(-1 - len(self.domain.shape), 0)), self.domain)

    def _base(self, p: Float[Tensor, "..."]) -> Bernoulli | Categorical | DiscretisedLogistic | Any:
        # Not p[0], p[1]: the gradient of an index is a copy among zeros.
        if self.kind == "bernoulli":
            return Bernoulli(p.squeeze(0))
        if self.kind == "categorical":
            return Categorical(p.movedim(0, -1))
        if self.kind == "normal":
            mu, log_var = p.unbind()
            return self._normal(mu, above(log_var, LOWEST_LOG_VAR))
        if self.mixtures == 1:
            mu, log_scale = p.unbind()
            return DiscretisedLogistic(mu, above(log_scale, lowest(self.levels)), self.levels)
        logits, mu, log_scale = p.chunk(3)
        return DiscretisedLogisticMixture(logits, mu, above(log_scale, lowest(self.levels)), self.levels)

    def _normal(self, mu: Tensor, log_var: Tensor) -> Normal | DiscretisedNormal:
        if self.levels:
            return DiscretisedNormal(mu, log_var, self.levels)
        if self.standardise is None:
            return Normal(mu, log_var)
        return Normal(self.standardise.inverse(mu), log_var + 2 * self.standardise.scale.log())

    @torch.no_grad()
    def initial(self, x: Tensor) -> Float[Tensor, "P ..."]:
        """Parameters (P, *shape) of x's own marginals, roughly: where a network's output bias starts."""
        x = x[:8192]
        if self.kind == "bernoulli":
            return ((x.float().sum(0) + 0.5) / (len(x) + 1)).logit()[None]
        if self.kind == "categorical":
            counts = torch.stack([(x == k).float().sum(0) for k in range(self.levels)])
            return ((counts + 1 / self.levels) / (len(x) + 1)).log()
        y = self.domain.centre(x) if isinstance(self.domain, Images) else x
        y = y if self.standardise is None else self.standardise(y)
        mean, std = y.mean(0), y.std(0, correction=0).clamp(min=1e-2)
        if self.kind == "normal":
            # A quarter of the data's own width: at the whole of it there is nothing left for a latent to explain, and
            # training stays there (posterior collapse; Lucas et al. 2019, arXiv:1911.02469).
            return torch.stack([mean, 2 * (std / 4).log()])
        spread = torch.linspace(-1, 1, self.mixtures).to(y).view(-1, *[1] * mean.ndim) * (self.mixtures > 1)
        # A logistic's standard deviation is 1.8 times its scale.
        mu, log_scale = mean + spread * std, (std / (1.8 * self.mixtures)).log().expand(self.mixtures, *mean.shape)
        return torch.cat([mu, log_scale] if self.mixtures == 1 else [torch.zeros_like(mu), mu, log_scale])


def likelihood(
    domain: Domain, kind: Kind = "auto", *, mixtures: int = 1, standardise: Standardise | None = None
) -> Likelihood:
    """The likelihood of a domain: Bernoulli for 2 levels, discretised logistics for more, else a normal.

    Symbols, and colours of a palette, are told apart by a categorical: neighbours in number are not alike.

    Raises:
        Unusable: the kind does not fit the domain.
    """
    suits = _suits(domain)
    kind = suits[0] if kind == "auto" else kind
    if kind not in suits:
        raise Unusable(
            f"the likelihood of {_what(domain)} is one of {', '.join(suits)}, got {kind!r}; leave it at 'auto'"
        )
    if mixtures < 1:
        raise Unusable(f"mixtures must be at least 1, got {mixtures}")
    return Likelihood(domain, kind, mixtures, standardise)


def _suits(domain: Domain) -> tuple[Kind, ...]:
    """The kinds that fit, the default first."""
    if isinstance(domain, Tokens):
        return ("categorical",)
    if isinstance(domain, Vectors) or domain.levels is None:
        return ("normal",)
    if domain.levels == 2:
        return "bernoulli", "categorical", "logistic", "normal"
    return ("categorical", "logistic", "normal") if domain.palette else ("logistic", "categorical", "normal")


def _what(domain: Domain) -> str:
    if isinstance(domain, Tokens):
        return "symbols"
    return (
        f"pictures of {domain.levels} levels" if isinstance(domain, Images) and domain.levels else "continuous values"
    )
