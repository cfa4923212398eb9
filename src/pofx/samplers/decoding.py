"""Decoding: symbols one after another, each drawn from the model's distribution or a sharpened one."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from pofx.errors import Unusable


def check_decoding(vocabulary: int, *, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuses settings that name no distribution, in one line."""
    if not temperature >= 0:
        raise Unusable(f"temperature must be at least 0 (0: the likeliest symbol), got {temperature}")
    if top_k is not None and not 1 <= top_k <= vocabulary:
        raise Unusable(f"top_k must lie in 1 to {vocabulary}, the number of symbols, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise Unusable(f"top_p must lie above 0 and be at most 1, got {top_p}")


def sharpen(
    logits: Float[Tensor, "B V"], *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "B V"]:
    """Logits of p^(1/temperature), kept for the ``top_k`` likeliest symbols, then for the fewest that hold ``top_p``.

    Source: top-k: Fan et al. 2018, arXiv:1805.04833, section 5.4; top-p: Holtzman et al. 2020, arXiv:1904.09751,
    section 3.1.

    >>> sharpen(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_p=0.6).softmax(1)
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if top_k is None and top_p is None:
        return logits
    falling, order = logits.sort(dim=-1, descending=True)
    if top_k is not None:
        falling[:, top_k:] = -torch.inf
    if top_p is not None:
        p = falling.softmax(-1)
        falling = falling.masked_fill(p.cumsum(-1) - p >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, falling)


def draw(
    logits: Float[Tensor, "B V"],
    *,
    generator: Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Tensor, "B"]:
    """One symbol per row from the sharpened distribution; temperature 0 takes the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    p = sharpen(logits, temperature=temperature, top_k=top_k, top_p=top_p).softmax(-1)
    return torch.multinomial(p, 1, generator=generator)[:, 0]


@torch.no_grad()
def decode(
    logits_at: Callable[[Tensor, int], Tensor],
    s: Int[Tensor, "B T"],
    known: Bool[Tensor, "B T"],
    *,
    generator: Generator,
    end: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Tensor, "B T"]:
    """Fills in what is not known of s, from left to right: s_t ~ p(s_t | s_<t).

    Args:
        logits_at: (s, t) to the logits (B, V) of symbol t, from the symbols before it alone.
        s: what is known; the rest is not read.
        known: which symbols are kept; in each row they come first.
        end: after it comes nothing but it.
    """
    s = s.clone()
    first = int(known.sum(1).min()) if len(s) else s.shape[1]
    done = torch.zeros_like(known[:, 0]) if end is None else (s[:, :first] == end).any(1)
    for t in range(first, s.shape[1]):
        new = draw(logits_at(s, t), generator=generator, temperature=temperature, top_k=top_k, top_p=top_p)
        if end is not None:
            new = new.masked_fill(done, end)
        s[:, t] = torch.where(known[:, t], s[:, t], new)
        if end is not None:
            done = done | (s[:, t] == end)
    return s
