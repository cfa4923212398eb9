"""Maximum mean discrepancies against their definition, closed forms, SciPy and each other."""

import inspect
import itertools
import math

import pytest
import scipy.stats
import torch
from clouds import between, clouds, quick
from hypothesis import given
from torch.autograd import gradcheck

from pofx.divergences import (
    distance_kernel,
    energy_distance,
    energy_distance_1d,
    gaussian_kernel,
    inverse_multiquadratic_kernel,
    inverse_multiquadratics,
    kernel_distance,
    laplacian_kernel,
    median_bandwidth,
    mmd,
    mmd_squared,
    polynomial_kernel,
)
from pofx.errors import Unusable
from pofx.randomness import stream

F64 = torch.float64
CHARACTERISTIC = {
    "gaussian": gaussian_kernel(1.5),
    "laplacian": laplacian_kernel(0.7),
    "inverse multiquadratic": inverse_multiquadratic_kernel(2.0),
    "inverse multiquadratics": inverse_multiquadratics,
    "distance": distance_kernel(),
    "root of the distance": distance_kernel(0.5),
}
KERNELS = {**CHARACTERISTIC, "polynomial": polynomial_kernel()}


def normal(*shape, role="a", dtype=torch.float32):
    return torch.randn(shape, generator=stream(0, role), dtype=dtype)


def weights(n, role="w"):
    w = torch.rand(n, generator=stream(0, role), dtype=F64)
    return w / w.sum()


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


# Kernels, weights and gradients


def test_kernels_meet_their_definition():
    """Each entry by itself, at a distance of r = 5 and at none."""
    a, b = torch.zeros(1, 2, dtype=F64), torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=F64)
    expected = {
        gaussian_kernel(2.0): (math.exp(-25 / 8), 1),
        laplacian_kernel(2.0): (math.exp(-5 / 2), 1),
        inverse_multiquadratic_kernel(3.0): (3 / 28, 1),
        distance_kernel(): (-5, 0),
        distance_kernel(0.5): (-(5**0.5), 0),
        distance_kernel(2.0): (-25, 0),
    }
    for kernel, values in expected.items():
        torch.testing.assert_close(kernel(a, b), torch.tensor([values], dtype=F64))
    torch.testing.assert_close(polynomial_kernel(2, 1.0)(b, b)[0], torch.tensor([13.5**2, 1], dtype=F64))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_a_weight_is_a_count(kernel):
    """The biased one of repeated points; the unbiased one by its sum over pairs."""
    x, y = normal(4, 3, role="x", dtype=F64), normal(5, 3, role="y", dtype=F64)
    counts = torch.tensor([3, 1, 0, 2])
    w = counts.to(F64) / 6
    repeated = mmd_squared(x.repeat_interleave(counts, 0), y, kernel, biased=True)
    torch.testing.assert_close(mmd_squared(x, y, kernel, biased=True, weights_x=w), repeated)

    a, b = weights(4, "a"), weights(5, "b")

    def pairs(k, w):
        chosen = list(itertools.permutations(range(len(w)), 2))
        return sum(w[i] * w[j] * k[i, j] for i, j in chosen) / sum(w[i] * w[j] for i, j in chosen)

    expected = pairs(kernel(x, x), a) + pairs(kernel(y, y), b) - 2 * a @ kernel(x, y) @ b
    torch.testing.assert_close(mmd_squared(x, y, kernel, weights_x=a, weights_y=b), expected)
    equal = torch.full((4,), 0.25, dtype=F64)
    torch.testing.assert_close(mmd_squared(x, y, kernel, weights_x=equal), mmd_squared(x, y, kernel))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_gradients_reach_points_and_weights_and_are_finite_where_points_coincide(kernel):
    x, y, a, b = normal(4, 2, dtype=F64), normal(3, 2, role="y", dtype=F64), weights(4), weights(3)
    x, y, a, b = (t.requires_grad_() for t in (x, y, a, b))
    for biased in (False, True):
        assert gradcheck(
            lambda x, y, a, b: mmd_squared(x, y, kernel, biased=biased, weights_x=a / a.sum(), weights_y=b / b.sum()),
            (x, y, a, b),
        )
        both = mmd_squared(x, x.detach()[[0, 0, 1]], kernel, biased=biased)
        assert torch.autograd.grad(both, x)[0].isfinite().all()
    nothing = mmd(x, x.detach(), kernel)
    assert nothing.item() == pytest.approx(0, abs=1e-7)
    assert torch.autograd.grad(nothing, x)[0].abs().max() < 1e-6


def test_mmd_of_two_normals_is_in_closed_form():
    """Under a Gaussian kernel of bandwidth h between N(0, 1) and N(t, 1), from quantiles in place of draws:
    2 h (h^2 + 2)^(-1/2) (1 - exp(-t^2 / (2 (h^2 + 2))))."""
    q = torch.special.ndtri((torch.arange(1500, dtype=F64) + 0.5) / 1500)[:, None]
    h, t = 1.3, 0.8
    expected = 2 * h / (h**2 + 2) ** 0.5 * (1 - math.exp(-(t**2) / 2 / (h**2 + 2)))
    assert mmd_squared(q, q + t, gaussian_kernel(h), biased=True).item() == pytest.approx(expected, rel=1e-3)


def test_mmd_in_batches_by_vmap():
    x, y = normal(3, 5, 2), normal(3, 4, 2, role="y")
    found = torch.vmap(lambda x, y: mmd_squared(x, y, gaussian_kernel(1.0)))(x, y)
    torch.testing.assert_close(found, torch.stack([mmd_squared(*pair, gaussian_kernel(1.0)) for pair in zip(x, y)]))


