"""``pofx reproduce``: a table of the recipes, or the run of one and its figure beside what is expected."""

import argparse
from pathlib import Path

from pofx.cli.bar import Bar, page
from pofx.errors import Unusable
from pofx.files import write_json
from pofx.recipes import Recipe, entries, find, reproduce
from pofx.train.launch import speaks


def reproduce_and_show(options: argparse.Namespace) -> int:
    """Lists or runs, prints, writes what was asked for."""
    if options.recipe is None:
        return _list(options)
    recipe = find(options.recipe)
    if speaks() and not options.quiet:
        _introduce(recipe)
    done = reproduce(
        recipe.name,
        out=options.out,
        seed=options.seed,
        device=options.device,
        steps=options.steps,
        budget=options.budget,
        quick=options.quick,
        watch=Bar(quiet=options.quiet),
    )
    if speaks():
        page().print(f"{done.run.folder}: {done}", highlight=False, markup=False, soft_wrap=True)
    if speaks() and options.json:
        write_json(Path(options.json), done.to_json())
    return 0


def _list(options: argparse.Namespace) -> int:
    from rich.table import Table

    given = [f"--{name}" for name in ("out", "steps", "budget", "quick") if getattr(options, name)]
    if given:
        raise Unusable(f"{given[0]} is of one recipe; name it first: {', '.join(entries())}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("recipe", "what it is", "about", "figure to expect", "so far"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("recipe", "about"))
    for r in entries().values():
        e = r.expected
        figure = f"{'>=' if e.is_least else '<='} {e.figure}"
        table.add_row(r.name, r.summary, f"{r.time}, {r.machine}", figure, e.standing)
    page().print(table)
    if options.json:
        write_json(Path(options.json), {"recipes": [recipe.to_json() for recipe in entries().values()]})
    return 0


def _introduce(recipe: Recipe) -> None:
    say = page().print
    say(f"{recipe.name}: {recipe.summary}", highlight=False, markup=False, soft_wrap=True)
    say(f"  {recipe.model} on {recipe.source}, about {recipe.time} on {recipe.machine}", highlight=False, markup=False)
    say(f"  expected  {recipe.expected}", highlight=False, markup=False, soft_wrap=True)
    if recipe.beside:
        say(f"  beside    {recipe.beside}", highlight=False, markup=False, soft_wrap=True)
