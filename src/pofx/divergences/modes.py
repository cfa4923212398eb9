"""Which of the modes of a known mixture samples have, how evenly, and how wide."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.divergences.checks import check_finite
from pofx.errors import Unusable

_REACH = 3.0  # standard deviations within which a sample is of a mode


@dataclass(frozen=True)
class ModeCoverage:
    """What samples have of a mixture's K modes.

    Args:
        found: modes with at least one sample within three standard deviations.
        kl: KL(q || uniform) in nats, q the share of the samples that are nearest to each centre. A plug-in estimate:
            that of a perfect sampler is about (K - 1) / 2N, not 0.
        within: share of the samples within three standard deviations of a centre; of a perfect sampler 98.9% in two
            dimensions.
        variance: (K,) of each mode's samples within three standard deviations, around their own mean, relative to that
            of a normal cut there: 1 of a perfect sampler; NaN of a mode with fewer than two.
    """

    found: int
    kl: float
    within: float
    variance: Float[Tensor, "K"]


def mode_coverage(samples: Float[Tensor, "N D"], centres: Float[Tensor, "K D"], sd: float) -> ModeCoverage:
    """Holds N samples against equal normals N(centre_k, sd^2 I) that lie far apart.

    Every sample counts for the nearest centre, also one that lies between modes. The variance leaves these out, as a
    single one would outweigh a mode: so it reads together with ``within``.

    Raises:
        Unusable: shapes that do not fit, no samples, or a standard deviation that is not above 0.

    Source: Lin et al. 2018, arXiv:1712.04086, section 4.1; Srivastava et al. 2017, arXiv:1705.07761, section 4.1.
    """
    if samples.ndim != 2 or centres.ndim != 2 or samples.shape[1:] != centres.shape[1:] or not len(samples):
        shapes = f"{tuple(samples.shape)} and {tuple(centres.shape)}"
        raise Unusable(f"samples (N, D) are held against centres (K, D), got {shapes}; give points of one space")
    check_finite(samples=samples, centres=centres)
    if not 0 < sd < math.inf:
        raise Unusable(f"sd must be above 0, and finite, got {sd}; give that of the mixture's parts")
    samples, centres = samples.double(), centres.to(samples.device).double()
    modes, dim = centres.shape
    distance, nearest = torch.cdist(samples, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    q = nearest.bincount(minlength=modes) / len(samples)
    near = distance <= _REACH * sd
    rows = [samples[near & (nearest == k)] for k in range(modes)]
    variance = torch.stack([of.var(0).mean() if len(of) > 1 else of.new_tensor(math.nan) for of in rows])
    return ModeCoverage(
        found=sum(len(of) > 0 for of in rows),
        kl=torch.special.xlogy(q, modes * q).sum().item(),
        within=near.double().mean().item(),
        variance=variance / (sd**2 * _cut(dim)),
    )


def _cut(dim: int) -> float:
    """Variance of each coordinate of N(0, I) given |x| <= 3: P(chi2_{D+2} <= 9) / P(chi2_D <= 9)."""
    half = torch.tensor([dim + 2, dim], dtype=torch.float64) / 2
    above, below = torch.special.gammainc(half, torch.full_like(half, _REACH**2 / 2)).tolist()
    return above / below
