"""Likelihood heads and priors: small classes with ``log_prob`` and a ``sample`` that takes its generator."""

from pofx.distributions.discrete import Bernoulli, Categorical
from pofx.distributions.likelihood import Independent, Likelihood, likelihood
from pofx.distributions.logistic import DiscretisedLogistic, DiscretisedLogisticMixture
from pofx.distributions.normal import DiagonalNormal, Normal, standard_normal_log_prob

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalNormal",
    "DiscretisedLogistic",
    "DiscretisedLogisticMixture",
    "Independent",
    "Likelihood",
    "Normal",
    "likelihood",
    "standard_normal_log_prob",
]
