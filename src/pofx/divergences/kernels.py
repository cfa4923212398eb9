"""Kernels by which a maximum mean discrepancy compares samples: (N, F), (M, F) -> (N, M), larger for nearer points."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.divergences.checks import check_points
from pofx.errors import Unusable

Kernel = Callable[[Tensor, Tensor], Tensor]

# Of a kernel's length: a sum over them sees differences near and far (Tolstikhin et al.'s own program has these).
_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def gaussian_kernel(bandwidth: float) -> Kernel:
    r"""$k(a, b) = \exp(-|a - b|^2 / 2h^2)$: characteristic (only equal laws are at distance 0), at most 1.

    >>> gaussian_kernel(1.0)(torch.zeros(1, 2), torch.tensor([[1.0, 1.0]]))
    tensor([[0.3679]])
    """
    _check_positive(bandwidth=bandwidth)
    return lambda a, b: (distances(a, b) / bandwidth).square().div(-2).exp()


def laplacian_kernel(bandwidth: float) -> Kernel:
    r"""$k(a, b) = \exp(-|a - b| / h)$, of the Euclidean distance: characteristic; it feels farther than a Gaussian."""
    _check_positive(bandwidth=bandwidth)
    return lambda a, b: (-distances(a, b) / bandwidth).exp()


def inverse_multiquadratic_kernel(scale: float) -> Kernel:
    r"""$k(a, b) = C / (C + |a - b|^2)$, C = ``scale``, in squared units: characteristic, and of heavy tails."""
    _check_positive(scale=scale)
    return lambda a, b: scale / (scale + distances(a, b).square())


def inverse_multiquadratics(a: Float[Tensor, "N F"], b: Float[Tensor, "M F"]) -> Float[Tensor, "N M"]:
    r"""$k(a, b) = \sum_s C_s / (C_s + |a - b|^2)$, $C_s = 2 F s$ for s from 0.1 to 10: its tails are heavy, so that a
    point far from all others still feels them. 2 F is the mean of $|a - b|^2$ between draws of N(0, I).

    Source: Tolstikhin et al. 2018, arXiv:1711.01558, section 4.
    """
    # Not by torch.cdist: the slope of a root at zero is no number, and on the diagonal the distance is zero.
    squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    c = 2 * a.shape[1] * torch.tensor(_SCALES, dtype=a.dtype, device=a.device)[:, None, None]
    return (c / (c + squared.clamp(min=0))).sum(0)


def polynomial_kernel(degree: int = 3, offset: float = 1.0) -> Kernel:
    r"""$k(a, b) = (a \cdot b / F + c)^d$: compares the moments up to the d-th, and nothing else."""
    if degree < 1 or offset < 0:
        raise Unusable(f"degree must be at least 1, offset not below 0, got {degree} and {offset}; use 3 and 1.0")
    return lambda a, b: (a @ b.T / a.shape[1] + offset) ** degree


def distance_kernel(exponent: float = 1.0) -> Kernel:
    r"""$k(a, b) = -|a - b|^\beta$, under which MMD^2 is the energy distance. Without a scale to choose, and
    characteristic for beta below 2; at 2 it sees the means alone. Positive on weights that sum to zero, as MMD's do.

    Source: Sejdinovic et al. 2013, arXiv:1207.6076, theorem 22.
    """
    if not 0 < exponent <= 2:
        raise Unusable(f"exponent must be above 0 and at most 2, got {exponent}; use 1.0")

    return lambda a, b: -(distances(a, b) ** exponent)


def median_bandwidth(x: Float[Tensor, "N F"], y: Float[Tensor, "M F"]) -> float:
    """The median distance between two different points of both samples together, in units of x: a usual bandwidth.

    A kernel that is chosen by it depends on the data: compare several pairs of samples under one bandwidth. Needs
    (N + M)^2 / 2 numbers of memory.

    Source: Gretton et al. 2012, section 8.

    Raises: ``Unusable`` where the median is zero: half of the pairs coincide.
    """
    check_points(x=x, y=y)
    median = torch.pdist(torch.cat([x, y]).detach()).median().item()
    if not median > 0:
        raise Unusable("the median distance must be above 0, and half of the pairs coincide; give a bandwidth")
    return median


def distances(a: Float[Tensor, "N F"], b: Float[Tensor, "M F"]) -> Float[Tensor, "N M"]:
    """|a_i - b_j|, without the cancellation of expanded squares; the slope at coinciding points is zero."""
    # cdist takes the slope at zero to be zero, whatever comes back to it.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _check_positive(**named: float) -> None:
    for name, value in named.items():
        if not 0 < value < math.inf:
            raise Unusable(f"{name} must be above 0 and finite, got {value}; try median_bandwidth(x, y)")
