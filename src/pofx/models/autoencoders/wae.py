"""The Wasserstein autoencoder: codes without noise, of which a batch as a whole is to look drawn from N(0, I)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.conditions import Condition, rows_for
from pofx.distributions import Kind
from pofx.divergences import inverse_multiquadratics, mmd_squared, sliced_wasserstein
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.models.autoencoders.one_code import OneCode, refuse_copying
from pofx.models.autoencoders.vector_latent import Activation, check_weights, one_of
from pofx.protocols import Loss
from pofx.randomness import randn, rows_of

# Directions in which a batch is sorted.
_DIRECTIONS = 64


class WAE(OneCode):
    r"""Wasserstein autoencoder: $E[d(x, g(z))] + \lambda D(q(z), N(0, I))$, z = f(x).

    Samples are drawn from p(x|z) of z from N(0, I).
    q(z) is the law of all codes together: where the VAE holds each posterior to the prior, this holds their mixture. D
    is the maximum mean discrepancy under inverse multiquadratics, unbiased and so at times below zero, or the squared
    sliced Wasserstein distance. It has no bound of log p(x).

    D is of the batch, no mean over its rows. In pieces (several processes, ``--accumulate``) each piece has the
    discrepancy of its own rows: unbiased at any size, their mean is the same objective with more noise. The sliced
    distance shrinks with the number of rows, and is refused in pieces. Of a single row D is nothing.

    Source: Tolstikhin et al. 2018, arXiv:1711.01558, eq. (4) and algorithm 2; sliced: Kolouri et al. 2018,
    arXiv:1804.01947, eq. (13).

    Args:
        latent_dim: size of the code z; None: 32 with convolutions, else as many as x has, from 2 up to 16.
        hidden: sizes of the MLPs' hidden layers, the decoder's reversed; () for linear maps; None: 256, 256; for
            vectors 128, 128, 128.
        network: "mlp", "conv" (pictures only), or "auto": convolutions for pictures above 16x16.
        width: channels of the first convolution.
        activation: of the MLPs.
        likelihood: "auto" is squared error for levels and numbers, Bernoulli for 2 levels, a categorical for symbols
            and colours of a palette; any other is minimised in nats, a normal or a logistic with a spread of its own.
        mixtures: logistics mixed for each pixel; None: 1 up to 32 levels, else 3.
        divergence: D: "mmd" or "sliced".
        weight: lambda.
        drop: share of the conditions hidden in training, so that x can be encoded without its condition.
    """

    whole_batch = "the divergence is of the codes of a batch, so pieces have their own"

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
        divergence: Literal["mmd", "sliced"] = "mmd",
        weight: float = 10.0,
        drop: float = 0.1,
    ) -> None:
        require("wae", domain, Images, Vectors, Tokens)
        one_of("divergence", divergence, ("mmd", "sliced"))
        check_weights(weight=weight)
        refuse_copying("wae", domain, latent_dim, weight > 0, "give the divergence a weight")
        super().__init__(
            domain, condition=condition, latent_dim=latent_dim, hidden=hidden, network=network, width=width,
            activation=activation, likelihood=likelihood, mixtures=mixtures, drop=drop,
        )  # fmt: skip
        self.divergence, self.weight = divergence, weight

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """What is lost of x on the way, and how far the batch's codes are from the prior."""
        c = self.dropped(condition, len(x), generator=generator)
        z = self.encode(x, c)
        loss = self.reconstruction(x, self.told(z, c))
        divergence = self._to_prior(z, generator=generator)
        return Loss(loss.total + self.weight * divergence, {**loss.parts, self.divergence: divergence})

    def _to_prior(self, z: Float[Tensor, "B K"], *, generator: Generator) -> Float[Tensor, ""]:
        """D between the rows of z and as many draws of N(0, I)."""
        prior = randn(tuple(z.shape), generator=generator, device=z.device, dtype=z.dtype)
        if self.divergence == "mmd":
            return mmd_squared(z, prior, inverse_multiquadratics) if len(z) > 1 else z.new_zeros(())
        if rows_of(generator, len(z))[1] != len(z):
            raise Unusable(
                "the sliced divergence sorts a whole batch, and this one comes in pieces; use --accumulate 1 and one "
                "process, or --divergence mmd"
            )
        return sliced_wasserstein(z, prior, generator=generator, projections=_DIRECTIONS).square()

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator, mean: bool = False) -> Tensor:
        """n observations, z from N(0, I), noise of p(x|z) included: under squared error that of the learnt spread.

        Args:
            condition: None draws it by training frequency.
            mean: show the expected x of each z in place of a draw (not a sample of the model).
        """
        c = rows_for(self.condition, condition, n, generator=generator)
        z = torch.randn((n, self.latent_dim), generator=generator, device=self.bias.device, dtype=self.bias.dtype)
        p = self.decode(z, c)
        return p.mean if mean else p.sample(generator=generator)
