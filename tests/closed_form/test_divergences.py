"""Divergences against closed forms and independent libraries."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from pofx.divergences import (
    frechet,
    inverse_multiquadratics,
    kernel_distance,
    memorisation,
    mmd_squared,
    moments,
    nearest_distance,
    sliced_wasserstein,
    wasserstein_1d,
    wasserstein_exact,
)
from pofx.randomness import stream


def normal(*shape, role="a", dtype=torch.float32):
    return torch.randn(shape, generator=stream(0, role), dtype=dtype)


def covariance(dim, role):
    root = normal(dim, dim, role=role, dtype=torch.float64)
    return root @ root.T


def test_frechet_is_the_bures_distance():
    """Against scipy's matrix square root."""
    a, b = covariance(5, "a"), covariance(5, "b")
    m = normal(5, dtype=torch.float64)
    overlap = np.trace(scipy.linalg.sqrtm(a.numpy() @ b.numpy())).real
    expected = m.square().sum().item() + a.trace().item() + b.trace().item() - 2 * overlap
    assert frechet(m, a, torch.zeros_like(m), b).item() == pytest.approx(expected, rel=1e-8)


def test_frechet_of_equal_laws_is_zero_also_for_a_singular_covariance():
    x = normal(4, 9, dtype=torch.float64)
    assert frechet(*moments(x), *moments(x)).item() == pytest.approx(0, abs=1e-6)


def test_moments_are_numpys():
    x = normal(30, 4)
    mean, cov = moments(x)
    np.testing.assert_allclose(mean, x.double().numpy().mean(0))
    np.testing.assert_allclose(cov, np.cov(x.double().numpy().T))


def test_kernel_distance_is_unbiased():
    """Zero in the mean for equal laws, within four standard errors; the biased estimate fails this."""
    values = torch.stack(
        [kernel_distance(normal(20, 3, role=f"x{i}"), normal(30, 3, role=f"y{i}")) for i in range(400)]
    )
    assert abs(values.mean()) < 4 * values.std() / 20
    assert (values < 0).any()


def test_kernel_distance_meets_its_definition():
    x, y = normal(4, 3, role="x"), normal(5, 3, role="y")

    def k(a, b):
        return (sum(float(i) * float(j) for i, j in zip(a, b)) / 3 + 1) ** 3

    xx = sum(k(a, b) for a, b in itertools.permutations(x, 2)) / 12
    yy = sum(k(a, b) for a, b in itertools.permutations(y, 2)) / 20
    xy = sum(k(a, b) for a in x for b in y) / 20
    assert kernel_distance(x, y).item() == pytest.approx(xx + yy - 2 * xy, rel=1e-6)


def test_kernel_distance_of_shifted_laws_is_the_polynomials():
    """On a line k = (ab + 1)^3 is sum_j C(3, j) a^j b^j, so MMD^2 = sum_j C(3, j) (E a^j - E b^j)^2."""
    shift, n = 0.5, 2000
    x, y = normal(n, 1, role="x"), normal(n, 1, role="y") + shift
    moments_x, moments_y = (1, 0, 1, 0), (1, shift, 1 + shift**2, shift**3 + 3 * shift)
    expected = sum(math.comb(3, j) * (a - b) ** 2 for j, (a, b) in enumerate(zip(moments_x, moments_y)))
    assert kernel_distance(x, y).item() == pytest.approx(expected, rel=0.2)


def test_inverse_multiquadratics_meet_their_definition():
    a, b = normal(4, 3, role="x", dtype=torch.float64), normal(5, 3, role="y", dtype=torch.float64)
    squared = (a[:, None] - b[None]).square().sum(2)
    expected = sum(6 * s / (6 * s + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))
    torch.testing.assert_close(inverse_multiquadratics(a, b), expected)


def test_mmd_of_two_points_is_in_closed_form():
    """All of x in one place and all of y in another, r apart: 2 (k(0) - k(r)), exactly, with a finite slope."""
    x, r = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True), 3.0
    y = torch.tensor([r, 0.0], dtype=torch.float64).expand(6, 2)
    distance = mmd_squared(x, y, inverse_multiquadratics)
    scales = (0.1, 0.2, 0.5, 1, 2, 5, 10)
    assert distance.item() == pytest.approx(2 * sum(1 - 4 * s / (4 * s + r**2) for s in scales))
    distance.backward()
    assert x.grad is not None
    # dk/dr = -2 r C / (C + r^2)^2, and a step of all of x towards y shortens r.
    slope = 2 * sum(2 * r * 4 * s / (4 * s + r**2) ** 2 for s in scales)
    torch.testing.assert_close(x.grad.sum(0), torch.tensor([-slope, 0.0], dtype=torch.float64))


def test_mmd_under_inverse_multiquadratics_is_unbiased_at_any_size():
    """Shares of a batch have in the mean what the whole has: for equal laws nothing, for others the same."""

    def distances(n, shift, count):
        x, y = normal(2, count, n, 2, role=f"{n} rows")
        return torch.stack([mmd_squared(a + shift, b, inverse_multiquadratics) for a, b in zip(x, y)])

    for shift in (0.0, 1.0):
        small, large = distances(4, shift, 400), distances(32, shift, 100)
        noise = (small.var() / 400 + large.var() / 100).sqrt()
        assert abs(small.mean() - large.mean()) < 4 * noise
        assert (abs(large.mean()) < 4 * noise) == (shift == 0)


@pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 8), (6, 3)])
def test_wasserstein_on_a_line_is_the_exact_one_and_scipys(n, m):
    a, b = normal(n, 1, role="x", dtype=torch.float64), normal(m, 1, role="y", dtype=torch.float64) + 1
    for p in (1.0, 2.0):
        assert wasserstein_1d(a, b, p=p).item() == pytest.approx(wasserstein_exact(a, b, p=p), rel=1e-9)
    scipys = scipy.stats.wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
    assert wasserstein_1d(a[:, 0], b[:, 0], p=1.0).item() == pytest.approx(scipys, rel=1e-9)


def test_exact_wasserstein_is_the_best_of_all_permutations():
    a, b = normal(6, 3, role="x"), normal(6, 3, role="y")
    best = min((a - b[list(order)]).square().sum(1).mean().item() for order in itertools.permutations(range(6)))
    assert wasserstein_exact(a, b) == pytest.approx(best**0.5, rel=1e-6)


def test_a_shift_moves_by_its_length():
    """Exactly |t|; sliced by |t| / sqrt(F), as a random direction sees 1/F of its square."""
    a, t = normal(200, 4), torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert wasserstein_exact(a, a + t) == pytest.approx(5, rel=1e-6)
    sliced = sliced_wasserstein(a, a + t, generator=stream(0, "slices"), projections=20_000).item()
    assert sliced == pytest.approx(5 / 2, rel=0.03)


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
