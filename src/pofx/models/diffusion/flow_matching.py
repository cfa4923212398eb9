"""Flow matching: a velocity field that carries noise to data along straight lines."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pofx.conditions import Condition, drop, expand, marginal, rows_for
from pofx.domains import Images, Vectors, require
from pofx.errors import Unusable
from pofx.nn.mlp import MLP, ConditionEmbedding, TimeEmbedding
from pofx.nn.standardise import Standardise
from pofx.nn.unet import UNet
from pofx.paths.straight import interpolate, precondition, stratified
from pofx.protocols import Estimate, Loss
from pofx.randomness import randn
from pofx.samplers.ode import Field, euler, heun, trace_probes, with_divergence

_SOLVERS = {"euler": euler, "heun": heun}


class FlowMatching(nn.Module):
    r"""A velocity field v(y, t), trained by regression; samples and densities come from its ODE dy/dt = v(y, t).

    $L = E_{t, x_0, x_1} |v(x_t, t) - (x_1 - x_0)|^2 / D$, with $x_t = t x_1 + (1 - t) x_0$, $x_0 \sim N(0, I)$, $x_1$
    the data, $t$ uniform. Inside, levels are dequantised to [-1, 1]; vectors and continuous pictures are standardised.

    Source: Lipman et al. 2023, arXiv:2210.02747, eq. (23); Liu et al. 2022, arXiv:2209.03003 (rectified flow);
    guidance: Ho and Salimans 2022, arXiv:2207.12598, eq. (6).

    Args:
        network: "mlp", "unet" (pictures only), or "auto": a U-Net for pictures of at least 4x4.
        hidden: sizes of the MLP's hidden layers.
        width: channels of the U-Net.
        drop: share of the conditions hidden in training, which is what guidance needs.
    """

    def __init__(
        self,
        domain: Images | Vectors,
        *,
        condition: Condition | None = None,
        network: Literal["auto", "mlp", "unet"] = "auto",
        hidden: tuple[int, ...] = (128, 128, 128, 128),
        width: int = 32,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        require("flow-matching", domain, Images, Vectors)
        _check_arguments(domain, network, hidden, width, drop)
        self.domain, self.condition, self.drop = domain, condition, drop
        unet = network == "unet" or (network == "auto" and _suits_unet(domain))
        context = 4 * width if unet else min(64, hidden[0])
        self.net = UNet(domain.shape, width=width, context=context) if unet else _Flat(domain.dims, hidden, context)
        self.time = TimeEmbedding(context)
        self.given = None if condition is None else ConditionEmbedding(condition, context)
        # Integer levels have their scale by definition; what is continuous gets it from the training split.
        self.pictures = domain if isinstance(domain, Images) and domain.levels is not None else None
        if self.pictures is None:
            self.units = Standardise(domain.dims)
        self.recipe = _recipe(domain)

    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Takes mean and scale from the training split; those of integer levels are given."""
        if self.pictures is None:
            self.units.adapt(x.flatten(1))

    def velocity(self, y: Float[Tensor, "B *S"], t: Float[Tensor, "#B"], c: Tensor | None) -> Float[Tensor, "B *S"]:
        """v(y, t | c), with one t for all or one each: a network around the field that is right for data N(0, I)."""
        c_skip, c_in, c_out = precondition(t, y)
        return c_skip * y + c_out * self.net(c_in * y, self._context(t, c))

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """Mean squared error of the velocity, per dimension."""
        x_1 = self._inside(x, generator=generator)
        c = self._dropped(condition, len(x), generator=generator)
        x_0 = self._noise(len(x_1), generator=generator)
        t = stratified(len(x_1), like=x_1, generator=generator)
        x_t, dx_t = interpolate(x_0, x_1, t)
        error = F.mse_loss(self.velocity(x_t, t, c), dx_t)
        return Loss(error, {"velocity_mse": error})

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        *,
        generator: Generator,
        steps: int = 30,
        method: Literal["heun", "euler"] = "heun",
        guidance: float = 1.0,
    ) -> Tensor:
        """n observations by the ODE from noise to data.

        Args:
            condition: None draws it by training frequency.
            steps: of the solver; Heun's evaluates the network twice in each.
            method: "heun" or "euler".
            guidance: g in v_null + g (v_c - v_null); above 1 follows the condition more closely than the data do.
        """
        if steps < 1:
            raise Unusable(f"steps must be at least 1, got {steps}; leave it out for 30")
        if method not in _SOLVERS:
            raise Unusable(f"method must be heun or euler, got {method!r}; leave it out for heun")
        if guidance != 1 and self.condition is None:
            raise Unusable(f"guidance must be 1 for a model without a condition, got {guidance}; fit with --condition")
        c = rows_for(self.condition, condition, n, generator=generator)
        x_0 = self._noise(n, generator=generator)
        grid = torch.linspace(0, 1, steps + 1, device=x_0.device, dtype=x_0.dtype)
        return self._outside(_SOLVERS[method](self._field(c, guidance), x_0, grid, generator=generator))

    @torch.no_grad()
    def estimate_log_prob(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator, steps: int = 60
    ) -> Estimate:
        """log p(x) or log p(x|c), nats per observation, by the ODE from data to noise.

        Exact up to the solver for at most 8 dimensions; above, the trace of the Jacobian is estimated with random
        signs. Of integer levels it is a lower bound, at one draw of the dequantising noise. Without the condition of a
        model that has classes, their marginal, at the price of one estimate for each.

        Args:
            steps: of Heun's method; ``bias`` is what halving them changes.
        """
        if steps < 2:
            raise Unusable(f"steps must be at least 2, because halving them gives the bias, got {steps}; 60 is usual")
        y = self._inside(x, generator=generator)
        c = expand(self.condition, condition, len(x))
        probes = trace_probes(y, generator=generator)
        value, halved = (self._log_prob(y, c, probes, n) for n in (steps, steps // 2))
        return Estimate(value, value - halved, of_bound=self.pictures is not None)

    @torch.no_grad()
    def encode(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """z (B, D), the noise that the ODE carries to x; without a condition, by the field of the null."""
        y = self._inside(x, generator=generator)
        c = self._null(len(x)) if condition is None else expand(self.condition, condition, len(x))
        return heun(self._field(c), y, _from_data(30, like=y)).flatten(1)

    @torch.no_grad()
    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """Hidden activations at t = 0.9 without noise, told no condition; a U-Net's lowest level, pooled to 2x2."""
        y = self._inside(x, generator=None)
        t = torch.full((1,), 0.9, device=y.device, dtype=y.dtype)
        _, c_in, _ = precondition(t, y)
        h = self.net.hidden(c_in * 0.9 * y, self._context(t, self._null(len(y))))
        return F.adaptive_avg_pool2d(h, 2).flatten(1) if h.ndim == 4 else h

    def _log_prob(self, y: Tensor, c: Tensor | None, probes: Tensor, steps: int) -> Tensor:
        if c is None and self.condition is not None:
            return marginal(self.condition, y, lambda c: self._log_prob(y, c, probes, steps), what="estimate_log_prob")
        z, divergence = with_divergence(heun, self._field(c), y, _from_data(steps, like=y), probes)
        log_volume = self.units.log_volume if self.pictures is None else self.pictures.log_volume
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1) + divergence + log_volume

    def _field(self, c: Tensor | None, guidance: float = 1.0) -> Field:
        """v(y, t) for fixed conditions, guided or not."""

        def field(y: Tensor, t: Tensor) -> Tensor:
            return self.velocity(y, t[None], c)

        def guided(y: Tensor, t: Tensor) -> Tensor:
            v_null = self.velocity(y, t[None], self._null(len(y)))
            return v_null + guidance * (field(y, t) - v_null)

        return field if guidance == 1 else guided

    def _context(self, t: Tensor, c: Tensor | None) -> Tensor:
        return self.time(t) if self.given is None else self.time(t) + self.given(c)

    def _null(self, n: int) -> Tensor | None:
        return None if self.condition is None else self.condition.null(n).to(self._weight.device)

    def _dropped(self, condition: Tensor | None, n: int, *, generator: Generator) -> Tensor | None:
        """The condition rows of a batch, some replaced by the null."""
        c = expand(self.condition, condition, n)
        if self.condition is None:
            return None
        if c is None:
            raise Unusable("the loss of a conditional model needs the condition of each observation, got none")
        return drop(self.condition, c, self.drop, generator=generator)

    def _noise(self, n: int, *, generator: Generator) -> Tensor:
        shape, weight = (n, *self.domain.shape), self._weight
        return randn(shape, generator=generator, device=generator.device, dtype=weight.dtype)

    def _inside(self, x: Tensor, *, generator: Generator | None) -> Tensor:
        """Canonical x to what the field moves; levels are dequantised, or put at the middle without a generator."""
        if self.pictures is None:
            return self.units(x.flatten(1)).view_as(x)
        y = self.pictures.centre(x) if generator is None else self.pictures.dequantise(x, generator=generator)
        return y.to(self._weight.dtype)

    def _outside(self, y: Tensor) -> Tensor:
        """The inverse of ``_inside``, canonical."""
        if self.pictures is not None:
            return self.pictures.quantise(y)
        return self.units.inverse(y.flatten(1)).view_as(y).to(self.domain.dtype)

    @property
    def _weight(self) -> Tensor:
        """Any weight: it has the dtype and the device that everything inside is in."""
        return next(self.parameters())


class _Flat(nn.Module):
    """The MLP as a field: takes and returns the shape of one observation."""

    def __init__(self, dims: int, hidden: tuple[int, ...], context: int) -> None:
        super().__init__()
        self.mlp = MLP(dims, hidden, dims, context=context)

    def hidden(self, x: Tensor, context: Tensor) -> Tensor:
        return self.mlp.hidden(x.flatten(1), context)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.mlp(x.flatten(1), context).view_as(x)


def _from_data(steps: int, *, like: Tensor) -> Tensor:
    """Times from 1 to 0, dense near the data, where dequantised levels are narrow and the field is stiff.

    On eight MNIST digits, halving 60 steps changes the estimate by 0.07 bits/dim; with equal steps by 0.33.
    """
    return 1 - torch.linspace(0, 1, steps + 1, device=like.device, dtype=like.dtype) ** 2


def _suits_unet(domain: Images | Vectors) -> bool:
    return isinstance(domain, Images) and min(domain.height, domain.width) >= 4


def _check_arguments(domain: Images | Vectors, network: str, hidden: tuple[int, ...], width: int, drop: float) -> None:
    if network not in ("auto", "mlp", "unet"):
        raise Unusable(f"network must be auto, mlp or unet, got {network!r}; leave it out for auto")
    if network == "unet" and not isinstance(domain, Images):
        raise Unusable(f"network unet takes images, got {domain.kind}; use mlp")
    if not hidden or min(hidden) < 1:
        raise Unusable(f"hidden must name at least one layer of positive size, got {hidden}; 128 128 128 128 is usual")
    if width < 1:
        raise Unusable(f"width must be at least 1, got {width}; 32 is usual")
    if not 0 <= drop < 1:
        raise Unusable(f"drop must be in [0, 1), got {drop}; 0.1 is usual")


def _recipe(domain: Images | Vectors) -> dict[str, Any]:
    """Training settings found on 2-D toys, 8x8 digits and MNIST."""
    if isinstance(domain, Vectors):
        return {"batch_size": 512, "learning_rate": 2e-3}
    return {"batch_size": 48 if domain.dims <= 256 else 64, "learning_rate": 3e-3, "schedule": "trapezoid"}
