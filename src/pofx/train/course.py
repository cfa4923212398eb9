"""A run from where it stands to its end: rounds, and what is done between them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from pofx.data.dataset import Batch
from pofx.errors import Unusable
from pofx.nn.modes import evaluating
from pofx.protocols import Judges, Samples, Watched, capabilities
from pofx.train.health import Alarm, Health
from pofx.train.loop import Trainer
from pofx.train.modes import mode_meters
from pofx.train.validation import Validation
from pofx.train.watch import Stop, Watcher

RECORDS, VALIDATIONS, DRAWINGS = 200, 20, 4  # times in a run
SHOW_SECONDS, SAVE_SECONDS = 0.25, 30.0
OVERTIME = 1.15  # the clock stops a run that its plan did not fit
LOOK = 50  # steps between looks at whether steps are being skipped, at most
APART = 50  # steps between checkpoints that one can go back to, at least
BEAT = 8  # rounds after which several processes ask each other whether to stop
PATIENCE, TRIES, BRAKE = 10, 3, 0.5  # skipped steps in a row that end a try; tries; learning rate from try to try


@dataclass
class Course:
    """Trains to the end of the plan.

    Everything that bears on the weights happens at steps that the plan alone decides, never at a reading of the clock:
    so a run that was stopped and resumed is the run that was not.

    Args:
        trainer: the rounds.
        validation: keeps the best weights, or None.
        save: writes a checkpoint; told True, one that training may go back to.
        restore: puts the trainer where the last such checkpoint stood.
        draw: draws samples, or None.
        watched: rows that the model's meters are read on, or None.
        labels: their classes, where there are any, which the model need not be told.
        budget: seconds that the plan was made for, or None.
        seconds: spent before, in a resumed run.
        history: a row each time that losses are read.
        events: what happened besides: "rollback", "stopped", "alarm", each with ``step`` and ``line``.
    """

    trainer: Trainer
    validation: Validation | None
    save: Callable[[bool], None]
    restore: Callable[[], None]
    draw: Callable[[int], None] | None = None
    watched: Batch | None = None
    labels: Tensor | None = None
    budget: float | None = None
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    watcher: Watcher = field(default_factory=Watcher)

    @cached_property
    def health(self) -> Health:
        """Examines the history; made when it is first asked, after a resumed run has found its events."""
        return Health(self.events)

    def run(self, stop: Stop) -> bool:
        """Trains until the plan or the clock ends it (True), or until asked to stop (False); saved in each case.

        Raises:
            Unusable: training diverges again and again; it stands where it last was good.
        """
        trainer = self.trainer
        began = shown = saved = time.perf_counter()
        began -= self.seconds
        due = self._next_moment() if trainer.planned else 0
        stopping = False
        while trainer.step < trainer.planned and not stopping:
            trainer.round()
            now = time.perf_counter()
            self.seconds = now - began
            if trainer.step >= due:
                self._moment()
                due = self._next_moment()
            if now - shown > SHOW_SECONDS:
                self.watcher.stepped(trainer.step, self.seconds, self._latest())
                shown = now
            if trainer.world.size == 1 or trainer.step % BEAT == 0:
                late = self.budget is not None and self.seconds > OVERTIME * self.budget
                stopping, saving, late = trainer.world.anyone(stop.asked, now - saved > SAVE_SECONDS, late)
                if saving and trainer.step < trainer.planned:
                    self.save(False)
                    saved = time.perf_counter()
                if late and trainer.step < trainer.planned:
                    self._event("stopped", f"the budget ended training at step {trainer.step} of {trainer.planned}")
                    trainer.planned = trainer.step
                    self._record(measure=True)
        self.save(False)
        return trainer.step >= trainer.planned

    def _next_moment(self) -> int:
        """The next step at which something is to be read, measured, drawn or kept."""
        step, planned = self.trainer.step, self.trainer.planned
        moments = [step + LOOK - step % LOOK, *(_after(step, planned, n) for n in (RECORDS, VALIDATIONS, DRAWINGS))]
        every = self.trainer.settings.keep_every
        return min([*moments, step + every - step % every] if every else moments)

    def _moment(self) -> None:
        """What is due at this step."""
        trainer, settings = self.trainer, self.trainer.settings
        step, planned = trainer.step, trainer.planned
        if self._is_lost():
            self._go_back()
            return
        measure = _due(step, planned, VALIDATIONS)
        if _due(step, planned, RECORDS):
            self._record(measure=measure)
        if self.draw is not None and _due(step, planned, DRAWINGS) and step < planned:
            with trainer.weights():
                self.draw(step)
        kept = settings.keeps(step)
        good = _due(step, planned, max(1, min(VALIDATIONS, planned // APART))) and not trainer.streak()
        if (good or kept) and step < planned:  # the end is saved with all that people read, once
            self.save(good)

    def _record(self, *, measure: bool) -> None:
        """Reads the losses; measures the validation rows and the meters when it is their turn."""
        trainer = self.trainer
        row: dict[str, float] = {"step": trainer.step, "seconds": round(self.seconds, 3), **trainer.observed()}
        if trainer.skipped:
            row["skipped"] = trainer.skipped
        if measure:
            with trainer.weights():
                if self.validation is not None:
                    row["validation"] = self.validation.consider(trainer.model, trainer.step)
                row |= self._meters()
        self.history.append(row)
        self.watcher.recorded(row)
        for alarm in self.health.examine(self.history, trainer.planned):
            self.alarm(alarm)

    def _meters(self) -> dict[str, float]:
        model, able = self.trainer.model, capabilities(self.trainer.model)
        if self.watched is None or Watched not in able:
            return {}
        with evaluating(model):
            meters: dict[str, Tensor] = model.meters(*self.watched)  # type: ignore[operator]
            if self.labels is not None and {Judges, Samples} <= able:  # a game may leave out part of the data
                meters = meters | mode_meters(model, self.watched, self.labels)
        return {f"meter/{name}": float(value) for name, value in meters.items()}

    def _latest(self) -> dict[str, float]:
        """For the bar: the last losses, and the last validation."""
        measured = next((row for row in reversed(self.history) if "validation" in row), {})
        return self.trainer.latest() | {k: v for k, v in measured.items() if k == "validation"}

    def _is_lost(self) -> bool:
        """Whether too many steps in a row were skipped."""
        return self.trainer.streak() >= PATIENCE

    def _go_back(self) -> None:
        """To the last good checkpoint with a lower learning rate, at most ``TRIES`` times."""
        trainer, tries = self.trainer, sum(event["kind"] == "rollback" for event in self.events)
        left, brake = trainer.step, trainer.brake
        rate = trainer.settings.learning_rate * brake
        self.restore()
        self.history = [row for row in self.history if row["step"] <= trainer.step]
        why = f"{PATIENCE} steps in a row before step {left} had a loss or gradient that was not finite"
        if tries == TRIES:
            line = (
                f"training diverged: {why}, also at a learning rate of {rate:g} after {TRIES} tries from step "
                f"{trainer.step}, whose weights are kept; try --learning-rate {rate / 10:.1g}, --clip 1, or look for "
                "outliers in the data"
            )
            self._event("stopped", line)
            trainer.brake = brake
            self.save(False)
            raise Unusable(line)
        trainer.brake = BRAKE ** (tries + 1)
        rate = trainer.settings.learning_rate * trainer.brake
        self._event("rollback", f"{why}: back to step {trainer.step}, on with a learning rate of {rate:g}")
        self.save(False)

    def alarm(self, alarm: Alarm) -> None:
        """Keeps an alarm among the events, and says it."""
        self.events.append(alarm.to_json())
        self.watcher.alarmed(alarm)

    def _event(self, kind: str, line: str) -> None:
        self.events.append({"kind": kind, "step": self.trainer.step, "line": line})
        self.watcher.said(line)


def _due(step: int, planned: int, times: int) -> bool:
    """Whether one of ``times`` evenly spaced moments falls on this step; the last step is always one."""
    return step * times // planned > (step - 1) * times // planned


def _after(step: int, planned: int, times: int) -> int:
    """The first moment of ``_due`` after ``step``.

    >>> [_after(step, 10, 4) for step in range(10)]
    [3, 3, 3, 5, 5, 8, 8, 8, 10, 10]
    """
    return -(-(step * times // planned + 1) * planned // times)
