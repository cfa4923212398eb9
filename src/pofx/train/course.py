"""A run from where it stands to its end: rounds, and what is done between them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pofx.errors import Unusable
from pofx.train.loop import Trainer
from pofx.train.validation import Validation
from pofx.train.watch import Stop, Watcher

RECORDS, VALIDATIONS, DRAWINGS = 200, 20, 4  # times in a run
SAVE_SECONDS = 30.0
OVERTIME = 1.15  # the clock stops a run that its plan did not fit


@dataclass
class Course:
    """Trains to the end of the plan.

    Args:
        trainer: the rounds.
        validation: keeps the best weights, or None.
        save: writes a checkpoint.
        draw: draws samples, or None.
        budget: seconds that the plan was made for, or None.
        seconds: spent before, in a resumed run.
        history: a row each time that losses are read.
    """

    trainer: Trainer
    validation: Validation | None
    save: Callable[[], None]
    draw: Callable[[int], None] | None = None
    budget: float | None = None
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    watcher: Watcher = field(default_factory=Watcher)

    def run(self, stop: Stop) -> bool:
        """Trains until the plan or the clock ends it (True), or until asked to stop (False); saved in each case."""
        trainer, planned = self.trainer, self.trainer.planned
        shown, saved, began = 0.0, time.perf_counter(), time.perf_counter() - self.seconds
        while trainer.step < planned and not stop.asked:
            trainer.round()
            now = time.perf_counter()
            self.seconds = now - began
            if _due(trainer.step, planned, RECORDS):
                self._record()
            if now - shown > 0.25 and self.history:
                self.watcher.stepped(trainer.step, self.seconds, self.history[-1])
                shown = now
            if self.draw is not None and _due(trainer.step, planned, DRAWINGS) and trainer.step < planned:
                with trainer.weights():
                    self.draw(trainer.step)
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = now
            if self.budget is not None and self.seconds > OVERTIME * self.budget:
                self.watcher.said(f"the budget ended training at step {trainer.step} of {planned}")
                planned = trainer.planned = trainer.step
        self.save()
        return trainer.step >= planned

    def _record(self) -> None:
        """Reads the losses; measures the validation rows when it is their turn."""
        trainer = self.trainer
        values = trainer.observed()
        if any(not math.isfinite(value) for value in values.values()):
            raise Unusable(
                f"training diverged at step {trainer.step}: a loss is not finite; try a --learning-rate below "
                f"{trainer.settings.learning_rate:g} or a smaller --clip"
            )
        if self.validation is not None and _due(trainer.step, trainer.planned, VALIDATIONS):
            with trainer.weights():
                values["validation"] = self.validation.consider(trainer.model, trainer.step)
        self.history.append({"step": trainer.step, "seconds": round(self.seconds, 3), **values})
        self.watcher.recorded(self.history[-1])


def _due(step: int, planned: int, times: int) -> bool:
    """Whether one of ``times`` evenly spaced moments falls on this step; the last step is always one."""
    return step * times // planned > (step - 1) * times // planned
