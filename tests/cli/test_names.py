"""Names in annotations are letters of shapes, so neither ruff nor mypy is asked for undefined ones: this is."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_word_in_the_source_is_defined():
    """Letters of shapes have one or two characters."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "concise"]
    told = subprocess.run([*command, "src", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert "F821" in told, "ruff sees the letters, at least"
    assert not [line for line in told.splitlines() if re.search(r"Undefined name `\w{3,}`", line)]
