"""A whole run as plain values, the figure to expect of it, and the figure that came of it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pofx.domains import Domain
from pofx.evaluate.score import Kind, Score
from pofx.runs import Run

SPLIT = "test"  # the best weights are chosen on validation, so that nothing was chosen on this one


@dataclass(frozen=True)
class Expected:
    """What -log p of the test split should come to, at most.

    Args:
        value: in ``unit``; lower is better.
        unit: "nats" for each observation, or "nats/char".
        kind: of the likelihood that it is.
        measured: where the whole run was made and how often, such as "two cores, 3 seeds"; empty: it never was.
    """

    value: float
    unit: Literal["nats", "nats/char"]
    kind: Kind
    measured: str = ""

    def __str__(self) -> str:
        return f"at most {self.value} {self.unit}, {self.kind} ({self.standing})"

    @property
    def standing(self) -> str:
        """What the figure is worth: measured, or an aim."""
        return f"measured: {self.measured}" if self.measured else "an aim: never run whole"

    def in_unit(self, nats: float, domain: Domain) -> float:
        """Nats of one observation in this unit."""
        return nats / domain.dims if self.unit == "nats/char" else nats


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
        samples: of the latent for each observation, where the figure is a bound.
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
            rows: of the test split, the first ones; all of them if None.
            whole: the run is the recipe's own, with nothing of it changed.
        """
        x, _ = run.data.test.rows()
        scored = run.score(x[:rows], samples=self.samples if whole else 100)
        n = len(scored.value)
        stderr = (scored.value.std() / math.sqrt(n)).item() if n > 1 else None
        score = Score("log p(x)", scored.value.mean().item(), scored.kind, "nats", n, stderr=stderr, split=SPLIT)
        return Reproduced(self, run, score, whole)


@dataclass(frozen=True)
class Reproduced:
    """What came of a recipe.

    Args:
        recipe: that was followed.
        run: its run.
        score: log p of the test split, in nats.
        whole: nothing of the recipe was changed, and all of the split was scored.
    """

    recipe: Recipe
    run: Run = field(repr=False)
    score: Score
    whole: bool = True

    @property
    def figure(self) -> float:
        """-log p, in the unit of what is expected."""
        return self.recipe.expected.in_unit(-self.score.value, self.run.domain)

    @property
    def reached(self) -> bool | None:
        """Whether the figure is what was expected; None where the run was not the whole recipe."""
        return self.figure <= self.recipe.expected.value if self.whole else None

    def __str__(self) -> str:
        expected, score = self.recipe.expected, self.score
        spread = "" if score.stderr is None else f" +- {expected.in_unit(score.stderr, self.run.domain):.3f}"
        figure = f"{self.figure:.3f}{spread} {expected.unit} ({score.kind}, {score.n:,} observations of {score.split})"
        verdict = {True: "reached", False: "not reached", None: "not the whole recipe, so not to be compared"}
        return f"{figure}; expected {expected}: {verdict[self.reached]}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        result = {"figure": self.figure, "reached": self.reached, "whole": self.whole}
        return {"run": str(self.run.folder), "score": self.score.to_json(), "recipe": self.recipe.to_json()} | result
