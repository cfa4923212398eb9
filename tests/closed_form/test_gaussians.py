"""The distance of normal laws and the map between them, against SciPy, closed forms and each other."""

import inspect

import numpy as np
import pytest
import scipy.linalg
import torch
from clouds import quick
from hypothesis import given, strategies
from torch.autograd import gradcheck

from pofx.divergences import frechet, gaussian_displacement, gaussian_map, moments, wasserstein_1d
from pofx.errors import Unusable
from pofx.randomness import stream

F64 = torch.float64


def normal(*shape, role="a", dtype=F64):
    return torch.randn(shape, generator=stream(0, role), dtype=dtype)


def covariance(dim, role, rank=None):
    root = normal(dim, rank or dim, role=role)
    return root @ root.T


def symmetric(s):
    return (s + s.mT) / 2


def test_frechet_is_the_bures_distance():
    """Against scipy's matrix square root; a batch is each by itself."""
    a, b = covariance(5, "a"), covariance(5, "b")
    m = normal(5)
    overlap = np.trace(scipy.linalg.sqrtm(a.numpy() @ b.numpy())).real
    expected = m.square().sum().item() + a.trace().item() + b.trace().item() - 2 * overlap
    assert frechet(m, a, torch.zeros_like(m), b).item() == pytest.approx(expected, rel=1e-8)
    zero = torch.zeros(2, 5, dtype=F64)
    both = frechet(zero, torch.stack([a, b]), zero, torch.stack([b, b]))
    torch.testing.assert_close(both, torch.stack([frechet(m, a, m, b), frechet(m, b, m, b)]))


def test_frechet_of_diagonal_covariances_is_of_their_deviations():
    """Sum of (s_a - s_b)^2, as of independent columns; and on a line W_2 of the two laws' own quantiles."""
    s, r = torch.tensor([1.0, 2.0, 0.0], dtype=F64), torch.tensor([3.0, 0.5, 1.0], dtype=F64)
    zero = torch.zeros(3, dtype=F64)
    found = frechet(zero, s.square().diag(), zero, r.square().diag())
    assert found.item() == pytest.approx((s - r).square().sum().item(), rel=1e-9)
    q = torch.special.ndtri((torch.arange(100_000, dtype=F64) + 0.5) / 100_000)
    assert wasserstein_1d(q, 3 * q).square().item() == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frechet_of_equal_laws_is_zero_also_for_a_singular_covariance(dtype):
    """Its slope is that of leaving the law's support, where all that is added is lost: the projection off it."""
    x = normal(4, 9, dtype=dtype)
    assert frechet(*moments(x), *moments(x)).item() == pytest.approx(0, abs=1e-6)
    turn = torch.linalg.qr(normal(5, 5, role="turn", dtype=dtype)).Q
    for kept in (5, 2):
        spread = torch.tensor([2.0, 2.0, 1.0, 1.0, 1.0], dtype=dtype) * (torch.arange(5) < kept)
        s = ((turn * spread) @ turn.T).requires_grad_()
        m = torch.zeros(5, dtype=dtype, requires_grad=True)
        distance = frechet(m, s, m.detach(), s.detach())
        distance.backward()
        assert distance.item() == pytest.approx(0, abs=1e-6)
        assert m.grad.abs().max() == 0
        if kept == 5 or dtype == F64:
            torch.testing.assert_close(s.grad, turn[:, kept:] @ turn[:, kept:].T, rtol=0, atol=1e-6)
        assert s.grad.isfinite().all()


def test_gradients_are_finite_differences_also_at_equal_eigenvalues():
    m, x = normal(3), normal(2, 3, role="x")
    for a, b in ((covariance(3, "a"), covariance(3, "b")), (torch.eye(3, dtype=F64), 2 * torch.eye(3, dtype=F64))):
        a, b = a.requires_grad_(), b.requires_grad_()
        assert gradcheck(lambda a, b: frechet(m, symmetric(a), 0 * m, symmetric(b)), (a, b))
        (slope,) = torch.autograd.grad(gaussian_map(x, m, a, m, b).sum(), a)
        torch.testing.assert_close(slope, slope.T)
        assert gradcheck(lambda a, b: gaussian_map(x, m, symmetric(a), 0 * m, symmetric(b)), (a, b))


