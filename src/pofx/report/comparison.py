"""A comparison: models side by side on one data set, as a table, as sentences, as a page, as JSON."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pofx.data.dataset import Data
from pofx.errors import Unusable
from pofx.files import write_json, write_text
from pofx.report.page import Subject, render
from pofx.report.rows import Row
from pofx.report.table import headline
from pofx.report.verdict import verdict

SPLIT = "test"


@dataclass
class Comparison:
    """Models side by side on one data set.

    Args:
        data: the source with its splits.
        folder: where everything is kept.
        asked: what was asked for, as it stands in ``compare.json``: the same is gone on with.
        rows: one per model, in the order of training; codecs last.
        coming: models not yet trained.
    """

    data: Data
    folder: Path
    asked: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    coming: tuple[str, ...] = ()

    def verdict(self) -> list[str]:
        """What the figures prove, in sentences; where they prove nothing, that."""
        return verdict(self.rows, self.data.domain)

    def table(self) -> Any:
        """A ``rich.table.Table`` of the headline figures; a proven winner's are bold."""
        from rich.table import Table

        heads, body = headline(self.rows, self.data.domain)
        table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
        for i, head in enumerate(heads):
            table.add_column(head, justify="right" if i else "left", no_wrap=i == 0)
        for row, cells in zip(self.rows, body):
            texts = [f"{cell.text} {cell.kind}".rstrip() for cell in cells]
            marked = [f"[bold]{text}[/bold]" if cell.leads else text for text, cell in zip(texts, cells)]
            table.add_row(*marked, style="dim" if row.is_reference or row.status == "failed" else None)
        return table

    def save(self, path: str | Path) -> Path:
        """Writes the page (.html) or the figures (.json)."""
        path = Path(path)
        if path.suffix == ".html":
            page = render(self.rows, self._subject())
            write_text(path, page)
        elif path.suffix == ".json":
            write_json(path, self.to_json())
        else:
            raise Unusable(f"a comparison is saved as .html or .json, got {path.name!r}; choose one of them")
        return path

    def to_json(self) -> dict[str, Any]:
        """Plain values: what was asked, every figure of every model, the verdict."""
        return {
            "source": self.data.source,
            "split": SPLIT,
            "budget": self.asked["budget"],
            "seeds": self.asked["seeds"],
            "asked": self.asked,
            "fingerprint": self.data.fingerprint(),
            "models": [row.to_json() for row in self.rows],
            "verdict": self.verdict(),
            "problems": list(self.data.problems),
        }

    def _subject(self) -> Subject:
        return Subject(self.data, str(self.asked["budget"]), self.asked["seeds"], self.asked["command"], self.coming)
