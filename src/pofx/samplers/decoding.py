"""Decoding: values one after another, each chosen given those before it."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

Outputs = Callable[[Tensor, int], Tensor]
"""(s, t) to what a network puts out for value t, (B, P), from the values before it alone; t only ever grows."""

Choose = Callable[[Tensor, int], Tensor]
"""(outputs (B, P), t) to the values (B,) at t: a draw, or what an arithmetic decoder reads."""

Watch = Callable[[Tensor, int], None]
"""(x so far, how many values of it are chosen): called after each; what is not chosen yet is zero."""


@torch.no_grad()
def decode(
    outputs: Outputs,
    s: Shaped[Tensor, "B T"],
    known: Bool[Tensor, "B T"],
    choose: Choose,
    *,
    end: int | None = None,
    watch: Watch | None = None,
) -> Shaped[Tensor, "B T"]:
    """Fills in what is not known of s, from left to right: s_t chosen by p(s_t | s_<t).

    Args:
        outputs: of the network, for one place.
        s: what is known; the rest is not read.
        known: which values are kept; in each row they come first.
        choose: the values at one place.
        end: after it comes nothing but it; where all rows have ended, nothing is asked for any more.
        watch: sees each step.
    """
    s = s.masked_fill(~known, 0)
    lengths = known.sum(1)
    first, last = (int(lengths.min()), int(lengths.max())) if len(s) else (s.shape[1], 0)
    done = torch.zeros_like(known[:, 0]) if end is None else (s[:, :first] == end).any(1)
    for t in range(first, s.shape[1]):
        new = choose(outputs(s, t), t)
        if end is not None:
            new = new.masked_fill(done, end)
        s[:, t] = torch.where(known[:, t], s[:, t], new) if t < last else new
        if end is not None:
            done = done | (s[:, t] == end)
        if watch is not None:
            watch(s, t + 1)
        # To ask a GPU is to wait for it.
        if end is not None and (t % 16 == 0 or s.device.type == "cpu") and bool(done.all()):
            s[:, t + 1 :] = end
            break
    return s


@torch.no_grad()
def decode_on(
    stepper: Callable[[], Outputs],
    s: Shaped[Tensor, "B L"],
    known: Bool[Tensor, "B L"],
    choose: Choose,
    *,
    length: int,
    watch: Watch | None = None,
) -> Shaped[Tensor, "B L"]:
    """``decode`` of a text of any length by a network that sees ``length`` = T places.

    A full window moves on by T // 2 places: its last T - T // 2 symbols are the known beginning of the next. So each
    symbol but the first T is drawn given at least T - T // 2 before it, and a symbol costs the same wherever it stands.

    Args:
        stepper: gives the outputs for a new window.
        s: what is known; the rest is not read.
        known: which values are kept; in each row they come first.
        choose: the values at one place, which is counted from the window's beginning.
        length: T.
        watch: sees each step of the whole.
    """
    s, total, start, stop = s.masked_fill(~known, 0), s.shape[1], 0, 0
    while stop < total:
        here = slice(start, start + length)
        seen = known[:, here].clone()
        seen[:, : stop - start] = True
        if not seen.all():
            s[:, here] = decode(stepper(), s[:, here], seen, choose, watch=watch and _within(s, here, watch))
        start, stop = start + max(1, length // 2), start + length
    return s


def _within(s: Tensor, here: slice, watch: Watch) -> Watch:
    def grown(window: Tensor, t: int) -> None:
        s[:, here.start + t - 1] = window[:, t - 1]
        watch(s, here.start + t)

    return grown
