"""Divergences between laws, and their estimates from samples: pure functions."""

from pofx.divergences.gaussians import frechet, moments
from pofx.divergences.mmd import kernel_distance
from pofx.divergences.neighbours import PRDC, memorisation, nearest_distance, prdc
from pofx.divergences.spectra import lost_energy, power_spectrum
from pofx.divergences.wasserstein import sliced_wasserstein, wasserstein_1d, wasserstein_exact

__all__ = [
    "PRDC",
    "frechet",
    "kernel_distance",
    "lost_energy",
    "memorisation",
    "moments",
    "nearest_distance",
    "power_spectrum",
    "prdc",
    "sliced_wasserstein",
    "wasserstein_1d",
    "wasserstein_exact",
]
