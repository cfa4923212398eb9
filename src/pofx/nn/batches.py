"""A network over many rows, some at a time: the memory of a batch is that of its hidden layers."""

from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 2**17  # numbers of x


def in_batches(call: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, condition: Tensor | None = None) -> Tensor:
    """``call(x, condition)`` of each row, joined; batches are of 16 to 256 rows, fewer where rows are large.

    Args:
        call: row by row.
        x: (N, ...).
        condition: one row for all, or one for each.
    """
    size = min(256, max(16, _AT_ONCE // max(1, x[:1].numel())))
    each = condition is not None and len(condition) == len(x)
    batches = [slice(start, start + size) for start in range(0, len(x), size)]
    return torch.cat([call(x[at], condition[at] if each and condition is not None else condition) for at in batches])
