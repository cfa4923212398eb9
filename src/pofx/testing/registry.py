"""Which check applies to which model, at which stage of its learning."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pofx.conditions import Classes, Condition
from pofx.domains import Domain
from pofx.protocols import Learns, Plays, capabilities
from pofx.randomness import seeded_init
from pofx.testing.specimens import STEPS, Build

Given = Literal["any", "classes", "nothing"]


@dataclass(frozen=True)
class Check:
    """One promise of the contract.

    Args:
        run: ``(build, domain, condition, *, steps)``; raises ``AssertionError`` where the promise is broken.
        needs: protocols that a model must fulfil for the promise to be made.
        stages: rounds of training after which it is checked.
        given: it is about models with a condition of classes, without a condition, or any.
        learns: it is about training by turns or by a loss.
    """

    run: Callable[..., None]
    needs: tuple[type, ...]
    stages: tuple[int, ...]
    given: Given
    learns: bool

    @property
    def name(self) -> str:
        """Of the promise: the function's, without "check_"."""
        return self.run.__name__.removeprefix("check_")


CHECKS: list[Check] = []
"""Every check, in the order in which they are written down."""


def promise(
    *needs: type, stages: tuple[int, ...] = (STEPS,), given: Given = "any", learns: bool = False
) -> Callable[..., Any]:
    """Writes a check down among ``CHECKS``, for models that fulfil ``needs``."""

    def enter(run: Callable[..., None]) -> Callable[..., None]:
        CHECKS.append(Check(run, needs, stages, given, learns))
        return run

    return enter


def plan(build: Build, condition: Condition | None) -> list[tuple[Check, int]]:
    """The checks that apply to what ``build`` makes, each with a stage; a model that does not train has one stage."""
    with seeded_init(0):
        able = capabilities(build())
    fits = {"any": True, "classes": isinstance(condition, Classes), "nothing": condition is None}
    trains = bool({Learns, Plays} & able)
    return [
        (check, steps)
        for check in CHECKS
        if able.issuperset(check.needs) and fits[check.given] and (trains or not check.learns)
        for steps in (check.stages if trains else (0,))
    ]


def failures(
    build: Build, domain: Domain, condition: Condition | None = None, *, only: tuple[str, ...] = ()
) -> dict[str, str]:
    """Runs every check that applies, or those named; the promises broken, each with the reason. Empty is good."""
    broken: dict[str, str] = {}
    for check, steps in plan(build, condition):
        if not only or check.name in only:
            try:
                check.run(build, domain, condition, steps=steps)
            except AssertionError as reason:
                broken.setdefault(check.name, str(reason))
    return broken
