"""What a comparison knows of each model: plain figures, pooled over seeds, ready for a table, a verdict or a page."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from pofx.evaluate.score import Score

Key = tuple[str, str, str]  # metric, what was given, split: what makes two figures the same question


def key(score: Score) -> Key:
    """The question that a score answers."""
    return score.metric, score.given, score.split


def is_likelihood(score: Score) -> bool:
    """Whether the score is some form of log p."""
    return score.metric.startswith("log p")


@dataclass(frozen=True)
class Row:
    """One model of a comparison.

    Args:
        name: of the catalogue, or of the codec.
        family: of the catalogue; "baselines" and "codecs" are what the others are measured against.
        summary: one line on the model.
        status: "failed" where no seed came through; ``reason`` then says why.
        parameters, steps, seconds: size, optimiser rounds and training time, means over the seeds.
        able: names of the model's capabilities.
        by_seed: the scores of each seed.
        history: of the first seed: step, seconds, "player/part" and "validation/..." values.
        events: of the first seed's training, as its run keeps them: alarms, skipped steps, ...
        samples: canonical draws of the first seed, for people to look at.
        given: the condition rows that the samples were drawn for.
    """

    name: str
    family: str = ""
    summary: str = ""
    status: Literal["ok", "failed"] = "ok"
    reason: str = ""
    parameters: int | None = None
    steps: int | None = None
    seconds: float | None = None
    able: frozenset[str] = frozenset()
    by_seed: tuple[tuple[Score, ...], ...] = ()
    history: Sequence[dict[str, Any]] = field(default=(), repr=False)
    events: Sequence[dict[str, Any]] = field(default=(), repr=False)
    samples: Tensor | None = field(default=None, repr=False)
    given: Tensor | None = field(default=None, repr=False)

    @property
    def is_reference(self) -> bool:
        """A baseline or a codec: there to be beaten, never to win."""
        return self.family in ("baselines", "codecs")

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """What health rules said while it trained: rule, step, line, advice."""
        return [event for event in self.events if event["kind"] == "alarm"]

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """One score per question, the mean over seeds; see ``pooled``."""
        asked = dict.fromkeys(key(score) for scores in self.by_seed for score in scores)
        return tuple(pooled(self._answers(question)) for question in asked)

    @cached_property
    def held_out(self) -> tuple[Score, ...]:
        """The scores that count: without those on training data, which stand beside as a reference."""
        return tuple(score for score in self.scores if score.better != "reference")

    def score(self, metric: str, given: str = "") -> Score | None:
        """The pooled score of a metric, if the model has one."""
        return next((s for s in self.held_out if (s.metric, s.given) == (metric, given)), None)

    def find(self, *words: str) -> Score | None:
        """The first score whose metric holds one of the words, in the order of the words."""
        return next((s for word in words for s in self.held_out if word in s.metric.lower()), None)

    def spread(self, score: Score) -> float:
        """Standard deviation of a score over the seeds; 0 for a single one."""
        values = [s.value for s in self._answers(key(score))]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The row of ``compare.json``."""
        scores = [s.to_json() | ({"spread": self.spread(s)} if len(self.by_seed) > 1 else {}) for s in self.scores]
        plain = {a: getattr(self, a) for a in ("name", "status", "reason", "parameters", "steps", "seconds", "family")}
        return plain | {"seeds": len(self.by_seed), "scores": scores}

    def _answers(self, question: Key) -> list[Score]:
        return [s for scores in self.by_seed for s in scores if key(s) == question]


def pooled(scores: Sequence[Score]) -> Score:
    """The mean over seeds, with stderr^2 = (mean stderr)^2 + (spread^2 / seeds).

    The seeds share their held-out data, so the noise of those does not average away; that of training does.
    """
    first = scores[0]
    if len(scores) == 1:
        return first
    of_data = [s.stderr for s in scores if s.stderr is not None]
    of_training = statistics.stdev(s.value for s in scores) / math.sqrt(len(scores))
    biases = [s.bias for s in scores if s.bias is not None]
    return replace(
        first,
        value=statistics.fmean(s.value for s in scores),
        n=min(s.n for s in scores),
        stderr=math.hypot(statistics.fmean(of_data) if of_data else 0.0, of_training),
        bias=max(biases) if biases else None,
        parts=(),
    )


def decided(a: Row, s: Score, b: Row, t: Score) -> bool:
    """Whether two figures differ for sure: by over twice their standard error, and over the spread of the seeds."""
    if s.stderr is None or t.stderr is None:
        return False
    gap = abs(s.value - t.value)
    return gap > 2 * math.hypot(s.stderr, t.stderr) and gap > math.hypot(a.spread(s), b.spread(t))
