"""Wasserstein distances against quantiles, permutations, SciPy, POT and closed forms."""

import inspect
import itertools
import math

import numpy as np
import ot
import pytest
import scipy.stats
import torch
from clouds import between, clouds, quick
from hypothesis import given
from torch.autograd import gradcheck

from pofx.divergences import (
    displacement,
    exact_transport,
    gaussian_kernel,
    max_sliced_wasserstein,
    mmd_squared,
    optimal_transport,
    sliced_wasserstein,
    wasserstein_1d,
    wasserstein_exact,
)
from pofx.errors import Unusable
from pofx.randomness import stream

F64 = torch.float64


def normal(*shape, role="a", dtype=F64):
    return torch.randn(shape, generator=stream(0, role), dtype=dtype)


def weights(n, role="w", dtype=F64):
    w = torch.rand(n, generator=stream(0, role), dtype=dtype)
    return w / w.sum()


def two_samples(n=6, m=9, dim=3):
    return normal(n, dim, role="x"), normal(m, dim, role="y") + 0.5, weights(n, "wx"), weights(m, "wy")


# On a line


@pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 8), (6, 3), (1, 4), (1, 1)])
@pytest.mark.parametrize("weighted", [False, True])
def test_on_a_line_it_is_scipys_and_pots_and_the_exact_one(n, m, weighted):
    x, y, a, b = two_samples(n, m, 2)
    a, b = (a, b) if weighted else (None, None)
    for p in (1.0, 1.5, 2.0, 3.0):
        found = wasserstein_1d(x, y, p=p, weights_x=a, weights_y=b)
        given = (None, None) if a is None else (a.numpy()[:, None].repeat(2, 1), b.numpy()[:, None].repeat(2, 1))
        pots = ot.wasserstein_1d(x.numpy(), y.numpy(), *given, p=p) ** (1 / p)
        np.testing.assert_allclose(found.numpy(), pots, rtol=1e-9)
        exact = [wasserstein_exact(x[:, [k]], y[:, [k]], p=p, weights_x=a, weights_y=b) for k in range(2)]
        torch.testing.assert_close(found, torch.stack(exact), rtol=1e-9, atol=1e-12)
    scipys = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0], a, b)
    assert wasserstein_1d(x, y, p=1, weights_x=a, weights_y=b)[0].item() == pytest.approx(scipys, rel=1e-9)


def test_on_a_line_of_infinite_order_it_is_the_largest_gap_and_the_limit():
    """Sums of weights that are equal on paper, 3 x 1/6 and 1/2, are equal for it: a sliver would see the gap of 9."""
    x, y = torch.tensor([0.0, 0.0, 0.0, 9.0, 9.0, 9.0], dtype=F64), torch.tensor([1.0, 9.0], dtype=F64)
    for w in (None, torch.full((6,), 1 / 6, dtype=F64), torch.full((6,), 1 / 6)):
        assert wasserstein_1d(x, y, p=math.inf, weights_x=w).item() == pytest.approx(1)
        assert wasserstein_1d(x, y, p=300.0, weights_x=w).item() == pytest.approx(0.5 ** (1 / 300))
    x, y, a, b = two_samples(40, 30, 1)
    largest = wasserstein_1d(x, y, p=math.inf, weights_x=a, weights_y=b)
    torch.testing.assert_close(wasserstein_1d(x, y, p=2000.0, weights_x=a, weights_y=b), largest, rtol=1e-2, atol=0)


def test_on_a_line_no_weight_is_too_small_to_count():
    """Of many points in float32 each weighs less than the sum of all is known to."""
    x, w = torch.arange(1000, dtype=torch.float32), torch.full((1000,), 1e-9, dtype=torch.float32)
    w[0] = 1 - w[1:].sum()
    assert wasserstein_1d(x, torch.zeros(1), p=1, weights_x=w).item() == pytest.approx(1e-9 * 499_500, rel=1e-4)
    assert wasserstein_1d(x, torch.zeros(1), p=math.inf, weights_x=w).item() == 999


