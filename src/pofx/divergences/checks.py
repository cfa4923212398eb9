"""What samples and their weights must be before a divergence reads them: one line says the rule, the value, the cure.

Those that read values wait for the device: they are for functions that are called once, not inside a training loss.
"""

import math

import torch
from torch import Tensor

from pofx.errors import Unusable

# Of weights' sum: what float32 may lose over a million of them, and far below any mistake.
_SUM_TOLERANCE = 1e-3


def check_columns(least: int = 1, cure: str = "give more of them", /, **named: Tensor) -> None:
    """Samples, by their name in the message: real numbers, (N, ...), of one dtype and the same columns. No value is
    read, so that a training loss may call it.

    Raises: ``Unusable`` for the first rule that is broken, here and in all that follow.

    >>> check_columns(x=torch.zeros(2), y=torch.ones(4))
    >>> check_columns(x=torch.zeros(2), y=torch.ones(4, 1))
    Traceback (most recent call last):
    pofx.errors.Unusable: x and y must have the same columns, got shapes (2,) and (4, 1); give both the same
    """
    check_tensors(**named)
    for name, x in named.items():
        if not x.is_floating_point():
            raise Unusable(f"{name} must be real numbers, got {x.dtype}; use .double()")
        if (rows := len(x) if x.ndim else 0) < least:
            raise Unusable(f"{name} needs at least {least} row{'s' * (least != 1)}, got {rows}; {cure}")
    first, *others = named
    a = named[first]
    for name in others:
        b = named[name]
        if a.shape[1:] != b.shape[1:]:
            raise Unusable(
                f"{first} and {name} must have the same columns, got shapes {tuple(a.shape)} and {tuple(b.shape)}; "
                f"give both the same"
            )
        if a.dtype != b.dtype:
            raise Unusable(f"{first} and {name} must have one dtype, got {a.dtype} and {b.dtype}; use .to({a.dtype})")


def check_rows(least: int = 1, cure: str = "give more of them", /, **named: Tensor) -> None:
    """``check_columns`` of (N, F), at least one column; no value is read."""
    check_tensors(**named)
    for name, x in named.items():
        if x.ndim != 2 or not x.shape[1]:
            raise Unusable(
                f"{name} must be (N, F), rows of at least one column, got shape {tuple(x.shape)}; use .flatten(1), "
                f"or [:, None] for one column"
            )
    check_columns(least, cure, **named)


def check_points(least: int = 1, /, **named: Tensor) -> None:
    """``check_rows`` of finite values, which are read."""
    check_rows(least, **named)
    check_finite(**named)


def check_order(p: float, *, finite: str = "") -> None:
    """p is the order of a metric: at least 1; ``finite`` says why it cannot be infinite, where it cannot."""
    if not p >= 1:
        raise Unusable(f"p must be at least 1, got {p}; below it W_p is no metric: use p=1")
    if finite and math.isinf(p):
        raise Unusable(f"p must be finite, as {finite}, got {p}; use a large p, or wasserstein_1d on a line")


def check_way(t: float) -> None:
    """t is a share of the way between two laws."""
    if not 0 <= t <= 1:
        raise Unusable(f"t must be from 0, the first law, to 1, the second, got {t}; there is no law beyond")


def check_tensors(**named: object) -> None:
    """Neither lists nor arrays of NumPy, whose own errors would not tell which they are."""
    for name, x in named.items():
        if not isinstance(x, Tensor):
            raise Unusable(f"{name} must be a tensor, got {type(x).__name__}; use torch.as_tensor")


def check_finite(**named: Tensor) -> None:
    """Raises ``Unusable`` where a value is NaN or infinite."""
    check_tensors(**named)
    for name, x in named.items():
        if not (finite := x.isfinite()).all():
            raise Unusable(
                f"{name} must be finite, got {int((~finite).sum())} of {x.numel()} values that are NaN or infinite; "
                f"drop or mend those rows"
            )


def check_weights(w: Tensor | None, n: int, name: str = "weights", *, like: Tensor | None = None) -> Tensor:
    """Weights of n samples, (n,): none negative, their sum exactly one again after rounding; None: 1/n each.

    Args:
        w: the weights; ``like`` gives them its dtype and device.
        n: how many there must be.
        name: theirs in the message.
        like: the samples; without it, w's own dtype, or torch's default.

    Raises: ``Unusable`` for another number of them, for negative ones or NaN, and for a sum that is not one.

    >>> check_weights(None, 4)
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    kind = torch.empty(0) if like is None else like
    if w is None:
        return torch.full((n,), 1 / n, dtype=kind.dtype, device=kind.device)
    check_tensors(**{name: w})
    if like is not None or not w.is_floating_point():
        w = w.to(kind)
    if w.shape != (n,):
        raise Unusable(f"{name} must be one for each of {n} samples, got shape {tuple(w.shape)}; give ({n},) of them")
    check_finite(**{name: w})
    if (w < 0).any():
        raise Unusable(
            f"{name} must not be negative, got {w.min().item():.6g}; set those to zero and divide by the sum"
        )
    if abs((total := w.sum().item()) - 1) > _SUM_TOLERANCE:
        raise Unusable(f"{name} must sum to one, got {total:.6g}; divide them by their sum")
    return w / w.sum()
