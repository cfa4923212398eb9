"""Fits per class: what the baselines share under a condition."""

from collections.abc import Callable

import torch
from torch import Tensor

from pofx.conditions import Classes, Condition, expand
from pofx.errors import Unusable


def only_classes(name: str, condition: Condition | None) -> Classes | None:
    """The condition, if a baseline can be fitted for each of its values."""
    if condition is None or isinstance(condition, Classes):
        return condition
    raise Unusable(f"{name} is fitted once per class, got a {condition.kind} condition; use --condition none")


def fit_count(condition: Classes | None) -> int:
    """G: one fit per class and, last, one for all rows, which serves the null and classes never seen."""
    return 1 if condition is None else condition.count + 1


def members(condition: Classes | None, c: Tensor | None, n: int, device: torch.device) -> list[Tensor]:
    """Row indices of the training split for each of the G fits."""
    every = torch.arange(n, device=device)
    if condition is None or c is None:
        return [every] * fit_count(condition)
    of_class = [torch.nonzero(c == k).flatten() for k in range(condition.count)]
    return [rows if len(rows) else every for rows in of_class] + [every]


def fit_of(condition: Classes | None, c: Tensor | None, n: int, device: torch.device) -> Tensor:
    """(n,) which fit each row is scored or drawn by; no condition at all means the last one."""
    rows = expand(condition, c, n)
    return torch.full((n,), fit_count(condition) - 1, device=device) if rows is None else rows.to(device)


def by_fit(fit: Tensor, x: Tensor, log_prob: Callable[[int, Tensor], Tensor]) -> Tensor:
    """``log_prob(g, rows of x with fit g)``, (B, ...), put back in the order of x."""
    groups = [(g, torch.nonzero(fit == g).flatten()) for g in fit.unique().tolist()]
    values = torch.cat([log_prob(g, x[rows]) for g, rows in groups])
    return torch.empty_like(values).index_put((torch.cat([rows for _, rows in groups]),), values)
