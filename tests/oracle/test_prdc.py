"""Precision, recall, density and coverage against their definitions, scikit-learn's neighbours and expectations."""

import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from pofx.divergences import prdc
from pofx.randomness import stream


def normal(n, dim, role):
    return torch.randn((n, dim), generator=stream(0, role))


def by_the_book(real, fake, k):
    """The definitions, with another library's neighbours."""

    def reach(x):
        return torch.tensor(NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, k])

    d = torch.tensor([[math.dist(r, f) for f in fake.tolist()] for r in real.tolist()])
    inside = d < reach(real)[:, None]
    recall = (d < reach(fake)[None]).any(1)
    return (
        inside.any(0).double().mean(), recall.double().mean(), inside.sum() / (k * len(fake)),
        (d.amin(1) < reach(real)).double().mean(),
    )  # fmt: skip


@pytest.mark.parametrize(("n", "m", "k"), [(60, 60, 5), (40, 90, 3)])
def test_against_the_definitions(n, m, k):
    real, fake = normal(n, 4, "real"), 0.7 * normal(m, 4, "fake") + 0.3
    assert prdc(real, fake, k=k) == pytest.approx([float(v) for v in by_the_book(real, fake, k)])


def test_chunks_change_nothing():
    """More rows than one chunk holds, against the same numbers by brute force."""
    real, fake, k = normal(1500, 3, "real"), normal(1100, 3, "fake"), 5
    rr, ff, rf = torch.cdist(real, real), torch.cdist(fake, fake), torch.cdist(real, fake)
    reach_real, reach_fake = (d.topk(k + 1, largest=False).values[:, -1] for d in (rr, ff))
    inside = rf < reach_real[:, None]
    expected = (
        inside.any(0).double().mean().item(), (rf < reach_fake).any(1).double().mean().item(),
        inside.sum().item() / (k * 1100), inside.any(1).double().mean().item(),
    )  # fmt: skip
    assert prdc(real, fake, k=k) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("n", "m"), [(1000, 1000), (600, 1200)])
def test_coverage_of_equal_laws_is_the_expected_one(n, m):
    """1 - prod (N - i) / (N + M - i): the k nearest of the pooled N + M - 1 others are all real."""
    k = 5
    expected = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    values = [prdc(normal(n, 64, f"r{i}"), normal(m, 64, f"f{i}"), k=k) for i in range(3)]
    assert sum(v.coverage for v in values) / 3 == pytest.approx(expected, abs=0.015)
    assert sum(v.density for v in values) / 3 == pytest.approx(1, abs=0.12)


def test_a_lost_mode_lowers_recall_and_coverage_alone():
    """Half of the law is gone: what is left is still good."""
    modes = 50 * (torch.arange(400) % 2)[:, None]
    real, fake = normal(400, 2, "real") + modes, normal(400, 2, "fake")
    whole, half = prdc(real, fake + modes), prdc(real, fake)
    assert half.precision > 0.9
    assert half.recall < 0.55
    assert half.coverage < 0.55
    assert whole.recall > 0.9
    assert whole.coverage > 0.9


def test_garbage_has_neither_precision_nor_coverage():
    far = prdc(normal(100, 3, "real"), 100 + normal(100, 3, "fake"))
    assert (far.precision, far.density, far.coverage) == (0, 0, 0)
