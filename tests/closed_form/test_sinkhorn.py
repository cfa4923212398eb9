"""Entropic transport against POT, closed forms of normal laws, exact transport and finite differences."""

import math

import ot
import pytest
import torch

from pofx.divergences import sinkhorn, sinkhorn_divergence, sinkhorn_matrix, wasserstein_exact
from pofx.errors import Unusable
from pofx.randomness import stream

F64 = torch.float64


def normal(*shape, role="x", dtype=F64):
    return torch.randn(shape, generator=stream(0, role), dtype=dtype)


def weights(n, role="a", zeros=()):
    w = torch.rand(n, generator=stream(0, role), dtype=F64)
    w[list(zeros)] = 0
    return w / w.sum()


def samples():
    """Different sizes, weights that are not equal, some of them zero."""
    return normal(30, 3), normal(25, 3, role="y").exp(), weights(30, "a", (4,)), weights(25, "b", (0, 7))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_plan_is_that_of_pot(p, share):
    x, y, a, b = samples()
    cost = torch.cdist(x, y).pow(p)
    epsilon = share * cost.mean().item()
    found = sinkhorn(x, y, epsilon=epsilon, weights_x=a, weights_y=b, p=p, tolerance=1e-9)
    kept_a, kept_b = a > 0, b > 0
    part = cost[kept_a][:, kept_b]
    expected = ot.sinkhorn(
        a[kept_a].numpy(), b[kept_b].numpy(), part.numpy(), epsilon, "sinkhorn", stopThr=1e-11, numItermax=20_000
    )
    plan = found.plan()
    torch.testing.assert_close(plan[kept_a][:, kept_b], torch.from_numpy(expected), atol=1e-8, rtol=0)
    assert plan.sum() == pytest.approx(1)
    assert found.converged
    assert found.error <= 1e-9
    assert found.cost().item() == pytest.approx((torch.from_numpy(expected) * part).sum().item(), rel=1e-7)
    information = torch.xlogy(plan, plan / (a[:, None] * b)).nan_to_num().sum()  # 0 log 0/0 is zero
    assert found.value.item() == pytest.approx((found.cost() + epsilon * information).item(), rel=1e-7)


def test_what_weighs_nothing_has_potentials_too():
    """The value changes by f_k as weight moves to a point k that had none."""
    x, y, a, b = samples()
    settings = {"epsilon": 0.5, "weights_y": b, "tolerance": 1e-11}
    found = sinkhorn(x, y, weights_x=a, **settings)
    towards = torch.zeros_like(a)
    towards[4] = 1
    moved = sinkhorn(x, y, weights_x=a + 1e-6 * (towards - a), **settings)
    slope = (found.f[4] - a @ found.f).item()
    assert ((moved.value - found.value) / 1e-6).item() == pytest.approx(slope, rel=1e-4)
    assert found.g.isfinite().all()


@pytest.mark.parametrize(("p", "most"), [(2.0, 50), (1.0, 55)])
def test_few_steps_are_needed(p, most):
    """Plain steps from zero potentials take 213 for squared distances, 145 for distances; these 37 and 41."""
    x, y = normal(300, 6), normal(300, 6, role="y").abs()
    found = sinkhorn(x, y, epsilon=0.01 * torch.cdist(x, y).pow(p).mean().item(), p=p)
    assert found.converged
    assert found.steps <= most


