"""Distances between two normal laws, and what is estimated by them."""

import torch
from jaxtyping import Float
from torch import Tensor


def frechet(
    mean_a: Float[Tensor, "F"], cov_a: Float[Tensor, "F F"], mean_b: Float[Tensor, "F"], cov_b: Float[Tensor, "F F"]
) -> Float[Tensor, ""]:
    r"""Squared 2-Wasserstein distance of two normal laws, also called squared Bures-Wasserstein.

    $d^2 = |m_a - m_b|^2 + \mathrm{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})$, in squared units.

    Source: Dowson and Landau 1982; as a score of samples: Heusel et al. 2017, arXiv:1706.08500, eq. 6.

    >>> i = torch.eye(2, dtype=torch.float64)
    >>> round(frechet(torch.zeros(2).double(), i, torch.ones(2).double(), 4 * i).item(), 6)
    4.0
    """
    root = _square_root(cov_a)
    overlap = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap


def moments(x: Float[Tensor, "N F"]) -> tuple[Float[Tensor, "F"], Float[Tensor, "F F"]]:
    """Mean and unbiased covariance of the rows, in float64: a covariance of many features needs the digits."""
    x = x.double()
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / max(1, len(x) - 1)


def _square_root(cov: Float[Tensor, "F F"]) -> Float[Tensor, "F F"]:
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
