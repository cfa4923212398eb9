"""The README's Python runs, and its table of models is the catalogue's."""

import re
from pathlib import Path

from pofx.catalogue import entries
from pofx.protocols import (
    Bounds,
    Chains,
    Completes,
    Encodes,
    Estimates,
    PseudoScores,
    Represents,
    Samples,
    Scores,
    capabilities,
)

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table():
    """The table of models, as the README must have it."""
    lines = ["| model | family | data | likelihood | also | paper |", "|---|---|---|---|---|---|"]
    also = {Samples: "sample", Encodes: "encode", Completes: "complete", Represents: "features", Chains: "compress"}
    for entry in entries().values():
        able = capabilities(entry.load())
        words = {Scores: "exact", Bounds: "bound", Estimates: "estimate", PseudoScores: "pseudo"}
        kinds = [word for kind, word in words.items() if kind in able]
        verbs = [word for kind, word in also.items() if kind in able]
        lines.append(
            f"| `{entry.name}` | {entry.family} | {', '.join(entry.domains)} | {', '.join(kinds) or 'none'} "
            f"| {', '.join(verbs)} | {entry.paper or entry.summary} |"
        )
    return "\n".join(lines)


def test_table_of_models_is_the_catalogue():
    shown = re.search(r"<!-- models: begin -->\n(.*?)\n?<!-- models: end -->", README, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == table()


def test_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "sheet.png").exists()
    assert (tmp_path / "report.html").exists()
    assert "log p(x)" in capsys.readouterr().out