def test_given_costs_and_blocks_change_nothing():
    x, y, a, b = samples()
    settings = {"epsilon": 0.2, "weights_x": a, "weights_y": b, "tolerance": 1e-9}
    found = sinkhorn(x, y, **settings)
    for other in (sinkhorn(x, y, block=7, **settings), sinkhorn_matrix(torch.cdist(x, y).square(), **settings)):
        assert other.value.item() == pytest.approx(found.value.item(), rel=1e-12)
        torch.testing.assert_close(other.plan(), found.plan(), atol=1e-9, rtol=0)
        assert other.cost().item() == pytest.approx(found.cost().item(), rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_marginal_error_is_what_is_said_at_the_default_tolerance(dtype):
    """The kernel is in single precision here; the plan of what is returned is computed in double."""
    x, y = normal(300, 6, dtype=dtype), normal(300, 6, role="y", dtype=dtype).abs()
    cost = torch.cdist(x.double(), y.double()).square()
    epsilon = 0.01 * cost.mean().item()
    found = sinkhorn(x, y, epsilon=epsilon)
    plan = ((found.f.double()[:, None] + found.g.double() - cost) / epsilon).exp() / 300**2
    assert (found.f.dtype, found.value.dtype, found.problem.x.dtype) == (dtype, dtype, torch.float32)
    assert (plan.sum(0) - 1 / 300).abs().sum().item() == pytest.approx(found.error, abs=1e-5)
    assert (plan.sum(1) - 1 / 300).abs().sum().item() < 2e-5


def grid(mean, deviation, points=401):
    x = torch.linspace(mean - 6 * deviation, mean + 6 * deviation, points, dtype=F64)
    return x[:, None], torch.softmax(-((x - mean) ** 2) / (2 * deviation**2), 0)


@pytest.mark.parametrize("epsilon", [0.3, 3.0])
def test_normal_laws_on_a_line(epsilon):
    """Janati et al. 2020, theorem 1 and proposition 2, with 2 sigma^2 = epsilon, on grids of normal weights."""
    (m, s), (n, t) = (0.5, 1.0), (-1.0, 0.6)
    (x, a), (y, b) = grid(m, s), grid(n, t)
    root = math.sqrt(16 * s**2 * t**2 / epsilon**2 + 1)
    entropic = (m - n) ** 2 + s**2 + t**2 - epsilon / 2 * (root - math.log(1 + root) + math.log(2) - 1)
    found = sinkhorn(x, y, epsilon=epsilon, weights_x=a, weights_y=b, tolerance=1e-8)
    assert found.value.item() == pytest.approx(entropic, rel=1e-6)
    assert found.steps < 30  # the start is exact but for the ends of the grid

    def self_term(v):
        root = math.sqrt(16 * v**4 / epsilon**2 + 1)
        return 2 * v**2 - epsilon / 2 * (root - math.log(1 + root) + math.log(2) - 1)

    divergence = sinkhorn_divergence(x, y, epsilon=epsilon, weights_x=a, weights_y=b, tolerance=1e-8)
    assert divergence.item() == pytest.approx(entropic - (self_term(s) + self_term(t)) / 2, rel=1e-5)


def test_small_epsilon_is_exact_transport_and_large_is_the_energy_distance():
    x, y = normal(60, 2), normal(60, 2, role="y") * 2 + 1
    for p in (1.0, 2.0):
        exact = wasserstein_exact(x, y, p=p).item() ** p
        cost = torch.cdist(x, y).pow(p)
        assert sinkhorn_divergence(x, y, epsilon=2e-3, p=p).item() == pytest.approx(exact, rel=2e-3)
        energy = cost.mean() - (torch.cdist(x, x).pow(p).mean() + torch.cdist(y, y).pow(p).mean()) / 2
        large = sinkhorn_divergence(x, y, epsilon=1e5, p=p, tolerance=1e-10)
        assert large.item() == pytest.approx(energy.item(), rel=1e-3)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_divergence_is_zero_for_equal_laws_and_never_below(p):
    x = normal(40, 3, dtype=torch.float32)
    assert sinkhorn_divergence(x, x.clone(), epsilon=0.3, p=p).abs().item() < 1e-6
    for shift in (1e-2, 1e-1, 1.0):
        assert sinkhorn_divergence(x, x + shift, epsilon=0.3, p=p).item() > 0


def test_divergence_reads_the_weights_of_one_sample_against_itself():
    x = normal(20, 2)
    assert sinkhorn_divergence(x, x, epsilon=0.3, weights_x=weights(20)).item() > 1e-3


@pytest.mark.parametrize(("p", "block"), [(1.0, None), (2.0, None), (2.0, 3)])
def test_gradients_against_finite_differences(p, block):
    x, y = normal(8, 2), normal(6, 2, role="y")
    a, b = weights(8), weights(6, "b")

    def value(x, y, a, b):
        arguments = {"epsilon": 1.0, "weights_x": a, "weights_y": b, "p": p, "tolerance": 1e-10, "block": block}
        return sinkhorn_divergence(x, y, **arguments) + sinkhorn(x, y, **arguments).value

    inputs = [z.requires_grad_() for z in (x, y, a, b)]
    analytic = torch.autograd.grad(value(*inputs), inputs)
    for k, (z, gradient) in enumerate(zip(inputs, analytic)):
        direction = normal(*z.shape, role=f"direction {k}")
        if z.ndim == 1:
            direction = direction - direction.mean()
        ends = []
        for step in (1e-4, -1e-4):
            moved = [w.detach() for w in inputs]
            moved[k] = moved[k] + step * direction
            ends.append(value(*moved))
        assert ((ends[0] - ends[1]) / 2e-4).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


def test_gradient_in_given_costs_is_the_plan():
    cost = torch.rand(5, 7, generator=stream(0, "c"), dtype=F64).requires_grad_()
    found = sinkhorn_matrix(cost, epsilon=0.1, tolerance=1e-10)
    torch.testing.assert_close(torch.autograd.grad(found.value, cost)[0], found.plan())


def hard():
    x = normal(50, 2, dtype=torch.float32)
    outlier = torch.cat([x[1:], torch.tensor([[1e3, -1e3]])])
    flat = torch.cat([x, torch.ones(50, 1)], 1)
    return {
        "single points": (x[:1], x[1:2], 0.1),
        "one to many": (x[:1], x, 0.1),
        "equal": (x, x.clone(), 0.05),
        "repeated": (x[:1].repeat(9, 1), x[1:2].repeat(5, 1), 0.1),
        "far apart": (x, x.flip(0) + 1000, 0.1),
        "clusters of other sizes": (torch.cat([x[:30], x[30:] + 50]), torch.cat([x[:9], x[9:] + 50]), 1.0),
        "an outlier": (outlier, x, 0.1),
        "a constant column": (flat, flat.flip(1), 0.1),
        "wide": (normal(40, 60, dtype=torch.float32), normal(30, 60, role="y", dtype=torch.float32), 5.0),
        "large": (1e6 * x, -1e6 * x, 1e11),
    }


@pytest.mark.parametrize("name", list(hard()))
def test_hard_cases_converge(name):
    x, y, epsilon = hard()[name]
    found = sinkhorn(x, y, epsilon=epsilon, max_steps=500)
    assert found.converged
    assert found.f.isfinite().all()
    assert found.g.isfinite().all()
    assert found.plan().sum().item() == pytest.approx(1, rel=1e-4)
    exact = wasserstein_exact(x, y).item() ** 2
    most = epsilon * math.log(min(len(x), len(y)))  # what the entropy of a plan can be worth
    assert exact * (1 - 1e-4) - 1e-5 <= found.cost().item() <= exact * (1 + 1e-4) + most + 1e-5
    assert math.isfinite(sinkhorn_divergence(x, y, epsilon=epsilon).item())


def test_too_few_steps_are_told():
    x, y = normal(30, 2), normal(30, 2, role="y").exp()
    found = sinkhorn(x, y, epsilon=1e-3, max_steps=3)
    assert not found.converged
    assert found.error > 1e-4
    assert found.steps <= 4
    with pytest.raises(Unusable, match=r"tolerance=0.0001, got .* after 3 steps; raise max_steps or epsilon"):
        sinkhorn_divergence(x, y, epsilon=1e-3, max_steps=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be above zero and finite, got 0.0"),
        ({"epsilon": math.nan}, "epsilon must be above zero and finite, got nan"),
        ({"epsilon": 1e-20}, "epsilon must be at least 1e-12 of the costs, got 1e-20 at costs of about 2"),
        ({"p": 0.5}, "p must be at least 1, got 0.5"),
        ({"p": math.inf}, "p must be finite, as a plan sums costs, got inf"),
        ({"tolerance": 0.0}, "tolerance must be above zero"),
        ({"block": 0}, "max_steps and block must be at least 1, got 2000 and 0"),
        ({"x": torch.full((3, 2), math.nan)}, "x must be finite"),
        ({"x": torch.full((3, 2), 1e200, dtype=F64), "y": torch.zeros(4, 2, dtype=F64)}, "must be finite, got points"),
        ({"weights_y": torch.tensor([0.5, 0.5, 0.5, 0.5])}, "weights_y must sum to one, got 2"),
    ],
)
def test_what_cannot_be_used_is_told(change, message):
    arguments = {"x": torch.zeros(3, 2), "y": torch.ones(4, 2), "epsilon": 0.1} | change
    with pytest.raises(Unusable, match=message):
        sinkhorn(**arguments)
