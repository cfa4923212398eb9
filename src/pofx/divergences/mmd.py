"""Maximum mean discrepancy, the distance of two laws' means in the space of a kernel; energy distance is one."""

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.divergences.checks import check_columns, check_points, check_rows, check_weights
from pofx.divergences.kernels import Kernel, distance_kernel, polynomial_kernel
from pofx.divergences.wasserstein import root
from pofx.errors import Unusable


def mmd_squared(
    x: Float[Tensor, "N F"],
    y: Float[Tensor, "M F"],
    kernel: Kernel,
    *,
    biased: bool = False,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
) -> Float[Tensor, ""]:
    r"""Estimate of MMD^2: unbiased, so zero in the mean for equal laws and at times below it; N and M are at least 2.

    $\frac{1}{N(N-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{M(M-1)} \sum_{i \ne j} k(y_i, y_j)
    - \frac{2}{NM} \sum_{ij} k(x_i, y_j)$

    ``biased`` leaves no pair out (the V-statistic): the exact MMD^2 of the samples themselves, never below zero but for
    rounding, and on average too large by about E k(x, x) (1/N + 1/M). With weights a mean is a weighted one, and the
    unbiased one is of pairs i != j: $\sum_{i \ne j} w_i w_j k_{ij} / (1 - \sum_i w_i^2)$.

    Time and memory N^2 + M^2 + NM. Losses call it, so no value of a point is read: NaN in is NaN out.

    Source: Gretton et al. 2012, eq. 3 and 5.

    Args:
        x, y: samples of the two laws.
        kernel: (N, F), (M, F) -> (N, M).
        biased: the V-statistic.
        weights_x, weights_y: of the samples; None: equal.
    """
    cure = "give more of them" + ", or biased=True for one" * (not biased)
    check_rows(1 if biased else 2, cure, x=x, y=y)
    a = None if weights_x is None else check_weights(weights_x, len(x), "weights_x", like=x)
    b = None if weights_y is None else check_weights(weights_y, len(y), "weights_y", like=y)
    return _within(kernel(x, x), a, biased) + _within(kernel(y, y), b, biased) - 2 * _between(kernel(x, y), a, b)


def mmd(
    x: Float[Tensor, "N F"],
    y: Float[Tensor, "M F"],
    kernel: Kernel,
    *,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
) -> Float[Tensor, ""]:
    """The distance itself, between the samples: the root of the biased ``mmd_squared``, a metric for a characteristic
    kernel. Its gradient where it is zero is zero.
    """
    return root(mmd_squared(x, y, kernel, biased=True, weights_x=weights_x, weights_y=weights_y), 2)


def kernel_distance(
    x: Float[Tensor, "N F"], y: Float[Tensor, "M F"], *, degree: int = 3, offset: float = 1.0
) -> Float[Tensor, ""]:
    r"""``mmd_squared`` with the polynomial kernel $k(a, b) = (a \cdot b / F + 1)^3$, in double precision; unbiased.

    Source: Binkowski et al. 2018, arXiv:1801.01401, eq. 4.
    """
    check_points(2, x=x, y=y)
    return mmd_squared(x.double(), y.double(), polynomial_kernel(degree, offset))


def energy_distance(
    x: Float[Tensor, "N F"],
    y: Float[Tensor, "M F"],
    *,
    exponent: float = 1.0,
    biased: bool = True,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
) -> Float[Tensor, ""]:
    r"""$2 E|X - Y|^\beta - E|X - X'|^\beta - E|Y - Y'|^\beta$, in the units of x to the beta: ``mmd_squared`` under
    ``distance_kernel``. Exact between the samples; ``biased=False`` estimates that of their laws.

    Its root is a metric for beta below 2; ``scipy.stats.energy_distance`` gives that root.

    Source: Szekely and Rizzo 2013, eq. 5.
    """
    check_points(1 if biased else 2, x=x, y=y)
    kernel = distance_kernel(exponent)
    return mmd_squared(x, y, kernel, biased=biased, weights_x=weights_x, weights_y=weights_y)


def energy_distance_1d(
    x: Float[Tensor, "N *S"],
    y: Float[Tensor, "M *S"],
    *,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
) -> Float[Tensor, "*S"]:
    r"""The same on a line, for each column: $2 \int (F_x - F_y)^2$, in units of x; exact between the samples,
    in the time of sorting. No value of a point is read: NaN in is NaN out.

    Source: Szekely and Rizzo 2013, theorem 1 and its remark on one dimension.
    """
    check_columns(x=x, y=y)
    a = check_weights(weights_x, len(x), "weights_x", like=x)
    b = check_weights(weights_y, len(y), "weights_y", like=y)
    points, order = torch.cat([x, y]).sort(0)
    difference = torch.cat([a, -b])[order].cumsum(0)[:-1]  # F_x - F_y between a point and the next
    return 2 * (difference.square() * points.diff(dim=0)).sum(0)


def _within(k: Float[Tensor, "N N"], w: Tensor | None, biased: bool) -> Float[Tensor, ""]:
    if biased:
        return _between(k, w, w)
    if w is None:
        n = len(k)
        return (k.sum() - k.trace()) / (n * (n - 1))
    if not (pairs := 1 - w.square().sum()) > 0:
        raise Unusable("an unbiased estimate needs weight on two points, and all is on one; use biased=True")
    return (w @ k @ w - w.square() @ k.diagonal()) / pairs


def _between(k: Float[Tensor, "N M"], a: Tensor | None, b: Tensor | None) -> Float[Tensor, ""]:
    if a is None and b is None:
        return k.mean()
    by_column = k.mean(0) if a is None else a @ k
    return by_column.mean() if b is None else by_column @ b
