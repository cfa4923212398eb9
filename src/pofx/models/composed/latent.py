"""A model of codes and the autoencoder that made them, together a model of the data."""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.conditions import expand, rows_for
from pofx.distributions import PointMass
from pofx.domains import Domain, in_words
from pofx.errors import Unusable
from pofx.models.autoencoders.bounds import bounded
from pofx.protocols import (
    Adapts,
    Bounds,
    Decodes,
    Encodes,
    Infers,
    Learns,
    Loss,
    Plays,
    Represents,
    Samples,
    Scores,
    Turn,
    Watched,
    capabilities,
)
from pofx.randomness import stream

# Numbers of observations and codes at once, while a bound of many samples is computed some of them at a time.
_CHUNK = 2**24
_ROWS = 1024  # encoded at once, of a whole training split
# Settings of a prior's sampler that are about its observations, which here are codes and not what is drawn.
_OF_CODES = ("watch", "length")
_SAMPLING = "its prior draws no codes; fit one that does, such as gaussian-mixture, on those of the same autoencoder"


class Where:
    """A method that a model has only where its parts make it true; ``capabilities`` then sees it, or does not.

    Args:
        holds: asked of the model.
        like: of the model, the method whose settings this one takes.
    """

    def __init__(self, holds: Callable[[Any], bool], like: Callable[[Any], Callable[..., Any]] | None = None) -> None:
        self.holds, self.like = holds, like

    def __call__(self, method: Callable[..., Any]) -> Any:
        """Decorates the method."""
        self.method = method
        return self

    def __get__(self, model: Any, owner: type) -> Any:
        if model is None:
            return self.method
        if not self.holds(model):
            raise AttributeError(f"this {owner.__name__} has no {self.method.__name__}")
        bound = MethodType(self.method, model)
        return bound if self.like is None else _signed(bound, self.like(model))


