"""Divergences between laws, and their estimates from samples: pure functions."""

from pofx.divergences.densities import divergence_of_laws
from pofx.divergences.estimated import Estimated
from pofx.divergences.f_divergences import (
    F_DIVERGENCES,
    FDivergence,
    alpha_divergence,
    f_divergence,
    f_divergence_of_logs,
)
from pofx.divergences.gaussians import frechet, moments
from pofx.divergences.information import donsker_varadhan, info_nce, normal_mutual_information, nwj
from pofx.divergences.mmd import inverse_multiquadratics, kernel_distance, mmd_squared
from pofx.divergences.modes import ModeCoverage, mode_coverage
from pofx.divergences.neighbours import PRDC, memorisation, nearest_distance, prdc
from pofx.divergences.spectra import lost_energy, power_spectrum
from pofx.divergences.two_sample import TwoSampleTest, classifier_two_sample_test
from pofx.divergences.variational import variational_bound, wasserstein_dual
from pofx.divergences.wasserstein import sliced_wasserstein, wasserstein_1d, wasserstein_exact

__all__ = [
    "F_DIVERGENCES",
    "PRDC",
    "Estimated",
    "FDivergence",
    "ModeCoverage",
    "TwoSampleTest",
    "alpha_divergence",
    "classifier_two_sample_test",
    "divergence_of_laws",
    "donsker_varadhan",
    "f_divergence",
    "f_divergence_of_logs",
    "frechet",
    "info_nce",
    "inverse_multiquadratics",
    "kernel_distance",
    "lost_energy",
    "memorisation",
    "mmd_squared",
    "mode_coverage",
    "moments",
    "nearest_distance",
    "normal_mutual_information",
    "nwj",
    "power_spectrum",
    "prdc",
    "sliced_wasserstein",
    "variational_bound",
    "wasserstein_1d",
    "wasserstein_dual",
    "wasserstein_exact",
]
