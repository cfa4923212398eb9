r"""Mutual information $I(X; Y) = KL(p(x, y) \| p(x) p(y))$, in nats: bounds from a critic's scores of pairs.

scores[i, j] is what a critic says of $(x_i, y_j)$: on the diagonal are the pairs that were drawn together, off it
those that were not. Scores of pairs that the critic was fitted to give no bound. Differentiable, unchecked by value.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.errors import Unusable


def info_nce(scores: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    r"""$\frac1B \sum_i \log \frac{e^{s_{ii}}}{\frac1B \sum_j e^{s_{ij}}} \le \log B$: a lower bound of I in the mean.

    It cannot tell more than log B, however much there is. The best critic is $\log p(y | x) / p(y)$ up to any function
    of x. Little variance, and the most bias of the three.

    Source: van den Oord et al. 2018, arXiv:1807.03748, eq. 4; Poole et al. 2019, arXiv:1905.06922, eq. 12.

    >>> info_nce(100 * torch.eye(8)).exp()
    tensor(8.)
    """
    _check_square(scores, 1)
    return (scores.diagonal() - scores.logsumexp(1)).mean() + math.log(len(scores))


def donsker_varadhan(scores: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    r"""$\frac1B \sum_i s_{ii} - \log \frac{1}{B(B-1)} \sum_{i \ne j} e^{s_{ij}}$, what MINE maximises.

    Tends to a lower bound of I as B grows; of finitely many scores it is none: the logarithm of a mean is too low in
    the mean, and so this is too high, with a large I by much.

    Source: Donsker and Varadhan 1983; Belghazi et al. 2018, arXiv:1801.04062, eq. 10.
    """
    _check_square(scores, 2)
    return scores.diagonal().mean() - _log_mean_exp_apart(scores)


def nwj(scores: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    r"""$\frac1B \sum_i s_{ii} - \frac{1}{B(B-1)} \sum_{i \ne j} e^{s_{ij} - 1}$: a lower bound of I in the mean.

    The KL of ``variational_bound``, so the best critic is $1 + \log p(x, y) / (p(x) p(y))$, without freedom. No limit
    of log B, but a variance that grows as exp(I).

    Source: Nguyen, Wainwright and Jordan 2010, arXiv:0809.0853; Poole et al. 2019, arXiv:1905.06922, eq. 7.
    """
    _check_square(scores, 2)
    return scores.diagonal().mean() - (_log_mean_exp_apart(scores) - 1).exp()


def normal_mutual_information(rho: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    r"""$-\frac12 \log(1 - \rho^2)$ of two normals of correlation rho, exact; infinite at -1 and 1.

    >>> normal_mutual_information(torch.tensor([0.6, -1.0]))
    tensor([0.2231, inf])
    """
    if (rho.abs() > 1).any():
        raise Unusable(f"rho is a correlation, from -1 to 1, got {rho.abs().max().item():.6g}; divide by both spreads")
    return -(torch.log1p(-rho) + torch.log1p(rho)) / 2


def _log_mean_exp_apart(scores: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    b = len(scores)
    apart = scores.masked_fill(torch.eye(b, dtype=torch.bool, device=scores.device), -math.inf)
    return apart.logsumexp((0, 1)) - math.log(b * (b - 1))


def _check_square(scores: Tensor, least: int) -> None:
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < least:
        raise Unusable(
            f"scores must be (B, B), of each x with each y, B at least {least}, got shape {tuple(scores.shape)}"
            f"; score all pairs of a batch"
        )
