"""The ladder variational autoencoder: latents at several levels, inferred from the top down as they generate."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.conditions import Condition, rows_for
from pofx.distributions import Kind
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.models.autoencoders.bounds import bounded, mean_weight
from pofx.models.autoencoders.ladder import Ascent, Descent, flat_rungs, map_rungs, picture_ladder, vector_ladder
from pofx.models.autoencoders.top_down import Posterior, repeated
from pofx.models.autoencoders.vector_latent import (
    ACTIVATIONS,
    SYMBOL,
    Activation,
    VectorLatent,
    suits_conv,
)
from pofx.models.autoencoders.weighing import Weighing
from pofx.protocols import Loss
from pofx.randomness import stream

# Numbers of one layer held at once, while a bound of many samples is computed some of them at a time.
_CHUNK = 2**24

# Mean nats above which a number of z tells something of x.
_ACTIVE = 0.01


class LadderVAE(VectorLatent):
    r"""Latents at L levels: p(z) = p(z_L) prod_l p(z_l | z_>l), and q(z|x) factored the same way, from the top down.

    Maximises $E_q[\log p(x|z)] - \sum_l E_q[KL(q(z_l|z_{>l}, x) \| p(z_l|z_{>l}))] \le \log p(x)$, each KL in closed
    form along the way down, in nats per observation. z_1 is nearest to x, p(z_L) = N(0, I); as a vector, z has the top
    level first. Given p(z_l|z_>l) = N(mu, sigma^2), q(z_l|z_>l, x) = N(mu + a, (sigma b)^2), with a and b read from x
    and from z_>l. (With the product of p and a normal read from x, the ladder of 2016, learning was far slower: 16 nats
    behind after 600 steps on digits.)

    Source: Sonderby et al. 2016, arXiv:1602.02282, section 2 (top-down inference); Vahdat and Kautz
    2020, arXiv:2007.03898, section 3.2 (q relative to p); free bits: Kingma et al. 2016, arXiv:1606.04934,
    eq. (15).

    Args:
        levels: L, 2 to 6.
        sizes: numbers of z of each level, top first; with convolutions, at each place of the level's map.
        hidden: sizes of the hidden layers of each level's MLPs; () for linear maps; None: 256; for vectors 128.
        blocks: residual networks of each level, on the way up and on the way down.
        network: "mlp", "conv" (pictures only), or "auto": convolutions for pictures above 16x16, whose levels have maps
            that halve upwards, the top's at most 4x4.
        width: channels of the largest map; they double at each halving, up to four times as many.
        activation: of the MLPs.
        likelihood: "auto" is Bernoulli for 2 levels, discretised logistics for more, a categorical for symbols and
            colours of a palette, a normal for real numbers.
        mixtures: logistics mixed for each pixel; None: 1 up to 32 levels, else 3.
        spread: of a normal or a single logistic: "each" value's own, "shared" by all and learnt, or "unit".
        beta: weight of the KL terms (1 is the bound).
        free_bits: nats of each level, on average over a batch (or each piece of one), below which its KL term does not
            count in training.
        warm_up: share of the steps over which the KL terms' weight rises from 0 to beta.
        drop: share of the conditions hidden in training, so that x can be encoded without its condition.
    """

    encoder: Ascent
    decoder: Descent

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        levels: int = 3,
        sizes: tuple[int, ...] | None = None,
        hidden: tuple[int, ...] | None = None,
        blocks: int = 1,
        network: Literal["auto", "mlp", "conv"] = "auto",
        width: int = 32,
        activation: Activation = "silu",
        likelihood: Kind = "auto",
        mixtures: int | None = None,
        spread: Literal["each", "shared", "unit"] = "each",
        beta: float = 1.0,
        free_bits: float = 0.0,
        warm_up: float = 0.0,
        drop: float = 0.1,
    ) -> None:
        require("ladder-vae", domain, Images, Vectors, Tokens)
        _check_arguments(levels, sizes, hidden, blocks, width)
        layers = ((128,) if isinstance(domain, Vectors) else (256,)) if hidden is None else hidden
        conv = network == "conv" or (network == "auto" and suits_conv(domain))
        picture = domain if isinstance(domain, Images) and conv else None
        rungs = map_rungs(picture, levels, sizes, width) if picture else flat_rungs(domain.dims, levels, sizes, layers)

        def networks(model: VectorLatent, _: int, written: int) -> tuple[Ascent, Descent]:
            if picture is not None:
                return picture_ladder(
                    rungs, picture, written=written, width=width, blocks=blocks, context=model.context
                )
            return vector_ladder(
                rungs,
                inputs=domain.dims * (SYMBOL if isinstance(domain, Tokens) else 1),
                written=written * domain.dims,
                hidden=layers,
                blocks=blocks,
                context=model.context,
                activation=ACTIVATIONS[activation],
            )

        super().__init__(
            domain, condition=condition, latent_dim=sum(rung.dim for rung in rungs), hidden=layers, network=network,
            width=width, activation=activation, likelihood=likelihood, mixtures=mixtures, spread=spread, drop=drop,
            networks=networks,
        )  # fmt: skip
        self.rungs = rungs
        self.weigh = Weighing(beta=beta, free_bits=free_bits, warm_up=warm_up, capacity=None)
        self.surrogate = f"the rate is weighed by {self.weigh.told}" if self.weigh.told else ""
        if self.weigh.rises:
            self.turns = partial(self.weigh.turns, self)

    def posterior(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        """q(z|x), with ``rsample``, ``log_prob`` and ``mode``. A condition that is not given is the null."""
        context = self.context_of(condition, len(x))
        return Posterior(self.encoder, self.decoder, self.encoder(self.inside(x), context), context)

    def log_prior(self, z: Float[Tensor, "*B K"], condition: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z), nats; log p(z|c) where the model has a condition."""
        context = self.context_of(condition, z.shape[-2])
        context = None if context is None else repeated(context, math.prod(z.shape[:-2]))
        each, terms = self.decoder.split(z.flatten(0, -2)), []

        def choose(level: int, s: Tensor) -> Tensor:
            terms.append(self.decoder.prior(level, s, context).log_prob(each[level]))
            return each[level]

        self.decoder.walk(len(each[0]), choose, context)
        return torch.stack(terms).sum(0).view(z.shape[:-1])

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """The negative bound, nats per observation, from one way down."""
        c = self.dropped(condition, len(x), generator=generator)
        path = self.posterior(x, c).path(1, generator=generator)
        rates = torch.stack([kl.sum(1) for kl in path.kls], dim=1)  # (B, L)
        parts = {"reconstruction": -self.written(path.out).log_prob(x).mean(), "rate": rates.sum(1).mean()}
        return Loss(parts["reconstruction"] + self.weigh(parts["rate"], rates, len(self.rungs)), parts)

    def elbo(
        self, x: Tensor, condition: Tensor | None = None, *, samples: int | None = None, generator: Generator
    ) -> Float[Tensor, "B"]:
        """log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x), K = ``samples`` or 1: in expectation at most log p(x), nats.

        Without the condition of a model that has classes: log sum_c p(c) exp(elbo(x, c)), a bound of the marginal.

        Raises:
            Unusable: a condition is needed that is not given, or ``samples`` is not positive.
        """
        widest = max(256, len(self.bias), *(4 * rung.width * math.prod(rung.place) for rung in self.rungs))

        def given(c: Tensor | None, k: int) -> Float[Tensor, "B"]:
            q = self.posterior(x, c)

            def log_w(n: int) -> Float[Tensor, "n B"]:
                path = q.path(n, generator=generator)
                return self.written(path.out.view(n, len(x), -1)).log_prob(x) + path.log_ratio.view(n, len(x))

            return mean_weight(log_w, k, at_once=max(1, _CHUNK // (len(x) * widest)))

        return bounded(self, x, condition, samples, given)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        *,
        generator: Generator,
        temperature: float | Sequence[float] = 1.0,
        mean: bool = False,
    ) -> Tensor:
        """n observations, noise of the likelihood included.

        Args:
            condition: None draws it by training frequency.
            temperature: times the standard deviation of z: of all levels, or of each, top first (other than 1: not
                samples of the model).
            mean: show the expected x of each z in place of a draw (not a sample of the model).
        """
        heat = _each_level(temperature, len(self.rungs))
        context = self.context_of(rows_for(self.condition, condition, n, generator=generator), n)

        def choose(level: int, s: Tensor) -> Tensor:
            p = self.decoder.prior(level, s, context)
            epsilon = torch.randn(p.mu.shape, generator=generator, device=s.device, dtype=s.dtype)
            return p.mu + heat[level] * (0.5 * p.log_var).exp() * epsilon

        p = self.written(self.decoder.walk(n, choose, context))
        return p.mean if mean else p.sample(generator=generator)

    def encode(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "B K"]:
        """z: a draw of q(z|x), or without a generator each level's mean given the means above it."""
        q = self.posterior(x, condition)
        return q.mode if generator is None else q.rsample(1, generator=generator)[0]

    def features(self, x: Tensor) -> Float[Tensor, "B K"]:
        """The means of q(z|x), top first, without a condition: what a probe reads."""
        return self.encode(x)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """How much of z is used: nats in it about x and units that tell something of x, in all and of each level.

        A unit is active if its KL is above 0.01 nats on average. (The variance of a posterior mean over x, as in the
        vae, tells nothing below the top, where it moves with the levels above.)
        """
        path = self.posterior(x, condition).path(1, generator=stream(0, "meters", device=x.device))
        kls = [kl.mean(0) for kl in path.kls]
        every, levels = torch.cat(kls), range(len(kls), 0, -1)
        active = (every > _ACTIVE).to(every.dtype)
        meters = {"rate": every.sum(), "rate_max": every.max()}
        meters |= {"active_units": active.sum(), "active_share": active.mean()}
        meters |= {f"rate_{level}": kl.sum() for level, kl in zip(levels, kls)}
        return meters | {f"active_units_{level}": (kl > _ACTIVE).sum() for level, kl in zip(levels, kls)}


def _each_level(temperature: float | Sequence[float], levels: int) -> Sequence[float]:
    each = (temperature,) * levels if isinstance(temperature, int | float) else temperature
    if len(each) != levels or min(each) < 0:
        raise Unusable(f"temperature is one number from 0 up, or one for each of {levels} levels, got {temperature}")
    return each


def _check_arguments(
    levels: int,
    sizes: tuple[int, ...] | None,
    hidden: tuple[int, ...] | None,
    blocks: int,
    width: int,
) -> None:
    if not 2 <= levels <= 6:
        raise Unusable(f"levels must be 2 to 6, got {levels}; for a latent of one level take vae")
    if sizes is not None and (len(sizes) != levels or min(sizes) < 1):
        raise Unusable(f"sizes must be {levels} numbers of at least 1, one for each level, got {sizes}")
    if hidden is not None and min(hidden, default=1) < 1:
        raise Unusable(f"hidden must be positive sizes, got {hidden}; leave it out for the default")
    for name, size in {"blocks": blocks, "width": width}.items():
        if size < 1:
            raise Unusable(f"{name} must be at least 1, got {size}; leave it out for the default")
