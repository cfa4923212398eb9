"""What the steps of a player gave, until somebody reads it."""

from typing import Any

import torch
from torch import Tensor

BAD = "bad"  # what a step that was skipped is called


class Ledger:
    """What a player's steps gave: kept on the device, read together, averaged over the steps that were not skipped."""

    def __init__(self) -> None:
        self.unread: dict[str, list[Tensor]] = {}
        self.sums: dict[str, list[float]] = {}  # name -> [sum, count]
        self.streak = self.skipped = 0

    def add(self, name: str, value: Tensor) -> None:
        """One step's value of one name; nothing is computed."""
        self.unread.setdefault(name, []).append(value.detach())

    def read(self) -> None:
        """Waits for the device, once."""
        if not self.unread:
            return
        names, lists = list(self.unread), list(self.unread.values())
        rows = torch.cat([torch.stack(values).double() for values in lists]).tolist()
        columns: dict[str, list[float]] = {}
        for name, taken in zip(names, lists):
            columns[name], rows = rows[: len(taken)], rows[len(taken) :]
        self.unread.clear()
        bad = columns.pop(BAD)
        for skipped in bad:
            self.streak = self.streak + 1 if skipped else 0
        self.skipped += round(sum(bad))
        for name, values in columns.items():
            kept = [v for v, skipped in zip(values, bad) if not skipped]
            held = self.sums.setdefault(name, [0.0, 0])
            for value in kept:  # one by one: the sum is then the same however many were read at once
                held[0] += value
            held[1] += len(kept)

    def means(self) -> dict[str, float]:
        """Mean of each name since the last call."""
        self.read()
        means = {name: total / count for name, (total, count) in self.sums.items() if count}
        self.sums.clear()
        return means

    def latest(self) -> dict[str, float]:
        """The last step's values, for a bar; nothing changes."""
        return {name: float(values[-1]) for name, values in self.unread.items() if name != BAD}

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        self.read()
        return {"sums": self.sums, "streak": self.streak, "skipped": self.skipped}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.unread.clear()
        self.sums = {name: [float(total), int(count)] for name, (total, count) in state["sums"].items()}
        self.streak, self.skipped = int(state["streak"]), int(state["skipped"])
