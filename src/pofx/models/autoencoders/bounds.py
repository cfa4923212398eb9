"""Bounds of log p(x) by weighted samples of a latent: what is asked of one, and the mean of its weights in pieces."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.conditions import expand, marginal
from pofx.errors import Unusable


def bounded(
    model: Any,
    x: Tensor,
    condition: Tensor | None,
    samples: int | None,
    given: Callable[[Tensor | None, int], Float[Tensor, "B"]],
    *,
    usual: int = 1,
) -> Float[Tensor, "B"]:
    """A bound of log p(x|c), nats: ``given`` a row of the condition for each of x, and ``samples``, or as usual.

    Without the condition of a model that has classes: log sum_c p(c) exp(given(c)), a bound of the marginal.

    Raises:
        Unusable: a condition is needed that is not given, or ``samples`` is not positive.
    """
    k = usual if samples is None else samples
    if k < 1:
        raise Unusable(f"a bound needs at least 1 sample, got {k}; leave it out for {usual}")
    if model.condition is not None and condition is None:
        return marginal(model.condition, x, lambda c: given(c, k), what="the bound")
    return given(expand(model.condition, condition, len(x)), k)


def mean_weight(log_w: Callable[[int], Float[Tensor, "n B"]], samples: int, *, at_once: int) -> Float[Tensor, "B"]:
    """log (1/K) sum_k w_k, K = ``samples``: ``log_w(n)`` draws n weights, at most ``at_once`` for memory's sake."""
    parts = [log_w(min(at_once, samples - start)).logsumexp(0) for start in range(0, samples, at_once)]
    return torch.stack(parts).logsumexp(0) - math.log(samples)
