"""Divergences between laws, and their estimates from samples: pure functions."""

from pofx.divergences.exact_transport import OptimalTransport, displacement, optimal_transport, wasserstein_exact
from pofx.divergences.gaussians import frechet, gaussian_displacement, gaussian_map, moments
from pofx.divergences.kernels import (
    distance_kernel,
    gaussian_kernel,
    inverse_multiquadratic_kernel,
    inverse_multiquadratics,
    laplacian_kernel,
    median_bandwidth,
    polynomial_kernel,
)
from pofx.divergences.mmd import energy_distance, energy_distance_1d, kernel_distance, mmd, mmd_squared
from pofx.divergences.neighbours import PRDC, memorisation, nearest_distance, prdc
from pofx.divergences.spectra import lost_energy, power_spectrum
from pofx.divergences.wasserstein import max_sliced_wasserstein, sliced_wasserstein, wasserstein_1d

__all__ = [
    "PRDC",
    "OptimalTransport",
    "displacement",
    "distance_kernel",
    "energy_distance",
    "energy_distance_1d",
    "frechet",
    "gaussian_displacement",
    "gaussian_kernel",
    "gaussian_map",
    "inverse_multiquadratic_kernel",
    "inverse_multiquadratics",
    "kernel_distance",
    "laplacian_kernel",
    "lost_energy",
    "max_sliced_wasserstein",
    "median_bandwidth",
    "memorisation",
    "mmd",
    "mmd_squared",
    "moments",
    "nearest_distance",
    "optimal_transport",
    "polynomial_kernel",
    "power_spectrum",
    "prdc",
    "sliced_wasserstein",
    "wasserstein_1d",
    "wasserstein_exact",
]