def test_the_median_is_numpys_and_makes_mmd_free_of_units():
    x, y = normal(6, 2, role="x", dtype=F64), normal(5, 2, role="y", dtype=F64)
    pairs = [(a - b).norm().item() for a, b in itertools.combinations(torch.cat([x, y]), 2)]
    assert median_bandwidth(x, y) == pytest.approx(sorted(pairs)[27])
    values = [mmd(s * x, s * y, gaussian_kernel(median_bandwidth(s * x, s * y))) for s in (1, 1000)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("kernel", CHARACTERISTIC.values(), ids=CHARACTERISTIC.keys())
@given(samples=clouds(count=3))
@quick
def test_mmd_is_a_metric(kernel, samples):
    a, b, c = samples
    ab = between(mmd, a, b, kernel=kernel)
    assert ab >= 0
    assert between(mmd, a, a, kernel=kernel) < 1e-6
    torch.testing.assert_close(between(mmd, b, a, kernel=kernel), ab, rtol=1e-6, atol=1e-6)
    assert ab <= between(mmd, a, c, kernel=kernel) + between(mmd, c, b, kernel=kernel) + 1e-6


# Energy distance


@pytest.mark.parametrize("weighted", [False, True])
def test_energy_distance_is_scipys_squared_on_a_line(weighted):
    x, y = normal(6, 2, role="x", dtype=F64), normal(9, 2, role="y", dtype=F64)
    a, b = (weights(6, "a"), weights(9, "b")) if weighted else (None, None)
    on_a_line = energy_distance_1d(x, y, weights_x=a, weights_y=b)
    for k in range(2):
        expected = scipy.stats.energy_distance(x[:, k], y[:, k], a, b) ** 2
        assert on_a_line[k].item() == pytest.approx(expected, rel=1e-9)
        columns = energy_distance(x[:, [k]], y[:, [k]], weights_x=a, weights_y=b)
        assert columns.item() == pytest.approx(expected, rel=1e-9)
    assert gradcheck(energy_distance_1d, (x.requires_grad_(), y.requires_grad_()))


def test_energy_distance_meets_its_definition():
    """A sum over all pairs; also of another exponent, and without the pairs of a point with itself."""
    x, y = normal(4, 3, role="x", dtype=F64), normal(5, 3, role="y", dtype=F64)
    for beta in (1.0, 0.5, 2.0):
        xy, xx, yy = ((a[:, None] - b).norm(dim=2).pow(beta) for a, b in ((x, y), (x, x), (y, y)))
        expected = 2 * xy.mean() - xx.mean() - yy.mean()
        torch.testing.assert_close(energy_distance(x, y, exponent=beta), expected)
        expected = 2 * xy.mean() - xx.sum() / 12 - yy.sum() / 20
        torch.testing.assert_close(energy_distance(x, y, exponent=beta, biased=False), expected)
    means = (x.mean(0) - y.mean(0)).square().sum()
    torch.testing.assert_close(energy_distance(x, y, exponent=2.0), 2 * means)


@given(clouds(count=3))
@quick
def test_the_root_of_the_energy_distance_is_a_metric_and_moves_with_the_points(samples):
    a, b, c = samples
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)

    def distance(a, b):
        return between(energy_distance, a, b).clamp(min=0).sqrt()

    ab = distance(a, b)
    assert distance(a, a) < 1e-6
    torch.testing.assert_close(distance(b, a), ab, rtol=1e-6, atol=1e-6)
    assert ab <= distance(a, c) + distance(c, b) + 1e-6
    moved = distance(*[(3 * x @ turn + 7, w) for x, w in (a, b)])
    torch.testing.assert_close(moved, 3**0.5 * ab, rtol=1e-6, atol=1e-6)


def test_bad_input_is_one_line():
    x, y = normal(4, 2), normal(5, 2)
    for wrong, match in (
        (lambda: gaussian_kernel(0.0), r"bandwidth must be above 0 and finite, got 0\.0; try median_bandwidth"),
        (lambda: laplacian_kernel(math.nan), r"bandwidth must be above 0 and finite, got nan"),
        (lambda: inverse_multiquadratic_kernel(-1.0), r"scale must be above 0"),
        (lambda: distance_kernel(2.5), r"exponent must be above 0 and at most 2, got 2\.5"),
        (lambda: polynomial_kernel(0), r"degree must be at least 1"),
        (lambda: median_bandwidth(x[[0, 0]], x[[0]]), r"half of the pairs coincide; give a bandwidth"),
        (
            lambda: mmd_squared(x[:1], y, gaussian_kernel(1.0)),
            r"x needs at least 2 rows, got 1; give more of them, or biased=True",
        ),
        (lambda: mmd_squared(x, y, gaussian_kernel(1.0), weights_x=torch.ones(4)), r"weights_x must sum to one"),
        (lambda: mmd_squared(x, y, gaussian_kernel(1.0), weights_x=torch.eye(4)[0]), r"all is on one; use biased=True"),
        (lambda: energy_distance(x * math.inf, y), r"x must be finite"),
        (lambda: energy_distance(x[:1], y, biased=False), r"x needs at least 2 rows, got 1"),
        (lambda: energy_distance_1d(x[:0], y), r"x needs at least 1 row, got 0"),
        (lambda: inspect.unwrap(mmd_squared)(x.long(), y.long(), gaussian_kernel(1.0)), r"x must be real numbers"),
        (lambda: mmd_squared(x.double(), y.float(), gaussian_kernel(1.0)), r"x and y must have one dtype"),
        (lambda: kernel_distance(x * math.nan, y), r"x must be finite"),
    ):
        with pytest.raises(Unusable, match=match) as error:
            wrong()
        assert "\n" not in str(error.value)
