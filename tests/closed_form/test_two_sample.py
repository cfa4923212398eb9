"""A classifier tells samples apart as well as the best one can, and no better for equal laws."""

import math

import pytest
import scipy.stats
import torch

from pofx.divergences import classifier_two_sample_test
from pofx.errors import Unusable
from pofx.randomness import stream


def normal(*shape, role="x", dtype=torch.float32):
    return torch.randn(shape, generator=stream(0, role), dtype=dtype)


def judged(x, y, **settings):
    return classifier_two_sample_test(x, y, generator=stream(0, "noise"), **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_shift_is_seen_as_well_as_it_can_be(dtype):
    """The best accuracy for N(0, 1) and N(0.2, 1) is Phi(0.1) = 0.540."""
    got = judged(normal(4000, 1, dtype=dtype), normal(4000, 1, role="y", dtype=dtype) + 0.2, steps=60)
    best = scipy.stats.norm.cdf(0.1)
    assert got.accuracy == pytest.approx(best, abs=4 * math.sqrt(best * (1 - best) / got.n))
    assert got.p_value < 1e-3
    assert got.p_value == pytest.approx(scipy.stats.norm.sf((got.accuracy - 0.5) / got.stderr))


def test_equal_laws_stay_in_the_null_band():
    """Of twenty pairs, about one above 5%; and the spread is at most the one claimed."""
    runs = [judged(normal(60, 2, role=f"x{i}"), normal(60, 2, role=f"y{i}"), steps=20) for i in range(20)]
    assert runs[0].stderr == pytest.approx(math.sqrt(1 / (2 * 120)))
    assert sum(run.p_value < 0.05 for run in runs) <= 4
    z = torch.tensor([(run.accuracy - 0.5) / run.stderr for run in runs])
    assert abs(z.mean()) < 4 / math.sqrt(20)
    assert z.std() < 1.4


def test_a_shape_that_no_line_separates_is_seen():
    got = judged(normal(400, 2), 2 * normal(400, 2, role="y"), steps=60)
    assert got.p_value < 1e-3


def test_unequal_sizes_weigh_the_same():
    x, y = normal(40, 1), normal(400, 1, role="y")
    same, apart = judged(x, y, steps=60), judged(x, y + 10, steps=60)
    assert same.stderr == pytest.approx(math.sqrt((1 / 40 + 1 / 400) / 8))
    assert abs(same.accuracy - 0.5) < 3 * same.stderr
    assert apart.accuracy == 1
    assert apart.n == 440


def test_points_in_one_place_are_no_nan():
    zero = torch.zeros(20, 2)
    assert judged(zero, zero, steps=3).accuracy == 0.5
    assert judged(zero, zero + 1, steps=60).accuracy == 1


def test_it_depends_on_the_generator_alone_and_leaves_the_global_state():
    x, y = normal(30, 2), normal(30, 2, role="y")
    before = torch.get_rng_state()
    with torch.no_grad():
        assert judged(x, y, steps=3) == judged(x, y, steps=3)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        (torch.zeros(19, 1), torch.zeros(20, 1), "x needs at least 20 rows, got 19"),
        (torch.zeros(20, 1), torch.zeros(20, 3), "same columns, got shapes (20, 1) and (20, 3)"),
        (torch.zeros(20, 1), torch.full((20, 1), math.nan), "y must be finite, got 20 of 20"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(x, y, told):
    with pytest.raises(Unusable) as caught:
        judged(x, y)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
