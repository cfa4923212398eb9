"""Tiny shakespeare by characters, split as nanoGPT splits it, and one loss for every model.

The last tenth of the text is the test. Tuning sees the first nine tenths alone: it trains on the first nine tenths of
those and chooses by their last tenth.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

BLOCK = 64


@dataclass(frozen=True)
class Split:
    """Streams of symbols, uint8."""

    vocabulary: int
    train: Tensor
    held_out: Tensor


def split(*, tuning: bool) -> Split:
    """What is trained on and what is scored: held back from the training text for tuning, else the test."""
    path = Path(os.environ.get("POFX_DATA", "data")) / "tinyshakespeare" / "input.txt"
    text = path.read_text(encoding="utf-8")
    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    symbols = torch.tensor([alphabet[character] for character in text], dtype=torch.uint8)
    train, test = _parted(symbols)
    return Split(len(alphabet), *(_parted(train) if tuning else (train, test)))


def _parted(symbols: Tensor) -> tuple[Tensor, Tensor]:
    cut = int(0.9 * len(symbols))
    return symbols[:cut], symbols[cut:]


@torch.no_grad()
def loss_over(symbols: Tensor, nats: Callable[[Tensor], Tensor], *, rows: int = 256) -> float:
    """Mean nats per character over disjoint blocks of 64, each given the character before it.

    Args:
        symbols: a whole split; the rest after the last whole block is left out.
        nats: windows of 65 symbols to the (B, 64) nats of all but the first.
    """
    blocks = symbols.unfold(0, BLOCK + 1, BLOCK).long()
    return float(torch.cat([nats(part) for part in blocks.split(rows)]).double().mean())
