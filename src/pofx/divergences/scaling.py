r"""How ``sinkhorn`` climbs: costs, the kernel, Sinkhorn's step, its start and its acceleration.

Letters: phi = f / epsilon + log a, psi = g / epsilon + log b; the plan is P = exp(phi_i + psi_j - C_ij / epsilon).
The kernel may be in single precision; vectors are in double throughout.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pofx.divergences.kernels import distances

# No entry of the kernel is below e^-80 of its row's largest: near e^-87 single precision becomes many times slower, and
# at zero a column could be lost. It is made anew where a scaling has moved by e^20: what was raised weighs e^-60 then.
_FLOOR, _REACH = -80.0, 20.0
# Steps whose differences Anderson's acceleration combines: with 3 there are up to a quarter more, with 8 hardly fewer.
_MEMORY = 5
# The start of normal laws is given up if it misses by this, of at most 2 (one far outlier does it); epsilons then fall,
# each a quarter of the last, to a plan as rough as that in as many steps at most.
_LOST = 1.5
_FALL, _ROUGH, _ROUGH_STEPS = 4.0, 0.1, 20


@dataclass(frozen=True)
class Problem:
    """Costs |x - y|^p of (N, F) and (M, F), or x itself, (N, M), where y is None; a and b weigh rows and columns.

    Costs are in the kernel's dtype, weights in double. ``scale`` is about the mean cost, or the spread of given ones.
    """

    x: Tensor
    y: Tensor | None
    a: Float[Tensor, "N"]
    b: Float[Tensor, "M"]
    p: float
    epsilon: float
    block: int
    scale: float

    def detached(self) -> "Problem":
        """The same, of no gradient."""
        y = None if self.y is None else self.y.detach()
        return replace(self, x=self.x.detach(), y=y, a=self.a.detach(), b=self.b.detach())

    def swapped(self) -> "Problem":
        """From y to x."""
        if self.y is None:
            return replace(self, x=self.x.T, a=self.b, b=self.a)
        return replace(self, x=self.y, y=self.x, a=self.b, b=self.a)

    def among(self, in_x: Bool[Tensor, "N"], in_y: Bool[Tensor, "M"]) -> "Problem":
        """Between some of the points."""
        if in_x.all() and in_y.all():
            return self
        x, y = (self.x[in_x][:, in_y], None) if self.y is None else (self.x[in_x], self.y[in_y])
        return replace(self, x=x, y=y, a=self.a[in_x], b=self.b[in_y])

    def blocks(self) -> Iterator[slice]:
        """Rows, a block at a time."""
        return (slice(i, i + self.block) for i in range(0, len(self.x), self.block))

    def cost(self, rows: slice) -> Float[Tensor, "R M"]:
        """C of some rows, differentiable in x and y."""
        x, y = self.x[rows], self.y
        if y is None:
            return x
        if self.p == 2:
            return torch.addmm(_squares(x)[:, None] + _squares(y), x, y.T, alpha=-2)
        return distances(x, y).pow(self.p)

    def scores(self, rows: slice, psi: Float[Tensor, "M"]) -> tuple[Float[Tensor, "R M"], Tensor | float]:
        """psi_j - C_ij / epsilon, but for a number of each row, |x_i|^2 / epsilon, that the caller subtracts."""
        if self.y is None or self.p != 2:
            return psi.to(self.x) - self.cost(rows) / self.epsilon, 0.0
        x = self.x[rows]
        bias = (psi - _squares(self.y.double()) / self.epsilon).to(x)
        return torch.nn.functional.linear(x * (2 / self.epsilon), self.y, bias), _squares(x.double()) / self.epsilon

    def plan(self, rows: slice, phi: Float[Tensor, "N"], psi: Float[Tensor, "M"]) -> Float[Tensor, "R M"]:
        """P of some rows."""
        scores, own = self.scores(rows, psi)
        return scores.add_((phi[rows] - own).to(scores)[:, None]).exp_()

    def log_sums(self, psi: Float[Tensor, "M"]) -> Float[Tensor, "N"]:
        """log sum_j exp(psi_j - C_ij / epsilon): -f / epsilon of the rows, whatever they weigh."""
        sums = [psi.new_empty(0)]
        for rows in self.blocks():
            scores, own = self.scores(rows, psi)
            sums.append(scores.logsumexp(1).double() - own)
        return torch.cat(sums)


class Step(NamedTuple):
    """What a step from psi finds there: phi, error, height of the dual over epsilon; and where it leads: psi."""

    phi: Float[Tensor, "N"]
    psi: Float[Tensor, "M"]
    error: float
    height: float


class Kernel:
    """exp(psi_j - C_ij / epsilon - top_i), top the rows' maxima: kept if it is one block, else made at each step.

    The potentials are inside the kernel, so that a step from near psi is two matrix-vector products and no exponential.

    Source: Schmitzer 2019, arXiv:1610.06519, section 3.1.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.keeps = problem, problem.block >= len(problem.x)
        self.psi = torch.full_like(problem.b, math.inf)  # that of no kernel yet
        self.tiles: list[tuple[slice, Tensor, Tensor]] = []

    def near(self, psi: Tensor) -> tuple[Tensor, Iterator[tuple[slice, Tensor, Tensor]]]:
        """exp(psi - that of the kernel), and blocks: rows, kernel, top."""
        if not self.keeps or (psi - self.psi).abs().max() > _REACH:
            self.psi, self.tiles = psi, []
            made = (self._made(rows) for rows in self.problem.blocks())
            if not self.keeps:
                return torch.ones_like(psi), made
            self.tiles = list(made)
        return (psi - self.psi).exp(), iter(self.tiles)

    def _made(self, rows: slice) -> tuple[slice, Tensor, Tensor]:
        scores, own = self.problem.scores(rows, self.psi)
        top = scores.amax(1)
        return rows, scores.sub_(top[:, None]).clamp_(min=_FLOOR).exp_(), top.double() - own

    def step(self, psi: Float[Tensor, "M"]) -> Step:
        """phi meets the rows, then psi the columns: both from one reading of the kernel."""
        problem = self.problem
        v, tiles = self.near(psi)
        met, columns = [], torch.zeros_like(v)
        for rows, kernel, top in tiles:
            u = problem.a[rows] / (kernel @ v.to(kernel)).double()
            columns += (u.to(kernel) @ kernel).double()
            met.append(u.log() - top)
        phi = torch.cat(met)
        error = (v * columns - problem.b).abs().sum()
        height = problem.a @ phi + problem.b @ psi - 1
        return Step(phi, self.psi + problem.b.log() - columns.log(), error.item(), height.item())

    def symmetric_step(self, psi: Float[Tensor, "M"]) -> Step:
        """The step for x = y, where phi = psi: one product, averaged with where it began, as else it would swing.

        Source: Feydy et al. 2019, arXiv:1810.08278, section 3.1, eq. 25.
        """
        problem = self.problem
        v, tiles = self.near(psi)
        met = torch.cat([problem.a[rows].log() - (k @ v.to(k)).double().log() - top for rows, k, top in tiles])
        rows = problem.a * (psi - met).exp()
        height = 2 * problem.a @ psi - rows.sum()
        return Step(psi, (psi + met) / 2, (rows - problem.a).abs().sum().item(), height.item())


