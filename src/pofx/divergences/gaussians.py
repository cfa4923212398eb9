"""Two normal laws: their distance, the map between them, what lies on the way, and what is estimated by them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from pofx.divergences.checks import check_columns, check_finite, check_rows, check_way
from pofx.errors import Unusable

# Of the total variance: what float32 may leave of an asymmetry, or of an eigenvalue below zero.
_ROUNDING = 1e-4


def frechet(
    mean_a: Float[Tensor, "*S F"],
    cov_a: Float[Tensor, "*S F F"],
    mean_b: Float[Tensor, "*S F"],
    cov_b: Float[Tensor, "*S F F"],
) -> Float[Tensor, "*S"]:
    r"""Squared 2-Wasserstein distance of two normal laws, also called squared Bures-Wasserstein; exact.

    $d^2 = |m_a - m_b|^2 + \mathrm{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})$, in squared units.

    Of any two laws with these moments it is a lower bound. Computed in double precision. Singular covariances are
    welcome; gradients leave out the infinite slopes that there are where one is zero and the other is not.

    Source: Dowson and Landau 1982; Gelbrich 1990; as a score of samples: Heusel et al. 2017, arXiv:1706.08500, eq. 6.

    >>> i = torch.eye(2, dtype=torch.float64)
    >>> round(frechet(torch.zeros(2).double(), i, torch.ones(2).double(), 4 * i).item(), 6)
    4.0
    """
    _check_normals(mean_a, cov_a, mean_b, cov_b)
    a, b = cov_a.double(), cov_b.double()
    half = square_root(a)
    overlap = square_root(half @ b @ half)
    bures = (a + b - 2 * overlap).diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((mean_a.double() - mean_b.double()).square().sum(-1) + bures).to(cov_a.dtype)


def gaussian_map(
    x: Float[Tensor, "N F"],
    mean_a: Float[Tensor, "F"],
    cov_a: Float[Tensor, "F F"],
    mean_b: Float[Tensor, "F"],
    cov_b: Float[Tensor, "F F"],
) -> Float[Tensor, "N F"]:
    r"""Monge's map of N(m_a, S_a) onto N(m_b, S_b), at each row of x: the gradient of a convex function; exact.

    $T(x) = m_b + A (x - m_a)$, $A = S_a^{-1/2} (S_a^{1/2} S_b S_a^{1/2})^{1/2} S_a^{-1/2}$

    Source: Olkin and Pukelsheim 1982; Peyre and Cuturi 2019, arXiv:1803.00567, eq. 2.40.

    Raises: ``Unusable`` where a is singular in a way that no such map mends: b has more dimensions, or others.
    """
    _check_normals(mean_a, cov_a, mean_b, cov_b)
    if x.ndim != 2 or x.shape[-1:] != mean_a.shape[-1:]:
        raise Unusable(
            f"x must be (N, {mean_a.shape[-1]}), of the laws' columns, got shape {tuple(x.shape)}; give the same"
        )
    return mean_b + (x - mean_a) @ _slope(cov_a, cov_b)


def gaussian_displacement(
    mean_a: Float[Tensor, "F"],
    cov_a: Float[Tensor, "F F"],
    mean_b: Float[Tensor, "F"],
    cov_b: Float[Tensor, "F F"],
    t: float,
) -> tuple[Float[Tensor, "F"], Float[Tensor, "F F"]]:
    r"""Mean and covariance of $(1 - t) x + t T(x)$, McCann's interpolation: normal, at $t W_2$ from a; exact.

    Source: McCann 1997; Peyre and Cuturi 2019, arXiv:1803.00567, remark 7.1.
    """
    _check_normals(mean_a, cov_a, mean_b, cov_b)
    check_way(t)
    step = (1 - t) * torch.eye(len(cov_a)).to(cov_a) + t * _slope(cov_a, cov_b)
    return (1 - t) * mean_a + t * mean_b, step @ cov_a @ step


def moments(x: Float[Tensor, "N F"]) -> tuple[Float[Tensor, "F"], Float[Tensor, "F F"]]:
    """Mean and unbiased covariance of the rows, in float64: a covariance of many features needs the digits; that
    of a single row is zero. No value is read."""
    x = x.double()
    check_rows(x=x)
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / max(1, len(x) - 1)


def square_root(cov: Float[Tensor, "*S F F"]) -> Float[Tensor, "*S F F"]:
    """The symmetric root of a positive semidefinite matrix. Its gradient, unlike that of an eigendecomposition, does
    not mind equal eigenvalues; along directions in which the matrix is zero, where the slope is infinite, it is zero.
    """
    return _SquareRoot.apply(cov)


class _SquareRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cov: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(cov)
        roots = torch.where(values > _relative_rounding(cov) * values[..., -1:], values.clamp(min=0), 0.0).sqrt()
        ctx.save_for_backward(roots, vectors)
        return (vectors * roots.unsqueeze(-2)) @ vectors.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """R dR + dR R = dS, solved in the basis of R."""
        roots, vectors = ctx.saved_tensors
        sums = roots.unsqueeze(-1) + roots.unsqueeze(-2)
        inner = vectors.mT @ slope @ vectors
        solved = torch.where(sums > 0, inner / sums, 0.0)
        return vectors @ (solved + solved.mT) @ vectors.mT / 2


def _slope(cov_a: Float[Tensor, "F F"], cov_b: Float[Tensor, "F F"]) -> Float[Tensor, "F F"]:
    """A, on the support of a, in double precision."""
    a, b = cov_a.double(), cov_b.double()
    half = square_root(a)
    inverse = torch.linalg.pinv(half, rtol=_relative_rounding(a) ** 0.5, hermitian=True)
    slope = inverse @ square_root(half @ b @ half) @ inverse
    missed = (slope @ a @ slope - b).detach().norm()
    if not missed <= 1e-6 * b.detach().norm():
        raise Unusable(
            f"a law of fewer dimensions has no map onto one of more, and the image's covariance would be off by "
            f"{missed.item():.3g}; map from the other side, or add a little variance to the first"
        )
    return slope.to(cov_a.dtype)


def _relative_rounding(matrix: Tensor) -> float:
    """Eigenvalues are known to this share of the largest."""
    return matrix.shape[-1] * torch.finfo(matrix.dtype).eps


def _check_normals(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> None:
    check_columns(mean_a=mean_a)
    check_columns(cov_a=cov_a)
    check_columns(mean_b=mean_b)
    check_columns(cov_b=cov_b)
    check_finite(mean_a=mean_a, cov_a=cov_a, mean_b=mean_b, cov_b=cov_b)
    width = mean_a.shape[-1]
    for name, cov in (("cov_a", cov_a), ("cov_b", cov_b)):
        if cov.shape[-2:] != (width, width) or mean_b.shape[-1] != width:
            raise Unusable(
                f"means must be of one width F and covariances F by F, got {width}, {mean_b.shape[-1]} and for {name} "
                f"{tuple(cov.shape)}; give both the same columns"
            )
        _check_covariance(cov.detach().double(), name)


def _check_covariance(cov: Float[Tensor, "*S F F"], name: str) -> None:
    """Symmetric and positive semidefinite, but for rounding of float32, in units of the total variance."""
    total = cov.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    ridged = cov + _ROUNDING * total.clamp(min=1e-300) * torch.eye(cov.shape[-1]).to(cov)
    uneven = (cov - cov.mT).abs() > _ROUNDING * total
    if uneven.any() or torch.linalg.cholesky_ex(ridged).info.any():
        raise Unusable(
            f"{name} must be a covariance, symmetric and with no negative eigenvalue, got one that is not; "
            f"moments(x) makes one"
        )
