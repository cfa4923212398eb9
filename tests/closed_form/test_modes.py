"""Coverage of modes, of a perfect sampler and of planted collapses."""

import math

import pytest
import torch
from scipy import stats

from pofx.data.toys import mixture
from pofx.divergences import mode_coverage
from pofx.errors import Unusable
from pofx.randomness import stream

MIXTURES = [("ring", 8, 0.01), ("grid", 25, 0.05)]


def drawn(name, modes, sd, part):
    return mixture(name, modes, sd).draw(part, generator=stream(0, "test"))


@pytest.mark.parametrize(("name", "modes", "sd"), MIXTURES)
def test_a_perfect_sampler(name, modes, sd):
    part = torch.randint(modes, (100_000,), generator=stream(1, "test"))
    found = mode_coverage(drawn(name, modes, sd, part), torch.tensor(mixture(name, modes, sd).centres), sd)
    assert found.found == modes
    assert 2 * len(part) * found.kl == pytest.approx(modes - 1, abs=4 * math.sqrt(2 * (modes - 1)))  # chi-squared
    assert found.within == pytest.approx(stats.chi2.cdf(9, 2), abs=4 * math.sqrt(0.989 * 0.011 / len(part)))
    torch.testing.assert_close(found.variance, torch.ones_like(found.variance), atol=0.06, rtol=0)


@pytest.mark.parametrize(("name", "modes", "sd"), MIXTURES)
def test_a_lost_mode_and_an_uneven_one(name, modes, sd):
    part = torch.cat([torch.zeros(300), torch.arange(2, modes).repeat_interleave(100)]).long()
    found = mode_coverage(drawn(name, modes, sd, part), torch.tensor(mixture(name, modes, sd).centres), sd)
    assert found.found == modes - 1
    assert found.kl == pytest.approx(stats.entropy([3, 0, *[1] * (modes - 2)], [1] * modes))
    assert found.variance[1].isnan()


def test_means_alone_are_all_within_and_have_no_variance():
    centres = torch.tensor(mixture("ring", 8, 0.01).centres)
    found = mode_coverage(centres.repeat(50, 1), centres, 0.01)
    assert (found.found, found.within) == (8, 1.0)
    assert found.kl == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(found.variance, torch.zeros(8).double())


def test_points_between_modes_count_for_the_nearest_and_for_no_variance():
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    samples = torch.tensor([[0.0, 0.0], [0.02, 0.0], [0.4, 0.0], [0.7, 0.0]])
    found = mode_coverage(samples, centres, 0.01)
    assert (found.found, found.within) == (1, 0.5)
    assert found.kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    cut = stats.chi2.cdf(9, 4) / stats.chi2.cdf(9, 2)
    assert found.variance[0].item() == pytest.approx((0.02**2 / 2 + 0) / 2 / 0.01**2 / cut)
    assert found.variance[1].isnan()


@pytest.mark.parametrize("dim", [1, 3])
def test_in_other_dimensions_too(dim):
    samples = 0.2 * torch.randn(50_000, dim, generator=stream(0, "test"))
    found = mode_coverage(samples, torch.zeros(1, dim), 0.2)
    assert found.within == pytest.approx(stats.chi2.cdf(9, dim), abs=0.003)
    assert found.variance.item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("samples", "sd", "message"),
    [
        (torch.zeros(0, 2), 0.1, "points of one space"),
        (torch.zeros(3, 2), 0.0, "above 0"),
        (torch.full((3, 2), math.nan), 0.1, "must be finite"),
    ],
)
def test_refused_in_one_line(samples, sd, message):
    with pytest.raises(Unusable, match=message):
        mode_coverage(samples, torch.zeros(2, 2), sd)