def climb(
    step: Callable[[Tensor], Step], psi: Tensor, last: Step, weights: Tensor, tolerance: float, max_steps: int
) -> tuple[Step, Tensor, int]:
    """From psi, whose step is ``last``, to the tolerance: the last step, where it began, and how many were taken.

    psi goes where the last few steps, combined, change least in the mean square of ``weights``; where both the dual
    falls and the error grows, back to the plain step, which always climbs.

    Source: Walker and Ni 2011, "Anderson acceleration for fixed-point iterations", eq. 2.1, in the form of differences.
    """
    past: list[tuple[Tensor, Tensor]] = []  # where steps led, and how far
    count = 1
    while last.error > tolerance and count < max_steps:
        past = [*past[-_MEMORY:], (last.psi, last.psi - psi)]
        ahead = _combined(past, weights)
        found, count = step(ahead), count + 1
        if len(past) > 1 and found.height < last.height and found.error > last.error:
            past, ahead = [], last.psi
            found, count = step(ahead), count + 1
        psi, last = ahead, found
    return last, psi, count


def _combined(past: list[tuple[Tensor, Tensor]], weights: Tensor) -> Tensor:
    led, moved = (torch.stack(rows) for rows in zip(*past))
    if len(past) == 1:
        return led[0]
    differences = moved.diff(dim=0) * weights.sqrt()
    gram = differences @ differences.T
    gram.diagonal().add_(1e-10 * gram.trace() + torch.finfo(gram.dtype).tiny)
    share = torch.linalg.solve(gram, differences @ (moved[-1] * weights.sqrt()))
    return led[-1] - share @ led.diff(dim=0)


