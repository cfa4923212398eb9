"""Wasserstein distances of two samples: on a line, exact, and sliced."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor


def wasserstein_1d(a: Float[Tensor, "N *S"], b: Float[Tensor, "M *S"], *, p: float = 2.0) -> Float[Tensor, "*S"]:
    r"""$W_p = (\int_0^1 |F_a^{-1}(q) - F_b^{-1}(q)|^p dq)^{1/p}$ on a line, for each column, in units of a.

    Of equal sizes it is the sorted samples compared one by one; of unequal, the steps of both quantile functions
    are merged.

    >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([4.0, 3.0]))
    tensor(3.)
    """
    a, b = a.sort(0).values, b.sort(0).values
    if len(a) == len(b):
        return (a - b).abs().pow(p).mean(0).pow(1 / p)
    n, m = len(a), len(b)
    steps = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique().to(a.device)  # in units of 1/(nm)
    width = steps.diff().to(a.dtype) / (n * m)
    gap = (a[steps[:-1] // m] - b[steps[:-1] // n]).abs().pow(p)
    return torch.tensordot(width, gap, dims=1).pow(1 / p)


def sliced_wasserstein(
    a: Float[Tensor, "N F"], b: Float[Tensor, "M F"], *, generator: Generator, projections: int = 256, p: float = 2.0
) -> Float[Tensor, ""]:
    r"""$(\mathrm{E}_\theta\, W_p^p(\theta \cdot a, \theta \cdot b))^{1/p}$ over directions uniform on the sphere.

    A shift by t is a distance of |t| / sqrt(F) for p = 2.

    Source: Rabin et al. 2011; Bonneel et al. 2015, eq. 8.
    """
    theta = torch.randn((a.shape[1], projections), generator=generator, device=a.device, dtype=a.dtype)
    theta = theta / theta.norm(dim=0)
    return wasserstein_1d(a @ theta, b @ theta, p=p).pow(p).mean().pow(1 / p)


def wasserstein_exact(a: Float[Tensor, "N F"], b: Float[Tensor, "M F"], *, p: float = 2.0) -> float:
    r"""$W_p = \min_\pi (\sum_{ij} \pi_{ij} |a_i - b_j|^p)^{1/p}$, by network simplex; about n^2.5 in time, a second for
    n = 2000.

    Source: Bonneel et al. 2011; the POT library's ``emd2``.
    """
    import ot

    cost = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist").pow(p)
    return float(ot.emd2([], [], cost.cpu().numpy(), numItermax=1_000_000)) ** (1 / p)