def _signed(method: Callable[..., Any], like: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(like)
    signed = partial(method)
    known = [p for name, p in signature.parameters.items() if name not in _OF_CODES]
    signed.__signature__ = signature.replace(parameters=known)  # type: ignore[attr-defined]
    return signed


class Latent(nn.Module):
    r"""$p(x|c) = \int p(x|z)\,p(z|c)\,dz$ (a sum over symbols): the decoder of a fixed autoencoder under a prior of its
    codes, which is what learns.

    Any model of ``autoencoder.latent_domain`` is a prior. Where the autoencoder has a posterior q(z|x), and the prior a
    density or a bound, $E_q[\log p(x|z) + \log p(z|c) - \log q(z|x)] \le \log p(x|c)$; the prior then learns from draws
    of q, else from the one code that each x has.

    Source: van den Oord et al. 2017, arXiv:1711.00937, section 3.3 (a prior fitted to codes afterwards); Ghosh et al.
    2020, arXiv:1903.12436, section 4 (ex-post density estimation for an autoencoder without a prior).

    Args:
        autoencoder: it encodes and decodes; its weights are frozen, in evaluation mode, and belong to no turn.
        prior: a model of its codes; the condition is the prior's.

    Raises:
        Unusable: the prior is of another domain than the codes, or of another condition than the autoencoder.
    """

    def __init__(self, autoencoder: Any, prior: Any) -> None:
        super().__init__()
        _check(autoencoder, prior)
        self.autoencoder, self.prior = autoencoder.requires_grad_(False).eval(), prior
        self.domain: Domain = autoencoder.domain
        self.condition = prior.condition
        self.codebooks: int = getattr(autoencoder, "codebooks", 1)
        self.encoder_can, self.prior_can = capabilities(autoencoder), capabilities(prior)
        self.recipe = getattr(prior, "recipe", {})
        self.surrogate = getattr(prior, "surrogate", "") or "the prior's loss on codes: all of the bound that learns"
        self.parts_of_another = "the prior's, of codes: log p(x|z) is not among them"
        self.biased_gradient = getattr(prior, "biased_gradient", "")
        self.whole_batch = getattr(prior, "whole_batch", "")
        self.cures: dict[type, str] = dict(getattr(prior, "cures", {}))
        if Samples in self.cures:  # by a prior of its own codes, and no prior is fitted on this run
            self.cures[Samples] = _SAMPLING

    @property
    def latent_domain(self) -> Domain:
        """What the prior models."""
        return self.autoencoder.latent_domain

    def train(self, mode: bool = True) -> "Latent":
        """The prior's mode; the autoencoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    # ---- learning: the prior's, on codes

    @torch.no_grad()
    def codes(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Tensor:
        """What the prior learns from: a draw of q(z|x) where there is a posterior, else the code of x."""
        return self.encode(x, condition, generator=generator if Infers in self.encoder_can else None)

    @Where(lambda model: Adapts in model.prior_can)
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """The prior's, on the codes of the training split."""
        starts = range(0, len(x), _ROWS)
        rows = [(x[i : i + _ROWS], None if condition is None else condition[i : i + _ROWS]) for i in starts]
        z = torch.cat([self.codes(*some, generator=generator) for some in rows])
        self.prior.adapt(z, condition, generator=generator)

    @Where(lambda model: Learns in model.prior_can)
    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """The prior's, on codes."""
        return self._on_codes(self.prior.loss, x, condition, generator=generator)

    @Where(lambda model: Plays in model.prior_can)
    def turns(self) -> tuple[Turn, ...]:
        """The prior's, on codes."""
        return tuple(replace(turn, loss=partial(self._on_codes, turn.loss)) for turn in self.prior.turns())

    def _on_codes(
        self, loss: Callable[..., Loss], x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        return loss(self.codes(x, condition, generator=generator), condition, generator=generator)

    @Where(lambda model: Watched in model.prior_can)
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """The prior's, on codes such as it learns from."""
        z = self.codes(x, condition, generator=stream(0, "meters", device=x.device))
        return self.prior.meters(z, condition)

    # ---- the data

    @Where(lambda model: Samples in model.prior_can, like=lambda model: model.prior.sample)
    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator, **settings: Any) -> Tensor:
        """n observations, each of a code of its own, noise of p(x|z) included.

        Args:
            condition: None draws it by training frequency.
            settings: of the prior's sampler.
        """
        c = rows_for(self.condition, condition, n, generator=generator)
        z = self.prior.sample(n, c, generator=generator, **settings)
        return self.decode(z, c).sample(generator=generator)

    @Where(lambda model: Infers in model.encoder_can and bool({Scores, Bounds} & model.prior_can))
    def elbo(
        self, x: Tensor, condition: Tensor | None = None, *, samples: int | None = None, generator: Generator
    ) -> Float[Tensor, "B"]:
        """log (1/K) sum_k w_k, w = p(x|z) p(z|c) / q(z|x), z_k of q: in expectation at most log p(x|c), nats.

        K is ``samples``, 1 where it is not given. Of a prior that has a bound b(z) <= log p(z|c) alone, it is the mean
        of log p(x|z) + b(z) - log q(z|x) over the K.

        Without the condition of a model that has classes: log sum_c p(c) exp(elbo(x, c)), a bound of the marginal.

        Raises:
            Unusable: a condition is needed that is not given, or ``samples`` is not positive.
        """

        def given(c: Tensor | None, k: int) -> Float[Tensor, "B"]:
            q = self.posterior(x, c)
            draws = self._draws(q, k, len(x), generator=generator)
            log_w = torch.cat([self._log_weights(x, c, q, z, generator=generator) for z in draws])
            return log_w.logsumexp(0) - math.log(len(log_w)) if Scores in self.prior_can else log_w.mean(0)

        return bounded(self, x, condition, samples, given)

    def _draws(self, q: Any, samples: int, rows: int, *, generator: Generator) -> Iterator[Tensor]:
        """Draws (S, B, ...) of q, so many at a time as memory allows."""
        latent = self.latent_domain
        numbers = max(256, self.domain.dims, latent.dims * getattr(latent, "vocabulary", 32))
        chunk = max(1, _CHUNK // (rows * numbers))
        samples = 1 if isinstance(q, PointMass) else samples  # all draws are one, and so is their mean
        for start in range(0, samples, chunk):
            yield q.rsample(min(chunk, samples - start), generator=generator)

    def _log_weights(
        self, x: Tensor, c: Tensor | None, q: Any, z: Tensor, *, generator: Generator
    ) -> Float[Tensor, "S B"]:
        """log p(x|z) + log p(z|c) - log q(z|x) of draws z (S, B, ...)."""
        flat, rows = z.flatten(0, 1), _repeated(c, len(z))
        log_p = self.decode(flat, rows).log_prob(_repeated(x, len(z)))
        log_p = log_p + (
            self.prior.log_prob(flat, rows)
            if Scores in self.prior_can
            else self.prior.elbo(flat, rows, generator=generator)
        )
        return log_p.view(z.shape[:2]) - q.log_prob(z)

    # ---- the code

    def encode(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """z: a draw of q(z|x), or its mode without a generator."""
        return self.autoencoder.encode(x, self._theirs(condition, len(x)), generator=generator)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Any:
        """p(x|z), with ``log_prob``, ``sample`` and ``mode``."""
        return self.autoencoder.decode(z, self._theirs(condition, self._leading(z)[-1]))

    @Where(lambda model: Infers in model.encoder_can)
    def posterior(self, x: Tensor, condition: Tensor | None = None) -> Any:
        """q(z|x)."""
        return self.autoencoder.posterior(x, self._theirs(condition, len(x)))

    @Where(lambda model: Infers in model.encoder_can and Scores in model.prior_can)
    def log_prior(self, z: Tensor, condition: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z|c), nats: the prior's ``log_prob``; a condition has one row for all or one for each in B."""
        several = self._leading(z)
        flat = z.reshape(-1, *self.latent_domain.shape)
        rows = expand(self.condition, condition, several[-1])
        return self.prior.log_prob(flat, _repeated(rows, len(flat) // several[-1])).view(several)

    @Where(lambda model: Represents in model.encoder_can)
    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """The autoencoder's."""
        return self.autoencoder.features(x)

    def _leading(self, z: Tensor) -> torch.Size:
        """B, of z (*B, ...)."""
        return z.shape[: z.ndim - len(self.latent_domain.shape)]

    def _theirs(self, condition: Tensor | None, n: int) -> Tensor | None:
        """What the autoencoder is given of a condition: nothing where it knows of none."""
        c = expand(self.condition, condition, n)
        return None if self.autoencoder.condition is None else c


def _repeated(t: Tensor | None, times: int) -> Any:
    """(B, ...) to (times * B, ...), whole batches one after the other."""
    return None if t is None else t.repeat(times, *[1] * (t.ndim - 1))


def _check(autoencoder: Any, prior: Any) -> None:
    if not {Encodes, Decodes} <= capabilities(autoencoder):
        raise Unusable(
            f"codes are of a model that encodes and decodes, and {type(autoencoder).__name__} does not; "
            "use one that does, such as VAE"
        )
    if prior.domain != autoencoder.latent_domain:
        raise Unusable(
            f"a prior models the codes of its autoencoder, which are {in_words(autoencoder.latent_domain)}, and "
            f"this one models {in_words(prior.domain)}; build it with autoencoder.latent_domain"
        )
    theirs = autoencoder.condition
    if theirs is not None and theirs != prior.condition:
        given = "none" if prior.condition is None else f"another ({prior.condition.kind})"
        raise Unusable(
            f"an autoencoder that is given a condition ({theirs.kind}) needs a prior given the same one, got {given}; "
            "fit both on one source with one --condition, or the autoencoder without"
        )
