"""How a run is trained: plain values, checked on the spot, stored in the run."""

import math
import re
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pofx.errors import Unusable, nearest

Optimiser = Literal["adamw", "adam", "sgd", "muon"]
Schedule = Literal["constant", "cosine", "trapezoid"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Settings:
    """Training settings. A model's ``recipe`` gives its own defaults, and what the user says wins over both.

    Args:
        steps: rounds of the game; None: as many as the budget allows.
        budget: seconds of training; the model's default budget where neither is given.
        batch_size: observations per optimiser step.
        accumulate: pieces that a batch is cut into and goes through one after the other, to save memory.
        learning_rate: peak of the schedule.
        optimiser: "muon" orthogonalises the hidden matrices and gives the rest to AdamW.
        muon_learning_rate: of the matrices, with "muon".
        beta1, beta2: averaging of Adam's moments.
        weight_decay: on matrices only; decoupled with "adamw" and "muon", added to the gradient with "sgd".
        schedule: "constant", "cosine" (to zero) or "trapezoid" (linear to zero over the last ``cooldown``).
        warmup: share of the steps over which the rate climbs from zero.
        cooldown: share of the steps over which a trapezoid falls to zero.
        clip: largest gradient norm; 0 for none.
        ema: share of the planned steps over which weights are averaged; 0 for none.
        precision: of the forward pass.
        compile: run the model's networks through ``torch.compile``.
        threads: of the CPU; None: as many as are fastest, when a budget is planned.
        validation_rows: of the validation split, measured as training goes; None: as many as its share of the budget
            allows, 256 without one.
        keep_every: steps between checkpoints that are kept, besides the last and the last good one; 0 for none.
        deterministic: only deterministic kernels, also on CUDA.
    """

    steps: int | None = None
    budget: float | None = None
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-3
    optimiser: Optimiser = "adamw"
    muon_learning_rate: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    cooldown: float = 0.5
    clip: float = 1.0
    ema: float = 0.1
    precision: Precision = "fp32"
    compile: bool = False
    threads: int | None = None
    validation_rows: int | None = None
    keep_every: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        finite = [
            (f.name, "a finite number", math.isfinite(getattr(self, f.name))) for f in fields(self) if f.type is float
        ]
        for name, rule, good in [*finite, *self._rules()]:
            if not good:
                flag = "--" + name.replace("_", "-")
                raise Unusable(f"{flag} must be {rule}, got {getattr(self, name)}; leave it out for the default")

    def _rules(self) -> list[tuple[str, str, bool]]:
        return [
            ("steps", "at least 1", self.steps is None or self.steps >= 1),
            ("budget", "above 0 seconds", self.budget is None or self.budget > 0),
            ("threads", "at least 1", self.threads is None or self.threads >= 1),
            ("validation_rows", "at least 1", self.validation_rows is None or self.validation_rows >= 1),
            ("batch_size", "at least 1", self.batch_size >= 1),
            ("accumulate", "at least 1", self.accumulate >= 1),
            ("keep_every", "at least 0", self.keep_every >= 0),
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("muon_learning_rate", "above 0", self.muon_learning_rate > 0),
            ("beta1", "in [0, 1)", 0 <= self.beta1 < 1),
            ("beta2", "in [0, 1)", 0 <= self.beta2 < 1),
            ("weight_decay", "at least 0", self.weight_decay >= 0),
            ("warmup", "in [0, 1]", 0 <= self.warmup <= 1),
            ("cooldown", "in [0, 1]", 0 <= self.cooldown <= 1),
            ("clip", "at least 0", self.clip >= 0),
            ("ema", "in [0, 1]", 0 <= self.ema <= 1),
            *((name, "true or false", isinstance(getattr(self, name), bool)) for name in ("compile", "deterministic")),
            *((name, "one of " + ", ".join(get_args(kind)), getattr(self, name) in get_args(kind))
              for name, kind in (("optimiser", Optimiser), ("schedule", Schedule), ("precision", Precision))),
        ]  # fmt: skip

    def keeps(self, step: int) -> bool:
        """Whether the checkpoint of this step is kept for good."""
        return bool(self.keep_every and step and step % self.keep_every == 0)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of all settings."""
        return tuple(f.name for f in fields(cls))


def settings_from(recipe: dict[str, Any], given: dict[str, Any]) -> Settings:
    """The model's recipe under what the user gave."""
    for name in (*recipe, *given):
        if name not in Settings.names():
            raise Unusable(f"there is no training setting {name!r}{nearest(name, Settings.names())}")
    return Settings(**{**recipe, **given})


def seconds(text: str | float) -> float:
    """A budget in seconds from "90s", "2m", "1h", "1h30m" or a number.

    >>> seconds("1m30s"), seconds("45"), seconds(10)
    (90.0, 45.0, 10.0)
    """
    if not isinstance(text, str):
        return float(text)
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text.strip())
    try:
        if parts and any(parts.groups()):
            return sum(float(v) * unit for v, unit in zip(parts.groups(), (3600, 60, 1)) if v)
    except ValueError:
        pass
    raise Unusable(f"a budget is a time like 90s, 2m or 1h30m, got {text!r}")
