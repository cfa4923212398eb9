"""``pofx compare``: a live table while models train, then the verdict and where the page is."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pofx.cli.bar import Bar, page
from pofx.cli.inputs import chosen
from pofx.cli.parser import SOURCE_FLAGS
from pofx.comparing import Comparison, Spectator, compare
from pofx.errors import Unusable
from pofx.files import write_json


class LiveTable(Bar, Spectator):
    """The bar of each training below the table of what is already known."""

    def compared(self, comparison: Comparison, coming: Sequence[str]) -> None:
        """Prints the table again with its new row; only on a terminal, where it replaces the last one."""
        if self.live and coming:
            self.console.clear()
            self.console.print(comparison.table())
            self.console.print(f"to come: {', '.join(coming)}", style="dim")


def compare_and_show(options: argparse.Namespace) -> int:
    """Compares, prints the table and the verdict, says where the page is."""
    sources = options.sources
    runs = len(sources) > 1 or (Path(sources[0]) / "config.json").is_file()
    comparison = compare(
        sources if runs else sources[0],
        models=options.models.split(",") if options.models else None,
        budget=options.budget,
        seeds=options.seeds,
        condition=options.condition,
        out=options.out,
        seed=options.seed,
        device=options.device,
        watch=LiveTable(quiet=options.quiet),
        **chosen(options, SOURCE_FLAGS),
    )
    console = page()
    console.print(comparison.table())
    if not options.quiet:
        for line in comparison.verdict():
            console.print(f"- {line}", highlight=False)
    console.print(f"report: {comparison.folder / 'report.html'}", highlight=False, soft_wrap=True)
    if options.json:
        write_json(Path(options.json), comparison.to_json())
    rows = [row for row in comparison.rows if row.family != "codecs"]
    if rows and all(row.status == "failed" for row in rows):
        raise Unusable(f"every model failed, the last with: {rows[-1].reason}; see the report")
    return 0
