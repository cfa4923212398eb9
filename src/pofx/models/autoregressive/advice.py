"""Sizes and training settings that transformers over symbols ask for, chosen on validation splits."""

from typing import Any

from pofx.domains import Tokens
from pofx.nn.sequence import SymbolSequence

_TEXT = {
    "optimiser": "muon",
    "learning_rate": 6e-3,
    "muon_learning_rate": 0.02,
    "beta1": 0.8,
    "beta2": 0.95,
    "schedule": "trapezoid",
    "warmup": 1 / 6,
    "cooldown": 0.5,
    "ema": 0.0,
}
_PICTURES = {
    "optimiser": "muon",
    "learning_rate": 4e-3,
    "muon_learning_rate": 0.03,
    "weight_decay": 0.3,
    "schedule": "trapezoid",
    "warmup": 0.05,
    "cooldown": 0.5,
    "ema": 0.1,
}


def advice(sequence: SymbolSequence) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """(width, layers, heads) and training settings by the domain; for text, batches of about 1280 symbols."""
    if isinstance(sequence.domain, Tokens):
        return (128, 4, 4), _TEXT | {"batch_size": max(8, 1280 // sequence.length)}
    if sequence.length <= 256:
        return (64, 2, 2), _PICTURES | {"batch_size": 32}
    return (64, 3, 2), _PICTURES | {"batch_size": 8}


def gram_length(sequence: SymbolSequence, width: int) -> int:
    """The longest n-gram that is looked up: 5, or what shares the width, where symbols are characters or bytes."""
    if not isinstance(sequence.domain, Tokens) or sequence.vocabulary > 257:
        return 1
    return next(n for n in (5, 3, 2) if width % (n - 1) == 0)