def solve(problem: Problem, *, symmetric: bool, tolerance: float, max_steps: int) -> tuple[Step, Tensor, int]:
    """The last step, the psi that it began from, and the number of steps."""
    y, taken = problem.y, 0
    if y is not None and problem.p == 2 and len(y) > 2 * y.shape[1]:
        g = normal_potential(problem.x, y, problem.a, problem.b, problem.epsilon)
        step, psi = _stepper(problem, symmetric), g / problem.epsilon + problem.b.log()
        if (first := step(psi)).error < _LOST:
            return climb(step, psi, first, problem.b, tolerance, max_steps)
        taken = 1
    g = torch.zeros_like(problem.b)
    for epsilon in _falling(problem.scale, problem.epsilon):
        step, psi = _stepper(replace(problem, epsilon=epsilon), symmetric), g / epsilon + problem.b.log()
        aim = (tolerance, max_steps) if epsilon == problem.epsilon else (_ROUGH, min(_ROUGH_STEPS, max_steps))
        last, psi, steps = climb(step, psi, step(psi), problem.b, *aim)
        g, taken = epsilon * (psi - problem.b.log()), taken + steps
    return last, psi, taken


def _stepper(problem: Problem, symmetric: bool) -> Callable[[Tensor], Step]:
    kernel = Kernel(problem)
    return kernel.symmetric_step if symmetric else kernel.step


def _falling(scale: float, epsilon: float) -> list[float]:
    """From the scale of the costs, each a quarter of the one before, down to epsilon."""
    steps = math.ceil(math.log(max(1.0, scale / epsilon), _FALL))
    return [epsilon * _FALL**k for k in range(steps, -1, -1)]


def normal_potential(
    x: Float[Tensor, "N F"], y: Float[Tensor, "M F"], a: Float[Tensor, "N"], b: Float[Tensor, "M"], epsilon: float
) -> Float[Tensor, "M"]:
    r"""g, but for a constant, between the normal laws of the samples' means and covariances, at the cost |x - y|^2.

    $g(y) = z^T (1 - A) z + 2 (m_y - m_x)^T z$, $z = y - m_y$, $A = S_y^{-1/2} ((S_y^{1/2} S_x S_y^{1/2}
    + \sigma^4 / 4)^{1/2} - \sigma^2 / 2) S_y^{-1/2}$ and $\sigma^2 = \epsilon / 2$: its slope is 2 (y - E[x | y]).

    Source: Janati et al. 2020, arXiv:2006.02572, theorem 1; as a start: Thornton and Cuturi 2022, arXiv:2206.07630.
    """
    (m_x, x), (m_y, y) = _centred(x, a), _centred(y, b)
    variances, axes = torch.linalg.eigh(y.T * b @ y)
    present = variances > 1e-10 * variances[-1]
    root = axes[:, present] * variances[present].sqrt()
    inverse = axes[:, present] / variances[present].sqrt()
    overlap, turns = torch.linalg.eigh(root.T @ (x.T * a @ x) @ root)
    sigma_2 = epsilon / 2
    gain = (overlap.clamp(min=0) + sigma_2**2 / 4).sqrt() - sigma_2 / 2
    mapped = y @ inverse @ turns
    return y.square().sum(1) - mapped.square() @ gain + 2 * y @ (m_y - m_x)


def _centred(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = weights @ x.double()
    return mean, x.double() - mean


def _squares(x: Float[Tensor, "N F"]) -> Float[Tensor, "N"]:
    return x.square().sum(1)
