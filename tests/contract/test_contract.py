"""Every promise of the contract, for every model in the catalogue, on every tiny domain, with and without classes."""

from dataclasses import dataclass
from functools import partial

import pytest

from pofx.catalogue import Entry, entries
from pofx.conditions import Classes
from pofx.domains import Domain
from pofx.testing import CHECKS, TINY, TWO_CLASSES, plan


@dataclass(frozen=True)
class Case:
    entry: Entry
    domain: Domain
    condition: Classes | None

    def __str__(self) -> str:
        number = TINY[self.domain.kind].index(self.domain)
        return f"{self.entry.name}-{self.domain.kind}{number}-{'classes' if self.condition else 'nothing'}"


def cases() -> list[Case]:
    return [
        Case(entry, domain, condition)
        for entry in entries().values()
        for kind in entry.tiny
        for domain in TINY[kind]
        for condition in (None, TWO_CLASSES)
    ]


def builder(case: Case) -> partial:
    return partial(case.entry.build, case.domain, condition=case.condition, **case.entry.tiny[case.domain.kind])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "check" in metafunc.fixturenames:
        parameters = []
        for case in cases():
            build = builder(case)
            parameters += [
                pytest.param(case, build, check, steps, id=f"{case}-{check.name}-{steps}")
                for check, steps in plan(build, case.condition)
            ]
        metafunc.parametrize(("case", "build", "check", "steps"), parameters)


def test_promise(case, build, check, steps):
    check.run(build, case.domain, case.condition, steps=steps)


def test_every_promise_is_asked_of_some_model():
    asked = {check.name for case in cases() for check, _ in plan(builder(case), case.condition)}
    assert asked == {check.name for check in CHECKS}
