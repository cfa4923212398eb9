"""The contract as checks that any model can be put through, on a tiny form of it; yours, too.

Each check is a function ``check_...(build, domain, condition, *, steps)`` that raises ``AssertionError``, with a
sentence, where the promise in its name is broken. ``build`` makes an untrained model, which the check trains for
``steps`` rounds.

>>> from pofx.catalogue import find
>>> from pofx.testing import TINY, failures
>>> domain = TINY["tokens"][0]
>>> failures(lambda: find("n-gram").build(domain, order=2), domain)
{}
"""

from pofx.testing import densities, learning, behaviour  # isort: skip
from pofx.testing.registry import CHECKS, Check, failures, plan
from pofx.testing.specimens import STEPS, TINY, TWO_CLASSES, specimen, tiny_data

__all__ = [
    "CHECKS",
    "STEPS",
    "TINY",
    "TWO_CLASSES",
    "Check",
    "behaviour",
    "densities",
    "failures",
    "learning",
    "plan",
    "specimen",
    "tiny_data",
]
