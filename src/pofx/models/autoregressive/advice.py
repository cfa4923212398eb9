"""Sizes and training settings that the transformers of the family ask for, chosen on validation splits."""

from typing import Any

from pofx.domains import Domain, Tokens, Vectors

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


def advice(domain: Domain, *, grams: bool = False) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """(width, layers, heads) and training settings by the domain; for text, batches of about 1280 symbols.

    With n-grams half the layers do, and the rate is higher: a table's row is seldom visited.
    """
    if isinstance(domain, Tokens):
        own = {"batch_size": max(8, 1280 // domain.length)} | ({"learning_rate": 0.02} if grams else {})
        return (128, 2 if grams else 4, 4), _TEXT | own
    if isinstance(domain, Vectors):
        return (64, 2, 2), _PICTURES | {"batch_size": 128, "weight_decay": 0.0}
    if domain.dims <= 256:
        return (64, 2, 2), _PICTURES | {"batch_size": 32}
    return (64, 3, 2), _PICTURES | {"batch_size": 8}


def gram_length(domain: Domain, width: int | None) -> int:
    """The longest n-gram that is looked up: 5, or what shares the width, where symbols are characters or bytes."""
    if not isinstance(domain, Tokens) or domain.vocabulary > 257:
        return 1
    return next(n for n in (5, 3, 2) if width is None or width % (n - 1) == 0)
