"""A whole run as plain values, the figure to expect of it, and the figure that came of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pofx.domains import Domain
from pofx.evaluate.score import Kind, Score
from pofx.recipes.figures import FIGURES, Metric
from pofx.runs import Run

JUDGING, QUICKLY = 180.0, 1.0  # seconds for the training of a judge


@dataclass(frozen=True)
class Expected:
    """What the figure should come to: at most, or of samples accepted, at least.

    Args:
        value: in ``unit``.
        unit: "nats" for each observation, "nats/char", or "" for a share.
        kind: of the number that it is.
        measured: where the whole run was made and how often, such as "two cores, 3 seeds"; empty: it never was.
        metric: -log p of the test split, or what is counted on samples.
    """

    value: float
    unit: Literal["nats", "nats/char", ""]
    kind: Kind
    measured: str = ""
    metric: Metric = "log p(x)"

    def __str__(self) -> str:
        return f"at {'least' if self.is_least else 'most'} {self.figure} ({self.standing})"

    @property
    def is_least(self) -> bool:
        """Whether more is better."""
        return self.metric == "conditional accuracy"

    @property
    def figure(self) -> str:
        """Value, unit, and what sort of number it is."""
        return " ".join(filter(None, (str(self.value), self.unit))) + f", {self.what}"

    @property
    def what(self) -> str:
        """The kind of a likelihood, or the metric."""
        return self.kind if self.metric == "log p(x)" else self.metric

    @property
    def standing(self) -> str:
        """What the figure is worth: measured, or an aim."""
        return f"measured: {self.measured}" if self.measured else "an aim: never run whole"

    def read(self, score: Score, domain: Domain) -> float:
        """The figure of a score: of log p in nats, -log p in this unit."""
        return self.in_unit(-score.value, domain) if self.metric == "log p(x)" else score.value

    def in_unit(self, nats: float, domain: Domain) -> float:
        """Nats of one observation in this unit."""
        return nats / domain.dims if self.unit == "nats/char" else nats

    def met(self, figure: float) -> bool:
        """Whether a figure is as good as this."""
        return figure >= self.value if self.is_least else figure <= self.value


@dataclass(frozen=True)
class Recipe:
    """One whole run.

    Args:
        name: what a user types.
        summary: one line.
        model: its name in the catalogue.
        source: a named set with its options.
        given: what ``fit`` takes beside these: the model's arguments, training settings.
        time: that training takes on ``machine``, about; as with the figure, a guess until it is measured.
        machine: that the time is of; "a GPU" where it would be too long on anything else.
        expected: the figure.
        beside: published figures, and what keeps them from being compared like for like.
        samples: of the latent for each observation, where the figure is a bound; or that the figure is counted on.
    """

    name: str
    summary: str
    model: str
    source: str
    given: Mapping[str, Any]
    time: str
    machine: str
    expected: Expected
    beside: str = ""
    samples: int = 100

    @property
    def needs_gpu(self) -> bool:
        """Whether it is too long for anything else."""
        return self.machine == "a GPU"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"expected": asdict(self.expected) | {"standing": self.expected.standing}}

    def judged(self, run: Run, *, rows: int | None = None, whole: bool = True) -> "Reproduced":
        """The figure of a run beside what is expected of it.

        Args:
            run: that this recipe made.
            rows: of the test split, the first ones, or as many samples; all of them if None.
            whole: the run is the recipe's own, with nothing of it changed.
        """
        score = FIGURES[self.expected.metric](
            run, rows=rows, samples=self.samples if whole else 100, seconds=JUDGING if whole else QUICKLY
        )
        return Reproduced(self, run, score, whole)


@dataclass(frozen=True)
class Reproduced:
    """What came of a recipe.

    Args:
        recipe: that was followed.
        run: its run.
        score: of the metric, on the test split or on samples.
        whole: nothing of the recipe was changed, and all of the split or of the samples were scored.
    """

    recipe: Recipe
    run: Run = field(repr=False)
    score: Score
    whole: bool = True

    @property
    def figure(self) -> float:
        """In the unit of what is expected; of log p, its negative."""
        return self.recipe.expected.read(self.score, self.run.domain)

    @property
    def reached(self) -> bool | None:
        """Whether the figure is what was expected; None where the run was not the whole recipe."""
        return self.recipe.expected.met(self.figure) if self.whole else None

    def __str__(self) -> str:
        expected, score = self.recipe.expected, self.score
        spread = "" if score.stderr is None else f" +- {expected.in_unit(score.stderr, self.run.domain):.3f}"
        likelihood = expected.metric == "log p(x)"
        counted = f"{score.n:,} observations of {score.split}" if likelihood else f"{score.n:,} samples; {score.note}"
        what = score.kind if likelihood else expected.metric
        figure = " ".join(filter(None, (f"{self.figure:.3f}{spread}", expected.unit))) + f" ({what}, {counted})"
        verdict = {True: "reached", False: "not reached", None: "not the whole recipe, so not to be compared"}
        return f"{figure}; expected {expected}: {verdict[self.reached]}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        result = {"figure": self.figure, "reached": self.reached, "whole": self.whole}
        return {"run": str(self.run.folder), "score": self.score.to_json(), "recipe": self.recipe.to_json()} | result
