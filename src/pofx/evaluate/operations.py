"""Floating-point operations, counted as they are dispatched: two for each multiply-add of a matrix product."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


# Attention's kernel for the CPU is not among those that torch knows to count.
_OURS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Operations(TorchDispatchMode):
    """Counts inside its block: matrix products, convolutions and attention, forward and backward, by torch's formulas.

    ``torch.utils.flop_counter.FlopCounterMode`` counts the same, but also follows modules, and so stops at a gradient
    that is taken inside a loss. A causal mask counts in full. What is done element by element is not counted.

    >>> with Operations() as counted:
    ...     y = torch.ones(4, 3) @ torch.ones(3, 2)
    >>> counted.total
    48
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation, then adds what it took."""
        out = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        formula = _OURS.get(kind) or flop_registry.get(kind)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out
