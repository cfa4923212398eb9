r"""f-divergences: $D_f(P \| Q) = \sum_x q(x)\, f(p(x) / q(x))$ with f convex, and the divergences that have one.

Each is at least f(1), which is 0 but for the GAN's, and f(1) only where P = Q. Where P has mass and Q has none, f's
slope at infinity counts: it is infinite for KL, one half for total variation. Units are nats for KL, JS and the
GAN's; the others have none.

Source: Csiszar 1967; Nowozin et al. 2016, arXiv:1606.00709, tables 1, 2 and 6 for f, its conjugate and its activation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pofx.divergences.checks import check_finite
from pofx.errors import Unusable, nearest

_LOG_2 = math.log(2)


@dataclass(frozen=True)
class FDivergence:
    r"""One f, by all that is computed from it; each a function of tensors, elementwise.

    Args:
        name: as in ``F_DIVERGENCES``.
        terms: (log p, log q) -> q f(p / q), in logarithms so that no ratio overflows. One of the two may be -inf.
        slope: log(p / q) -> f'(p / q), the critic T* with which the variational bound is reached.
        conjugate: t -> $f^*(t) = \sup_u (u t - f(u))$; infinite outside its domain.
        activation: v -> t, from any real number into the domain of f*.
        least: f(1), what equal laws have.
    """

    name: str
    terms: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    conjugate: Callable[[Tensor], Tensor]
    activation: Callable[[Tensor], Tensor]
    least: float = 0.0

    def f(self, u: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """f(u) of a ratio u = p / q above 0."""
        return self.terms(u.log(), torch.zeros_like(u))


def f_divergence(p: Float[Tensor, "*P V"], q: Float[Tensor, "*Q W"], which: FDivergence | str) -> Float[Tensor, "*B"]:
    r"""$D_f(P \| Q)$ of two probability vectors, exact, for each row; infinite where it truly is.

    Differentiable, a probability of zero standing still.

    Args:
        p, q: probabilities along the last axis; the rest broadcasts.
        which: one of ``F_DIVERGENCES``, its name, or one of your own.

    Raises: ``Unusable`` for negative numbers, NaN, rows that do not sum to one and unequal lengths.

    >>> p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.5, 0.5])
    >>> [round(f_divergence(p, q, name).item(), 4) for name in ("kl", "jensen-shannon", "total-variation")]
    [inf, 0.3466, 0.5]
    """
    for name, row in (("p", p), ("q", q)):
        _check_probabilities(row, name)
    return f_divergence_of_logs(_log(p), _log(q), which)


def f_divergence_of_logs(
    log_p: Float[Tensor, "*P V"], log_q: Float[Tensor, "*Q W"], which: FDivergence | str
) -> Float[Tensor, "*B"]:
    r"""``f_divergence`` of log-probabilities, -inf for none; their values are not checked, so a loss may call it.

    >>> log_p, log_q = torch.randn(2, 5, 10).log_softmax(-1)
    >>> f_divergence_of_logs(log_p, log_q, "jensen-shannon").shape
    torch.Size([5])
    """
    _check_shapes(log_p.shape, log_q.shape)
    which = f_divergence_named(which)
    return f_terms(log_p, log_q, which).sum(-1).clamp(min=which.least)  # rounding alone would go below


def f_terms(log_p: Float[Tensor, "*P"], log_q: Float[Tensor, "*Q"], which: FDivergence) -> Float[Tensor, "*B"]:
    """q f(p / q) for each x; 0 where neither law has any mass."""
    nowhere = (log_p == -math.inf) & (log_q == -math.inf)
    terms = which.terms(log_p.masked_fill(nowhere, 0.0), log_q.masked_fill(nowhere, 0.0))
    return terms.masked_fill(nowhere, 0.0)


def alpha_divergence(alpha: float) -> FDivergence:
    r"""$f(u) = (u^\alpha - 1 - \alpha (u - 1)) / (\alpha (\alpha - 1))$; near KL at 1, reverse KL at 0.

    It is half of Pearson's chi^2 at 2, half of Neyman's at -1, and twice the squared Hellinger distance at 1/2.

    Raises: ``Unusable`` for 0 and 1, where it has a name of its own.
    """
    if alpha in (0, 1) or not math.isfinite(alpha):
        raise Unusable(f"alpha must be finite, not 0 nor 1, got {alpha}; use 'reverse-kl' for 0 and 'kl' for 1")
    a, scale = alpha, alpha * (alpha - 1)

    def terms(log_p: Tensor, log_q: Tensor) -> Tensor:
        return ((a * log_p + (1 - a) * log_q).exp() - a * log_p.exp() - (1 - a) * log_q.exp()) / scale

    def conjugate(t: Tensor) -> Tensor:
        base = 1 + (a - 1) * t
        # Outside, u = 0 is the best that a rising power leaves; below a = 1 the conjugate has an end.
        inside = (base.clamp(min=0).pow(a / (a - 1)) - 1) / a
        return inside if a > 1 else inside.masked_fill(base < 0, math.inf)

    return FDivergence(
        f"alpha={alpha:g}",
        terms=terms,
        slope=lambda r: torch.expm1((a - 1) * r) / (a - 1),
        conjugate=conjugate,
        activation=lambda v: v if a > 1 else 1 / (1 - a) - F.softplus(-v),
    )


def f_divergence_named(which: FDivergence | str) -> FDivergence:
    """One of ``F_DIVERGENCES`` by its name. Raises: ``Unusable`` for a name that is none."""
    if isinstance(which, FDivergence):
        return which
    if which not in F_DIVERGENCES:
        raise Unusable(f"no f-divergence is called {which!r}{nearest(which, F_DIVERGENCES)}")
    return F_DIVERGENCES[which]


def _p_log_ratio(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p log(p / q): 0 where p is, infinite where q alone is."""
    empty = log_p == -math.inf
    log_p = log_p.masked_fill(empty, 0.0)
    return (log_p.exp() * (log_p - log_q.masked_fill(empty, 0.0))).masked_fill(empty, 0.0)


