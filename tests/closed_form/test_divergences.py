"""Distances to nearest neighbours, and what they say of copies."""

import inspect

import pytest
import torch

from pofx.divergences import auc, memorisation, nearest_distance, prdc
from pofx.errors import Unusable
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


def test_bad_input_is_one_line():
    x, y = torch.zeros(6, 2), torch.ones(6, 2)
    for wrong, match in (
        (lambda: prdc(x, y, k=0), r"k must be at least 1, .*got 0"),
        (lambda: prdc(x, y[:5]), r"fake needs at least 6 rows, got 5"),
        (lambda: prdc(x, y / 0), r"fake must be finite"),
        (lambda: inspect.unwrap(prdc)(x, y[:, :1]), r"real and fake must have the same columns"),
        (lambda: inspect.unwrap(nearest_distance)(x, y[:, :1]), r"x and among must have the same columns"),
        (lambda: nearest_distance(x, y[:0]), r"among needs at least 1 row, got 0"),
        (lambda: memorisation(x, y, y[:1], x), r"held_out needs at least 2 rows, got 1"),
        (lambda: auc(x[:1, 0], y[:, 0]), r"a needs at least 2 rows, got 1"),
        (lambda: auc(x[:, 0], y[:, 0] / 0), r"b must be finite"),
    ):
        with pytest.raises(Unusable, match=match) as error:
            wrong()
        assert "\n" not in str(error.value)
