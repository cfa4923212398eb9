"""Unrolled GANs: the generator learns against the critic as it will be, some steps ahead."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator as Rng
from torch import Tensor
from torch.func import functional_call

from pofx.conditions import Condition
from pofx.domains import Images, Vectors, require
from pofx.errors import Unusable
from pofx.models.adversarial.game import Choice, Game, own_rate
from pofx.models.adversarial.values import VALUES
from pofx.protocols import Loss, Turn

Weights = dict[str, Tensor]


class UnrolledGAN(Game):
    r"""The game $\min_G \max_D V(\theta_G, \theta_D)$, where G's step knows how D will answer.

    With V = E[log D(x)] + E[log(1 - D(G(z)))] and D = sigmoid(f), the generator descends the surrogate

    $$V_K(\theta_G) = V(\theta_G, \theta_D^K), \quad \theta_D^{k+1} = \theta_D^k + \eta\, dV / d\theta_D^k,
    \quad \theta_D^0 = \theta_D,$$

    and through the K steps as well: that part of the gradient says how D would answer a move of G, and holds G from
    putting all of its points where D is weak just now. K = 0 is the saturating game, K to infinity the Jensen-Shannon
    divergence. All K steps see the same points. D itself then takes one ordinary step.

    Source: Metz et al. 2017, arXiv:1611.02163, eq. (6) to (8), (10).

    Args:
        latent_dim: K, size of the noise z that a sample is made from; left out: 16 for pictures, D for vectors.
        hidden: sizes of the hidden layers of both networks; of convolutions, the last one is the size of the features.
        network: "mlp", "conv" (DCGAN's), "residual" (R3GAN's), or "auto": conv for pictures larger than 8 x 8.
        width: channels of the first convolution.
        unrolled: steps of the critic that the generator looks ahead.
        unrolled_rate: eta, the rate of these steps.
        critic_learning_rate: of the critic's ordinary steps; a tenth of the generator's usual one, as in the paper: a
            critic that answers at once leaves nothing to look ahead for, and the steps ahead then overshoot it.
    """

    logits = True
    whole_batch = "the critic's steps ahead are for a whole batch, so pieces look ahead to others"

    def __init__(
        self,
        domain: Images | Vectors,
        *,
        condition: Condition | None = None,
        latent_dim: int | None = None,
        hidden: tuple[int, ...] = (192, 192),
        network: Choice = "auto",
        width: int = 32,
        unrolled: int = 5,
        unrolled_rate: float = 0.3,
        critic_learning_rate: float = 1e-4,
    ) -> None:
        require("unrolled-gan", domain, Images, Vectors)
        if unrolled < 1:
            raise Unusable(f"unrolled must be at least 1, got {unrolled}; use gan for none")
        if not 0 < unrolled_rate < math.inf:
            raise Unusable(f"unrolled_rate must be above 0, and finite, got {unrolled_rate}; 0.3 is usual")
        super().__init__(
            domain, condition=condition, latent_dim=latent_dim, hidden=hidden, network=network, width=width,
            norm="layer", conditioning="projection", packing=1, minibatch_std=False, spectral_norm=False, augment=(),
            signs=0, octaves=0,
        )  # fmt: skip
        self.unrolled, self.unrolled_rate = unrolled, unrolled_rate
        self.own_rate = own_rate(critic_learning_rate)
        self.recipe = _recipe(domain)

    def turns(self) -> tuple[Turn, ...]:
        """One step each, on the same batch."""
        return (
            Turn("critic", tuple(self.critic.parameters()), self.critic_loss, optimiser=self.own_rate),
            Turn("generator", tuple(self.generator.parameters()), self.generator_loss, fresh=False),
        )

    def critic_loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Rng) -> Loss:
        """-V at theta_D; g is not moved."""
        real, fake, c = self.pairs(x, self.given(x, condition), generator)
        f_real, f_fake = self.judged(real, fake, c)
        gap = (f_real.mean() - f_fake.mean()).detach()
        return Loss(VALUES["saturating"].critic(f_real, f_fake), {"gap": gap})

    def generator_loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Rng) -> Loss:
        """V(theta_G, theta_D^K), of the batch and as many fakes of its conditions."""
        c = self.given(x, condition)
        real = self.inside(x, generator)
        fake = self.generator(self.noise(len(x), generator), c)
        return Loss(self.game_value(self.unrolled_weights(real, fake, c), real, fake, c))

    def unrolled_weights(self, real: Tensor, fake: Tensor, c: Tensor | None) -> Weights:
        """theta_D^K, differentiable in ``fake``."""
        theta: Weights = dict(self.critic.named_parameters())
        for _ in range(self.unrolled):
            value = self.game_value(theta, real, fake, c)
            gradients = torch.autograd.grad(value, tuple(theta.values()), create_graph=True)
            theta = {name: w + self.unrolled_rate * g for (name, w), g in zip(theta.items(), gradients)}
        return theta

    def game_value(self, theta: Weights, real: Tensor, fake: Tensor, c: Tensor | None) -> Float[Tensor, ""]:
        """V with the critic's weights at theta."""
        both = None if c is None else torch.cat([c, c])
        f_real, f_fake = functional_call(self.critic, theta, (torch.cat([real, fake]), both)).chunk(2)
        return -VALUES["saturating"].critic(f_real, f_fake)


def _recipe(domain: Images | Vectors) -> dict[str, Any]:
    # As in the paper, but for the longer memory of beta2; it has momentum where gan has none.
    shared = {"optimiser": "adam", "schedule": "cosine", "clip": 0.0, "ema": 0.1, "beta1": 0.5, "beta2": 0.99}
    if isinstance(domain, Vectors):
        return shared | {"batch_size": 256, "learning_rate": 1e-3}
    return shared | {"batch_size": 64, "learning_rate": 1e-3}
