"""Divergences of laws that tell their density: in closed form where torch knows one, else from draws of both."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution, kl_divergence

from pofx.divergences.estimated import Estimated, global_state_from, sum_of_means
from pofx.divergences.f_divergences import FDivergence, f_divergence_named, f_terms
from pofx.errors import Unusable
from pofx.protocols import Samples, Scores, capabilities

_CHUNK = 1024


def divergence_of_laws(
    p: Any, q: Any, which: FDivergence | str = "kl", *, n: int = 10_000, generator: Generator
) -> Estimated:
    r"""$D_f(P \| Q)$ of two laws: exact for a KL that torch has in closed form, else unbiased, with a standard error.

    Draws come from both, n of each, and are weighed by the mixture $m = (p + q) / 2$:
    $\frac12 \mathrm{E}_{x \sim p}[g(x)] + \frac12 \mathrm{E}_{x \sim q}[g(x)]$, $g = \frac{q}{m} f(\frac pq)$.

    Neither law's mass can be missed, p / m and q / m are at most 2, and so g is bounded for JS, total variation and
    Hellinger. Equal laws give f(1) exactly. A chi^2 whose draws would have to be rare ones is too low more often than
    its standard error says. No gradient: draws are not differentiated.

    Source: mixture weights: Veach and Guibas 1995 (the balance heuristic); Lin 1991 for JS.

    Args:
        p, q: a ``torch.distributions`` law of one observation (no batch shape), or a model that ``Samples`` and
            ``Scores``, in ``eval()``; of the same domain.
        which: the f-divergence or its name.
        n: draws of each law, at least 2.

    Raises: ``Unusable`` for a law without exact density or draws, for fewer draws, and for a density that is NaN.

    >>> a, b = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(1.0, 1.0)
    >>> divergence_of_laws(a, b, generator=torch.Generator())
    Estimated(value=0.5, stderr=0.0, n=0, kind='exact')
    """
    which = f_divergence_named(which)
    for name, law in (("p", p), ("q", q)):
        _check_law(law, name)
    if isinstance(p, Distribution) and isinstance(q, Distribution) and p.event_shape != q.event_shape:
        raise Unusable(
            f"p and q must be laws of the same thing, got observations of shape {tuple(p.event_shape)} and "
            f"{tuple(q.event_shape)}; give both the same"
        )
    if (kinds := [_is_discrete(law) for law in (p, q)]) in ([True, False], [False, True]):
        a, b = ("discrete" if kind else "continuous" for kind in kinds)
        raise Unusable(f"p and q must have densities of one kind, got a {a} and a {b} law; compare two of one kind")
    closed = _closed_form(p, q, which.name)
    if closed is not None:
        return Estimated(closed, 0.0, 0, "exact")
    if n < 2:
        raise Unusable(f"a standard error needs n of at least 2, got {n}; the default is 10000")
    terms = []
    for law in (p, q):
        x = _draw(law, n, generator)
        log_p, log_q = _log_density(p, x, "p"), _log_density(q, x, "q")
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        terms.append(f_terms(log_p - log_m, log_q - log_m, which) / 2)
    value, stderr = sum_of_means(*terms)
    return Estimated(value, stderr, n, "unbiased")


def _closed_form(p: Any, q: Any, name: str) -> float | None:
    """KL or reverse KL of two laws of ``torch.distributions``, where a formula is registered."""
    if name not in ("kl", "reverse-kl") or not (isinstance(p, Distribution) and isinstance(q, Distribution)):
        return None
    try:
        return (kl_divergence(p, q) if name == "kl" else kl_divergence(q, p)).item()
    except NotImplementedError:  # torch's word for a pair that it has no formula for
        return None


def _is_discrete(law: Any) -> bool | None:
    """Whether log p is of a probability, not of a density; None where the law does not say."""
    support = law.support if isinstance(law, Distribution) else None
    return None if support is None else support.is_discrete


def _check_law(law: Any, name: str) -> None:
    if isinstance(law, Distribution):
        if law.batch_shape:
            raise Unusable(
                f"{name} must be one law, got a batch of shape {tuple(law.batch_shape)}; wrap it in "
                f"torch.distributions.Independent, or give one of them"
            )
    elif missing := {Samples, Scores} - capabilities(law):
        raise Unusable(
            f"{name} must tell its exact density and draw from it, {type(law).__name__} lacks "
            f"{' and '.join(sorted(protocol.__name__ for protocol in missing))}; compare samples instead"
        )


def _draw(law: Any, n: int, generator: Generator) -> Tensor:
    with torch.no_grad():
        if not isinstance(law, Distribution):
            return law.sample(n, generator=generator)
        with global_state_from(generator):
            x = law.sample((n,))
    if x.device.type != generator.device.type:
        raise Unusable(f"the generator must be on the laws' device, {x.device}, got {generator.device}; make one there")
    return x


@torch.no_grad()
def _log_density(law: Any, x: Tensor, name: str) -> Float[Tensor, "N"]:
    """log p(x) in double, nats; -inf outside a support."""
    parts = [_log_prob(law, rows).double() for rows in x.split(_CHUNK)]
    log_p = torch.cat(parts)
    if log_p.shape != (len(x),):
        raise Unusable(f"{name} must give one log p for each of {len(x)} draws, got shape {tuple(log_p.shape)}; sum it")
    if log_p.isnan().any():
        raise Unusable(f"{name} must give numbers, got a log p of NaN; see that its parameters are finite")
    return log_p


def _log_prob(law: Any, x: Tensor) -> Tensor:
    if not isinstance(law, Distribution):
        return law.log_prob(x)
    # A law of torch refuses what lies outside its support; its density there is zero.
    inside = law.support.check(x) if law.support is not None else torch.ones(len(x), dtype=torch.bool, device=x.device)
    log_p = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    return log_p.masked_scatter(inside, law.log_prob(x[inside]).double())
