r"""Entropic optimal transport of two samples, and the Sinkhorn divergence, debiased by what each is from itself.

$\mathrm{OT}_\epsilon = \min_P \langle P, C \rangle + \epsilon \mathrm{KL}(P \| a b^T)
= \max_{f, g} \langle a, f \rangle + \langle b, g \rangle
- \epsilon \langle a b^T, e^{(f + g - C)/\epsilon} - 1 \rangle$
over plans P of row sums a and column sums b. The dual is climbed by Sinkhorn's steps: f meets the rows exactly, then g
the columns. What makes it quick is in ``scaling``: a start that is exact between normal laws, potentials held inside
the kernel, Anderson's acceleration, and single precision where its rounding is far below the tolerance.
"""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pofx.divergences.checks import check_order, check_points, check_weights
from pofx.divergences.scaling import Problem, solve
from pofx.errors import Unusable


@dataclass(frozen=True)
class EntropicTransport:
    """What ``sinkhorn`` found.

    Attributes:
        f, g: the dual potentials, in units of the cost, fixed up to a constant that moves from one to the other. Not
            differentiable.
        value: OT_epsilon, by the dual: from below, and of second order in ``error``. Differentiable in the points (or
            costs) and the weights, as the potentials are best: their own change plays no part.
        error: L1 distance of the plan's marginals from the weights.
        steps: updates of both potentials, those at larger epsilons included.
        converged: whether the error is within the tolerance.
        problem, scalings: what plan and cost are made from: points, f / epsilon + log a and g / epsilon + log b.
    """

    f: Float[Tensor, "N"]
    g: Float[Tensor, "M"]
    value: Float[Tensor, ""]
    error: float
    steps: int
    converged: bool
    problem: Problem = field(repr=False)
    scalings: tuple[Tensor, Tensor] = field(repr=False)

    def plan(self) -> Float[Tensor, "N M"]:
        """P, made on request: N M numbers."""
        plans = [plan for _, plan in self._plans()]
        return (plans[0] if len(plans) == 1 else torch.cat(plans)).to(self.f)

    def cost(self) -> Float[Tensor, ""]:
        """<P, C>, what is paid without the entropy; a block of the plan at a time. Not differentiable."""
        paid = [(plan * self.problem.cost(rows)).sum(dtype=torch.float64) for rows, plan in self._plans()]
        return torch.stack(paid).sum().to(self.f)

    def _plans(self) -> Iterable[tuple[slice, Tensor]]:
        return ((rows, self.problem.plan(rows, *self.scalings)) for rows in self.problem.blocks())


def sinkhorn(
    x: Float[Tensor, "N F"],
    y: Float[Tensor, "M F"],
    *,
    epsilon: float,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
    p: float = 2.0,
    tolerance: float = 1e-4,
    max_steps: int = 2000,
    block: int | None = None,
) -> EntropicTransport:
    r"""Entropic transport between samples at the cost $|x - y|^p$: their value from below, within the tolerance.

    As an estimate of the laws' value it is too large on average; between x and x it is not zero.

    Source: Cuturi 2013, arXiv:1306.0895; the gradient: Feydy et al. 2019, arXiv:1810.08278, section 3.2.

    Args:
        x, y: samples of the two laws.
        epsilon: weight of the entropy, in units of the cost; a hundredth to a twentieth of the mean cost is common.
        weights_x, weights_y: a and b, each summing to one; equal ones if not given.
        p: at least 1.
        tolerance: L1 error of the marginals at which to stop.
        max_steps: where to stop short of it; ``converged`` then says so.
        block: rows of the kernel that are held at a time; all if not given. Memory is then linear in N and M, and each
            step takes all exponentials anew.

    Raises: ``Unusable`` for settings out of range, and for points and weights as in ``checks``.

    >>> found = sinkhorn(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), epsilon=0.1)
    >>> found.value, found.cost()
    (tensor(25.), tensor(25.))
    """
    problem = _between(x, y, epsilon, weights_x, weights_y, p, tolerance, max_steps, block)
    return _transport(problem, tolerance, max_steps, x.dtype)


