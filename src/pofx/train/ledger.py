"""What the steps of a player gave, until somebody reads it."""

from typing import Any

import torch
from torch import Tensor

LOSS, GRADIENT = "loss", "gradient"


class Ledger:
    """What a player's steps gave: kept on the device, read together, averaged over the steps that were not skipped."""

    def __init__(self) -> None:
        self.unread: list[tuple[Tensor, dict[str, Tensor]]] = []  # a step: whether it was skipped, and its values
        self.sums: dict[str, list[float]] = {}  # name -> [sum, count]
        self.last: dict[str, float] = {}
        self.streak = self.skipped = 0

    def add(self, loss: Tensor, gradient: Tensor, bad: Tensor, parts: dict[str, Tensor]) -> None:
        """One step; nothing is computed. A part of the name "loss" or "gradient" gives way to the step's own."""
        values = {name: value.detach() for name, value in parts.items()}
        self.unread.append((bad, values | {LOSS: loss, GRADIENT: gradient}))

    def read(self) -> None:
        """Waits for the device, once."""
        if not self.unread:
            return
        values = [value for bad, named in self.unread for value in (bad, *named.values())]
        read = iter(torch.stack(values).tolist())
        for _, named in self.unread:
            skipped = bool(next(read))
            self.streak = self.streak + 1 if skipped else 0
            self.skipped += skipped
            row = {name: next(read) for name in named}
            if not skipped:
                self._count(row)
        self.unread.clear()

    def _count(self, row: dict[str, float]) -> None:
        self.last = row
        for name, value in row.items():
            held = self.sums.setdefault(name, [0.0, 0])
            held[0] += value  # one by one: the sum is then the same however many were read at once
            held[1] += 1

    def means(self) -> dict[str, float]:
        """Mean of each name since the last call: loss, gradient norm, parts."""
        self.read()
        ordered = [name for name in (LOSS, GRADIENT) if name in self.sums]
        means = {name: self.sums[name][0] / self.sums[name][1] for name in dict.fromkeys([*ordered, *self.sums])}
        self.sums.clear()
        return means

    def latest(self) -> dict[str, float]:
        """The last step's values, for a bar; nothing changes."""
        if not self.unread:
            return self.last
        _, named = self.unread[-1]
        return dict(zip(named, torch.stack(list(named.values())).tolist()))

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        self.read()
        return {
            "sums": {n: list(held) for n, held in self.sums.items()},
            "streak": self.streak,
            "skipped": self.skipped,
        }

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.unread.clear()
        self.sums = {name: [float(total), int(count)] for name, (total, count) in state["sums"].items()}
        self.streak, self.skipped = int(state["streak"]), int(state["skipped"])
