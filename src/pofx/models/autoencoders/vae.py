"""The variational autoencoder: a Gaussian latent, an amortised posterior, a likelihood chosen by the domain."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, drop, expand, marginal, rows_for
from pofx.distributions import DiagonalNormal, Independent, Likelihood, likelihood, standard_normal_log_prob
from pofx.domains import Images, Vectors, require
from pofx.errors import Unusable
from pofx.models.autoencoders.bent import Bent, Couplings
from pofx.models.autoencoders.near_identity import near_identity
from pofx.nn.conv import ConvDecoder, ConvEncoder
from pofx.nn.mlp import MLP, ConditionEmbedding
from pofx.nn.standardise import Standardise
from pofx.protocols import Loss
from pofx.randomness import stream

# Numbers that the decoder puts out at once, while a bound of many samples is computed some of them at a time.
_CHUNK = 2**24


class VAE(nn.Module):
    r"""Variational autoencoder: p(x) = E_{z ~ N(0, I)}[p(x|z)], with q(z|x) = N(mu(x), diag sigma^2(x)).

    Maximises $L(x) = E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z)) \le \log p(x)$, in nats per observation; with
    ``importance`` K > 1 the tighter $E[\log \frac1K \sum_k p(x|z_k) p(z_k) / q(z_k|x)]$, $z_k \sim q(z|x)$.

    ``couplings`` bend z before it is decoded, u = T(z), and q is normal in u: to x that is a learnt prior p(u), without
    the holes that a normal one has between the codes of large pictures.

    Source: Kingma and Welling 2014, arXiv:1312.6114, eq. (3); K > 1: Burda et al. 2016, arXiv:1509.00519, eq. (8);
    couplings: Dinh et al. 2017, arXiv:1605.08803; as the prior: Chen et al. 2017, arXiv:1611.02731, section 3.2.

    Args:
        latent_dim: size of the latent z; None: 32 with convolutions, else as many as x has, from 2 up to 16.
        hidden: sizes of the MLPs' hidden layers, the decoder's reversed; None: 256, 256; for vectors 128, 128, 128.
        network: "mlp", "conv" (pictures only), or "auto": convolutions for pictures above 16x16.
        width: channels of the first convolution.
        likelihood: "auto" is Bernoulli for 2 levels, discretised logistics for more, a normal for real numbers.
        mixtures: logistics mixed for each pixel; None: 1 up to 32 levels, else 3.
        couplings: layers of the learnt prior; None: 8 with convolutions, else none.
        beta: weight of the KL term (1 is the bound; Higgins et al. 2017).
        importance: K, samples of z per observation in the training bound; None: 16 for vectors of up to 16 dimensions,
            where the exact posterior is far from normal, else 1.
        drop: share of the conditions hidden in training, so that x can be encoded without its condition.
    """

    def __init__(
        self,
        domain: Images | Vectors,
        *,
        condition: Condition | None = None,
        latent_dim: int | None = None,
        hidden: tuple[int, ...] | None = None,
        network: Literal["auto", "mlp", "conv"] = "auto",
        width: int = 32,
        likelihood: Literal["auto", "bernoulli", "categorical", "logistic", "normal"] = "auto",
        mixtures: int | None = None,
        couplings: int | None = None,
        beta: float = 1.0,
        importance: int | None = None,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        require("vae", domain, Images, Vectors)
        _check_arguments(domain, latent_dim, hidden, network, width, mixtures, couplings, beta, importance, drop)
        self.domain, self.condition = domain, condition
        self.beta, self.drop = beta, drop
        self.importance = importance or (16 if isinstance(domain, Vectors) and domain.dim <= 16 and beta == 1 else 1)
        self.standardise = Standardise(domain.dim) if isinstance(domain, Vectors) else None
        self.p = _head(domain, likelihood, mixtures, self.standardise)
        conv = network == "conv" or (network == "auto" and _suits_conv(domain))
        self.latent_dim = latent_dim or (32 if conv else min(16, max(2, domain.dims)))
        context = 0 if condition is None else 64
        self.embedding = ConditionEmbedding(condition, context) if condition is not None else None
        if conv and isinstance(domain, Images):
            self.encoder: nn.Module = ConvEncoder(domain, 2 * self.latent_dim, width=width, context=context)
            channels = self.p.outputs * domain.channels
            self.decoder: nn.Module = ConvDecoder(
                domain, self.latent_dim, channels=channels, width=width, context=context
            )
        else:
            sizes = hidden or ((128, 128, 128) if isinstance(domain, Vectors) else (256, 256))
            encoder = MLP(domain.dims, sizes, 2 * self.latent_dim, context=context)
            decoder = MLP(self.latent_dim, sizes[::-1], self.p.outputs * domain.dims, context=context)
            self.encoder, self.decoder = encoder, decoder
            if isinstance(domain, Vectors):
                self.encoder, self.decoder = near_identity(encoder, decoder, domain.dim, self.latent_dim)
        count = couplings if couplings is not None else 8 * (conv and self.latent_dim > 1)
        self.couplings = Couplings(self.latent_dim, count=count, context=context) if count else None
        # A bias for every output, also of a convolution: it starts at the marginals of the training split.
        self.bias = nn.Parameter(torch.zeros(self.p.outputs * domain.dims))
        self.recipe = _recipe(domain, conv)

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Takes the units of vectors, and where the decoder's outputs start, from the training split."""
        if self.standardise is not None:
            self.standardise.adapt(x)
        self.bias.copy_(self.p.initial(x).flatten())

    def q(self, x: Tensor, condition: Tensor | None = None) -> DiagonalNormal | Bent:
        """q(z|x): (B, latent_dim). A condition that is not given is the null."""
        y, context = self._inside(x), self._context(condition, len(x))
        mu, log_var = self.encoder(y, context).chunk(2, dim=-1)
        normal = DiagonalNormal(mu, log_var)
        return normal if self.couplings is None else Bent(normal, self.couplings, context)

    def decode(self, z: Float[Tensor, "*B K"], condition: Tensor | None = None) -> Independent:
        """p(x|z), with ``log_prob``, ``sample``, ``mode``; a condition has one row for all or one for each in B."""
        context = self._context(condition, z.shape[-2])
        u = z if self.couplings is None else self.couplings(z, context)[0]
        if isinstance(self.decoder, ConvDecoder):
            flat = None if context is None else context.expand(*z.shape[:-1], -1).flatten(0, -2)
            out = self.decoder(u.flatten(0, -2), flat).flatten(1)
        else:
            out = self.decoder(u, context)
        return self.p((out + self.bias).view(*z.shape[:-1], self.p.outputs, *self.domain.shape))

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """The negative bound, nats per observation, from ``importance`` samples of z."""
        c = self._dropped(condition, len(x), generator=generator)
        q = self.q(x, c)
        z = q.rsample(self.importance, generator=generator)
        log_p = self.decode(z, c).log_prob(x)
        parts = {"reconstruction": -log_p.mean(), "rate": _rate(q, z).mean()}
        if self.importance == 1:
            return Loss(parts["reconstruction"] + self.beta * parts["rate"], parts)
        log_w = log_p + standard_normal_log_prob(z) - q.log_prob(z)
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
        q = self.q(x, c)
        chunk = max(1, _CHUNK // (len(x) * max(256, len(self.bias))))
        parts = []
        for start in range(0, samples, chunk):
            z = q.rsample(min(chunk, samples - start), generator=generator)
            log_w = self.decode(z, c).log_prob(x) + standard_normal_log_prob(z) - q.log_prob(z)
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
        z = torch.randn((n, self.latent_dim), generator=generator, device=self.bias.device, dtype=self.bias.dtype)
        p = self.decode(z, c)
        return p.mean if mean else p.sample(generator=generator)

    def encode(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "B K"]:
        """z: a draw of q(z|x), or its mode without a generator."""
        q = self.q(x, condition)
        return q.mu if generator is None else q.rsample(1, generator=generator)[0]

    @torch.no_grad()
    def reconstruct(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """x through the latent and back: the likeliest x of the likeliest z, or with a generator a draw of each."""
        p = self.decode(self.encode(x, condition, generator=generator), condition)
        return p.mode if generator is None else p.sample(generator=generator)

    @torch.no_grad()
    def interpolate(self, x_a: Tensor, x_b: Tensor, steps: int = 8, condition: Tensor | None = None) -> Tensor:
        """(steps, B, ...) from the reconstruction of x_a to that of x_b, along the line between their latents."""
        if steps < 2:
            raise Unusable(f"an interpolation needs at least 2 steps, got {steps}; leave it out for 8")
        z_a, z_b = self.encode(x_a, condition), self.encode(x_b, condition)
        t = torch.linspace(0, 1, steps, dtype=z_a.dtype, device=z_a.device)[:, None, None]
        return self.decode(torch.lerp(z_a, z_b, t), condition).mode

    def features(self, x: Tensor) -> Float[Tensor, "B K"]:
        """The mean of q(z|x), without a condition: what a probe reads."""
        return self.q(x).mu

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """How much of the latent is used: nats in z about x, in all and in its fullest dimension (where the prior is
        normal), and the units that move with x.

        A unit is active if the variance of its posterior mean over x is above 0.01 (Burda et al. 2016, section 5.2).
        """
        q = self.q(x, condition)
        mu = q.mu if isinstance(q, DiagonalNormal) else q.base.mu
        active = (mu.var(0, correction=0) > 0.01).to(mu.dtype)
        z = q.rsample(1, generator=stream(0, "meters", device=x.device))
        meters = {"rate": _rate(q, z).mean(), "active_units": active.sum(), "active_share": active.mean()}
        if isinstance(q, DiagonalNormal):
            meters["rate_max"] = q.kl_to_standard_normal().mean(0).max()
        return meters

    def _inside(self, x: Tensor) -> Tensor:
        """Pictures in [-1, 1], vectors standardised: what the encoder reads."""
        if isinstance(self.domain, Images):
            y = self.domain.centre(x).to(self.bias.dtype)
            return y if isinstance(self.encoder, ConvEncoder) else y.flatten(1)
        return x if self.standardise is None else self.standardise(x)

    def _context(self, condition: Tensor | None, n: int) -> Tensor | None:
        if self.embedding is None or self.condition is None:
            expand(self.condition, condition, n)
            return None
        c = self.condition.null(n).to(self.bias.device) if condition is None else condition
        rows = expand(self.condition, c, n)
        return None if rows is None else self.embedding(rows)

    def _dropped(self, condition: Tensor | None, n: int, *, generator: Generator) -> Tensor | None:
        c = expand(self.condition, condition, n)
        if self.condition is None or c is None or not self.drop:
            return c
        return drop(self.condition, c, self.drop, generator=generator)


def _rate(q: DiagonalNormal | Bent, z: Float[Tensor, "N B K"]) -> Float[Tensor, "B"]:
    """KL(q || N(0, I)), nats: in closed form, else its estimate from draws z of q."""
    if isinstance(q, DiagonalNormal):
        return q.kl_to_standard_normal().sum(-1)
    return (q.log_prob(z) - standard_normal_log_prob(z)).mean(0)


def _head(domain: Images | Vectors, kind: Any, mixtures: int | None, standardise: Standardise | None) -> Likelihood:
    few = isinstance(domain, Vectors) or domain.levels is None or domain.levels <= 32
    return likelihood(domain, kind, mixtures=mixtures or (1 if few else 3), standardise=standardise)


def _suits_conv(domain: Images | Vectors) -> bool:
    return isinstance(domain, Images) and min(domain.height, domain.width) > 16


def _recipe(domain: Images | Vectors, conv: bool) -> dict[str, Any]:
    """Training settings that served: vectors, small pictures (which overfit), larger ones."""
    if isinstance(domain, Vectors):
        return {"batch_size": 128, "learning_rate": 5e-3, "ema": 0.05}
    if not conv:
        return {"batch_size": 128, "learning_rate": 1.5e-3, "weight_decay": 0.3}
    return {"batch_size": 128, "learning_rate": 2e-3, "weight_decay": 0.01}


def _check_arguments(
    domain: Images | Vectors,
    latent_dim: int | None,
    hidden: tuple[int, ...] | None,
    network: str,
    width: int,
    mixtures: int | None,
    couplings: int | None,
    beta: float,
    importance: int | None,
    drop: float,
) -> None:
    sizes = {"latent_dim": latent_dim, "width": width, "mixtures": mixtures, "importance": importance}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise Unusable(f"{name} must be at least 1, got {size}; leave it out for the default")
    if hidden is not None and min(hidden, default=0) < 1:
        raise Unusable(f"hidden must be positive sizes, got {hidden}; leave it out for the default")
    if (couplings or 0) < 0 or (couplings and latent_dim == 1):
        raise Unusable(f"couplings must be at least 0, and 0 with one latent dimension, got {couplings}; leave it out")
    if network not in ("auto", "mlp", "conv"):
        raise Unusable(f"network must be auto, mlp or conv, got {network!r}; leave it out for auto")
    if network == "conv" and not isinstance(domain, Images):
        raise Unusable(f"network 'conv' reads pictures, but the data are {domain.kind}; use mlp")
    if beta < 0:
        raise Unusable(f"beta must be at least 0, got {beta}; leave it out for 1")
    if (importance or 1) > 1 and beta != 1:
        raise Unusable(f"importance above 1 has no separate KL term to weigh, got beta {beta}; leave one of them out")
    if not 0 <= drop < 1:
        raise Unusable(f"drop must be in [0, 1), got {drop}; leave it out for 0.1")
