"""The variational autoencoder: a latent with a prior, an amortised posterior, a likelihood chosen by the domain."""

import math
from functools import partial
from typing import Literal, TypeGuard

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.conditions import Condition, rows_for
from pofx.distributions import DiagonalNormal, FullNormal, Kind
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.models.autoencoders.bounds import bounded, mean_weight
from pofx.models.autoencoders.near_identity import Skip
from pofx.models.autoencoders.posteriors import Bent, Law, numbers, posterior_of, stopped
from pofx.models.autoencoders.priors import Mixture, PseudoInputs, StandardNormal, prior_of
from pofx.models.autoencoders.vector_latent import Activation, VectorLatent, one_of
from pofx.models.autoencoders.weighing import Weighing
from pofx.protocols import Loss
from pofx.randomness import stream

# Numbers that a bound of many samples has at hand at once: what a processor's cache holds; what keeps a GPU busy.
_CHUNK, _CHUNK_ON_GPU = 2**21, 2**24

# Samples of z in a training bound that weighs them, where their number is not given.
_SAMPLES = 16

# Training observations that are looked at for the inputs where a vamp prior starts.
_SOME = 2**14


class VAE(VectorLatent):
    r"""Variational autoencoder: p(x) = E_{z ~ p(z)}[p(x|z)], and q(z|x), usually N(mu(x), diag sigma^2(x)).

    Maximises $L(x) = E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z)) \le \log p(x)$, in nats per observation; with
    ``objective`` "iwae" the tighter $E[\log \frac1K \sum_k p(x|z_k) p(z_k) / q(z_k|x)]$, $z_k \sim q(z|x)$.

    Source: Kingma and Welling 2014, arXiv:1312.6114, eq. (3); "iwae": Burda et al. 2016, arXiv:1509.00519, eq. (8);
    "dreg": Tucker et al. 2019, arXiv:1810.04152, eq. (8).

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
        prior: "normal", N(0, I); "mixture" of learnt normals; "vamp", of posteriors of learnt inputs; "flow", a normal
            bent by couplings; "auto": a flow with convolutions, else normal.
        components: parts of a mixture or vamp prior.
        prior_layers: couplings of a flow prior.
        posterior: "diagonal" normal, normal with a "full" covariance, or "iaf", a normal bent autoregressively.
        posterior_layers: steps of an iaf posterior.
        objective: "elbo"; "iwae", the bound of ``importance`` weighted samples; "dreg", the same with the doubly
            reparameterised gradient of the encoder; "auto": iwae where importance is above 1, else elbo.
        importance: K, samples of z per observation in training; None: 1, but 16 for iwae and dreg, and, under "auto",
            for vectors of up to 16 dimensions, where the exact posterior is far from normal.
        beta: weight of the KL term of an elbo (1 is the bound; Higgins et al. 2017).
        free_bits: nats for each dimension of z that cost nothing (Kingma et al. 2016).
        warm_up: share of the steps over which the weight of the KL term, or the capacity, rises from 0; None: none, but
            half of them for a capacity.
        capacity: nats that the KL term is led to (Burgess et al. 2018); None: as few as pay.
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
        prior: Literal["auto", "normal", "mixture", "vamp", "flow"] = "auto",
        components: int = 100,
        prior_layers: int = 8,
        posterior: Literal["diagonal", "full", "iaf"] = "diagonal",
        posterior_layers: int = 2,
        objective: Literal["auto", "elbo", "iwae", "dreg"] = "auto",
        importance: int | None = None,
        beta: float = 1.0,
        free_bits: float = 0.0,
        warm_up: float | None = None,
        capacity: float | None = None,
        drop: float = 0.1,
    ) -> None:
        require("vae", domain, Images, Vectors, Tokens)
        _check_arguments(
            prior, posterior, objective, importance,
            components=components, prior_layers=prior_layers, posterior_layers=posterior_layers,
        )  # fmt: skip
        super().__init__(
            domain, condition=condition, latent_dim=latent_dim, outputs=partial(numbers, posterior), hidden=hidden,
            network=network, width=width, activation=activation, likelihood=likelihood, mixtures=mixtures,
            spread=spread, drop=drop,
        )  # fmt: skip
        self.weigh = Weighing(beta=beta, free_bits=free_bits, warm_up=warm_up, capacity=capacity)
        self.surrogate = f"the rate is weighed by {self.weigh.told}" if self.weigh.told else ""
        self.objective, self.importance = self._objective(objective, importance)
        if self.objective == "dreg":
            self.biased_gradient = "right on average alone: terms whose mean is zero are left out of each gradient"
        if self.weigh.rises:
            self.turns = partial(self.weigh.turns, self)
        self.q = posterior_of(posterior, self.latent_dim, layers=posterior_layers)
        kind = ("flow" if self.conv and self.latent_dim > 1 else "normal") if prior == "auto" else prior
        self.prior = prior_of(
            kind, self.latent_dim, layers=prior_layers, components=components, context=self.context,
            law=self.q, shape=self.inside_shape, read=self._read,
        )  # fmt: skip
        if isinstance(self.encoder, Skip):
            with torch.no_grad():  # a narrow posterior to begin with
                self.encoder.network.head.bias[self.latent_dim : 2 * self.latent_dim] += 2 * math.log(1 / 4)

    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Takes units, where outputs start, and the inputs that a vamp prior starts at, from the training split."""
        super().adapt(x, condition, generator=generator)
        if isinstance(self.prior, Mixture) and isinstance(self.prior.parts, PseudoInputs):
            self.prior.parts.start(self.inside(x[:_SOME]), generator=generator)

    def _read(self, y: Tensor) -> Tensor:
        """What the encoder puts out for what it reads, whatever the condition."""
        return self.encoder(y, self.context_of(None, len(y)))

    def posterior(self, x: Tensor, condition: Tensor | None = None) -> Law:
        """q(z|x): (B, latent_dim). A condition that is not given is the null."""
        return self.q(self.encoded(x, condition))

    def log_prior(self, z: Float[Tensor, "*B K"], condition: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z), nats; log p(z|c) where the prior is learnt and the model has a condition."""
        return self.prior.log_prob(z, self.context_of(condition, z.shape[-2]))

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """The negative bound, nats per observation, from ``importance`` samples of z; of an elbo as it is weighed.

        The doubly reparameterised gradient reaches the encoder through z alone, by the square of each sample's
        normalised weight.
        """
        c = self.dropped(condition, len(x), generator=generator)
        q = self.posterior(x, c)
        z = q.rsample(self.importance, generator=generator)
        log_p = self.decode(z, c).log_prob(x)
        reconstruction = -log_p.mean()
        if self.objective == "elbo":
            rates = self._rates(q, z, c)
            rate = rates.sum(-1).mean()
            total = reconstruction + self.weigh(rate, rates, self.latent_dim)
            return Loss(total, {"reconstruction": reconstruction, "rate": rate})
        log_prior, log_q = self.log_prior(z, c), (stopped(q) if self.objective == "dreg" else q).log_prob(z)
        log_w = log_p + log_prior - log_q
        if self.objective == "dreg" and z.requires_grad:
            weights = log_w.detach().softmax(0)[..., None]
            z.register_hook(lambda gradient: weights * gradient)
        bound = math.log(self.importance) - log_w.logsumexp(0).mean()
        rate = self._rates(q, z, c).sum(-1).mean() if self._exact_rates(q) else (log_q - log_prior).detach().mean()
        return Loss(bound, {"reconstruction": reconstruction, "rate": rate, "bound": bound})

    def elbo(
        self, x: Tensor, condition: Tensor | None = None, *, samples: int | None = None, generator: Generator
    ) -> Float[Tensor, "B"]:
        """log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x), K = ``samples``: in expectation at most log p(x), nats.

        K is that of the training bound where it is not given: 1 for an elbo, else ``importance``.

        Without the condition of a model that has classes: log sum_c p(c) exp(elbo(x, c)), a bound of the marginal.

        Raises:
            Unusable: a condition is needed that is not given, or ``samples`` is not positive.
        """
        at_hand = _CHUNK if self.bias.device.type == "cpu" else _CHUNK_ON_GPU
        chunk = max(1, at_hand // (len(x) * max(256, len(self.bias), self.prior.wide)))

        def given(c: Tensor | None, k: int) -> Float[Tensor, "B"]:
            q = self.posterior(x, c)

            def log_w(n: int) -> Float[Tensor, "n B"]:
                z = q.rsample(n, generator=generator)
                return self.decode(z, c).log_prob(x, last=True) + self.log_prior(z, c) - q.log_prob(z)

            return mean_weight(log_w, k, at_once=chunk)

        return bounded(self, x, condition, samples, given, usual=1 if self.objective == "elbo" else self.importance)

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
        return q.mode if generator is None else q.rsample(1, generator=generator)[0]

    def features(self, x: Tensor) -> Float[Tensor, "B K"]:
        """The mode of q(z|x), without a condition: what a probe reads."""
        return self.encode(x)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """How much of the latent is used: nats in z about x, and the units that move with x.

        A unit is active if the variance of its posterior mode over x is above 0.01 (Burda et al. 2016, section 5.2).
        ``rate_max`` is that of the fullest dimension, where each has a rate of its own.
        """
        q = self.posterior(x, condition)
        active = (q.mode.var(0, correction=0) > 0.01).to(self.bias.dtype)
        rates = self._rates(q, q.rsample(1, generator=stream(0, "meters", device=x.device)), condition)
        meters = {"rate": rates.sum(-1).mean(), "active_units": active.sum(), "active_share": active.mean()}
        if rates.shape[1] == self.latent_dim:
            meters["rate_max"] = rates.mean(0).max()
        return meters

    def _rates(self, q: Law, z: Float[Tensor, "N B K"], c: Tensor | None) -> Float[Tensor, "B G"]:
        """KL(q || p), nats: of each dimension in closed form, else of all at once by draws z of q."""
        if self._exact_rates(q):
            return q.kl_to_standard_normal()
        return (q.log_prob(z) - self.log_prior(z, c)).mean(0)[:, None]

    def _exact_rates(self, q: Law) -> TypeGuard[DiagonalNormal | FullNormal]:
        return isinstance(self.prior, StandardNormal) and not isinstance(q, Bent)

    def _objective(self, asked: str, importance: int | None) -> tuple[str, int]:
        """The objective, and how many samples of z it takes."""
        few = isinstance(self.domain, Vectors) and self.domain.dim <= 16
        weighs = asked in ("iwae", "dreg") or (asked == "auto" and not self.surrogate and few)
        samples = importance or (_SAMPLES if weighs else 1)
        objective = asked if asked != "auto" else "iwae" if samples > 1 else "elbo"
        if objective != "elbo" and self.surrogate:
            raise Unusable(
                f"{objective} of {samples} samples has no separate KL term to weigh, got {self.weigh.told}; leave that "
                "out, or use objective elbo"
            )
        return objective, samples


def _check_arguments(prior: str, posterior: str, objective: str, importance: int | None, **sizes: int) -> None:
    one_of("prior", prior, ("auto", "normal", "mixture", "vamp", "flow"))
    one_of("posterior", posterior, ("diagonal", "full", "iaf"))
    one_of("objective", objective, ("auto", "elbo", "iwae", "dreg"))
    for name, size in {**sizes, "importance": importance}.items():
        if size is not None and size < 1:
            raise Unusable(f"{name} must be at least 1, got {size}; leave it out for the default")
    if objective == "iwae" and importance == 1:
        raise Unusable("objective iwae weighs samples, got importance 1; ask for more, or for objective elbo")
    if posterior == "iaf" and prior == "vamp":
        raise Unusable("a vamp prior needs the density of any z, which posterior iaf is slow at; use diagonal or full")
    if posterior == "iaf" and objective == "dreg":
        raise Unusable(
            "objective dreg needs the density of any z, which posterior iaf is slow at; use diagonal or full"
        )
