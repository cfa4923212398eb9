"""Two samples of numbers compared by their ranks."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.divergences.checks import check_columns, check_finite
from pofx.errors import Unusable


def auc(a: Float[Tensor, "N"], b: Float[Tensor, "M"]) -> tuple[float, float]:
    r"""$P(a > b) + \frac12 P(a = b)$, the area under the ROC curve, and its standard error.

    The error is from the variance of each number's placement, its share of the others that it beats; two rows or more
    of each. It is 0 where a and b do not overlap, which does not prove that they never would.

    An unbiased estimate of the laws' own.

    Raises: ``Unusable`` for fewer rows and NaN.

    Source: DeLong et al. 1988, Biometrics 44(3), eqs. (2) to (5).

    >>> auc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0]))[0]
    0.75
    """
    check_columns(2, a=a, b=b)
    if a.ndim != 1:
        raise Unusable(f"a and b must be numbers in a row, (N,) and (M,), got shape {tuple(a.shape)}; give one column")
    check_finite(a=a, b=b)
    of_a, of_b = _beaten(a, b), 1 - _beaten(b, a)
    error = math.sqrt(of_a.var().item() / len(a) + of_b.var().item() / len(b))
    return of_a.mean().item(), error


def _beaten(a: Tensor, b: Tensor) -> Float[Tensor, "N"]:
    """The share of b below each of a, ties by half."""
    ordered = b.sort().values
    below, not_above = (torch.searchsorted(ordered, a.contiguous(), right=right) for right in (False, True))
    return (below + not_above).double() / (2 * len(b))
