"""``pofx runs``: a table of the runs below a folder."""

import argparse
from pathlib import Path

from pofx.cli.bar import page
from pofx.files import write_json
from pofx.runlist import Listed, age, listed

DEFAULT = "runs"


def list_and_show(options: argparse.Namespace) -> int:
    """Lists, prints, writes what was asked for; no folder of the default name is no mistake."""
    folder = options.folder or DEFAULT
    runs = [] if options.folder is None and not Path(DEFAULT).is_dir() else listed(folder)
    if runs:
        _show(runs, Path(folder))
    elif not options.quiet:
        page().print(f"no runs below {folder}; 'pofx fit MODEL SOURCE' writes one")
    if options.json:
        write_json(Path(options.json), {"folder": str(folder), "runs": [run.to_json() for run in runs]})
    return 0


def _show(runs: list[Listed], folder: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "model", "source", "state", "score", "split", "steps", "seconds", "MiB", "age"):
        right = heading in ("steps", "seconds", "MiB", "age")
        table.add_column(heading, overflow="fold", justify="right" if right else "left")
    for run in runs:
        trained = (f"{run.step:,}", f"{run.seconds:.0f}") if run.state != "broken" else ("", "")
        cells = (
            str(run.folder.relative_to(folder)), run.model, run.source, run.standing, run.shown,
            run.score.split if run.score else "", *trained, f"{run.size / 2**20:.1f}", age(run.written),
        )  # fmt: skip
        table.add_row(*map(escape, cells))
    page().print(table)
