"""The point at which a convex conjugate is attained, found for many slopes at once."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_RECENT = 5  # changes of the gradient that tell the curvature
_WORSE = 2.0  # a step that makes the residual so many times as long is taken back


@torch.no_grad()
def conjugate_point(
    gradient: Callable[[Tensor], Tensor], y: Float[Tensor, "B D"], start: Float[Tensor, "B D"], *, steps: int
) -> Float[Tensor, "B D"]:
    r"""$\arg\max_x \langle x, y\rangle - \phi(x)$, where $\nabla\phi(x) = y$: ``steps`` of L-BFGS for each row.

    A step that makes the residual $\nabla\phi(x) - y$ much longer is taken back, and the next one is half as long; what
    it told of the curvature stays. Of all points seen, the one with the shortest residual is given.

    Source: Nocedal and Wright 2006, algorithm 7.4; for this end Amos 2022, arXiv:2210.12153, section 3.

    Args:
        gradient: of phi.
        y: slopes.
        start: where to begin.
        steps: gradients to compute, besides the first.
    """
    x, pace = start, torch.ones_like(start[:, :1])
    residual = gradient(x) - y
    best, shortest = x, _length(residual)
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(steps):
        step = -pace * _newton(residual, pairs)
        there = gradient(x + step) - y
        told = there.isfinite().all(1, keepdim=True)  # what is not finite tells nothing, and would spoil what follows
        pairs = [*pairs, (step, torch.where(told, there - residual, 0.0))][-_RECENT:]
        good = _length(there) < _WORSE * _length(residual)
        pace = torch.where(good, 1.0, pace / 2)
        x, residual = torch.where(good, x + step, x), torch.where(good, there, residual)
        nearer = _length(residual) < shortest
        best, shortest = torch.where(nearer, x, best), torch.where(nearer, _length(residual), shortest)
    return best


def _newton(residual: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The residual times an inverse Hessian that agrees with each row's pairs (step s, change d of the gradient).

    A pair along which phi is not convex tells nothing.
    """
    q, kept, scale = residual, [], torch.ones_like(residual[:, :1])
    for s, d in reversed(pairs):
        convex = _dot(s, d) > 1e-6 * _length(s) * _length(d)
        rho = torch.where(convex, 1 / _dot(s, d), 0.0)
        a = rho * _dot(s, q)
        q = q - a * d
        kept.append((s, d, rho, a))
        if s is pairs[-1][0]:
            scale = torch.where(convex, _dot(s, d) / _dot(d, d), scale)
    q = scale * q
    for s, d, rho, a in reversed(kept):
        q = q + s * (a - rho * _dot(d, q))
    return q


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def _length(a: Tensor) -> Tensor:
    return a.norm(dim=1, keepdim=True)
