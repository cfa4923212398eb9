"""Solvers of dx/dt = v(x, t) along a grid of times, forwards or backwards, and the log-density that they carry along.

A solver is a function with one head, ``(field, x, grid, *, generator=None)``; these two draw nothing.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

Field = Callable[[Tensor, Tensor], Tensor]
Solver = Callable[..., Tensor]


def euler(
    field: Field, x: Float[Tensor, "B *S"], grid: Float[Tensor, "N"], *, generator: Generator | None = None
) -> Float[Tensor, "B *S"]:
    """x at the end of the grid by Euler's method: error O(h), one evaluation of the field a step.

    Args:
        field: v(x, t), with t a scalar tensor.
        x: where the trajectories begin.
        grid: the times t_0 ... t_N, rising or falling; neighbours are one step apart.
    """
    for t, h in zip(grid, grid.diff()):
        x = x + h * field(x, t)
    return x


def heun(
    field: Field, x: Float[Tensor, "B *S"], grid: Float[Tensor, "N"], *, generator: Generator | None = None
) -> Float[Tensor, "B *S"]:
    """x at the end of the grid by Heun's method (trapezoid with an Euler predictor): error O(h^2), two evaluations.

    Arguments as for ``euler``.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
    """
    for t, h in zip(grid, grid.diff()):
        v = field(x, t)
        x = x + h / 2 * (v + field(x + h * v, t + h))
    return x


def with_divergence(
    solver: Solver, field: Field, x: Float[Tensor, "B *S"], grid: Float[Tensor, "N"], probes: Float[Tensor, "P B *S"]
) -> tuple[Float[Tensor, "B *S"], Float[Tensor, "B"]]:
    """x at the end of the grid, and the integral of div v over t along the way.

    The instantaneous change of variables: log p at the end is log p at the beginning minus that integral, in nats per
    observation.

    Args:
        solver: ``euler`` or ``heun``; it moves x and the integral as one state.
        probes: from ``trace_probes``.

    Source: Chen et al. 2018, arXiv:1806.07366, eq. (8); Song et al. 2021, arXiv:2011.13456, eq. (39).
    """

    def augmented(state: Tensor, t: Tensor) -> Tensor:
        v, divergence = _divergence(field, state[:, :-1].view_as(x), t, probes)
        return torch.cat([v.flatten(1), divergence[:, None]], dim=1)

    end = solver(augmented, torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], dim=1), grid)
    return end[:, :-1].view_as(x), end[:, -1]


def trace_probes(
    x: Float[Tensor, "B *S"], *, generator: Generator, exact_up_to: int = 8, probes: int = 1
) -> Float[Tensor, "P B *S"]:
    """Vectors e with sum_p e_p e_p^T = I, so that sum_p e_p^T J e_p is the trace of any Jacobian J.

    The D unit vectors where D is at most ``exact_up_to``; above, random signs, for which it holds in expectation. One
    draw serves a whole trajectory, so that the field integrated stays the same.

    Source: Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367, eq. (8).
    """
    dims = x[0].numel()
    if dims <= exact_up_to:
        unit = torch.eye(dims, device=x.device, dtype=x.dtype).view(dims, 1, *x.shape[1:])
        return unit.expand(dims, *x.shape)
    sign = torch.randint(2, (probes, *x.shape), generator=generator, device=x.device)
    return (2 * sign - 1).to(x.dtype) / probes**0.5


def _divergence(field: Field, x: Tensor, t: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """v(x, t) and (B,) sum_p e_p^T (dv/dx) e_p, one backward pass for each probe."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = field(x, t)
        pulled = [torch.autograd.grad(v, x, e, retain_graph=i + 1 < len(probes))[0] for i, e in enumerate(probes)]
    return v.detach(), sum((g * e).flatten(1).sum(1) for g, e in zip(pulled, probes))
