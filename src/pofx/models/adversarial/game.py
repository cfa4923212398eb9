"""What every game of generator and critic has: two players, and how the data look to them."""

import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Generator as Rng
from torch import Tensor, nn

from pofx.conditions import Condition, expand, rows_for
from pofx.distributions import PointMass
from pofx.domains import Images, Vectors
from pofx.errors import Unusable
from pofx.models.adversarial.augment import CHANGES, Kind, augment
from pofx.models.adversarial.inversion import STARTS, inverted
from pofx.models.adversarial.networks import Conditioning, Critic, Generator, Network, packed
from pofx.nn.conv import Norm
from pofx.nn.modes import evaluating
from pofx.nn.standardise import Standardise
from pofx.randomness import rand, randn, stream

Choice = Literal["auto", "mlp", "conv", "residual"]


class Game(nn.Module):
    """A generator g makes points of noise z, a critic f scores points. Abstract: a model says what they learn.

    Inside, pictures are dequantised to [-1, 1) and vectors standardised; what g makes is quantised only in ``sample``.
    ``logits`` says that sigmoid(f), or that of a difference of two f, is a probability; ``slope_name`` under which name
    health rules read f's slope: "gradient_norm" is to be 1, "critic_slope" not to be large, any other is as it is.

    Args:
        latent_dim: K, size of the noise z that a sample is made from; left out: 16 for pictures, D for vectors.
            At least 2, and as many more as there are signs.
        hidden: sizes of the hidden layers of both networks; of convolutions, the last one is the size of the features.
        network: "mlp", "conv" (DCGAN's), "residual" (R3GAN's), or "auto": conv for pictures larger than 8 x 8.
        width: channels of the first convolution.
        norm: of convolutions: "layer", the generator's; "batch", of both players, as in DCGAN; "none".
        conditioning: how the critic is told the condition: "projection", or "concatenation" to what each layer reads.
        packing: m, how many points are judged together.
        minibatch_std: the critic sees how far points of a batch lie apart.
        spectral_norm: the critic's weights are divided by their largest singular value.
        augment: changes made to real and generated pictures before they are judged: colour, translation, cutout.
        signs: how many of the noise's coordinates are -1 or 1, for data in separate parts.
            What is continuous cannot tear a normal apart, and leaves points of g between the parts; signs are apart
            already.
        octaves: how many sines and cosines of each coordinate a critic that is a perceptron reads beside it.
            Each is of twice the frequency: what lies close together is then told apart sooner.
    """

    slope_name = "critic_slope"
    logits = False

    def __init__(
        self,
        domain: Images | Vectors,
        *,
        condition: Condition | None,
        latent_dim: int | None,
        hidden: tuple[int, ...],
        network: Choice,
        width: int,
        norm: Norm,
        conditioning: Conditioning,
        packing: int,
        minibatch_std: bool,
        spectral_norm: bool,
        augment: tuple[Kind, ...],
        signs: int,
        octaves: int,
    ) -> None:
        super().__init__()
        _check_choices(domain, network=network, norm=norm, conditioning=conditioning, augment=augment)
        _check_sizes(hidden, latent_dim=latent_dim, width=width, packing=packing)
        self.domain, self.condition, self.augment, self.packing = domain, condition, augment, packing
        self.least_batch = packing
        self.latent_dim = latent_dim or signs + (16 if isinstance(domain, Images) else max(2, domain.dim))
        if not 0 <= signs <= self.latent_dim:
            raise Unusable(f"signs is how many of the {self.latent_dim} coordinates of noise, got {signs}; 12 is usual")
        self.signs = signs
        large = isinstance(domain, Images) and max(domain.height, domain.width) > 8
        self.network: Network = ("conv" if large else "mlp") if network == "auto" else network
        if not 0 <= octaves <= (16 if self.network == "mlp" else 0):
            raise Unusable(f"octaves must be 0 to 16 with network mlp, and 0 with others, got {octaves}; 6 is usual")
        if norm == "batch" and self.network != "conv":
            cure = "take network 'conv', or leave it out" if isinstance(domain, Images) else "leave it out"
            raise Unusable(f"norm 'batch' is of convolutions, got network {self.network!r}; {cure}")
        self.generator = Generator(
            domain, condition, self.latent_dim, network=self.network, hidden=hidden, width=width, norm=norm
        )
        self.critic = Critic(
            domain, condition, network=self.network, hidden=hidden, width=width,
            norm="batch" if norm == "batch" else "none", conditioning=conditioning, packing=packing,
            minibatch_std=minibatch_std, spectral=spectral_norm, octaves=octaves,
        )  # fmt: skip
        self.standardise = Standardise(domain.dim) if isinstance(domain, Vectors) else None
        if spectral_norm:
            self.biased_gradient = "a weight's largest singular value is found step by step, and moves as it is asked"
        self.alone, self.lot = self.critic.alone, self.critic.lot
        if not self.alone or norm == "batch":
            self.whole_batch = "points are made or judged beside others of their batch, so pieces have other neighbours"

    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Rng) -> None:
        """Takes mean and scale of vectors from the training split; pictures need neither."""
        if self.standardise is not None:
            self.standardise.adapt(x)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        *,
        generator: Rng,
        truncation: float = 1.0,
        candidates: int = 1,
    ) -> Tensor:
        r"""n observations g(z), z ~ truncation * N(0, I); below 1, more typical and less varied ones. Signs stay.

        Of several ``candidates`` one is kept, by probabilities in proportion to $e^f$: where f is the logarithm of
        p_data / p_g, as that of a logit's best critic is, samples of p_g become samples of p_data as candidates grow
        in number (sampling-importance-resampling). What g never makes, no critic brings back.

        Source: Rubin 1987; with a critic: Azadi et al. 2019, arXiv:1810.06758; Turner et al. 2019, arXiv:1811.11357.

        Raises:
            Unusable: candidates of a game whose critic is no logit, or judges points together.
        """
        self._check_candidates(candidates)
        c = rows_for(self.condition, condition, n, generator=generator)
        with evaluating(self):
            if candidates == 1:
                return self.outside(self.generator(self.noise(n, generator, scale=truncation), c))
            each = None if c is None else c.repeat_interleave(candidates, dim=0)
            y = self.generator(self.noise(n * candidates, generator, scale=truncation), each)
            weights = self.critic(y, each).view(n, candidates).softmax(1)
            kept = torch.multinomial(weights, 1, generator=generator)[:, 0]
            return self.outside(y.unflatten(0, (n, candidates))[torch.arange(n, device=kept.device), kept])

    def _check_candidates(self, candidates: int) -> None:
        if candidates < 1:
            raise Unusable(f"candidates must be at least 1, got {candidates}; leave it out for the generator's own")
        if candidates > 1 and not (self.logits and self.alone):
            raise Unusable(
                f"candidates are chosen by a critic that is a logit of single points, got {candidates} of another "
                "game; leave it out, or fit r3gan"
            )

    @property
    def latent_domain(self) -> Vectors:
        """What z is: K numbers."""
        return Vectors(self.latent_dim)

    def encode(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Rng | None = None
    ) -> Float[Tensor, "B K"]:
        """The z whose g(z) is nearest to x, searched for at the cost of 100 steps of g; nothing is drawn."""
        c = self.given(x, condition)
        with evaluating(self.generator):
            starts = self.noise(STARTS, stream(0, "invert", device=x.device))
            return inverted(self.generator, self.centred(x), c, starts, held=self.signs)

    def decode(self, z: Float[Tensor, "B K"], condition: Tensor | None = None) -> PointMass:
        """g(z) and no other x: of the density of x given z there is none."""
        c = self.given(z, condition)
        with evaluating(self.generator):
            return PointMass(self.outside(self.generator(z, c)), len(self.domain.shape))

    @torch.no_grad()
    def judge(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "L"]:
        """f of each x, higher for what looks real; where points are judged beside others, the mean of each lot."""
        n, c = len(x) - len(x) % self.lot, self.given(x, condition)
        if not n:
            return self.like.new_empty(0)
        with evaluating(self.critic):
            f = self.critic(self.centred(x[:n]), None if c is None else c[:n])
        return f.view(-1, self.lot // self.packing).mean(1)

    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """The critic's last hidden layer, (B, hidden[-1]), of each x by itself (in a pack, of copies); without a
        condition.
        """
        y = self.centred(x).repeat_interleave(self.packing, dim=0)
        with evaluating(self.critic):
            return self.critic.hidden(y, None, group=1)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """Of the critic: its gap between real and generated points, the share of pairs that it tells apart, how sure it
        is of them, its slope between them (``slope_name``), and the largest found, in slopes and in differences: it is
        that of no critic of a smaller Lipschitz constant. Of samples: their total standard
        deviation relative to the data's.
        """
        c, rng = self.given(x, condition), stream(0, "meters", device=x.device)
        if len(x) < self.packing:  # too few of them for a pack: one of copies
            some = torch.arange(self.packing, device=x.device) % len(x)
            x, c = x[some], None if c is None else c[some]
        real, fake, c = self.pairs(x, c, rng)
        f_real, f_fake = self.judged(real, fake, c)
        slopes = self.slope_between(real, fake, c, rng, share=0.25).detach()
        apart = packed(real - fake, self.packing).flatten(1).norm(dim=1).clamp_min(1e-12)
        steepness = {self.slope_name: slopes.mean()}
        if self.alone:  # else a score moves with those beside it
            steepness["critic_lipschitz"] = torch.cat([slopes, (f_real - f_fake).abs() / apart]).max()
        sure = {"critic_sure": (f_real[:, None] - f_fake).sigmoid().mean()} if self.logits else {}
        return {
            "gap": f_real.mean() - f_fake.mean(),
            "critic_accuracy": (f_real[:, None] > f_fake).to(f_real.dtype).mean(),
            **sure,
            **steepness,
            "sample_spread": _spread(fake) / _spread(real).clamp_min(1e-12),
        }

    def pairs(self, x: Tensor, c: Tensor | None, generator: Rng) -> tuple[Tensor, Tensor, Tensor | None]:
        """Real points as the critic sees them, and as many generated ones, which nothing is learnt through.

        In whole packs: what is left over of a batch is left out, of the condition's rows too.
        """
        n = self.whole_packs(len(x))
        c = None if c is None else c[:n]
        real = self.seen(self.inside(x[:n], generator), generator)
        with torch.no_grad():
            fake = self.generator(self.noise(n, generator), c).to(real)
        return real, self.seen(fake, generator), c

    def judged(self, real: Tensor, fake: Tensor, c: Tensor | None, *, apart: bool = False) -> tuple[Tensor, ...]:
        """f of each, (B,), or of each pack; from one pass, unless ``apart``."""
        if apart or not self.alone:
            return self.critic(real, c), self.critic(fake, c)
        return self.critic(torch.cat([real, fake]), None if c is None else torch.cat([c, c])).chunk(2)

    def slope_between(
        self, real: Tensor, fake: Tensor, c: Tensor | None, generator: Rng, *, share: float
    ) -> Float[Tensor, "b"]:
        """|grad f| between real and generated points, for a share of the batch; differentiable in f's parameters."""
        m = self.packing
        packs = len(real) // m
        b = max(1, round(share * packs))
        # spread over the batch, not its first rows: so the pieces of a batch look at what the whole would
        step, uneven = divmod(packs, b)
        rows = torch.arange(b, device=real.device) * packs // b if uneven else slice(None, None, step)
        real, fake = (y.unflatten(0, (packs, m))[rows] for y in (real, fake))
        c = None if c is None else c.unflatten(0, (packs, m))[rows].flatten(0, 1)
        epsilon = rand((b, *[1] * (real.ndim - 1)), generator=generator, device=real.device)
        with torch.enable_grad():
            x_hat = torch.lerp(fake, real, epsilon.to(real)).flatten(0, 1).requires_grad_()
            f = self.critic(x_hat, c)
            (square,) = self.squared_slopes(f.sum(), x_hat)
            # the small term keeps the root differentiable where f is flat
            return (square + 1e-12).sqrt()

    def squared_slopes(self, f: Float[Tensor, ""], *points: Tensor) -> list[Float[Tensor, "P"]]:
        """|grad f|^2 at each pack of each of ``points``, from one pass back."""
        gradients = torch.autograd.grad(f, points, create_graph=True)
        return [packed(gradient, self.packing).flatten(1).square().sum(1) for gradient in gradients]

    def whole_packs(self, n: int) -> int:
        """The largest multiple of the pack's size up to n; with ``minibatch_std``, of whole groups of packs."""
        m = self.packing
        if n < m:
            raise Unusable(
                f"packing judges {m} points together, got {n} (--accumulate cuts a batch); take a larger batch"
            )
        return n - n % (self.lot if n >= self.lot else m)

    def noise(self, n: int, generator: Rng, *, scale: float = 1.0) -> Float[Tensor, "n K"]:
        """z ~ scale * N(0, I), of the first ``signs`` coordinates the signs alone."""
        z = scale * randn((n, self.latent_dim), generator=generator, device=generator.device)
        if self.signs:
            z[:, : self.signs].sign_()
        return z.to(self.like)

    def seen(self, y: Tensor, generator: Rng) -> Tensor:
        """Points as they come before the critic."""
        return augment(y, self.augment, generator=generator) if self.augment else y

    def inside(self, x: Tensor, generator: Rng) -> Tensor:
        """Real data as the generator is to make them."""
        if isinstance(self.domain, Images):
            return self.domain.dequantise(x, generator=generator).to(self.like)
        return self.centred(x)

    def outside(self, y: Tensor) -> Tensor:
        """What the generator makes as observations."""
        if self.standardise is None:
            return self.domain.quantise(y)  # type: ignore[union-attr]
        return self.standardise.inverse(y)

    def centred(self, x: Tensor) -> Tensor:
        """Real data without noise."""
        y = self.domain.centre(x) if self.standardise is None else self.standardise(x)  # type: ignore[union-attr]
        return y.to(self.like)

    def given(self, x: Tensor, condition: Tensor | None) -> Tensor | None:
        """A row of the condition for each of x."""
        if self.condition is not None and condition is None:
            raise Unusable("a conditional game learns from pairs, got no condition; give one row of it per observation")
        return expand(self.condition, condition, len(x))

    @property
    def like(self) -> Tensor:
        """A weight: what dtype and device the networks are of."""
        return next(self.parameters())


def own_rate(critic_learning_rate: float | None) -> dict[str, float]:
    """The critic's own settings of training (Heusel et al. 2017, arXiv:1706.08500)."""
    if critic_learning_rate is None:
        return {}
    if not 0 < critic_learning_rate < math.inf:
        raise Unusable(f"critic_learning_rate must be above 0, and finite, got {critic_learning_rate}; leave it out")
    return {"learning_rate": critic_learning_rate}


def _spread(y: Tensor) -> Tensor:
    """The root of the total variance, sqrt(E|y - E y|^2)."""
    return y.flatten(1).var(0, correction=0).sum().sqrt()


def _check_choices(
    domain: Images | Vectors, *, network: str, norm: str, conditioning: str, augment: Iterable[str]
) -> None:
    known = {"network": (network, Choice), "norm": (norm, Norm), "conditioning": (conditioning, Conditioning)}
    for name, (value, kind) in known.items():
        if value not in get_args(kind):
            raise Unusable(f"{name} is one of {', '.join(get_args(kind))}, got {value!r}; leave it out for the default")
    for value in augment:
        if value not in CHANGES:
            raise Unusable(f"augment is some of {', '.join(CHANGES)}, got {value!r}; leave it out for none")
    if not isinstance(domain, Images):
        if network in ("conv", "residual"):
            raise Unusable(f"network {network!r} needs images, got {domain.kind}; take 'mlp' or 'auto'")
        if augment:
            raise Unusable(f"augment changes pictures, got {domain.kind}; leave it out")


def _check_sizes(hidden: tuple[int, ...], **sizes: int | None) -> None:
    if not hidden or min(hidden) < 1:
        raise Unusable(f"hidden needs one or more sizes of at least 1, got {hidden}; (192, 192) is usual")
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise Unusable(f"{name} must be at least 1, got {value}; leave it out for the default")