def test_moments_are_numpys():
    x = normal(30, 4, dtype=torch.float32)
    mean, cov = moments(x)
    np.testing.assert_allclose(mean, x.double().numpy().mean(0))
    np.testing.assert_allclose(cov, np.cov(x.double().numpy().T))


@pytest.mark.parametrize("rank", [4, 2])
def test_the_map_carries_one_law_to_the_other_at_the_distances_cost(rank):
    """Of a sample with exactly a's moments the image has b's, at a mean squared step of W_2^2; A is symmetric >= 0."""
    x = normal(50, rank, role="x") @ normal(rank, 4, role="basis") + 1
    a = moments(x)
    b = normal(4, role="m"), covariance(4, "b") if rank == 4 else 3 * a[1] @ a[1]
    y = gaussian_map(x, *a, *b)
    for found, expected in zip(moments(y), b):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    step = (y - y.mean(0) - x + x.mean(0)).square().sum() / 49 + (b[0] - a[0]).square().sum()
    torch.testing.assert_close(step, frechet(*a, *b), rtol=1e-6, atol=1e-8)
    slope = gaussian_map(torch.eye(4, dtype=F64), 0 * a[0], a[1], 0 * a[0], b[1])
    torch.testing.assert_close(slope, slope.T, rtol=1e-6, atol=1e-8)
    assert torch.linalg.eigvalsh(slope).min() > -1e-9


def test_displacement_is_the_geodesic():
    a, b = (normal(4, role="m"), covariance(4, "a")), (normal(4, role="n"), covariance(4, "b"))
    whole = frechet(*a, *b).sqrt()
    for t in (0.0, 0.25, 1.0):
        between = gaussian_displacement(*a, *b, t)
        found = torch.stack([frechet(*a, *between), frechet(*between, *b)]).clamp(min=0).sqrt()
        torch.testing.assert_close(found, torch.stack([t * whole, (1 - t) * whole]), rtol=0, atol=1e-6)


@given(strategies.lists(strategies.integers(-4, 4), min_size=24, max_size=24))
@quick
def test_its_root_is_a_metric_and_moves_with_the_laws(numbers):
    """Also of singular covariances: each has half-integer roots of any rank."""
    laws = []
    for row in torch.tensor(numbers, dtype=F64).reshape(3, 8) / 2:
        laws.append((row[6:], row[:6].reshape(2, 3) @ row[:6].reshape(2, 3).T))
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)

    def distance(a, b):
        return frechet(*a, *b).clamp(min=0).sqrt()

    a, b, c = laws
    ab = distance(a, b)
    assert frechet(*a, *b) > -1e-9
    assert distance(a, a) < 1e-4  # the root of a rounding error
    torch.testing.assert_close(distance(b, a), ab, rtol=1e-5, atol=1e-4)
    assert ab <= distance(a, c) + distance(c, b) + 1e-4
    moved = [(3 * turn @ m + 7, 9 * turn @ s @ turn.T) for m, s in (a, b)]
    torch.testing.assert_close(distance(*moved), 3 * ab, rtol=1e-5, atol=1e-4)


def test_bad_input_is_one_line():
    m, s = torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)
    flat = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=F64)
    for wrong, match in (
        (lambda: frechet(m, s / 0, m, s), r"cov_a must be finite, got \d of 4 values"),
        (lambda: gaussian_map(s, m, flat, m, s), r"off by 1; map from the other side"),
        (
            lambda: gaussian_displacement(m, s, m, s, -0.1),
            r"t must be from 0, .* to 1, .* got -0\.1",
        ),
        (lambda: frechet(m, s, m, -s), r"cov_b must be a covariance, symmetric and with no negative eigenvalue"),
        (lambda: frechet(m, s, m, s + s.roll(1, 0).triu()), r"cov_b must be a covariance"),
        (lambda: frechet(m, 2 - s, m, s), r"cov_a must be a covariance"),
        (lambda: inspect.unwrap(gaussian_map)(s[:, :1], m, s, m, s), r"x must be \(N, 2\), .* got shape \(2, 1\)"),
        (lambda: inspect.unwrap(moments)(m), r"x must be \(N, F\)"),
        (lambda: moments(s[:0]), r"x needs at least 1 row, got 0"),
    ):
        with pytest.raises(Unusable, match=match) as error:
            wrong()
        assert "\n" not in str(error.value)
