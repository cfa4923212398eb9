"""Whole runs by name, each with its settings, machine and time, and the figure to expect: ``pofx reproduce NAME``.

>>> from pofx.recipes import find
>>> print(find("image-gpt-mnist").expected)
at most 78.5 nats, exact (an aim: never run whole)
"""

from pofx.recipes.recipe import Expected, Recipe, Reproduced
from pofx.recipes.reproducing import entries, find, reproduce

__all__ = ["Expected", "Recipe", "Reproduced", "entries", "find", "reproduce"]
