"""Generative adversarial networks: a generator and a critic, and the value that they play for."""

import math
from typing import Any, get_args

import torch
from torch import Generator as Rng
from torch import Tensor

from pofx.conditions import Condition
from pofx.domains import Images, Vectors, require
from pofx.errors import Unusable
from pofx.models.adversarial.augment import Kind
from pofx.models.adversarial.game import Choice, Game, own_rate
from pofx.models.adversarial.networks import Conditioning
from pofx.models.adversarial.values import VALUES, Name
from pofx.nn.conv import Norm
from pofx.protocols import Loss, Progress, Turn


class GAN(Game):
    r"""The game $\min_g \max_f V(f, g)$: it samples, and has no likelihood.

    The critic f (the discriminator, as logits: D = sigmoid(f)) learns to tell real points from generated ones, the
    generator g to be taken for real. Which divergence that minimises, V says: ``loss`` (see ``values.py``). What holds
    f back is a sum of regularisers, each at its own weight, of the slope $|\nabla f|$ in what f sees:

    $$\tfrac{r_1}{2} E_x|\nabla f(x)|^2 + \tfrac{r_2}{2} E_z|\nabla f(g(z))|^2
    + \lambda E_{\hat x}(|\nabla f(\hat x)| - 1)^2$$

    with $\hat x$ between a real and a generated point; and bounds on f's weights.

    Source: Goodfellow et al. 2014, arXiv:1406.2661; R1 and R2: Mescheder et al. 2018, arXiv:1801.04406, eq. (9);
    gradient penalty: Gulrajani et al. 2017, arXiv:1704.00028, eq. (3).

    Args:
        latent_dim: K, size of the noise z that a sample is made from; left out: 16 for pictures, D for vectors.
            At least 2, and as many more as there are signs.
        hidden: sizes of the hidden layers of both networks; of convolutions, the last one is the size of the features.
        network: "mlp", "conv" (DCGAN's), "residual" (R3GAN's), or "auto": conv for pictures larger than 8 x 8.
        width: channels of the first convolution.
        norm: of convolutions: "layer", the generator's; "batch", of both players, as in DCGAN; "none".
        loss: what they play for.
        critic_steps: steps of the critic for each of the generator.
        critic_learning_rate: of the critic; left out: the generator's.
        r1: weight of the slope at real points.
        r2: weight of the slope at generated points.
        anneal: what is left of r1 and r2 at the end; they fall geometrically.
        penalty: lambda, weight of the gradient penalty.
        penalised: share of each batch on which the gradient penalty is computed; left out: all.
            It costs more than the rest of the step.
        weight_clip: the critic's weights are kept within plus and minus this.
        spectral_norm: the critic's weights are divided by their largest singular value.
        conditioning: how the critic is told the condition: "projection", or "concatenation" to what each layer reads.
        packing: m, how many points are judged together.
        minibatch_std: the critic sees how far points of a batch lie apart.
        augment: changes made to real and generated pictures before they are judged: colour, translation, cutout.
        signs: how many of the noise's coordinates are -1 or 1, for data in separate parts.
            What is continuous cannot tear a normal apart, and leaves points of g between the parts; signs are apart
            already.
        octaves: how many sines and cosines of each coordinate a critic that is a perceptron reads beside it.
            Each is of twice the frequency: what lies close together is then told apart sooner.
    """

    remaining: Tensor

    def __init__(
        self,
        domain: Images | Vectors,
        *,
        condition: Condition | None = None,
        latent_dim: int | None = None,
        hidden: tuple[int, ...] = (192, 192),
        network: Choice = "auto",
        width: int = 32,
        norm: Norm = "layer",
        loss: Name = "non-saturating",
        critic_steps: int = 1,
        critic_learning_rate: float | None = None,
        r1: float = 0.0,
        r2: float = 0.0,
        anneal: float = 1.0,
        penalty: float = 0.0,
        penalised: float | None = None,
        weight_clip: float | None = None,
        spectral_norm: bool = False,
        conditioning: Conditioning = "projection",
        packing: int = 1,
        minibatch_std: bool = False,
        augment: tuple[Kind, ...] = (),
        signs: int = 0,
        octaves: int = 0,
    ) -> None:
        require("gan", domain, Images, Vectors)
        if anneal != 1 and not (r1 or r2):
            raise Unusable(
                f"anneal is what is left of r1 and r2, got {anneal} without either; give one, or leave it out"
            )
        if penalised is not None and not penalty:
            raise Unusable(
                f"penalised is a share for penalty, got {penalised} and no penalty; give penalty 1, or neither"
            )
        if weight_clip is not None and spectral_norm:
            raise Unusable("weight_clip and spectral_norm undo each other, got both; take one")
        if not 0 < anneal <= 1:
            raise Unusable(f"anneal is what is left of r1 and r2, in (0, 1], got {anneal}; leave it out to keep them")
        _check_arguments(loss, critic_steps, 1.0 if penalised is None else penalised, r1=r1, r2=r2, penalty=penalty)
        if weight_clip is not None and not 0 < weight_clip < math.inf:
            raise Unusable(f"weight_clip must be above 0, got {weight_clip}; 0.01 is usual, leave it out for none")
        if loss == "wasserstein" and not (r1 or r2 or penalty or weight_clip or spectral_norm):
            raise Unusable("a Wasserstein critic needs its slope held, got no penalty; give penalty 10 or weight_clip")
        super().__init__(
            domain, condition=condition, latent_dim=latent_dim, hidden=hidden, network=network, width=width, norm=norm,
            conditioning=conditioning, packing=packing, minibatch_std=minibatch_std, spectral_norm=spectral_norm,
            augment=augment, signs=signs, octaves=octaves,
        )  # fmt: skip
        self.value = VALUES[loss]
        self.critic_steps, self.r1, self.r2, self.penalty = critic_steps, r1, r2, penalty
        self.penalised = 1.0 if penalised is None else penalised
        self.weight_clip, self.anneal, self.own_rate = weight_clip, anneal, own_rate(critic_learning_rate)
        self.register_buffer("remaining", torch.ones(()), persistent=anneal != 1)
        if anneal != 1:  # a critic that is let go is to become steep
            self.slope_name = "slope"
        if penalty:
            self.slope_name = "gradient_norm"
        self.logits = loss in ("saturating", "non-saturating", "relativistic")
        if weight_clip:
            self.held({}, Progress(0, 1))
        self.recipe = _recipe(domain, self.network, loss, spectral_norm)

    def turns(self) -> tuple[Turn, ...]:
        """The critic moves ``critic_steps`` times, then the generator once."""
        after = self.held if self.weight_clip or self.anneal != 1 else None
        parameters = tuple(self.critic.parameters())
        return (
            Turn("critic", parameters, self.critic_loss, self.critic_steps, after=after, optimiser=self.own_rate),
            Turn("generator", tuple(self.generator.parameters()), self.generator_loss, fresh=False),
        )

    def critic_loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Rng) -> Loss:
        """The critic's side of the value, and what holds its slope; g is not moved."""
        real, fake, c = self.pairs(x, self.given(x, condition), generator)
        # The slopes of R1 and R2 are of the very scores that the value is made of: one pass for both. One alone is not
        # to be differentiated twice through what it does not need.
        sloped = [y.requires_grad_() for y, weight in ((real, self.r1), (fake, self.r2)) if weight]
        f_real, f_fake = self.judged(real, fake, c, apart=len(sloped) == 1)
        total = self.value.critic(f_real, f_fake)
        parts = {"gap": (f_real.mean() - f_fake.mean()).detach()}
        if sloped:
            weights = [weight * self.remaining for weight in (self.r1, self.r2) if weight]
            squares = [square.mean() for square in self.squared_slopes(f_real.sum() + f_fake.sum(), *sloped)]
            for weight, square in zip(weights, squares):
                total = total + weight / 2 * square
            parts["squared_slope"] = torch.stack(squares).mean().detach()
        if self.penalty:
            slope = self.slope_between(real.detach(), fake.detach(), c, generator, share=self.penalised)
            total = total + self.penalty * (slope - 1).square().mean()
            parts["gradient_norm"] = slope.mean().detach()
        return Loss(total, parts)

    def generator_loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Rng) -> Loss:
        """The generator's side, fakes of the batch's size and conditions; x is looked at by a value in pairs alone."""
        c, n = self.given(x, condition), self.whole_packs(len(x))
        c = None if c is None else c[:n]
        f_real = torch.zeros((), device=x.device)
        if self.value.paired:
            with torch.no_grad():
                f_real = self.critic(self.seen(self.inside(x[:n], generator), generator), c)
        fake = self.generator(self.noise(n, generator), c)
        return Loss(self.value.generator(f_real, self.critic(self.seen(fake, generator), c)))

    @torch.no_grad()
    def held(self, carry: dict[str, Tensor], progress: Progress) -> None:
        """After each step of the critic: its weights back within their bounds, and what is left of R1 and R2."""
        if self.weight_clip:
            for p in self.critic.parameters():
                p.clamp_(-self.weight_clip, self.weight_clip)
        self.remaining.fill_(self.anneal**progress.fraction)