def _jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    log_m = torch.logaddexp(log_p, log_q) - _LOG_2
    return (_p_log_ratio(log_p, log_m) + _p_log_ratio(log_q, log_m)) / 2


def _gan(log_p: Tensor, log_q: Tensor) -> Tensor:
    log_sum = torch.logaddexp(log_p, log_q)
    return _p_log_ratio(log_p, log_sum) + _p_log_ratio(log_q, log_sum)


def _chi2(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(p - q)^2 / q: near p = q by the difference, far above by squares: infinite only where it truly overflows."""
    far = log_p - log_q > 1
    near = log_q.exp() * torch.expm1((log_p - log_q).masked_fill(far, 0.0)).square()
    log_far_q = log_q.masked_fill(~far, 0.0)
    log_far_p = log_p.masked_fill(~far, 0.0)
    return torch.where(far, (2 * log_far_p - log_far_q).exp() - 2 * log_far_p.exp() + log_far_q.exp(), near)


def _where(inside: Tensor, value: Callable[[Tensor], Tensor], t: Tensor, safe: float) -> Tensor:
    """value(t) inside, infinity outside; ``safe`` is inside, so that no gradient is NaN."""
    return value(t.masked_fill(~inside, safe)).masked_fill(~inside, math.inf)


F_DIVERGENCES = {
    d.name: d
    for d in (
        # f = u log u
        FDivergence(
            "kl",
            terms=_p_log_ratio,
            slope=lambda r: 1 + r,
            conjugate=lambda t: (t - 1).exp(),
            activation=lambda v: v,
        ),
        # f = -log u
        FDivergence(
            "reverse-kl",
            terms=lambda log_p, log_q: _p_log_ratio(log_q, log_p),
            slope=lambda r: -(-r).exp(),
            conjugate=lambda t: _where(t < 0, lambda s: -1 - (-s).log(), t, -1.0),
            activation=lambda v: -(-v).exp(),
        ),
        # f = (u log u - (u + 1) log((u + 1) / 2)) / 2: half of Nowozin's, so that JS goes from 0 to log 2
        FDivergence(
            "jensen-shannon",
            terms=_jensen_shannon,
            slope=lambda r: (_LOG_2 - F.softplus(-r)) / 2,
            conjugate=lambda t: _where(2 * t < _LOG_2, lambda s: -(2 - (2 * s).exp()).log() / 2, t, 0.0),
            activation=lambda v: (_LOG_2 - F.softplus(-v)) / 2,
        ),
        # f = u log u - (u + 1) log(u + 1): the game of Goodfellow et al. 2014, 2 JS - log 4
        FDivergence(
            "gan",
            terms=_gan,
            slope=lambda r: -F.softplus(-r),
            conjugate=lambda t: _where(t < 0, lambda s: -(-torch.expm1(s)).log(), t, -1.0),
            activation=lambda v: -F.softplus(-v),
            least=-2 * _LOG_2,
        ),
        # f = (u - 1)^2
        FDivergence(
            "pearson",
            terms=_chi2,
            slope=lambda r: 2 * torch.expm1(r),
            conjugate=lambda t: t.square() / 4 + t,
            activation=lambda v: v,
        ),
        # f = (1 - u)^2 / u
        FDivergence(
            "neyman",
            terms=lambda log_p, log_q: _chi2(log_q, log_p),
            slope=lambda r: -torch.expm1(-2 * r),
            conjugate=lambda t: _where(t <= 1, lambda s: 2 - 2 * (1 - s).sqrt(), t, 0.0),
            activation=lambda v: 1 - v.exp(),
        ),
        # f = (sqrt(u) - 1)^2, from 0 to 2
        FDivergence(
            "squared-hellinger",
            terms=lambda log_p, log_q: ((log_p / 2).exp() - (log_q / 2).exp()).square(),
            slope=lambda r: -torch.expm1(-r / 2),
            conjugate=lambda t: _where(t < 1, lambda s: s / (1 - s), t, 0.0),
            activation=lambda v: 1 - v.exp(),
        ),
        # f = |u - 1| / 2, from 0 to 1
        FDivergence(
            "total-variation",
            terms=lambda log_p, log_q: (log_p.exp() - log_q.exp()).abs() / 2,
            slope=lambda r: r.sign() / 2,
            conjugate=lambda t: t.clamp(min=-0.5).masked_fill(t > 0.5, math.inf),
            activation=lambda v: v.tanh() / 2,
        ),
    )
}


def _check_shapes(p: torch.Size, q: torch.Size) -> None:
    if not p or not q or p[-1] != q[-1] or not p[-1]:
        raise Unusable(
            f"p and q must have the same symbols on their last axis, got shapes {tuple(p)} and {tuple(q)}; give both "
            f"all of them, with zeros where there are none"
        )
    if any(a != b and 1 not in (a, b) for a, b in zip(p[::-1], q[::-1])):
        raise Unusable(f"the rows of p and q must pair up, got shapes {tuple(p)} and {tuple(q)}; give as many, or one")


def _check_probabilities(p: Tensor, name: str) -> None:
    check_finite(**{name: p})
    if (p < 0).any():
        raise Unusable(f"{name} must hold probabilities, got {p.min().item():.6g}; of logits give .softmax(-1)")
    sums = p.sum(-1).flatten()
    if (off := (sums - 1).abs() > 1e-3).any():
        raise Unusable(f"{name} must sum to one along its last axis, got {sums[off][0].item():.6g}; divide by the sum")


def _log(p: Tensor) -> Tensor:
    """log p, -inf and without a slope at zero."""
    zero = p == 0
    return p.masked_fill(zero, 1.0).log().masked_fill(zero, -math.inf)
