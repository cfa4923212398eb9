"""What autoencoders whose code is one vector share: two networks, a condition, a likelihood chosen by the domain."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, dropped, expand
from pofx.distributions import Independent, Kind, likelihood
from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoencoders.near_identity import near_identity
from pofx.nn.conv import ConvDecoder, ConvEncoder
from pofx.nn.mlp import MLP, ConditionEmbedding
from pofx.nn.standardise import Standardise

Activation = Literal["silu", "relu", "tanh", "gelu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "silu": nn.SiLU, "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU,
}  # fmt: skip

CONTEXT = 64  # numbers that a condition is embedded in
SYMBOL = 16  # numbers that a symbol of a text is embedded in
_SOME = 8192  # rows whose mean is taken


class VectorLatent(nn.Module):
    """x -> K numbers z -> p(x|z), every value of x independent given z. Abstract: a model says what the numbers mean.

    A concrete model has an ``encode`` and a ``loss``; it calls ``encoded`` for what the encoder puts out and ``decode``
    for p(x|z).

    Args:
        latent_dim: K; None: 32 with convolutions, else as many as x has, from 2 up to 16.
        outputs: numbers that the encoder puts out for each of the K; or a function of K: how many in all.
        hidden: sizes of the MLPs' hidden layers, the decoder's reversed; () for linear maps; None: 256, 256; for
            vectors 128, 128, 128.
        network: "mlp", "conv" (pictures only), or "auto": convolutions for pictures above 16x16.
        width: channels of the first convolution.
        activation: of the MLPs.
        likelihood: "auto" is Bernoulli for 2 levels, discretised logistics for more, a categorical for symbols and
            colours of a palette, a normal for real numbers.
        mixtures: logistics mixed for each pixel; None: 1 up to 32 levels, else 3.
        spread: of a normal or a single logistic: "each" value's own, by the decoder; "shared": one learnt number for
            all (a calibrated decoder: Rybkin et al. 2021, arXiv:2006.13202); "unit": 1, in the units of the networks.
        drop: share of the conditions hidden in training, so that x can be encoded without its condition.
        networks: makes an encoder and a decoder in place of these: from the model, the numbers that the encoder puts
            out, and those that the decoder does for each value of x.
    """

    background: Tensor | None

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None,
        latent_dim: int | None,
        outputs: int | Callable[[int], int] = 1,
        hidden: tuple[int, ...] | None,
        network: Literal["auto", "mlp", "conv"],
        width: int,
        activation: Activation,
        likelihood: Kind,
        mixtures: int | None,
        spread: Literal["each", "shared", "unit"],
        drop: float,
        networks: Callable[[Any, int, int], tuple[nn.Module, nn.Module]] | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(domain, latent_dim, hidden, network, width, activation, mixtures, spread, drop)
        self.domain, self.condition, self.drop = domain, condition, drop
        self.standardise = Standardise(domain.dim) if isinstance(domain, Vectors) else None
        self.p = _head(domain, likelihood, mixtures, self.standardise)
        if spread != "each" and not self.p.has_spread:
            raise Unusable(f"a {self.p.kind} likelihood has no spread to be {spread!r}; leave spread at 'each'")
        self.conv = network == "conv" or (network == "auto" and suits_conv(domain))
        flat = isinstance(domain, Images) and not self.conv
        self.register_buffer("background", torch.zeros(domain.shape) if flat else None)
        self.latent_dim = latent_dim or (32 if self.conv else min(16, max(2, domain.dims)))
        self.context = 0 if condition is None else CONTEXT
        self.embedding = ConditionEmbedding(condition, CONTEXT) if condition is not None else None
        written = self.p.outputs - (spread != "each")  # by the decoder, for each value of x
        made = networks or partial(_networks, hidden=hidden, width=width, activation=activation)
        encoded = outputs(self.latent_dim) if callable(outputs) else outputs * self.latent_dim
        self.encoder, self.decoder = made(self, encoded, written)
        self.symbols = nn.Embedding(domain.vocabulary, SYMBOL) if isinstance(domain, Tokens) else None
        # A bias for every output, also of a convolution: it starts at the marginals of the training split.
        self.bias = nn.Parameter(torch.zeros(written * domain.dims))
        self.spread = nn.Parameter(torch.zeros(()), requires_grad=spread == "shared") if spread != "each" else None
        self.recipe = _recipe(domain, self.conv)

    @property
    def latent_domain(self) -> Domain:
        """What a prior of z models."""
        return Vectors(self.latent_dim)

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Takes the units of vectors, the mean picture, and where the decoder's outputs start, from the training split.

        Pictures are mostly background: without their mean, an MLP's first layer reads one large number that all share,
        and learns slowly beside it (on binary MNIST a nat in 35 epochs).
        """
        if self.standardise is not None:
            self.standardise.adapt(x)
        if self.background is not None:
            self.background.copy_(self.measured(x[:_SOME]).mean(0))
        start = self.p.initial(x)
        if self.spread is None:
            self.bias.copy_(start.flatten())
            return
        self.bias.copy_(start[:-1].flatten())
        if self.spread.requires_grad:
            self.spread.copy_(start[-1].exp().mean().log())

    def encoded(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B O"]:
        """What the encoder puts out, (B, outputs * K). A condition that is not given is the null."""
        return self.encoder(self.inside(x), self.context_of(condition, len(x)))

    def decode(self, z: Float[Tensor, "*B K"], condition: Tensor | None = None) -> Independent:
        """p(x|z), with ``log_prob``, ``sample``, ``mode``; a condition has one row for all or one for each in B."""
        return self._law(self.told(z, condition))

    def told(self, z: Float[Tensor, "*B K"], condition: Tensor | None = None) -> Tensor:
        """(*B, P, *shape): the parameters of p(x|z), a spread common to all values aside."""
        context = self.context_of(condition, z.shape[-2])
        if isinstance(self.decoder, ConvDecoder):
            flat = None if context is None else context.expand(*z.shape[:-1], -1).flatten(0, -2)
            out = self.decoder(z.flatten(0, -2), flat).flatten(1).view(*z.shape[:-1], -1)
        else:
            out = self.decoder(z, context)
        in_place = not torch.is_grad_enabled() and out.dtype == self.bias.dtype  # of a wider type, the sum is new
        out = out.add_(self.bias) if in_place else out + self.bias
        return out.unflatten(-1, (-1, *self.domain.shape))

    def written(self, out: Float[Tensor, "*B O"]) -> Independent:
        """p(x|z) of what the decoder wrote."""
        return self._law((out + self.bias).unflatten(-1, (-1, *self.domain.shape)))

    def _law(self, told: Tensor) -> Independent:
        if self.spread is None:
            return self.p(told)
        axis = told.ndim - 1 - len(self.domain.shape)
        return self.p(torch.cat([told, self.spread.expand_as(told)], dim=axis))

    def inside(self, x: Tensor) -> Tensor:
        """What the encoder reads."""
        return self.read(self.measured(x)) if self.symbols is None else self.symbols(x).flatten(1)

    def measured(self, x: Tensor) -> Tensor:
        """x in the units of the networks, in its own shape: pictures in [-1, 1], vectors standardised."""
        if isinstance(self.domain, Images):
            return self.domain.centre(x).to(self.bias.dtype)
        return x if self.standardise is None else self.standardise(x)

    def read(self, y: Tensor) -> Tensor:
        """What the encoder reads of x in those units: for an MLP less the mean picture, and flat."""
        return y if self.background is None else (y - self.background).flatten(1)

    @property
    def inside_shape(self) -> tuple[int, ...]:
        """Of one observation as the encoder reads it."""
        if self.conv:
            return self.domain.shape
        return (self.domain.dims * (SYMBOL if isinstance(self.domain, Tokens) else 1),)

    def context_of(self, condition: Tensor | None, n: int) -> Tensor | None:
        """n embedded rows of the condition, the null's where none is given; None for a model without one."""
        if self.embedding is None or self.condition is None:
            expand(self.condition, condition, n)
            return None
        c = self.condition.null(n).to(self.bias.device) if condition is None else condition
        rows = expand(self.condition, c, n)
        return None if rows is None else self.embedding(rows)

    def dropped(self, condition: Tensor | None, n: int, *, generator: Generator) -> Tensor | None:
        """n rows of the condition, a share of them hidden: what a loss conditions on."""
        return dropped(self.condition, condition, n, self.drop, generator=generator)


def _networks(
    model: VectorLatent,
    encoded: int,
    written: int,
    hidden: tuple[int, ...] | None,
    width: int,
    activation: Activation,
) -> tuple[nn.Module, nn.Module]:
    """The encoder of x to ``encoded`` numbers, and the decoder to ``written`` for each value of x."""
    domain, context, latent_dim = model.domain, model.context, model.latent_dim
    if model.conv and isinstance(domain, Images):
        return (
            ConvEncoder(domain, encoded, width=width, context=context),
            ConvDecoder(domain, latent_dim, channels=written * domain.channels, width=width, context=context),
        )
    default = (128, 128, 128) if isinstance(domain, Vectors) else (256, 256)
    sizes = default if hidden is None else hidden
    inputs = model.inside_shape[0]
    kind = ACTIVATIONS[activation]
    encoder = MLP(inputs, sizes, encoded, context=context, activation=kind)
    decoder = MLP(latent_dim, sizes[::-1], written * domain.dims, context=context, activation=kind)
    if isinstance(domain, Vectors) and sizes:
        return near_identity(encoder, decoder, domain.dim, latent_dim)
    return encoder, decoder


def _head(domain: Domain, kind: Kind, mixtures: int | None, standardise: Standardise | None) -> Any:
    many = isinstance(domain, Images) and domain.levels is not None and domain.levels > 32
    return likelihood(domain, kind, mixtures=mixtures or (3 if many else 1), standardise=standardise)


def suits_conv(domain: Domain) -> bool:
    """Whether convolutions are worth their time: pictures above 16x16."""
    return isinstance(domain, Images) and min(domain.height, domain.width) > 16


def _recipe(domain: Domain, conv: bool) -> dict[str, Any]:
    """Training settings that served: vectors, small pictures and texts (which overfit), larger pictures."""
    if isinstance(domain, Vectors):
        return {"batch_size": 128, "learning_rate": 5e-3, "ema": 0.05}
    if not (conv or suits_conv(domain)):
        return {"batch_size": 128, "learning_rate": 1.5e-3, "weight_decay": 0.3}
    return {"batch_size": 128, "learning_rate": 2e-3, "weight_decay": 0.01}


def _check_arguments(
    domain: Domain,
    latent_dim: int | None,
    hidden: tuple[int, ...] | None,
    network: str,
    width: int,
    activation: str,
    mixtures: int | None,
    spread: str,
    drop: float,
) -> None:
    for name, size in {"latent_dim": latent_dim, "width": width, "mixtures": mixtures}.items():
        if size is not None and size < 1:
            raise Unusable(f"{name} must be at least 1, got {size}; leave it out for the default")
    if hidden is not None and min(hidden, default=1) < 1:
        raise Unusable(f"hidden must be positive sizes, got {hidden}; leave it out for the default")
    one_of("network", network, ("auto", "mlp", "conv"))
    one_of("activation", activation, ACTIVATIONS)
    one_of("spread", spread, ("each", "shared", "unit"))
    if network == "conv" and not isinstance(domain, Images):
        raise Unusable(f"network 'conv' reads pictures, but the data are {domain.kind}; use mlp")
    if not 0 <= drop < 1:
        raise Unusable(f"drop must be in [0, 1), got {drop}; leave it out for the default")


def one_of(name: str, value: str, known: Any) -> None:
    """Refuses an argument that is none of the known words."""
    if value not in known:
        raise Unusable(f"{name} must be {' or '.join(', '.join(known).rsplit(', ', 1))}, got {value!r}")


def check_weights(**weights: float) -> None:
    """Refuses a weight in a loss that is negative, infinite, or no number."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise Unusable(f"{name} must be at least 0, and finite, got {weight}; leave it out for the default")
