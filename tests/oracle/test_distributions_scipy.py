"""Likelihood heads against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from pofx.distributions import (
    DiagonalNormal,
    DiscretisedLogistic,
    DiscretisedLogisticMixture,
    DiscretisedNormal,
    TruncatedNormal,
)
from pofx.randomness import stream


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretised_logistic_is_a_difference_of_scipys_cdf(levels):
    mu = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
    log_scale = torch.linspace(-4, 0, 7, dtype=torch.float64)
    edges = np.concatenate([[-np.inf], 2 * np.arange(1, levels) / levels - 1, [np.inf]])
    cdf = stats.logistic.cdf(edges[:, None], loc=mu.numpy(), scale=log_scale.exp().numpy())
    survival = stats.logistic.sf(edges[:, None], loc=mu.numpy(), scale=log_scale.exp().numpy())
    expected = np.where(cdf[1:] < 0.5, np.diff(cdf, axis=0), -np.diff(survival, axis=0))
    log_p = DiscretisedLogistic(mu, log_scale, levels).log_prob(torch.arange(levels)[:, None])
    np.testing.assert_allclose(log_p.exp().numpy(), expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretised_normal_is_a_difference_of_scipys_cdf(levels):
    """Also far from mu, where both of the differences' terms are nearly one or nearly zero."""
    mu = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
    log_var = torch.linspace(-7, 1, 7, dtype=torch.float64)
    sigma = (log_var / 2).exp().numpy()
    edges = np.concatenate([[-np.inf], 2 * np.arange(1, levels) / levels - 1, [np.inf]])
    cdf = stats.norm.cdf(edges[:, None], loc=mu.numpy(), scale=sigma)
    survival = stats.norm.sf(edges[:, None], loc=mu.numpy(), scale=sigma)
    expected = np.where(cdf[1:] < 0.5, np.diff(cdf, axis=0), -np.diff(survival, axis=0))
    log_p = DiscretisedNormal(mu, log_var, levels).log_prob(torch.arange(levels)[:, None])
    np.testing.assert_allclose(log_p.exp().numpy(), expected, rtol=1e-7, atol=1e-300)


@pytest.mark.parametrize("levels", [3, 17, 256])
def test_truncated_normal_is_a_difference_of_scipys_cdf(levels):
    """Its mean is the table's, its mode the level that holds mu, and its draws have its frequencies."""
    mu = torch.tensor([-1.0, -0.51, 0.0, 0.3, 1.0], dtype=torch.float64)
    log_var = torch.linspace(-6, 2, 5, dtype=torch.float64)
    sigma = (log_var / 2).exp().numpy()
    law = stats.truncnorm((-1 - mu.numpy()) / sigma, (1 - mu.numpy()) / sigma, loc=mu.numpy(), scale=sigma)
    expected = np.diff(law.cdf(2 * np.arange(levels + 1)[:, None] / levels - 1), axis=0)
    p = TruncatedNormal(mu, log_var, levels)
    table = p.log_prob(torch.arange(levels)[:, None]).exp().numpy()
    np.testing.assert_allclose(table, expected, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(p.mean, np.arange(levels) @ expected, rtol=1e-9)
    assert p.mode.tolist() == [min(int((m + 1) * levels / 2), levels - 1) for m in mu.tolist()]
    draws = TruncatedNormal(mu.expand(20_000, 5), log_var.expand(20_000, 5), levels).sample(generator=stream(0, "draw"))
    np.testing.assert_allclose(draws.double().mean(0), p.mean, atol=4 * levels / 2 * 0.6 / 140, rtol=0)


def test_a_mixture_is_the_weighted_sum():
    generator = stream(0, "test")
    logits, mu, log_scale = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) - 1
    x = torch.arange(10)[:, None].expand(-1, 5)
    parts = DiscretisedLogistic(mu, log_scale, 10).log_prob(x[:, None]).exp()
    expected = (logits.softmax(0) * parts).sum(1).log()
    torch.testing.assert_close(DiscretisedLogisticMixture(logits, mu, log_scale, 10).log_prob(x), expected)


def test_diagonal_normal_is_scipys():
    generator = stream(1, "test")
    mu, log_var, x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    expected = stats.multivariate_normal.logpdf(x.numpy(), mu.numpy(), np.diag(log_var.exp().numpy()))
    assert float(DiagonalNormal(mu, log_var).log_prob(x)) == pytest.approx(expected)
