"""Likelihood heads and priors: small classes with ``log_prob`` and a ``sample`` that takes its generator."""

from pofx.distributions.codes import PointMass, Symbols
from pofx.distributions.discrete import Bernoulli, Categorical
from pofx.distributions.likelihood import Independent, Kind, Likelihood, likelihood
from pofx.distributions.logistic import DiscretisedLogistic, DiscretisedLogisticMixture
from pofx.distributions.normal import (
    DiagonalNormal,
    DiscretisedNormal,
    FullNormal,
    Normal,
    TruncatedNormal,
    standard_normal_log_prob,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalNormal",
    "DiscretisedLogistic",
    "DiscretisedLogisticMixture",
    "DiscretisedNormal",
    "FullNormal",
    "Independent",
    "Kind",
    "Likelihood",
    "Normal",
    "PointMass",
    "Symbols",
    "TruncatedNormal",
    "likelihood",
    "standard_normal_log_prob",
]