def test_on_a_line_a_weight_is_a_count_and_zero_is_absence():
    x, y = normal(5, 3, role="x"), normal(7, 3, role="y")
    counts = torch.tensor([3, 0, 1, 2, 2])
    w = counts.to(F64) / counts.sum()
    for p in (1.0, 2.0, math.inf):
        repeated = wasserstein_1d(x.repeat_interleave(counts, 0), y, p=p)
        torch.testing.assert_close(wasserstein_1d(x, y, p=p, weights_x=w), repeated)


def test_on_a_line_between_normals_it_is_that_of_their_quantiles():
    """W_p of N(0, 1) and N(1, 4) for p = 2: (1 + (2 - 1)^2)^(1/2), from 10^6 midpoints of quantiles."""
    q = torch.special.ndtri((torch.arange(1_000_000, dtype=F64) + 0.5) / 1_000_000)
    assert wasserstein_1d(q, 1 + 2 * q).item() == pytest.approx(2**0.5, rel=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_gradients_on_a_line_reach_points_and_weights(p):
    x, y, a, b = (t.requires_grad_() for t in two_samples(4, 6, 2))
    assert gradcheck(lambda x, y: wasserstein_1d(x, y, p=p), (x, y))
    assert gradcheck(
        lambda x, y, a, b: wasserstein_1d(x, y, p=p, weights_x=a / a.sum(), weights_y=b / b.sum()), (x, y, a, b)
    )


def test_gradients_of_weights_where_distribution_functions_meet():
    """A law on a line of cells, and the same moved by whole cells: each value of F stands in both, once or twice."""
    edges, theta = torch.linspace(-4, 8, 121, dtype=F64), torch.tensor(1.0, dtype=F64, requires_grad=True)
    p, q = (torch.special.ndtr(4 * (edges - m)).diff() for m in (0.0, theta))
    p, q, cells = p / p.sum(), q / q.sum(), (edges[1:] + edges[:-1]) / 2
    distance = wasserstein_1d(cells, cells, p=1.0, weights_x=p, weights_y=q)
    (slope,) = torch.autograd.grad(distance, theta)
    assert distance.item() == pytest.approx(1, abs=1e-9)
    assert slope.item() == pytest.approx(1, abs=1e-9)


# Exact


def test_exact_is_the_best_of_all_permutations():
    x, y = normal(7, 3, role="x"), normal(7, 3, role="y")
    orders = torch.tensor(list(itertools.permutations(range(7))))
    for p in (1.0, 2.0, 3.0):
        cost = torch.cdist(x, y).pow(p)
        best = cost[torch.arange(7), orders].mean(1).min().item()
        assert wasserstein_exact(x, y, p=p).item() == pytest.approx(best ** (1 / p), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plan_and_potentials_prove_each_other(dtype, scale):
    """Right margins, feasible potentials, and equality of both where mass moves: nothing can be cheaper."""
    x, y, a, b = (t.to(dtype) for t in two_samples(40, 30, 4))
    x, y = x * scale, y * scale
    found = optimal_transport(x, y, weights_x=a, weights_y=b)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(found.plan.sum(1), a, **close)
    torch.testing.assert_close(found.plan.sum(0), b, **close)
    slack = (torch.cdist(x, y).square() - found.f[:, None] - found.g) / scale**2
    assert slack.min() > -1e-4 if dtype == torch.float32 else slack.min() > -1e-12
    assert slack[found.plan > 0].abs().max() < (1e-4 if dtype == torch.float32 else 1e-12)
    torch.testing.assert_close(a @ found.f + b @ found.g, found.cost, **close)
    assert abs(found.gap) < 1e-12 * scale**2 * 40
    assert (found.plan > 0).sum() <= 40 + 30 - 1
    assert found.cost.dtype == found.plan.dtype == found.f.dtype == dtype


def test_exact_of_any_cost():
    """Also of a negative one: the highest mean inner product of standardised numbers is that of sorted ones."""
    x, y = normal(9, 1, role="x"), normal(9, 1, role="y")
    found = optimal_transport(x, y, cost=lambda x, y: -x @ y.T)
    assert found.cost.item() == pytest.approx(-(x.sort(0).values * y.sort(0).values).mean().item(), rel=1e-9)


def test_exact_gradients_hold_the_plan_fixed():
    x, y, a, b = (t.requires_grad_() for t in two_samples(4, 6, 2))
    for p in (1.0, 2.0, 3.0):
        assert gradcheck(
            lambda x, y, a, b: wasserstein_exact(x, y, p=p, weights_x=a / a.sum(), weights_y=b / b.sum()), (x, y, a, b)
        )


def test_a_solver_that_gives_up_is_said(monkeypatch):
    monkeypatch.setattr(exact_transport, "_PIVOTS", 5)
    with pytest.raises(Unusable, match=r"found no optimum within 5e\+00 pivots, a share of 0\.\d+ is not moved"):
        optimal_transport(*two_samples(60, 50)[:2])


def test_closed_forms():
    """A shift by t is |t|, and splits off from what has mean zero; to one point it is the second moment about it."""
    x, t = normal(200, 4), torch.tensor([3.0, 0.0, 4.0, 0.0], dtype=F64)
    assert wasserstein_exact(x, x + t).item() == pytest.approx(5, rel=1e-9)
    y = normal(150, 4, role="y") * 2
    y = y - y.mean(0) + x.mean(0)
    split = wasserstein_exact(x, y).square() + 25
    assert wasserstein_exact(x, y + t).square().item() == pytest.approx(split.item(), rel=1e-9)
    w = weights(200)
    second_moment = (w * (x - t).square().sum(1)).sum().sqrt()
    torch.testing.assert_close(wasserstein_exact(x, t[None], weights_x=w), second_moment)


@given(clouds(count=3))
@quick
def test_exact_is_a_metric_and_moves_with_the_points(samples):
    a, b, c = samples
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)
    for p in (1.0, 2.0):
        ab = between(wasserstein_exact, a, b, p=p)
        assert ab >= 0
        assert between(wasserstein_exact, a, a, p=p) == pytest.approx(0, abs=1e-7)
        torch.testing.assert_close(between(wasserstein_exact, b, a, p=p), ab)
        assert ab <= between(wasserstein_exact, a, c, p=p) + between(wasserstein_exact, c, b, p=p) + 1e-7
        moved = [(3 * x @ turn + 7, w) for x, w in (a, b)]
        torch.testing.assert_close(between(wasserstein_exact, *moved, p=p), 3 * ab, rtol=1e-6, atol=1e-6)


@given(clouds(count=3, dim=1))
@quick
def test_on_a_line_it_is_a_metric_and_grows_with_its_order(samples):
    a, b, c = samples
    before = 0.0
    for p in (1.0, 2.0, 4.0, math.inf):
        ab = between(wasserstein_1d, a, b, p=p)
        assert ab >= before - 1e-9
        before = ab
        assert between(wasserstein_1d, a, a, p=p) == 0
        torch.testing.assert_close(between(wasserstein_1d, b, a, p=p), ab)
        assert ab <= between(wasserstein_1d, a, c, p=p) + between(wasserstein_1d, c, b, p=p) + 1e-9
        moved = [(7 - 3 * x, w) for x, w in (a, b)]
        torch.testing.assert_close(between(wasserstein_1d, *moved, p=p), 3 * ab)


# Slices


def test_sliced_sees_a_share_of_a_shift():
    """|t| / sqrt(F), as a random direction sees 1/F of its square; also with weights."""
    x, t = normal(200, 4), torch.tensor([3.0, 0.0, 4.0, 0.0], dtype=F64)
    for w in (None, weights(200)):
        found = sliced_wasserstein(x, x + t, generator=stream(0, "slices"), projections=4000, weights_x=w, weights_y=w)
        assert found.item() == pytest.approx(5 / 2, rel=0.03)


def test_max_sliced_finds_the_direction_of_a_shift():
    x, t = normal(300, 5), torch.tensor([3.0, 0.0, 4.0, 0.0, 0.0], dtype=F64)
    for w in (None, weights(300)):
        found, direction = max_sliced_wasserstein(
            x, x + t, generator=stream(0, "slices"), restarts=4, steps=20, weights_x=w, weights_y=w
        )
        assert found.item() == pytest.approx(5, rel=1e-9)
        torch.testing.assert_close(direction, t / 5)


def test_max_sliced_climbs_to_where_no_turn_helps():
    """No means to go by, one direction of twelve stretched: the slope at the best direction points along it."""
    x, y = (torch.cat([half, -half]) for half in (normal(200, 12, role="x"), normal(200, 12, role="y")))
    y = y * torch.tensor([3.0] + 11 * [1.0], dtype=F64)
    found, direction = max_sliced_wasserstein(x, y, generator=stream(0, "slices"), restarts=2, steps=60)
    assert direction[0].abs() > 0.97
    assert found >= wasserstein_1d(x[:, 0], y[:, 0]) - 1e-9
    theta = direction.clone().requires_grad_()
    (slope,) = torch.autograd.grad(wasserstein_1d(x @ theta, y @ theta), theta)
    torch.testing.assert_close(slope, (slope @ direction) * direction, rtol=0, atol=1e-3)


@given(clouds())
@quick
def test_slices_are_below_the_distance_and_the_best_above_the_rest(samples):
    slices = {"generator": stream(0, "slices")}
    best, _ = max_sliced_wasserstein(samples[0][0], samples[1][0], weights_x=samples[0][1], weights_y=samples[1][1],
                                     restarts=4, steps=20, **slices)  # fmt: skip
    assert between(sliced_wasserstein, *samples, projections=50, **slices) <= best + 1e-3 * (1 + best)
    assert best <= between(wasserstein_exact, *samples) + 1e-7


# On the way


def test_displacement_is_the_geodesic():
    x, y, a, b = two_samples(12, 10, 2)
    found = optimal_transport(x, y, weights_x=a, weights_y=b)
    whole = found.cost.sqrt()
    for t in (0.0, 0.3, 1.0):
        points, w = displacement(x, y, found.plan, t)
        assert w.sum().item() == pytest.approx(1)
        to_x = wasserstein_exact(points, x, weights_x=w, weights_y=a)
        to_y = wasserstein_exact(points, y, weights_x=w, weights_y=b)
        torch.testing.assert_close(
            torch.stack([to_x, to_y]), torch.stack([t * whole, (1 - t) * whole]), atol=1e-6, rtol=0
        )


# Where others give NaN, and what is refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coinciding_and_single_points_have_finite_slopes(dtype):
    """A zero distance has a slope of zero; the largest of float32 leaves no order infinite."""
    one = torch.full((4, 2), 3.0, dtype=dtype, requires_grad=True)
    generator, w = stream(0, "s"), weights(4, dtype=dtype)
    for y in (one.detach(), one.detach()[:1], torch.zeros(3, 2, dtype=dtype)):
        values = [wasserstein_1d(one, y, p=p).sum() for p in (1.0, 1.5, 2.0, 3.0, 40.0, math.inf)]
        values += [wasserstein_1d(one, y, p=p, weights_x=w).sum() for p in (1.0, 2.0, math.inf)]
        values += [wasserstein_exact(one, y), wasserstein_exact(one, y, p=1.0)]
        exact = len(values)  # a projection of equal points may differ by rounding
        values += [sliced_wasserstein(one, y, generator=generator)]
        values += [max_sliced_wasserstein(one, y, generator=generator, steps=3)[0]]
        for i, value in enumerate(values):
            (slope,) = torch.autograd.grad(value, one)
            assert value.isfinite()
            assert slope.isfinite().all()
            assert value.dtype == dtype
            if y.any():
                assert value.item() == pytest.approx(0, abs=2e-6)
                assert i >= exact or not slope.any()
    far = wasserstein_1d(torch.zeros(2, 1, dtype=dtype), torch.full((2, 1), 1e4, dtype=dtype), p=40.0)
    assert far.item() == pytest.approx(1e4)


def test_other_columns_are_refused_not_broadcast():
    """By our own line: the tests' check of shapes, which users do not have, is taken off."""
    x, y, slices = normal(4, 2), normal(5, 1), {"generator": stream(0, "s")}
    for function, match in (
        (lambda: inspect.unwrap(wasserstein_1d)(x, y), r"the same columns, got shapes \(4, 2\) and \(5, 1\)"),
        (lambda: inspect.unwrap(sliced_wasserstein)(x, y, **slices), r"the same columns, got"),
        (
            lambda: inspect.unwrap(max_sliced_wasserstein)(x, y, **slices),
            r"same columns, got shapes \(4, 2\)",
        ),
        (lambda: inspect.unwrap(optimal_transport)(x, y), r"same columns, got shapes \(4, 2\)"),
        (
            lambda: inspect.unwrap(displacement)(x, y, torch.zeros(4, 5), 0.5),
            r"same columns, got shapes \(4, 2\)",
        ),
        (lambda: inspect.unwrap(displacement)(x, x, torch.zeros(4, 5), 0.5), r"plan must be \(4, 4\)"),
        (lambda: inspect.unwrap(mmd_squared)(x, y, gaussian_kernel(1.0)), r"the same columns"),
    ):
        with pytest.raises(Unusable, match=match):
            function()


def test_bad_input_is_one_line():
    x, y = normal(4, 2), normal(5, 2)
    generator = stream(0, "s")
    for wrong, match in (
        (lambda: wasserstein_1d(x, y, p=0.5), r"p must be at least 1, got 0\.5"),
        (lambda: wasserstein_1d(x, y, p=math.nan), r"p must be at least 1, got nan"),
        (lambda: wasserstein_1d(x[:0], y), r"x needs at least 1 row, got 0"),
        (lambda: sliced_wasserstein(x.double(), y.float(), generator=generator), r"x and y must have one dtype"),
        (lambda: wasserstein_1d(x, y, weights_x=torch.ones(4, dtype=F64)), r"weights_x must sum to one, got 4"),
        (lambda: wasserstein_exact(x, y, p=math.inf), r"p must be finite, as a plan sums costs, got inf"),
        (lambda: wasserstein_exact(x, y, p=0.5), r"p must be at least 1"),
        (lambda: wasserstein_exact(x * math.nan, y), r"x must be finite"),
        (lambda: wasserstein_exact(x[:0], y), r"x needs at least 1 row, got 0"),
        (lambda: wasserstein_exact(x, y, weights_y=-weights(5)), r"weights_y must not be negative"),
        (lambda: optimal_transport(x, y, cost=lambda x, y: x @ x.T), r"cost must give \(4, 5\)"),
        (lambda: optimal_transport(x, y, cost=lambda x, y: (x @ y.T) / 0), r"cost must be finite"),
        (lambda: sliced_wasserstein(x, y, generator=generator, p=math.inf), r"p must be finite, as slices .*, got inf"),
        (lambda: sliced_wasserstein(x, y, generator=generator, projections=0), r"projections must be at least 1"),
        (lambda: max_sliced_wasserstein(x, y / 0, generator=generator), r"y must be finite"),
        (lambda: max_sliced_wasserstein(x, y, generator=generator, restarts=0), r"restarts must be at least 1"),
        (lambda: displacement(x, y, torch.zeros(4, 5, dtype=F64), 1.5), r"t must be from 0"),
    ):
        with pytest.raises(Unusable, match=match) as error:
            wrong()
        assert "\n" not in str(error.value)
