"""What a run leaves for people and programs to read: its losses by step, and what happened besides."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pofx.files import write_text


def write_history(folder: Path, history: Sequence[Mapping[str, float]], events: Sequence[Mapping[str, Any]]) -> None:
    """``history.csv`` and ``history.jsonl``, a row each time that losses were read; ``events.jsonl``, a line each."""
    names = list(dict.fromkeys(name for row in history for name in row)) or ["step", "seconds"]
    table = io.StringIO()
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    texts = {"history.csv": table.getvalue(), "history.jsonl": _lines(history), "events.jsonl": _lines(events)}
    for name, text in texts.items():
        write_text(folder / name, text)


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def differences(held: Any, asked: Any, name: str = "", most: int = 5) -> str:
    """Which values of two configurations differ, and how, in one line; empty where none does.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": [0]})
    'a.c 2 -> 3, d None -> [0]'
    """
    changes = list(_changes(held, json.loads(json.dumps(asked)), name))
    return ", ".join(changes[:most]) + (f" and {len(changes) - most} more" if len(changes) > most else "")


def _changes(held: Any, asked: Any, name: str) -> list[str]:
    if isinstance(held, dict) and isinstance(asked, dict):
        keys = dict.fromkeys([*held, *asked])
        below = (_changes(held.get(k), asked.get(k), f"{name}.{k}" if name else k) for k in keys)
        return [change for changes in below for change in changes]
    return [] if held == asked else [f"{name} {short(held)} -> {short(asked)}"]


def short(value: Any) -> str:
    """A value as Python writes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
