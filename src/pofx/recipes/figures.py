"""What a recipe's figure is: of a run, on the test split or on samples that nobody has selected."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

from pofx.conditions import Classes
from pofx.data import load
from pofx.evaluate.classifier import cached_judge
from pofx.evaluate.drawing import Drawn, balanced
from pofx.evaluate.evaluation import accuracy_score
from pofx.evaluate.modes import count_modes
from pofx.evaluate.pace import Clock
from pofx.evaluate.score import Score
from pofx.runs import Run

Metric = Literal["log p(x)", "conditional accuracy", "kl of modes"]
SPLIT = "test"  # the best weights are chosen on validation, so that nothing was chosen on this one


def log_p(run: Run, *, rows: int | None, samples: int, seconds: float) -> Score:
    """The mean of the first ``rows`` of the split, in nats."""
    x, _ = run.data.test.rows()
    scored = run.score(x[:rows], samples=samples)
    n = len(scored.value)
    stderr = (scored.value.std() / math.sqrt(n)).item() if n > 1 else None
    return Score("log p(x)", scored.value.mean().item(), scored.kind, "nats", n, stderr=stderr, split=SPLIT)


def accepted(run: Run, *, rows: int | None, samples: int, seconds: float) -> Score:
    """The share of samples, classes in their training frequencies, that a judge takes for the class asked for."""
    assert isinstance(run.condition, Classes)
    c = balanced(run.condition, rows or samples)
    drawn = Drawn(run.sample(len(c), c).x, c, len(c), math.nan)
    (score,) = accuracy_score(
        drawn, run.data, split=SPLIT, seed=0, clock=Clock.of(math.inf), patience=seconds, watch=lambda line: None
    )
    return score


def kl_of_modes(run: Run, *, rows: int | None, samples: int, seconds: float) -> Score:
    """KL(samples || data) over the modes of stacked digits, told by a judge of single ones."""
    digits = load(run.config["source"].partition(":")[0], condition="class")
    assert isinstance(digits.condition, Classes)
    judge = cached_judge(digits, seed=0, seconds=seconds)
    return count_modes(run.sample(rows or samples).x, judge, digits.condition.frequencies).score(SPLIT)


FIGURES: Mapping[Metric, Callable[..., Score]] = {
    "log p(x)": log_p,
    "conditional accuracy": accepted,
    "kl of modes": kl_of_modes,
}
