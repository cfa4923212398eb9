"""Generator against critic: the Wasserstein GAN with a gradient penalty."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, expand, rows_for
from pofx.domains import Images, Vectors, require
from pofx.errors import Unusable
from pofx.nn.conv import ConvDecoder, ConvEncoder
from pofx.nn.mlp import MLP, ConditionEmbedding
from pofx.nn.standardise import Standardise
from pofx.protocols import Loss, Turn
from pofx.randomness import rand, randn, stream

Network = Literal["auto", "mlp", "conv"]
EMBEDDING = 32


class WGAN(nn.Module):
    r"""Wasserstein GAN with gradient penalty: it samples, and has no likelihood.

    The critic f estimates the Wasserstein-1 distance $\max_{\|f\|_{Lip} \le 1} E_x[f(x)] - E_z[f(g(z))]$ that the
    generator g descends; a penalty on $|\nabla f|$ between real and generated points keeps f near 1-Lipschitz.
    Inside, pictures are dequantised to [-1, 1) and vectors standardised; g's output is quantised only in ``sample``.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, eq. (3); the condition enters the critic by projection, Miyato and
    Koyama 2018, arXiv:1802.05637, eq. (3).

    Args:
        latent_dim: K, size of the noise z that a sample is made from; left out: 16 for pictures, D for vectors.
        hidden: sizes of the hidden layers of both networks; of "conv", the last one is the size of the features.
        network: "mlp", "conv" (pictures only), or "auto": conv for pictures larger than 8 x 8.
        width: channels of the first convolution.
        critic_steps: steps of the critic for each of the generator.
        penalty: lambda, weight of the gradient penalty.
        penalised: share of each batch on which the penalty is computed; it costs more than the rest of the step.
    """

    def __init__(
        self,
        domain: Images | Vectors,
        *,
        condition: Condition | None = None,
        latent_dim: int | None = None,
        hidden: tuple[int, ...] = (192, 192),
        network: Network = "auto",
        width: int = 32,
        critic_steps: int = 3,
        penalty: float = 1.0,
        penalised: float = 0.25,
    ) -> None:
        super().__init__()
        require("wgan-gp", domain, Images, Vectors)
        _check(domain, latent_dim, hidden, network, width, critic_steps, penalty, penalised)
        self.domain, self.condition = domain, condition
        self.latent_dim = latent_dim or (16 if isinstance(domain, Images) else max(2, domain.dim))
        self.critic_steps, self.penalty, self.penalised = critic_steps, penalty, penalised
        large = isinstance(domain, Images) and max(domain.height, domain.width) > 8
        conv = width if network == "conv" or (network == "auto" and large) else None
        self.generator = _Generator(domain, condition, self.latent_dim, hidden, conv)
        self.critic = _Critic(domain, condition, hidden, conv)
        self.standardise = Standardise(domain.dim) if isinstance(domain, Vectors) else None
        self.recipe = _recipe(domain, conv is not None)

    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Takes mean and scale of vectors from the training split; pictures need neither."""
        if self.standardise is not None:
            self.standardise.adapt(x)

    def turns(self) -> tuple[Turn, ...]:
        """The critic moves ``critic_steps`` times, then the generator once.

        Without momentum: the opponent moves too, so old gradients point to where the game no longer is.
        """
        momenta = {"beta1": 0.0, "beta2": 0.9}
        return (
            Turn("critic", tuple(self.critic.parameters()), self.critic_loss, self.critic_steps, optimiser=momenta),
            Turn("generator", tuple(self.generator.parameters()), self.generator_loss, fresh=False, optimiser=momenta),
        )

    def critic_loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        r"""E[f(fake)] - E[f(real)] + lambda E[(|grad f(x_hat)| - 1)^2], x_hat between a real and a fake point."""
        c = self._given(x, condition)
        real, fake = self._pairs(x, c, generator)
        f_real, f_fake = self._judged(real, fake, c)
        gap = f_real.mean() - f_fake.mean()
        slope = self._slope(real, fake, c, generator)
        penalty = (slope - 1).square().mean()
        parts = {"gap": gap.detach(), "gradient_norm": slope.mean().detach()}
        return Loss(self.penalty * penalty - gap, parts)

    def generator_loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """-E[f(fake)], fakes of the batch's size and conditions; x itself is not looked at."""
        c = self._given(x, condition)
        loss = -self.critic(self.generator(self._noise(len(x), generator), c), c).mean()
        return Loss(loss)

    @torch.no_grad()
    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: Generator, truncation: float = 1.0
    ) -> Tensor:
        """n observations g(z), z ~ truncation * N(0, I); below 1, more typical and less varied ones."""
        c = rows_for(self.condition, condition, n, generator=generator)
        y = self.generator(truncation * self._noise(n, generator), c)
        if self.standardise is None:
            return self.domain.quantise(y)  # type: ignore[union-attr]
        return self.standardise.inverse(y)

    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """The critic's last hidden layer, (B, hidden[-1]); it does not depend on the condition."""
        return self.critic.hidden(self._centred(x))

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """Of the critic: its gap between real and generated points, the share of pairs that it tells apart, the norm
        of its gradient (1 is right). Of samples: their total standard deviation relative to the data's.
        """
        c, rng = self._given(x, condition), stream(0, "meters", device=x.device)
        real, fake = self._pairs(x, c, rng)
        f_real, f_fake = self._judged(real, fake, c)
        return {
            "gap": f_real.mean() - f_fake.mean(),
            "critic_accuracy": (f_real[:, None] > f_fake).to(f_real.dtype).mean(),
            "gradient_norm": self._slope(real, fake, c, rng).mean().detach(),
            "sample_spread": _spread(fake) / _spread(real).clamp_min(1e-12),
        }

    def _pairs(self, x: Tensor, c: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor]:
        """Real points as the critic sees them, and as many generated ones, which nothing is learnt through."""
        real = self._inside(x, generator)
        with torch.no_grad():
            return real, self.generator(self._noise(len(x), generator), c).to(real)

    def _judged(self, real: Tensor, fake: Tensor, c: Tensor | None) -> tuple[Tensor, ...]:
        """f of each, (B,)."""
        return self.critic(torch.cat([real, fake]), None if c is None else torch.cat([c, c])).chunk(2)

    def _slope(self, real: Tensor, fake: Tensor, c: Tensor | None, generator: Generator) -> Float[Tensor, "b"]:
        """|grad_x_hat f(x_hat)| for the penalised share of the batch, differentiable in f's parameters."""
        b = max(1, round(self.penalised * len(real)))
        # spread over the batch, not its first rows: so the pieces of a batch penalise what the whole would
        i = torch.arange(b, device=real.device) * len(real) // b
        epsilon = rand((b, *[1] * (real.ndim - 1)), generator=generator, device=real.device)
        with torch.enable_grad():
            x_hat = torch.lerp(fake[i], real[i], epsilon.to(real)).requires_grad_()
            f = self.critic(x_hat, None if c is None else c[i])
            (gradient,) = torch.autograd.grad(f.sum(), x_hat, create_graph=True)
            # the small term keeps the root differentiable where f is flat
            return (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()

    def _noise(self, n: int, generator: Generator) -> Float[Tensor, "n K"]:
        z = randn((n, self.latent_dim), generator=generator, device=generator.device)
        return z.to(self.critic.head.weight)

    def _inside(self, x: Tensor, generator: Generator) -> Tensor:
        """Real data as the critic sees them."""
        if isinstance(self.domain, Images):
            return self.domain.dequantise(x, generator=generator).to(self.critic.head.weight)
        return self._centred(x)

    def _centred(self, x: Tensor) -> Tensor:
        y = self.domain.centre(x) if self.standardise is None else self.standardise(x)  # type: ignore[union-attr]
        return y.to(self.critic.head.weight)

    def _given(self, x: Tensor, condition: Tensor | None) -> Tensor | None:
        if self.condition is not None and condition is None:
            raise Unusable("a conditional wgan-gp learns from pairs, got no condition; give one row per observation")
        return expand(self.condition, condition, len(x))


class _Generator(nn.Module):
    """g: noise z and a condition to a point; pictures in (-1, 1) by tanh, what is continuous without bounds."""

    def __init__(
        self,
        domain: Images | Vectors,
        condition: Condition | None,
        latent_dim: int,
        hidden: tuple[int, ...],
        conv: int | None,
    ) -> None:
        super().__init__()
        self.shape = domain.shape
        self.bounded = isinstance(domain, Images) and domain.levels is not None
        self.embedding = None if condition is None else ConditionEmbedding(condition, EMBEDDING)
        context = 0 if condition is None else EMBEDDING
        self.network: nn.Module
        if conv is None or isinstance(domain, Vectors):
            self.network = MLP(latent_dim, hidden, domain.dims, context=context, activation=_activation(domain))
        else:
            self.network = ConvDecoder(domain, latent_dim, width=conv, context=context)

    def forward(self, z: Float[Tensor, "B K"], c: Tensor | None) -> Float[Tensor, "B ..."]:
        context = None if self.embedding is None else self.embedding(c)
        y = self.network(z, context).view(-1, *self.shape)
        return y.tanh() if self.bounded else y


class _Critic(nn.Module):
    """f(x, c) = w . h(x) + e(c) . h(x), up to a constant, which no loss depends on.

    Without batch norm, which would tie the points of a batch together.
    """

    def __init__(
        self, domain: Images | Vectors, condition: Condition | None, hidden: tuple[int, ...], conv: int | None
    ) -> None:
        super().__init__()
        self.trunk: nn.Module
        if conv is None or isinstance(domain, Vectors):
            self.trunk = nn.Sequential(
                nn.Flatten(), MLP(domain.dims, hidden[:-1], hidden[-1], activation=_activation(domain))
            )
        else:
            self.trunk = ConvEncoder(domain, hidden[-1], width=conv, norm=False)
        self.activation = _activation(domain)()
        self.head = nn.Linear(hidden[-1], 1, bias=False)
        self.embedding = None if condition is None else ConditionEmbedding(condition, EMBEDDING)
        self.project = None if condition is None else nn.Linear(EMBEDDING, hidden[-1], bias=False)

    def hidden(self, y: Tensor) -> Float[Tensor, "B F"]:
        """h(x)."""
        return self.activation(self.trunk(y))

    def forward(self, y: Tensor, c: Tensor | None) -> Float[Tensor, "B"]:
        h = self.hidden(y)
        f = self.head(h).squeeze(1)
        if self.embedding is None or self.project is None:
            return f
        return f + (self.project(self.embedding(c)) * h).sum(1)


def _spread(y: Tensor) -> Tensor:
    """The root of the total variance, sqrt(E|y - E y|^2)."""
    return y.flatten(1).var(0, correction=0).sum().sqrt()


def _activation(domain: Images | Vectors) -> type[nn.Module]:
    """Few dimensions with separate clusters need sharp turns, which kinks give sooner; pictures do not."""
    return nn.LeakyReLU if isinstance(domain, Vectors) else nn.SiLU


def _recipe(domain: Images | Vectors, conv: bool) -> dict[str, Any]:
    shared = {"optimiser": "adam", "schedule": "cosine", "clip": 0.0, "ema": 0.1}
    if conv:
        return shared | {"batch_size": 64, "learning_rate": 1e-3}
    if isinstance(domain, Vectors):
        return shared | {"batch_size": 256, "learning_rate": 4e-3}
    return shared | {"batch_size": 64, "learning_rate": 2e-3}


def _check(
    domain: Images | Vectors,
    latent_dim: int | None,
    hidden: tuple[int, ...],
    network: str,
    width: int,
    critic_steps: int,
    penalty: float,
    penalised: float,
) -> None:
    if network not in get_args(Network):
        raise Unusable(f"wgan-gp's network is one of {', '.join(get_args(Network))}, got {network!r}")
    if network == "conv" and not isinstance(domain, Images):
        raise Unusable(f"wgan-gp's network 'conv' needs images, got {domain.kind}; take 'mlp' or 'auto'")
    if not hidden or min(hidden) < 1:
        raise Unusable(f"wgan-gp needs one or more hidden sizes of at least 1, got {hidden}; (192, 192) is usual")
    for name, value in (("latent_dim", latent_dim), ("width", width), ("critic_steps", critic_steps)):
        if value is not None and value < 1:
            raise Unusable(f"wgan-gp needs {name} of at least 1, got {value}; leave it out for the default")
    if not penalty > 0:
        raise Unusable(f"wgan-gp needs a penalty above 0, got {penalty}; 1 to 10 is usual")
    if not 0 < penalised <= 1:
        raise Unusable(f"wgan-gp needs penalised in (0, 1], got {penalised}; it is a share of the batch")
