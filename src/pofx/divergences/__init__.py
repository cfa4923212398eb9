"""Divergences between laws, and their estimates from samples: pure functions."""

from pofx.divergences.gaussians import frechet, moments
from pofx.divergences.mmd import kernel_distance
from pofx.divergences.neighbours import PRDC, memorisation, nearest_distance, prdc
from pofx.divergences.wasserstein import sliced_wasserstein, wasserstein_1d, wasserstein_exact

__all__ = [
    "PRDC",
    "frechet",
    "kernel_distance",
    "memorisation",
    "moments",
    "nearest_distance",
    "prdc",
    "sliced_wasserstein",
    "wasserstein_1d",
    "wasserstein_exact",
]
