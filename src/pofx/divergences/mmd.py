"""Maximum mean discrepancy: the distance of two laws' means in the space of a kernel."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]

# Of a kernel's length: a sum over them sees differences near and far (Tolstikhin et al.'s own program has these).
_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def mmd_squared(x: Float[Tensor, "N F"], y: Float[Tensor, "M F"], kernel: Kernel) -> Float[Tensor, ""]:
    r"""Unbiased estimate of MMD^2; zero in the mean for equal laws, and so at times below it. N and M are at least 2.

    $\frac{1}{N(N-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{M(M-1)} \sum_{i \ne j} k(y_i, y_j)
    - \frac{2}{NM} \sum_{ij} k(x_i, y_j)$

    Source: Gretton et al. 2012, eq. 3.

    Args:
        x, y: samples of the two laws.
        kernel: (N, F), (M, F) -> (N, M).
    """
    return _off_diagonal_mean(kernel(x, x)) + _off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()


def kernel_distance(
    x: Float[Tensor, "N F"], y: Float[Tensor, "M F"], *, degree: int = 3, offset: float = 1.0
) -> Float[Tensor, ""]:
    r"""``mmd_squared`` with the polynomial kernel $k(a, b) = (a \cdot b / F + 1)^3$, in double precision.

    Source: Binkowski et al. 2018, arXiv:1801.01401, eq. 4.
    """

    def polynomial(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + offset) ** degree

    return mmd_squared(x.double(), y.double(), polynomial)


def inverse_multiquadratics(a: Float[Tensor, "N F"], b: Float[Tensor, "M F"]) -> Float[Tensor, "N M"]:
    r"""$k(a, b) = \sum_s C_s / (C_s + |a - b|^2)$, $C_s = 2 F s$ for s from 0.1 to 10: its tails are heavy, so that a
    point far from all others still feels them. 2 F is the mean of $|a - b|^2$ between draws of N(0, I).

    Source: Tolstikhin et al. 2018, arXiv:1711.01558, section 4.
    """
    # Not by torch.cdist: the slope of a root at zero is no number, and on the diagonal the distance is zero.
    squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    c = 2 * a.shape[1] * torch.tensor(_SCALES, dtype=a.dtype, device=a.device)[:, None, None]
    return (c / (c + squared.clamp(min=0))).sum(0)


def _off_diagonal_mean(k: Float[Tensor, "N N"]) -> Float[Tensor, ""]:
    n = len(k)
    return (k.sum() - k.trace()) / (n * (n - 1))
