"""Arguments that make a ``gpt`` into a published one: plain values, which the catalogue reads without torch."""

from typing import Any

AS_GPT2: dict[str, Any] = {
    "position": "learned",
    "norm": "layer",
    "qk_norm": False,
    "activation": "gelu-tanh",
    "bias": True,
    "zero_init": False,
    "grams": 1,
}
