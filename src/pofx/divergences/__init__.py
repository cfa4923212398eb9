"""Divergences between laws, and their estimates from samples: pure functions."""

from pofx.divergences.densities import divergence_of_laws
from pofx.divergences.estimated import Estimated
from pofx.divergences.exact_transport import OptimalTransport, displacement, optimal_transport, wasserstein_exact
from pofx.divergences.f_divergences import (
    F_DIVERGENCES,
    FDivergence,
    alpha_divergence,
    f_divergence,
    f_divergence_of_logs,
)
from pofx.divergences.gaussians import frechet, gaussian_displacement, gaussian_map, moments
from pofx.divergences.information import donsker_varadhan, info_nce, normal_mutual_information, nwj
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
from pofx.divergences.modes import ModeCoverage, mode_coverage
from pofx.divergences.neighbours import PRDC, memorisation, nearest_distance, prdc
from pofx.divergences.ranks import auc
from pofx.divergences.sinkhorn import EntropicTransport, sinkhorn, sinkhorn_divergence, sinkhorn_matrix
from pofx.divergences.spectra import lost_energy, power_spectrum
from pofx.divergences.two_sample import TwoSampleTest, classifier_two_sample_test
from pofx.divergences.variational import variational_bound, wasserstein_dual
from pofx.divergences.wasserstein import max_sliced_wasserstein, sliced_wasserstein, wasserstein_1d

__all__ = [
    "F_DIVERGENCES",
    "PRDC",
    "EntropicTransport",
    "Estimated",
    "FDivergence",
    "ModeCoverage",
    "OptimalTransport",
    "TwoSampleTest",
    "alpha_divergence",
    "auc",
    "classifier_two_sample_test",
    "displacement",
    "distance_kernel",
    "divergence_of_laws",
    "donsker_varadhan",
    "energy_distance",
    "energy_distance_1d",
    "f_divergence",
    "f_divergence_of_logs",
    "frechet",
    "gaussian_displacement",
    "gaussian_kernel",
    "gaussian_map",
    "info_nce",
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
    "mode_coverage",
    "moments",
    "nearest_distance",
    "normal_mutual_information",
    "nwj",
    "optimal_transport",
    "polynomial_kernel",
    "power_spectrum",
    "prdc",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_matrix",
    "sliced_wasserstein",
    "variational_bound",
    "wasserstein_1d",
    "wasserstein_dual",
    "wasserstein_exact",
]
