"""The regularised autoencoder: the VAE's noise replaced by what the noise does, a small code and a smooth decoder."""

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Generator, Tensor

from pofx.conditions import Condition
from pofx.distributions import Kind
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.models.autoencoders.one_code import OneCode, refuse_copying
from pofx.models.autoencoders.slopes import squared_jacobian
from pofx.models.autoencoders.vector_latent import Activation, check_weights, one_of
from pofx.protocols import Loss

Smooth = Literal["l2", "gradient", "none"]


class RAE(OneCode):
    r"""Regularised autoencoder: $d(x, g(z)) + \frac\beta2 |z|^2 + \lambda R(g)$, z = f(x) without noise.

    R is the squared size of the decoder's weights ("l2"), or of its slopes at the code ("gradient"). It has no sampler
    of its own: a density of its codes, fitted afterwards, is one.

    Source: Ghosh et al. 2020, arXiv:1903.12436, eq. (5), (9) and (10).

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
        code: beta, weight of half the code's squared length.
        regularise: of the decoder: "l2", "gradient" or "none".
        smooth: lambda, weight of what is regularised.
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
        code: float = 1e-2,
        regularise: Smooth = "gradient",
        smooth: float = 1e-3,
        drop: float = 0.1,
    ) -> None:
        require("rae", domain, Images, Vectors, Tokens)
        one_of("regularise", regularise, ("l2", "gradient", "none"))
        check_weights(code=code, smooth=smooth)
        refuse_copying("rae", domain, latent_dim, code > 0, "give code a weight")
        super().__init__(
            domain, condition=condition, latent_dim=latent_dim, hidden=hidden, network=network, width=width,
            activation=activation, likelihood=likelihood, mixtures=mixtures, drop=drop,
        )  # fmt: skip
        self.code, self.smooth = code, smooth
        self.regularise = regularise if smooth else "none"

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """What is lost of x on the way, the code's length, and what smooths the decoder."""
        c = self.dropped(condition, len(x), generator=generator)
        # The slopes are taken of validation rows, too.
        with torch.enable_grad() if self.regularise == "gradient" else nullcontext():
            z = self.encode(x, c)
            told = self.told(z, c)
            loss = self.reconstruction(x, told)
            penalties = {"code": self.code / 2 * z.square().sum(1).mean()}
            if self.regularise == "gradient":
                penalties["slope"] = self.smooth * squared_jacobian(told, z, generator=generator).mean()
            if self.regularise == "l2":
                penalties["weights"] = (
                    self.smooth * torch.stack([p.square().sum() for p in self.decoder.parameters()]).sum()
                )
        return Loss(sum(penalties.values(), loss.total), {**loss.parts, **penalties})
