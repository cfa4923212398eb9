"""Maximum mean discrepancy: the distance of two laws' means in the space of a kernel."""

from jaxtyping import Float
from torch import Tensor


def kernel_distance(
    x: Float[Tensor, "N F"], y: Float[Tensor, "M F"], *, degree: int = 3, offset: float = 1.0
) -> Float[Tensor, ""]:
    r"""Unbiased estimate of MMD^2 with the polynomial kernel $k(a, b) = (a \cdot b / F + 1)^3$; zero in the mean
    for equal laws, and so at times below it.

    $\frac{1}{N(N-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{M(M-1)} \sum_{i \ne j} k(y_i, y_j)
    - \frac{2}{NM} \sum_{ij} k(x_i, y_j)$

    Source: Binkowski et al. 2018, arXiv:1801.01401, eq. 4; the estimate: Gretton et al. 2012, eq. 3.
    """
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + offset) ** degree

    return _off_diagonal_mean(kernel(x, x)) + _off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()


def _off_diagonal_mean(k: Float[Tensor, "N N"]) -> Float[Tensor, ""]:
    n = len(k)
    return (k.sum() - k.trace()) / (n * (n - 1))