def sinkhorn_matrix(
    cost: Float[Tensor, "N M"],
    *,
    epsilon: float,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 2000,
) -> EntropicTransport:
    """``sinkhorn`` at given costs, finite, of any sign; ``value`` is differentiable in them."""
    check_points(cost=cost)
    _check_settings(epsilon, 1.0, tolerance, max_steps, None)
    a = check_weights(weights_x, cost.shape[0], "weights_x", like=cost).double()
    b = check_weights(weights_y, cost.shape[1], "weights_y", like=cost).double()
    scale = (cost.max() - cost.min()).item()
    matrix = cost.to(_kernel_dtype(scale, epsilon, tolerance))
    return _transport(Problem(matrix, None, a, b, 1.0, epsilon, len(cost), scale), tolerance, max_steps, cost.dtype)


def sinkhorn_divergence(
    x: Float[Tensor, "N F"],
    y: Float[Tensor, "M F"],
    *,
    epsilon: float,
    weights_x: Float[Tensor, "N"] | None = None,
    weights_y: Float[Tensor, "M"] | None = None,
    p: float = 2.0,
    tolerance: float = 1e-4,
    max_steps: int = 2000,
    block: int | None = None,
) -> Float[Tensor, ""]:
    r"""$S_\epsilon = \mathrm{OT}_\epsilon(a, b) - \frac{1}{2} \mathrm{OT}_\epsilon(a, a)
    - \frac{1}{2} \mathrm{OT}_\epsilon(b, b)$, in units of the cost $|x - y|^p$; differentiable as ``sinkhorn``.

    For p from 1 to 2 it is zero for equal laws alone and never below, but for the tolerance. For epsilon to 0 it is
    $W_p^p$, to infinity $\mathrm{E} |x - y|^p - \frac{1}{2} \mathrm{E} |x - x'|^p - \frac{1}{2} \mathrm{E} |y - y'|^p$.

    Between the samples it is right within the tolerance; as an estimate of the laws' it is too large on average, by
    about 1/n for equal laws and a fixed epsilon.

    Source: Feydy et al. 2019, arXiv:1810.08278, eq. 3 and theorem 1.

    Args: as of ``sinkhorn``.

    Raises: ``Unusable`` as ``sinkhorn``, and where ``max_steps`` are too few: of values that are not reached, no
        difference can be trusted.
    """
    ours, theirs, terms = (x, weights_x), (y, weights_y), []
    for (u, a), (v, b), symmetric in ((ours, theirs, False), (ours, ours, True), (theirs, theirs, True)):
        problem = _between(u, v, epsilon, a, b, p, tolerance, max_steps, block)
        terms.append(_transport(problem, tolerance, max_steps, torch.float64, symmetric=symmetric))
    if not all(term.converged for term in terms):
        error = max(term.error for term in terms)
        raise Unusable(
            f"the marginals must come within tolerance={tolerance:g}, got {error:.2g} after {max_steps} steps; raise "
            f"max_steps or epsilon"
        )
    between, within_x, within_y = (term.value for term in terms)
    return (between - (within_x + within_y) / 2).to(x.dtype)


def _between(
    x: Tensor, y: Tensor, epsilon: float, weights_x: Tensor | None, weights_y: Tensor | None, p: float,
    tolerance: float, max_steps: int, block: int | None,
) -> Problem:  # fmt: skip
    """The problem of two samples, moved to where rounding is least."""
    check_points(x=x, y=y)
    _check_settings(epsilon, p, tolerance, max_steps, block)
    a = check_weights(weights_x, len(x), "weights_x", like=x).double()
    b = check_weights(weights_y, len(y), "weights_y", like=y).double()
    with torch.no_grad():
        centre = (x.double().mean(0) + y.double().mean(0)) / 2
        scale = sum((z.double() - centre).norm(dim=1).square().mean().sqrt().item() for z in (x, y)) ** p
    if not scale < math.inf:
        raise Unusable(
            f"|x - y|^{p:g} must be finite, got points beyond {sys.float_info.max:.2g}; divide them by their spread"
        )
    dtype = _kernel_dtype(scale, epsilon, tolerance)
    x, y = (x - centre).to(dtype), (y - centre).to(dtype)
    return Problem(x, y, a, b, float(p), epsilon, block or len(x), scale)


