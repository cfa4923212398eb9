"""Divergences between laws, and their estimates from samples: pure functions."""

from pofx.divergences.gaussians import frechet, moments
from pofx.divergences.mmd import inverse_multiquadratics, kernel_distance, mmd_squared
from pofx.divergences.modes import ModeCoverage, mode_coverage
from pofx.divergences.neighbours import PRDC, memorisation, nearest_distance, prdc
from pofx.divergences.spectra import lost_energy, power_spectrum
from pofx.divergences.wasserstein import sliced_wasserstein, wasserstein_1d, wasserstein_exact

__all__ = [
    "PRDC",
    "ModeCoverage",
    "frechet",
    "inverse_multiquadratics",
    "kernel_distance",
    "lost_energy",
    "memorisation",
    "mmd_squared",
    "mode_coverage",
    "moments",
    "nearest_distance",
    "power_spectrum",
    "prdc",
    "sliced_wasserstein",
    "wasserstein_1d",
    "wasserstein_exact",
]
