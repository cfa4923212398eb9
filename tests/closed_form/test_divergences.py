"""Distances to nearest neighbours, and what they say of copies."""

import pytest
import torch

from pofx.divergences import memorisation, nearest_distance
from pofx.randomness import stream


def normal(*shape, role="a", dtype=torch.float32):
    return torch.randn(shape, generator=stream(0, role), dtype=dtype)


def test_nearest_distance_finds_each_copy():
    x = 100 + normal(300, 8)
    assert nearest_distance(x[:50], x).max() == 0
    brute = (x[:50, None] - x[None, 50:]).norm(dim=2).amin(1)
    torch.testing.assert_close(nearest_distance(x[:50], x[50:]), brute)


def test_memorisation_is_zero_for_copies_and_one_for_the_law_itself():
    train, held, reference, fresh = (normal(n, 2, role=role) for n, role in zip((2000, 500, 500, 500), "thrf"))
    copies = train[torch.randint(2000, (500,), generator=stream(0, "copies"))]
    assert memorisation(copies, train, held, reference) < 1e-4
    assert memorisation(copies + 0.002 * fresh, train, held, reference) < 0.3
    assert memorisation(fresh, train, held, reference) == pytest.approx(1, abs=0.2)
    assert memorisation(reference, train, held, reference) == 1
