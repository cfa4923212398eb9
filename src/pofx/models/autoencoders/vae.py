"""The variational autoencoder: a latent with a prior, an amortised posterior, a likelihood chosen by the domain."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.conditions import Condition, expand, marginal, rows_for
from pofx.distributions import DiagonalNormal, Kind
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.models.autoencoders.near_identity import Skip
from pofx.models.autoencoders.priors import Flow, StandardNormal
from pofx.models.autoencoders.vector_latent import Activation, VectorLatent, one_of
from pofx.protocols import Loss
from pofx.randomness import stream

# Numbers that the decoder puts out at once, while a bound of many samples is computed some of them at a time.
_CHUNK = 2**24

Prior = Literal["auto", "normal", "flow"]


class VAE(VectorLatent):
    r"""Variational autoencoder: p(x) = E_{z ~ p(z)}[p(x|z)], with q(z|x) = N(mu(x), diag sigma^2(x)).

    Maximises $L(x) = E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z)) \le \log p(x)$, in nats per observation; with
    ``importance`` K > 1 the tighter $E[\log \frac1K \sum_k p(x|z_k) p(z_k) / q(z_k|x)]$, $z_k \sim q(z|x)$.

    Source: Kingma and Welling 2014, arXiv:1312.6114, eq. (3); K > 1: Burda et al. 2016, arXiv:1509.00519, eq. (8).

    Args:
        latent_dim: size of the latent z; None: 32 with convolutions, else as many as x has, from 2 up to 16.
        hidden: sizes of the MLPs' hidden layers, the decoder's reversed; () for linear maps; None: 256, 256; for
            vectors 128, 128, 128.
        network: "mlp", "conv" (pictures only), or "auto": convolutions for pictures above 16x16.
        width: channels of the first convolution.
        activation: of the MLPs.
        likelihood: "auto" is Bernoulli for 2 levels, discretised logistics for more, a categorical for symbols and
            colours of a palette, a normal for real numbers.
        mixtures: logistics mixed for each pixel; None: 1 up to 32 levels, else 3.
        spread: of a normal or a single logistic: "each" value's own, "shared" by all and learnt (a calibrated decoder),
            or "unit".
        prior: "normal", N(0, I); "flow", one bent by couplings; "auto": a flow with convolutions.
        prior_layers: couplings of a flow.
        beta: weight of the KL term (1 is the bound; Higgins et al. 2017).
        importance: K, samples of z per observation in the training bound; None: 16 for vectors of up to 16 dimensions,
            where the exact posterior is far from normal, else 1.
        drop: share of the conditions hidden in training, so that x can be encoded without its condition.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        latent_dim: int | None = None,
        hidden: tuple[int, ...] | None = None,
        network: Literal["auto", "mlp", "conv"] = "auto",
        width: int = 32,
        activation: Activation = "silu",
        likelihood: Kind = "auto",
        mixtures: int | None = None,
        spread: Literal["each", "shared", "unit"] = "each",
        prior: Prior = "auto",
        prior_layers: int = 8,
        beta: float = 1.0,
        importance: int | None = None,
        drop: float = 0.1,
    ) -> None:
        require("vae", domain, Images, Vectors, Tokens)
        _check_arguments(prior, prior_layers, beta, importance)
        super().__init__(
            domain, condition=condition, latent_dim=latent_dim, outputs=2, hidden=hidden, network=network, width=width,
            activation=activation, likelihood=likelihood, mixtures=mixtures, spread=spread, drop=drop,
        )  # fmt: skip
        self.beta = beta
        self.importance = importance or (16 if isinstance(domain, Vectors) and domain.dim <= 16 and beta == 1 else 1)
        self.prior = self._prior(prior, prior_layers)
        if isinstance(self.encoder, Skip):
            with torch.no_grad():  # a narrow posterior to begin with
                self.encoder.network.head.bias[self.latent_dim :] += 2 * math.log(1 / 4)

    def _prior(self, kind: Prior, layers: int) -> StandardNormal | Flow:
        if kind == "flow" and self.latent_dim == 1:
            raise Unusable("a flow bends one half of the latent by the other, got latent_dim 1; use the normal prior")
        if kind == "flow" or (kind == "auto" and self.conv and self.latent_dim > 1):
            return Flow(self.latent_dim, layers=layers, context=self.context)
        return StandardNormal(self.latent_dim)

    def posterior(self, x: Tensor, condition: Tensor | None = None) -> DiagonalNormal:
        """q(z|x): (B, latent_dim). A condition that is not given is the null."""
        return DiagonalNormal(*self.encoded(x, condition).chunk(2, dim=-1))

    def log_prior(self, z: Float[Tensor, "*B K"], condition: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z), nats; log p(z|c) where the prior is learnt and the model has a condition."""
        return self.prior.log_prob(z, self.context_of(condition, z.shape[-2]))

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """The negative bound, nats per observation, from ``importance`` samples of z."""
        c = self.dropped(condition, len(x), generator=generator)
        q = self.posterior(x, c)
        z = q.rsample(self.importance, generator=generator)
        log_p = self.decode(z, c).log_prob(x)
        parts = {"reconstruction": -log_p.mean(), "rate": self._rate(q, z, c).mean()}
        if self.importance == 1:
            return Loss(parts["reconstruction"] + self.beta * parts["rate"], parts)
        log_w = log_p + self.log_prior(z, c) - q.log_prob(z)
        bound = math.log(self.importance) - log_w.logsumexp(0).mean()
        return Loss(bound, {**parts, "bound": bound})

    def elbo(
        self, x: Tensor, condition: Tensor | None = None, *, samples: int | None = None, generator: Generator
    ) -> Float[Tensor, "B"]:
        """log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x), K = ``samples``: in expectation at most log p(x), nats.

        K is ``importance`` where it is not given, as in training.

        Without the condition of a model that has classes: log sum_c p(c) exp(elbo(x, c)), a bound of the marginal.

        Raises:
            Unusable: a condition is needed that is not given, or ``samples`` is not positive.
        """
        samples = self.importance if samples is None else samples
        if samples < 1:
            raise Unusable(f"a bound needs at least 1 sample, got {samples}; leave it out for {self.importance}")
        if self.condition is not None and condition is None:
            return marginal(
                self.condition, x, lambda c: self.elbo(x, c, samples=samples, generator=generator), what="the bound"
            )
        c = expand(self.condition, condition, len(x))
        q = self.posterior(x, c)
        chunk = max(1, _CHUNK // (len(x) * max(256, len(self.bias))))
        parts = []
        for start in range(0, samples, chunk):
            z = q.rsample(min(chunk, samples - start), generator=generator)
            log_w = self.decode(z, c).log_prob(x) + self.log_prior(z, c) - q.log_prob(z)
            parts.append(log_w.logsumexp(0))
        return torch.stack(parts).logsumexp(0) - math.log(samples)

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator, mean: bool = False) -> Tensor:
        """n observations, noise of the likelihood included.

        Args:
            condition: None draws it by training frequency.
            mean: show the expected x of each z in place of a draw (not a sample of the model).
        """
        c = rows_for(self.condition, condition, n, generator=generator)
        z = self.prior.sample(n, self.context_of(c, n), generator=generator, like=self.bias)
        p = self.decode(z, c)
        return p.mean if mean else p.sample(generator=generator)

    def encode(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "B K"]:
        """z: a draw of q(z|x), or its mode without a generator."""
        q = self.posterior(x, condition)
        return q.mu if generator is None else q.rsample(1, generator=generator)[0]

    def features(self, x: Tensor) -> Float[Tensor, "B K"]:
        """The mean of q(z|x), without a condition: what a probe reads."""
        return self.encode(x)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """How much of the latent is used: nats in z about x, in all and in its fullest dimension (where the prior is
        normal), and the units that move with x.

        A unit is active if the variance of its posterior mean over x is above 0.01 (Burda et al. 2016, section 5.2).
        """
        q = self.posterior(x, condition)
        active = (q.mu.var(0, correction=0) > 0.01).to(q.mu.dtype)
        z = q.rsample(1, generator=stream(0, "meters", device=x.device))
        meters = {
            "rate": self._rate(q, z, condition).mean(),
            "active_units": active.sum(),
            "active_share": active.mean(),
        }
        if isinstance(self.prior, StandardNormal):
            meters["rate_max"] = q.kl_to_standard_normal().mean(0).max()
        return meters

    def _rate(self, q: DiagonalNormal, z: Float[Tensor, "N B K"], c: Tensor | None) -> Float[Tensor, "B"]:
        """KL(q || p), nats: in closed form, else its estimate from draws z of q."""
        if isinstance(self.prior, StandardNormal):
            return q.kl_to_standard_normal().sum(-1)
        return (q.log_prob(z) - self.log_prior(z, c)).mean(0)


def _check_arguments(prior: str, prior_layers: int, beta: float, importance: int | None) -> None:
    one_of("prior", prior, ("auto", "normal", "flow"))
    for name, size in {"prior_layers": prior_layers, "importance": importance}.items():
        if size is not None and size < 1:
            raise Unusable(f"{name} must be at least 1, got {size}; leave it out for the default")
    if beta < 0:
        raise Unusable(f"beta must be at least 0, got {beta}; leave it out for 1")
    if (importance or 1) > 1 and beta != 1:
        raise Unusable(f"importance above 1 has no separate KL term to weigh, got beta {beta}; leave one of them out")
