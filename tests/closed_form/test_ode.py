"""Solvers against the matrix exponential, and the density that they carry against Gaussians."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from pofx.randomness import stream
from pofx.samplers.ode import euler, heun, trace_probes, with_divergence

A = torch.tensor([[0.3, -1.0, 0.2], [0.8, -0.2, 0.1], [0.0, 0.5, 0.4]], dtype=torch.float64)


def grid(end, steps):
    return torch.linspace(0, end, steps + 1, dtype=torch.float64)


def turning(x, t):
    """dx/dt = cos(t) A x, solved by x(t) = exp(A sin t) x(0); a stage at a wrong time shows."""
    return t.cos() * x @ A.T


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
@pytest.mark.parametrize("end", [1.5, -1.5])
def test_order_of_convergence(solver, order, end):
    x = torch.randn(5, 3, generator=stream(0, "ode"), dtype=torch.float64)
    exact = x @ torch.linalg.matrix_exp(A * grid(end, 1)[-1].sin()).T
    steps = torch.tensor([16, 32, 64, 128])
    errors = torch.stack([(solver(turning, x, grid(end, int(n))) - exact).norm() for n in steps])
    slope = torch.linalg.lstsq(
        torch.stack([steps.double().log(), torch.ones(4, dtype=torch.float64)], 1), errors.log()[:, None]
    ).solution[0]
    assert abs(-float(slope) - order) < 0.1


def test_one_step_is_the_formula():
    x, t = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, 0.5], dtype=torch.float64)
    assert euler(lambda x, t: 2 * x, x, t).item() == pytest.approx(2.0)
    assert heun(lambda x, t: 2 * x, x, t).item() == pytest.approx(1 + 0.25 * (2 + 4))


def test_density_carried_by_a_linear_flow():
    """Data N(0, S) moved by exp(A): the density at the start is known from the one at the end and the integral."""
    x = torch.randn(7, 3, generator=stream(1, "ode"), dtype=torch.float64)
    moved = torch.linalg.matrix_exp(A)
    end, divergence = with_divergence(
        heun, lambda x, t: x @ A.T, x, grid(1.0, 200), trace_probes(x, generator=stream(2, "ode"))
    )
    start_law = MultivariateNormal(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    end_law = MultivariateNormal(torch.zeros(3, dtype=torch.float64), moved @ moved.T)
    torch.testing.assert_close(end, x @ moved.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(start_law.log_prob(x), end_law.log_prob(end) + divergence, atol=1e-4, rtol=0)


def test_divergence_of_a_nonlinear_field_of_pictures():
    """v = sin(x) + mean(x) has divergence sum cos(x) + 1 in any dimension; one Euler step keeps it bare."""
    x = torch.randn(4, 1, 2, 3, generator=stream(3, "ode"), dtype=torch.float64)

    def field(x, t):
        return x.sin() + x.mean((1, 2, 3), keepdim=True)

    _, divergence = with_divergence(euler, field, x, grid(1.0, 1), trace_probes(x, generator=stream(0, "ode")))
    torch.testing.assert_close(divergence, x.cos().sum((1, 2, 3)) + 1)


def test_random_signs_give_the_trace_on_average():
    x = torch.zeros(2000, 12, dtype=torch.float64)
    matrix = torch.randn(12, 12, generator=stream(4, "ode"), dtype=torch.float64)
    for count in (1, 3):
        probes = trace_probes(x, generator=stream(5, "ode"), probes=count)
        assert probes.shape == (count, 2000, 12)
        _, estimate = with_divergence(euler, lambda x, t: x @ matrix.T, x, grid(1.0, 1), probes)
        assert estimate.std() > 0
        assert abs(estimate.mean() - matrix.trace()) < 4 * estimate.std() / len(x) ** 0.5
