"""log p of a long text by windows that overlap, so that a model's context does not begin anew at each of them.

Shapes: L symbols of the text, T of a window.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pofx.data.dataset import Data, Windows
from pofx.data.maps import MappedWindows
from pofx.domains import Tokens
from pofx.errors import Unusable
from pofx.evaluate.score import Score
from pofx.protocols import Chains, capabilities
from pofx.rendering import text_of

MOST = 1_000_000  # symbols of a split that are scored


@dataclass(frozen=True)
class Strided:
    """log p of each symbol of a text, in nats, and what follows from their sum alone.

    Args:
        log_p: (L,).
        size: bytes of the text in UTF-8, or None where the symbols are not of a text.
    """

    log_p: Float[Tensor, "L"]
    size: int | None = None

    @property
    def bits_per_symbol(self) -> float:
        """-log2 p over the symbols; bits per character where those are characters."""
        return -self.log_p.double().sum().item() / (len(self.log_p) * math.log(2))

    @property
    def bits_per_byte(self) -> float | None:
        """-log2 p over the bytes: comparable between encodings."""
        return None if not self.size else self.bits_per_symbol * len(self.log_p) / self.size

    @property
    def perplexity(self) -> float:
        """2 to the bits per symbol."""
        return 2**self.bits_per_symbol


@torch.no_grad()
def strided(model: Any, text: Int[Tensor, "L"], *, stride: int, rows: int = 64) -> Strided:
    r"""$\sum_t \log p(x_t | x_{a(t)}, \dots, x_{t-1})$: each symbol is scored once, in the first window that holds it.

    Windows begin at 0, stride, 2 stride, ... (the last one where it ends with the text): a symbol after the first
    window is given at least T - stride before it. A stride of T is that of disjoint windows.

    Args:
        model: it ``Chains``, over a text that has no end of its own; in eval mode.
        text: at least T symbols, where the model is.
        stride: 1 to T.
        rows: windows in one call.

    Raises:
        Unusable: another model, a stride out of range, or a text shorter than a window.
    """
    domain = _text_of(model)
    if not 1 <= stride <= domain.length:
        raise Unusable(f"a stride lies in 1 to {domain.length}, the symbols of a window, got {stride}")
    if len(text) < domain.length:
        raise Unusable(f"a text to score has at least {domain.length} symbols, a window, got {len(text)}; give more")
    last = len(text) - domain.length
    starts = torch.tensor([*range(0, last, stride), last])
    # How many of each window's symbols the one before it has not.
    fresh = torch.cat([torch.tensor([domain.length]), starts.diff()])
    places = torch.arange(domain.length)
    parts = []
    for first, new in zip(starts.split(rows), fresh.split(rows)):
        log_p = model.conditionals(text[(first[:, None] + places).to(text.device)])
        parts.append(log_p[(places >= domain.length - new[:, None]).to(log_p.device)])
    return Strided(torch.cat(parts), _bytes(text, domain))


def strided_score(model: Any, data: Data, *, split: str, stride: int, device: str | torch.device = "cpu") -> Score:
    """``strided`` over a split, as a score per window of T symbols, which has the units of every other.

    The standard error is from sums over disjoint stretches of T symbols.
    """
    part, length = data.part(split), _text_of(model).length
    if not isinstance(part, Windows | MappedWindows):
        raise Unusable(f"a stride needs one long text, and the {split} split of {data.source} is none; leave it out")
    whole = min(part.observations, max(1, MOST // length))
    text = part.take(torch.arange(whole) * length)[0].flatten().to(device)
    found = strided(model, text, stride=stride)
    sums = found.log_p[: len(found.log_p) // length * length].view(-1, length).sum(1)
    per_byte = "" if found.bits_per_byte is None else f", {found.bits_per_byte:.3f} bits/byte"
    return Score(
        f"log p(x), stride {stride}",
        found.log_p.double().mean().item() * length,
        "exact",
        "nats",
        len(sums),
        stderr=(sums.std() / math.sqrt(len(sums))).item() if len(sums) > 1 else None,
        split=split,
        better="higher" if split != "train" else "reference",
        note=(
            f"{len(text):,} symbols, each after the first window given at least {length - stride} before it, "
            f"perplexity {found.perplexity:.3f}{per_byte}"
        ),
    )


def _text_of(model: Any) -> Tokens:
    domain = model.domain
    if Chains not in capabilities(model) or not isinstance(domain, Tokens) or domain.end is not None:
        raise Unusable("a stride is for models that score a text symbol by symbol, such as gpt; leave it out")
    return domain


def _bytes(text: Tensor, domain: Tokens) -> int | None:
    if domain.encoding == "none" and not domain.symbols:
        return None
    if domain.encoding == "bytes":
        return len(text)
    return len(text_of(text[None].cpu(), domain)[0].encode())