def _check_settings(epsilon: float, p: float, tolerance: float, max_steps: int, block: int | None) -> None:
    if not 0 < epsilon < math.inf:
        raise Unusable(f"epsilon must be above zero and finite, got {epsilon}; 0.05 of the mean cost is common")
    check_order(p, finite="a plan sums costs")
    if not 0 < tolerance < math.inf:
        raise Unusable(f"tolerance must be above zero and finite, got {tolerance}; 1e-4 is common")
    if max_steps < 1 or (block is not None and block < 1):
        raise Unusable(f"max_steps and block must be at least 1, got {max_steps} and {block}; leave them out")


def _kernel_dtype(scale: float, epsilon: float, tolerance: float) -> torch.dtype:
    """Single precision, if it rounds exponents by less than a quarter of the tolerance, and epsilon is below the costs:
    they would drown in the rounding of sums otherwise."""
    if epsilon < 1e-12 * scale:
        raise Unusable(
            f"epsilon must be at least 1e-12 of the costs, got {epsilon:g} at costs of about {scale:.3g}; raise it, or "
            f"use wasserstein_exact"
        )
    return torch.float32 if epsilon < scale and scale / epsilon * 2**-24 < tolerance / 4 else torch.float64


def _transport(
    problem: Problem, tolerance: float, max_steps: int, dtype: torch.dtype, *, symmetric: bool = False
) -> EntropicTransport:
    """Solves among the points that weigh something, and tells the others what the plan would do with them."""
    in_x, in_y = problem.a > 0, problem.b > 0
    with torch.no_grad():
        some = problem.among(in_x, in_y)
        last, psi, steps = solve(some, symmetric=symmetric, tolerance=tolerance, max_steps=max_steps)
        f, g = torch.empty_like(problem.a), torch.empty_like(problem.b)
        f[in_x], g[in_y] = last.phi - some.a.log(), psi - some.b.log()
        f[~in_x] = -problem.among(~in_x, in_y).log_sums(psi)
        g[~in_y] = -problem.swapped().among(~in_y, in_x).log_sums(last.phi)
        scalings = f + problem.a.log(), g + problem.b.log()
        f, g = problem.epsilon * f, problem.epsilon * g
        mass = some.a @ last.phi + some.b @ psi - last.height
    value = problem.a @ f + problem.b @ g - problem.epsilon * (mass - 1)
    if problem.x.requires_grad or (problem.y is not None and problem.y.requires_grad):
        paid = _paid(problem, *scalings)
        value = value + (paid - paid.detach())
    return EntropicTransport(
        f.to(dtype),
        g.to(dtype),
        value.to(dtype),
        last.error,
        steps,
        last.error <= tolerance,
        problem.detached(),
        scalings,
    )


def _paid(problem: Problem, phi: Tensor, psi: Tensor) -> Float[Tensor, ""]:
    """<P, C> with P held fixed, so that its gradient is that of OT_epsilon; blocks are made anew for it."""

    def paid(rows: slice) -> Tensor:
        with torch.no_grad():
            plan = problem.plan(rows, phi, psi)
        return (plan * problem.cost(rows)).sum(dtype=torch.float64)

    blocks = list(problem.blocks())
    if len(blocks) == 1:
        return paid(blocks[0])
    return torch.stack([checkpoint(paid, rows, use_reentrant=False) for rows in blocks]).sum()
