"""What nearest neighbours say of two samples: fidelity, coverage, copies. Distances are Euclidean, in chunks."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.divergences.checks import check_points
from pofx.errors import Unusable

_CHUNK = 1024


class PRDC(NamedTuple):
    """Shares from 0 to 1, but for the density, which is 1 for equal laws and can be above."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Float[Tensor, "N F"], fake: Float[Tensor, "M F"], *, k: int = 5) -> PRDC:
    r"""Precision, recall, density and coverage, with $B_k(x)$ the ball around x that reaches its k-th neighbour.

    Precision: share of fakes in some ball of a real one. Recall: share of reals in some ball of a fake one.
    Density: mean over fakes of (number of balls of reals it lies in) / k. Coverage: share of reals with a fake in
    their ball; for equal laws it is $1 - \prod_{i=1}^k (N - i) / (N + M - i)$ in the mean.

    All four are exact of the samples; each moves with their sizes, so compare at equal ones. Rows that coincide have
    balls without an inside, in which nothing lies.

    Raises: ``Unusable`` for fewer than k + 1 rows, unequal widths and NaN.

    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 2; Naeem et al. 2020, arXiv:2002.09797, eqs. 3 and 4.
    """
    if k < 1:
        raise Unusable(f"k must be at least 1, the nearest other row, got {k}; 5 is common")
    check_points(k + 1, real=real, fake=fake)
    real, fake = _centred(real, fake)
    reach_real, reach_fake = _reach(real, k), _reach(fake, k)
    balls = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled = covered = 0
    for rows, d in _distances(real, fake):
        inside = d < reach_real[rows, None]
        balls += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((d < reach_fake).any(1).sum())
    n, m = len(real), len(fake)
    return PRDC((balls > 0).double().mean().item(), recalled / n, balls.sum().item() / (k * m), covered / n)


def nearest_distance(x: Float[Tensor, "N F"], among: Float[Tensor, "M F"]) -> Float[Tensor, "N"]:
    """Distance of each row to the nearest ``among`` others; exactly 0 for a copy."""
    check_points(x=x, among=among)
    a, b = _centred(x, among)
    nearest = torch.cat([d.argmin(1) for _, d in _distances(a, b)])
    return (x - among[nearest]).norm(dim=1)  # once more, without the cancellation of |a|^2 - 2 ab + |b|^2


def memorisation(
    samples: Float[Tensor, "N F"],
    train: Float[Tensor, "T F"],
    held_out: Float[Tensor, "H F"],
    reference: Float[Tensor, "V F"],
) -> float:
    r"""How much nearer samples are to training rows than unseen real rows are: 0 for copies, 1 for a healthy model.

    $M = m(\text{samples}) / m(\text{reference})$, with $m(S) = \mathrm{median}_{x \in S}\, d(x, \text{train}) /
    d(x, \text{held out})$ and d the distance to the nearest row. All training rows are used, so that no copy is
    missed; there are more of them than held-out ones, hence nearer ones, and dividing by the value of real rows that
    are in neither set takes that out.
    """
    check_points(2, held_out=held_out)
    return _ratio(samples, train, held_out) / _ratio(reference, train, held_out)


def _ratio(x: Tensor, train: Tensor, held_out: Tensor) -> float:
    tiny = 1e-6 * held_out.std(0).norm() + 1e-30  # 0 / 0, a row in both sets, counts as 1
    ratio = (nearest_distance(x, train) + tiny) / (nearest_distance(x, held_out) + tiny)
    return ratio.median().item()


def _centred(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both without a's mean: distances stay, and float32 keeps more of their digits."""
    return a - a.mean(0), b - a.mean(0)


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(a), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield rows, torch.cdist(a[rows], b, compute_mode="use_mm_for_euclid_dist")


def _reach(x: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th neighbour; the row itself is the 0-th."""
    return torch.cat([d.kthvalue(k + 1, dim=1).values for _, d in _distances(x, x)])