def _recipe(domain: Images | Vectors, network: str, loss: Name, spectral_norm: bool) -> dict[str, Any]:
    # Without momentum: the opponent moves too, so old gradients point to where the game no longer is.
    shared = {"optimiser": "adam", "schedule": "cosine", "clip": 0.0, "ema": 0.1, "beta1": 0.0, "beta2": 0.9}
    if network == "conv" and loss == "relativistic":
        # judged in pairs it stands this rate: after 900 rounds samples were five times as near as with 1e-3
        return shared | {"batch_size": 64, "learning_rate": 4e-3}
    if network != "mlp":
        return shared | {"batch_size": 64, "learning_rate": 1e-3}
    if isinstance(domain, Vectors):
        return shared | {"batch_size": 256, "learning_rate": 4e-3}
    # What a normed critic says does not grow with its weights, so that each step moves it less.
    return shared | {"batch_size": 64, "learning_rate": 5e-3 if spectral_norm else 2e-3}


def _check_arguments(loss: str, critic_steps: int, penalised: float, **weights: float) -> None:
    if loss not in get_args(Name):
        raise Unusable(f"loss is one of {', '.join(get_args(Name))}, got {loss!r}; leave it out for the default")
    if critic_steps < 1:
        raise Unusable(f"critic_steps must be at least 1, got {critic_steps}; leave it out for the default")
    if not 0 < penalised <= 1:
        raise Unusable(f"penalised is a share of the batch in (0, 1], got {penalised}; leave it out for all")
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise Unusable(f"{name} must be at least 0, and finite, got {weight}; 0 leaves it out")
