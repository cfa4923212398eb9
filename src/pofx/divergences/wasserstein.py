"""Wasserstein distances of two samples on a line, and of what they look like along lines."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.divergences.checks import check_columns, check_order, check_points, check_rows, check_weights
from pofx.errors import Unusable


def wasserstein_1d(
    x: Float[Tensor, "N *S"],
    y: Float[Tensor, "M *S"],
    *,
    p: float = 2.0,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
) -> Float[Tensor, "*S"]:
    r"""$W_p = (\int_0^1 |F_x^{-1}(q) - F_y^{-1}(q)|^p dq)^{1/p}$ on a line, for each column, in units of x; exact.

    The steps of both quantile functions are merged; of equal sizes without weights, that compares sorted samples one by
    one. p = inf is the largest gap. Gradients reach points and weights; where the distance is zero they are zero. Time
    is that of sorting. Losses call it, so no value of a point is read: NaN in is NaN out.

    Source: Villani 2003, theorem 2.18.

    Args:
        x, y: samples.
        p: from 1 to inf.
        weights_x, weights_y: of the samples, in all columns; None: equal.

    >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([4.0, 3.0]))
    tensor(3.)
    """
    check_order(p)
    check_columns(x=x, y=y)
    if weights_x is None and weights_y is None:
        return _power_mean(*_equal_steps(x.sort(0).values, y.sort(0).values), p)
    gap, width = _weighted_steps(x.flatten(1) if x.ndim > 1 else x[:, None], y.flatten(1) if y.ndim > 1 else y[:, None],
                                 weights_x, weights_y)  # fmt: skip
    return _power_mean(gap, width, p).reshape(x.shape[1:])


def sliced_wasserstein(
    x: Float[Tensor, "N F"],
    y: Float[Tensor, "M F"],
    *,
    generator: Generator,
    projections: int = 256,
    p: float = 2.0,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
) -> Float[Tensor, ""]:
    r"""$(\mathrm{E}_\theta\, W_p^p(\theta \cdot x, \theta \cdot y))^{1/p}$ over directions uniform on the sphere.

    An estimate: its p-th power is unbiased over directions, and the mean over all of them is at most W_p. A shift by t
    is a distance of |t| / sqrt(F) for p = 2.

    Source: Rabin et al. 2011; Bonneel et al. 2015, eq. 8.
    """
    _check_slices(x, y, p, projections=projections)
    theta = torch.randn((x.shape[1], projections), generator=generator, device=x.device, dtype=x.dtype)
    theta = theta / theta.norm(dim=0)
    along = wasserstein_1d(x @ theta, y @ theta, p=p, weights_x=weights_x, weights_y=weights_y)
    return root(along.pow(p).mean(), p)


def max_sliced_wasserstein(
    x: Float[Tensor, "N F"],
    y: Float[Tensor, "M F"],
    *,
    generator: Generator,
    restarts: int = 16,
    steps: int = 100,
    p: float = 2.0,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "F"]]:
    r"""$\max_{|\theta| = 1} W_p(\theta \cdot x, \theta \cdot y)$ and the direction in which x and y differ most.

    A lower bound of W_p(x, y), as projecting shortens; and of the maximum itself, as the ascent finds local ones: the
    best of several starts, the first of them the difference of the means. Gradients hold the direction fixed.

    Source: Deshpande et al. 2019, arXiv:1904.05877, eq. 8.

    Args:
        x, y: samples.
        generator: draws the starts.
        restarts: directions that climb side by side.
        steps: of each, doubled in length where they climb, halved where not.
        p: from 1 up, finite.
        weights_x, weights_y: of the samples; None: equal.
    """
    check_points(x=x, y=y)
    _check_slices(x, y, p, restarts=restarts, steps=steps)
    of_x = check_weights(weights_x, len(x), "weights_x", like=x)
    of_y = check_weights(weights_y, len(y), "weights_y", like=x)
    weights = {} if weights_x is None and weights_y is None else {"weights_x": of_x, "weights_y": of_y}

    def along(theta: Float[Tensor, "F R"], x: Tensor, y: Tensor) -> Float[Tensor, "R"]:
        return wasserstein_1d(x @ theta, y @ theta, p=p, **weights)

    def climbed(theta: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            value = along(theta, x.detach(), y.detach())
            (slope,) = torch.autograd.grad(value.sum(), theta)
        tangent = slope - (slope * theta).sum(0) * theta
        return value.detach(), _unit(tangent).detach()

    theta = torch.randn((x.shape[1], restarts), generator=generator, device=x.device, dtype=x.dtype)
    theta[:, 0] = torch.where((mean := of_y @ y.detach() - of_x @ x.detach()).norm() > 0, mean, theta[:, 0])
    theta = _unit(theta)
    value, uphill = climbed(theta)
    length = torch.full_like(value, 0.5)
    for _ in range(steps):
        there = _unit(theta + length * uphill)
        found, slope = climbed(there)
        better = found > value
        theta, uphill = torch.where(better, there, theta), torch.where(better, slope, uphill)
        value, length = torch.where(better, found, value), length * torch.where(better, 2.0, 0.5)
    best = theta[:, value.argmax()]
    return along(best[:, None], x, y)[0], best


def root(power: Float[Tensor, "*S"], p: float) -> Float[Tensor, "*S"]:
    """The p-th root, its gradient at zero zero: there the distance has a kink, and no slope is better than NaN."""
    positive = power > 0
    return torch.where(positive, torch.where(positive, power, 1.0).pow(1 / p), power.clamp(min=0))


def _equal_steps(x: Float[Tensor, "N *S"], y: Float[Tensor, "M *S"]) -> tuple[Tensor, Tensor | None]:
    """Gaps of the sorted samples' quantile functions and the widths of their steps; None where all are equal."""
    n, m = len(x), len(y)
    if n == m:
        return (x - y).abs(), None
    steps = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique().to(x.device)  # in units of 1/(nm)
    width = (steps.diff().double() / (n * m)).to(x.dtype)
    return (x[steps[:-1] // m] - y[steps[:-1] // n]).abs(), width.reshape(-1, *[1] * (x.ndim - 1))


def _weighted_steps(
    x: Float[Tensor, "N C"], y: Float[Tensor, "M C"], weights_x: Tensor | None, weights_y: Tensor | None
) -> tuple[Float[Tensor, "L C"], Float[Tensor, "L C"]]:
    """The same for weighted samples, each column in an order, and so with steps, of its own."""
    x, level_x, least_x, known_x = _sorted_levels(x, weights_x, "weights_x")
    y, level_y, least_y, known_y = _sorted_levels(y, weights_y, "weights_y")
    level, order = torch.cat([level_x, level_y], 1).sort(1)
    width = level.diff(dim=1, prepend=level.new_zeros(len(level), 1))
    of_x = (order < len(x)).long()
    i = (of_x.cumsum(1) - of_x).clamp(max=len(x) - 1).T  # levels of x that lie below: by order, as levels may coincide
    j = ((1 - of_x).cumsum(1) - (1 - of_x)).clamp(max=len(y) - 1).T
    # Sums that are equal on paper differ by rounding. What is between them is no step: p = inf would see its gap.
    rounding = 4 * max(known_x, known_y) + 2 * level.shape[1] * torch.finfo(torch.float64).eps
    step = width > torch.minimum(least_x, least_y).div(100).clamp(max=rounding)
    width = torch.where(step, width, width - width.detach())  # none now, yet weights that move apart open one
    return (x.gather(0, i) - y.gather(0, j)).abs(), width.T.to(x.dtype)


def _sorted_levels(x: Float[Tensor, "N C"], w: Tensor | None, name: str) -> tuple[Tensor, Tensor, Tensor, float]:
    """Sorted columns; F at each, (C, N), summed in double precision; the least weight, and how finely it is known."""
    known = torch.finfo(w.dtype if isinstance(w, Tensor) and w.is_floating_point() else torch.float64).eps
    w = check_weights(w, len(x), name, like=x.new_empty(0).double())
    x, order = x.sort(0)
    return x, w[order.T].cumsum(1), torch.where(w > 0, w, 1.0).detach().min(), known


def _power_mean(gap: Float[Tensor, "L *S"], width: Tensor | None, p: float) -> Float[Tensor, "*S"]:
    """The p-th root of the mean p-th power; of p above 2 relative to the largest, or it would overflow."""
    if math.isinf(p):
        return (gap if width is None else torch.where(width > 0, gap, 0.0)).amax(0)
    unit = torch.where((largest := gap.detach().amax(0)) > 0, largest, 1.0) if p > 2 else 1.0
    power = (gap / unit).pow(p)
    mean = power.mean(0) if width is None else (width * power).sum(0)
    return root(mean, p) * unit


def _unit(theta: Float[Tensor, "F R"]) -> Float[Tensor, "F R"]:
    return theta / theta.norm(dim=0).clamp(min=torch.finfo(theta.dtype).tiny)


def _check_slices(x: Tensor, y: Tensor, p: float, **at_least_one: int) -> None:
    check_rows(x=x, y=y)
    check_order(p, finite="slices have a p-th power to be averaged")
    for name, value in at_least_one.items():
        if value < 1:
            raise Unusable(f"{name} must be at least 1, got {value}; use more")
