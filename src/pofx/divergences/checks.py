"""What samples and their weights must be before a divergence reads them: one line says the rule, the value, the cure.

They read values, and so wait for the device: for functions that are called once, not inside a training loss.
"""

import torch
from torch import Tensor

from pofx.errors import Unusable

# Of weights' sum: what float32 may lose over a million of them, and far below any mistake.
_SUM_TOLERANCE = 1e-3


def check_points(*, least: int = 1, **named: Tensor) -> None:
    """Samples, by their name in the message: (N, F) finite real numbers of one width and dtype, N at least ``least``.

    Raises: ``Unusable`` for the first rule that is broken.

    >>> check_points(x=torch.zeros(2, 3), y=torch.ones(4, 3))
    >>> check_points(x=torch.zeros(2, 3), y=torch.ones(4, 2))
    Traceback (most recent call last):
    pofx.errors.Unusable: x and y must have the same width, got 3 and 2; give both the same columns
    """
    for name, x in named.items():
        if x.ndim != 2 or not x.shape[1]:
            raise Unusable(
                f"{name} must be (N, F), rows of at least one column, got shape {tuple(x.shape)}; use .flatten(1), "
                f"or [:, None] for one column"
            )
        if not x.is_floating_point():
            raise Unusable(f"{name} must be real numbers, got {x.dtype}; use .double()")
        if len(x) < least:
            raise Unusable(f"{name} needs at least {least} row{'s' * (least != 1)}, got {len(x)}; give more of them")
        check_finite(**{name: x})
    first, *others = named
    for name in others:
        a, b = named[first], named[name]
        if a.shape[1] != b.shape[1]:
            raise Unusable(
                f"{first} and {name} must have the same width, got {a.shape[1]} and {b.shape[1]}; give both the same "
                f"columns"
            )
        if a.dtype != b.dtype:
            raise Unusable(f"{first} and {name} must have one dtype, got {a.dtype} and {b.dtype}; use .to({a.dtype})")


def check_finite(**named: Tensor) -> None:
    """Raises ``Unusable`` where a value is NaN or infinite."""
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
