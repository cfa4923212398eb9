"""The autoencoder: x through a small code and back; what else it is held to is a matter of arguments."""

from contextlib import nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.conditions import Condition
from pofx.distributions import Kind
from pofx.domains import Domain, Images, Tokens, Vectors, are_symbols, require
from pofx.errors import Unusable
from pofx.models.autoencoders.corruption import (
    Corruption,
    check_corruption,
    corrupted,
    corrupted_symbols,
)
from pofx.models.autoencoders.one_code import OneCode, refuse_copying
from pofx.models.autoencoders.slopes import squared_jacobian
from pofx.models.autoencoders.vector_latent import Activation, check_weights
from pofx.protocols import Loss


class Autoencoder(OneCode):
    r"""z = f(x), trained so that a decoder gives x back from z: a code, and no density.

    Minimises $E[d(x, g(f(\tilde x)))] + \lambda_C \|\partial f / \partial y\|_F^2 + \lambda_1 |z|_1$, with d half the
    squared error, or $-\log p(x|z)$, and $\tilde x$ a corruption of x (x itself where there is none). With linear maps
    (``hidden`` ()) the codes span the principal components.

    Source: Rumelhart, Hinton and Williams 1986; corruption: Vincent et al. 2010, JMLR 11; ``contractive``: Rifai et
    al. 2011, eq. (3).

    Args:
        latent_dim: size of the code z; None: 32 with convolutions; half of what vectors have, up to 16; else as many
            as x has, from 2 up to 16.
        hidden: sizes of the MLPs' hidden layers, the decoder's reversed; () for linear maps; None: 256, 256; for
            vectors 128, 128, 128.
        network: "mlp", "conv" (pictures only), or "auto": convolutions for pictures above 16x16.
        width: channels of the first convolution.
        activation: of the MLPs.
        likelihood: "auto" is squared error for levels and numbers, Bernoulli for 2 levels, a categorical for symbols
            and colours of a palette; any other is minimised in nats, a normal or a logistic with a spread of its own.
        mixtures: logistics mixed for each pixel; None: 1 up to 32 levels, else 3.
        corruption: what the encoder reads: "none": x as it is; "gaussian": with noise; "masking": with some values
            black, the mean, or a random symbol; "salt-and-pepper": with some levels the least or the most.
        corruption_rate: the share of values that are corrupted; of noise, its standard deviation where pictures span
            -1 to 1 and vectors are standardised.
        contractive: weight of the squared slopes of the code.
        l1: weight of the code's size, the sum of its absolute values.
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
        corruption: Corruption = "none",
        corruption_rate: float = 0.3,
        contractive: float = 0.0,
        l1: float = 0.0,
        drop: float = 0.1,
    ) -> None:
        require("autoencoder", domain, Images, Vectors, Tokens)
        check_corruption(domain, corruption, corruption_rate)
        check_weights(contractive=contractive, l1=l1)
        if contractive and are_symbols(domain):
            raise Unusable(
                "symbols, and colours of a palette, have no slope to be contractive in; use corruption masking"
            )
        held = corruption != "none" or contractive > 0 or l1 > 0
        refuse_copying("autoencoder", domain, latent_dim, held, "hold it with corruption, contractive or l1")
        if latent_dim is None and isinstance(domain, Vectors):
            latent_dim = min(16, max(1, domain.dim // 2))
        super().__init__(
            domain, condition=condition, latent_dim=latent_dim, hidden=hidden, network=network, width=width,
            activation=activation, likelihood=likelihood, mixtures=mixtures, drop=drop,
        )  # fmt: skip
        self.corruption, self.corruption_rate = corruption, corruption_rate
        self.contractive, self.l1 = contractive, l1

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """What is lost of x on the way, and the penalties; in nats, or in the units of the networks, squared."""
        c = self.dropped(condition, len(x), generator=generator)
        y = self._corrupted(x, generator=generator)
        # The slopes are taken of validation rows, too.
        with torch.enable_grad() if self.contractive else nullcontext():
            y = y.detach().requires_grad_(True) if self.contractive else y
            z = self.encoder(y, self.context_of(c, len(x)))
            loss = self.reconstruction(x, self.told(z, c))
            penalties = {}
            if self.contractive:
                penalties["slope"] = self.contractive * squared_jacobian(z, y, generator=generator).mean()
            if self.l1:
                penalties["l1"] = self.l1 * z.abs().sum(1).mean()
        return Loss(sum(penalties.values(), loss.total), {**loss.parts, **penalties})

    def _corrupted(self, x: Tensor, *, generator: Generator) -> Float[Tensor, "B ..."]:
        """What the encoder reads of x, spoilt."""
        if self.corruption == "none":
            return self.inside(x)
        if are_symbols(self.domain):
            return self.inside(corrupted_symbols(x, self.p.levels, self.corruption_rate, generator=generator))
        y = corrupted(self.measured(x), self.domain, self.corruption, self.corruption_rate, generator=generator)
        return self.read(y)
