"""What autoencoders share whose encoder is a function: one code for each x, and squared error where x is measured."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.conditions import Condition
from pofx.distributions import Independent, Kind, TruncatedNormal
from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoencoders.vector_latent import Activation, VectorLatent
from pofx.protocols import Loss, Samples

PRIOR_TO_COME = "its codes have no law yet, and 'pofx fit gaussian-mixture {source} --latent {run}' gives them one"

# An optimiser moves every number at one rate, and the logarithm of a variance has further to go than a weight.
_HASTE = 10.0


class OneCode(VectorLatent):
    r"""x -> z = f(x), one code for each x, -> p(x|z). Abstract: a model says what z is held to.

    The likelihood "auto" of pictures with levels and of numbers is squared error, $\frac12 |y - \mu(z)|^2$ with y what
    the networks read: pictures in [-1, 1], vectors standardised. It is minus the logarithm of a normal of unit spread,
    up to a constant, and cheap; as a law of x that would be far too wide. So one spread for all values is learnt on the
    side, by its likelihood with the errors taken as given; it moves nothing else, and ``decode`` gives the normal that
    has it. Any likelihood that is asked for is minimised as it is, in nats.

    Args: see ``VectorLatent``.
    """

    cures: ClassVar[Mapping[type, str]] = {Samples: PRIOR_TO_COME}

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None,
        latent_dim: int | None,
        hidden: tuple[int, ...] | None,
        network: Literal["auto", "mlp", "conv"],
        width: int,
        activation: Activation,
        likelihood: Kind,
        mixtures: int | None,
        drop: float,
    ) -> None:
        squared = likelihood == "auto" and is_measured(domain)
        super().__init__(
            domain, condition=condition, latent_dim=latent_dim, hidden=hidden, network=network, width=width,
            activation=activation, likelihood="normal" if squared else likelihood, mixtures=mixtures,
            spread="unit" if squared else "each", drop=drop,
        )  # fmt: skip
        if self.spread is not None:
            self.spread.requires_grad_(True)
        self.recipe = _recipe(domain, self.conv)

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """As all of them; a spread starts where a tenth of the variance is left."""
        super().adapt(x, condition, generator=generator)
        if self.spread is not None:
            variance = self.measured(x[:8192]).var(0, correction=0).mean()
            self.spread.copy_((variance.clamp(min=1e-4) / 10).log() / _HASTE)

    @property
    def log_var(self) -> Float[Tensor, ""]:
        """Of the normal that every value has around the decoder's output, under squared error; in its units."""
        assert self.spread is not None
        return _HASTE * self.spread

    @property
    def biased_gradient(self) -> str:
        """Why the loss has another slope than its gradient: along the spread alone, which its value leaves out."""
        return "" if self.spread is None else "the spread follows its own likelihood, the networks squared error"

    def encode(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "B K"]:
        """z = f(x); nothing is drawn, with a generator or without."""
        return self.encoded(x, condition)

    def features(self, x: Tensor) -> Float[Tensor, "B K"]:
        """The code, without a condition: what a probe reads."""
        return self.encode(x)

    def decode(self, z: Float[Tensor, "*B K"], condition: Tensor | None = None) -> Independent:
        """p(x|z), with ``log_prob``, ``sample``, ``mode``; under squared error the mode is the decoder's own output."""
        told = self.told(z, condition)
        if self.spread is None:
            return self.p(told)
        log_var = self.log_var.expand_as(told)
        if not self.p.levels:
            return self.p(torch.cat([told, log_var], dim=z.ndim - 1))
        mu, log_var = told.clamp(-1, 1).squeeze(z.ndim - 1), log_var.squeeze(z.ndim - 1)
        return Independent(TruncatedNormal(mu, log_var, self.p.levels), self.domain)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """The units that move with x: whose variance over x is above a hundredth of the units' mean variance."""
        variance = self.encode(x, condition).var(0, correction=0)
        active = (variance > 0.01 * variance.mean()).to(variance.dtype)
        return {"active_units": active.sum(), "active_share": active.mean()}

    def reconstruction(self, x: Tensor, told: Tensor) -> Loss:
        """How far x is from what the decoder told of it: squared error in the networks' units, or -log p(x|z), nats."""
        if self.spread is None:
            nats = -self.p(told).log_prob(x).mean()
            return Loss(nats, {"reconstruction": nats})
        squared = (self.measured(x) - told[:, 0]).square().flatten(1).sum(1).mean()
        calibration = 0.5 * (self.log_var + squared.detach() / self.domain.dims * (-self.log_var).exp())
        return Loss(
            0.5 * squared + calibration - calibration.detach(),
            {"half_squared_error": 0.5 * squared, "spread": (0.5 * self.log_var).exp()},
        )


def is_measured(domain: Domain) -> bool:
    """Whether values of x are near and far from each other: not symbols, colours of a palette, or black and white."""
    if isinstance(domain, Images):
        return domain.levels != 2 and not domain.palette
    return isinstance(domain, Vectors)


def check_weights(**weights: float) -> None:
    """Refuses a negative weight in a loss."""
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise Unusable(f"{name} must be at least 0, got {weight}; leave it out for the default")


def refuse_copying(name: str, domain: Domain, latent_dim: int | None, held: bool, by: str) -> None:
    """Refuses a code larger than the data, unless it is held to something: it would copy."""
    if latent_dim is not None and latent_dim > domain.dims and not held:
        raise Unusable(
            f"{name} with nothing else to hold its code needs latent_dim of at most the {domain.dims} values of x, got "
            f"{latent_dim}: it would copy; take a smaller one, or {by}"
        )


def _recipe(domain: Domain, conv: bool) -> dict[str, Any]:
    """Training settings that served: texts, vectors, small pictures, larger ones."""
    if isinstance(domain, Tokens):
        return {"batch_size": 128, "learning_rate": 1.5e-3, "weight_decay": 0.3}
    if isinstance(domain, Vectors):
        return {"batch_size": 128, "learning_rate": 5e-3, "ema": 0.05}
    return {"batch_size": 128, "learning_rate": 2e-3 if conv else 4e-3, "weight_decay": 0.01}
