"""The toys' densities integrate to one, match their samplers, and equal what scipy computes on its own."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pofx.data import load
from pofx.data.toys import SIZES, mixture, toys
from pofx.errors import Unusable

BOX, CELLS, FINE = 5.0, 40, 6  # [-5, 5]^2 in 40 x 40 cells, each of 6 x 6 points
SLANTED = 8.0  # half side of the box that holds the one wide toy


def mass(name: str, half: float) -> np.ndarray:
    """The probability of each cell, by the midpoint rule."""
    n = CELLS * FINE
    middle = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * half / n) - half
    points = torch.cartesian_prod(middle, middle)
    density = load(name).log_prob(points).exp().view(CELLS, FINE, CELLS, FINE)
    return (density.sum((1, 3)) * (2 * half / n) ** 2).numpy()


@pytest.mark.parametrize("name", sorted(toys()))
def test_density_is_that_of_the_sampler(name):
    half = SLANTED if name == "gaussian2d" else BOX
    expected = mass(name, half)
    assert expected.sum() == pytest.approx(1, abs=1e-5)

    x = load(name, seed=3).test.rows()[0].numpy()
    edges = np.linspace(-half, half, CELLS + 1)
    seen = np.histogram2d(x[:, 0], x[:, 1], bins=(edges, edges))[0]
    assert seen.sum() == len(x)
    common = expected * len(x) >= 5
    counts = [*seen[common], seen[~common].sum()]
    wanted = [*expected[common] * len(x), expected[~common].sum() * len(x)]
    if wanted[-1] < 5:  # the rest is too rare for the test's approximation
        counts, wanted = counts[:-1], wanted[:-1]
    scaled = np.array(wanted) * (sum(counts) / sum(wanted))
    assert stats.chisquare(counts, scaled).pvalue > 1e-4


def test_gaussian_is_scipys():
    x = load("gaussian2d").test.rows()[0][:100]
    truth = stats.multivariate_normal([0.5, -1.0], [[1.0, 0.9], [0.9, 1.5]]).logpdf(x.numpy())
    np.testing.assert_allclose(load("gaussian2d").log_prob(x.double()), truth, atol=1e-10)


def normal(x, mean, sigma=0.1):
    return math.exp(-((x[0] - mean[0]) ** 2 + (x[1] - mean[1]) ** 2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)


def test_moons_are_an_adaptive_quadrature():
    data = load("moons")
    for x in data.test.rows()[0][:8].double():
        arcs = (lambda t: (math.cos(t), math.sin(t)), lambda t: (1 - math.cos(t), 0.5 - math.sin(t)))
        places = np.linspace(0, math.pi, 20)
        parts = [
            integrate.quad(lambda t, arc=arc: normal(x, arc(t)), 0, math.pi, points=places, limit=200)[0] / math.pi
            for arc in arcs
        ]
        assert float(data.log_prob(x[None])[0]) == pytest.approx(math.log(sum(parts) / 2), abs=1e-6)


def test_spirals_are_an_adaptive_quadrature():
    data = load("spirals")
    turn = 3 * math.pi
    for x in data.test.rows()[0][:8].double():
        density = 0.0
        for sign in (1, -1):

            def along(u, sign=sign, x=x):
                t = turn * math.sqrt(u)
                return normal(x, (-sign * t * math.cos(t) / 3, sign * t * math.sin(t) / 3))

            density += integrate.quad(along, 0, 1, points=np.linspace(0, 1, 60), limit=400)[0] / 2
        assert float(data.log_prob(x[None])[0]) == pytest.approx(math.log(density), abs=1e-6)


def test_splits_are_drawn_independently_and_by_the_seed():
    data, again, other = load("ring8"), load("ring8"), load("ring8", seed=1)
    assert {name: len(data.part(name)) for name in SIZES} == SIZES
    assert torch.equal(data.train.rows()[0], again.train.rows()[0])
    assert not torch.equal(data.train.rows()[0], other.train.rows()[0])
    assert not torch.equal(data.train.rows()[0][:2000], data.validation.rows()[0])


def test_the_parts_are_classes():
    data = load("ring8", condition="class")
    x, c = data.train.rows()
    angle = torch.atan2(x[:, 1], x[:, 0])
    assert data.condition.count == 8
    assert torch.equal((angle / (math.pi / 4)).round().long() % 8, c)


def test_checkerboard_points_never_leave_their_squares():
    data = load("checkerboard", condition="class")
    for name in SIZES:
        x, c = data.part(name).rows()
        assert torch.equal(data.log_prob(x), torch.full((len(x),), -math.log(8)))
        assert sorted(c.unique().tolist()) == list(range(8))
    assert data.log_prob(torch.tensor([[0.5, 1.5], [9.0, 9.0]])).tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize(("source", "modes", "sd"), [("ring", 8, 0.01), ("grid:n=5000,modes=9,sd=0.3", 9, 0.3)])
def test_mixtures_are_torchs(source, modes, sd):
    data = load(source, condition="class")
    x, c = data.test.rows()
    assert (len(data.train), data.condition.count) == (100_000 if source == "ring" else 5000, modes)
    centres = torch.stack([x[c == k].mean(0) for k in range(modes)])
    normals = Independent(Normal(torch.tensor(mixture(source[:4], modes).centres, dtype=torch.float64), sd), 1)
    truth = MixtureSameFamily(Categorical(torch.ones(modes)), normals)
    torch.testing.assert_close(data.log_prob(x.double()), truth.log_prob(x.double()), atol=1e-5, rtol=0)
    torch.testing.assert_close(centres.double(), normals.mean, atol=5 * sd * (modes / len(x)) ** 0.5, rtol=0)


def test_centres_are_all_different():
    """Angles from 0 to 2 pi, both ends included, would make seven of eight."""
    for name, modes in (("ring", 8), ("grid", 25)):
        assert torch.nn.functional.pdist(torch.tensor(mixture(name).centres)).min() > 0.7
        assert mixture(name).parts == modes


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("grid:modes=8", "square number of modes, got 8; take 4 or 9"),
        ("ring:sd=0", "sd must be above 0"),
        ("ring:sd=wide", "takes a number"),
        ("ring:n=0", "n must be 1 to"),
        ("moons:sd=1", "takes no sd"),
    ],
)
def test_options_of_mixtures_are_refused_in_one_line(source, message):
    with pytest.raises(Unusable, match=message):
        load(source)
