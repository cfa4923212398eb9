"""From a recipe's name to its run and its figure."""

from functools import cache
from pathlib import Path
from typing import Any

from pofx.configs import overlaid
from pofx.errors import Unusable, nearest
from pofx.fitting import fit
from pofx.recipes import adversarial, autoencoders, autoregressive
from pofx.recipes.recipe import Recipe, Reproduced
from pofx.runs import chosen_device
from pofx.train.watch import Watcher

_TABLES = (autoregressive.RECIPES, autoencoders.RECIPES, adversarial.RECIPES)
_QUICK = {"steps": 10, "batch_size": 4, "validation_rows": 16, "precision": "fp32", "compile": False}
_QUICK_ROWS = 64


@cache
def entries() -> dict[str, Recipe]:
    """Every recipe by its name."""
    return {recipe.name: recipe for table in _TABLES for recipe in table}


def find(name: str) -> Recipe:
    """The recipe of a name; a misspelt one is answered with the nearest."""
    if name not in entries():
        raise Unusable(f"there is no recipe {name!r}{nearest(name, entries())}")
    return entries()[name]


def reproduce(
    name: str,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    steps: int | None = None,
    budget: str | float | None = None,
    quick: bool = False,
    watch: Watcher | None = None,
) -> Reproduced:
    """Trains as a recipe says, and scores the weights that are best on validation on the whole test split, once.

    Args:
        name: of the recipe.
        out: the run folder; as in ``fit``.
        seed: of everything random.
        device: "auto", "cpu", "cuda", ...
        steps: rounds of training, in place of the recipe's length.
        budget: time of training, in place of the recipe's length.
        quick: about a minute that shows that it runs: few steps, small batches, 64 observations scored.
        watch: hears how it goes.

    Raises:
        Unusable: there is no such recipe; or it is one for a GPU, there is none, and nothing says to go on without.
    """
    recipe = find(name)
    own: dict[str, Any] = {"steps": steps, "budget": budget}
    own = {key: value for key, value in own.items() if value is not None}
    shortened = quick or bool(own)
    if recipe.needs_gpu and device == "auto" and chosen_device(device) == "cpu" and not shortened:
        raise Unusable(
            f"{name} is a recipe for a GPU, and there is none here; --quick shows that it runs, --device cpu runs it "
            "all the same"
        )
    given = overlaid(overlaid(recipe.given, _QUICK if quick else {}), own)
    run = fit(recipe.model, recipe.source, out=out, seed=seed, device=device, watch=watch, **given)
    return recipe.judged(run, rows=_QUICK_ROWS if quick else None, whole=not shortened)
