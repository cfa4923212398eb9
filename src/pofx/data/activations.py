"""What a model holds inside, as data: the activations of one of its modules over the rows of a source.

A module's output gives one vector per observation (B, W), per symbol (B, T, W) or per place (B, C, H, W). They are
computed when they are first asked for, so that looking at one split does not run the model over the others.
"""

import hashlib
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pofx.data.dataset import Batch, Data, Part, Rows
from pofx.domains import Vectors
from pofx.nn.layer import Layer, as_rows
from pofx.randomness import stream

MOST_BYTES = 2**29  # of the activations of one split; of more, those of a seeded subset of its observations are taken
_ROWS = 64  # observations in one pass


class Activations:
    """A part: the activations of a layer over observations, one row each; a condition row is that of its observation.

    Args:
        layer: of which model.
        read: observations, and the condition rows that the model is given.
        c: condition rows that the activations have, or None.
        each: activations for one observation.
        told: what tells this part from any other: it stands for the values, whose last bits differ by machine.
    """

    def __init__(self, layer: Layer, read: Batch, c: Tensor | None, each: int, told: str) -> None:
        self.layer, self.read, self.c, self.each, self.told = layer, read, c, each, told

    def __len__(self) -> int:
        return len(self.read[0]) * self.each

    @property
    def observations(self) -> int:
        """How many rows."""
        return len(self)

    @cached_property
    def held(self) -> Rows:
        """All of them, on the CPU."""
        x, c = self.read
        parts = []
        for start in range(0, len(x), _ROWS):
            rows = None if c is None else c[start : start + _ROWS]
            parts.append(as_rows(self.layer.outputs(x[start : start + _ROWS], rows)).float().cpu())
        return Rows(torch.cat(parts), None if self.c is None else self.c.repeat_interleave(self.each, 0))

    def take(self, index: Tensor, *, generator: torch.Generator | None = None) -> Batch:
        """Rows by index."""
        return self.held.take(index)

    def rows(self) -> Batch:
        """All of them."""
        return self.held.rows()

    def to(self, device: str | torch.device) -> Rows:
        """On a device."""
        return self.held.to(device)

    def feed(self, digest: "hashlib._Hash") -> None:
        """The model, the layer and the observations."""
        digest.update(self.told.encode())


def activations(model: Any, layer: str, data: Data, *, given: bool = False, identity: str = "", seed: int = 0) -> Data:
    """The activations of a layer over the rows of a source, split as it is.

    >>> from pofx.data import load
    >>> from pofx.models import SparseAutoencoder
    >>> digits = load("digits")
    >>> inside = activations(SparseAutoencoder(digits.domain, dictionary=32), "encoder", digits)
    >>> inside.domain.dim, inside.train.rows()[0].shape
    (32, torch.Size([1437, 32]))

    Args:
        model: in eval mode.
        layer: the path of one of its modules, such as "trunk.blocks.1"; "": its ``features``.
        data: of the model's domain.
        given: the activations have the condition rows of their observations.
        identity: of the model, for the fingerprint.
        seed: of the subset that is taken of a split whose activations would be larger than 512 MiB.

    Raises:
        Unusable: there is no such layer, or it gives no vectors.
    """
    at = Layer(model, layer)
    x, c = _read(model, data.train, torch.arange(min(2, data.train.observations)))
    probe = at.outputs(x, c)
    each, width = len(as_rows(probe)) // len(probe), probe.shape[1 if probe.ndim in (2, 4) else 2]
    problems, fingerprint = list(data.problems), data.fingerprint()
    parts: dict[str, Any] = {}
    most = max(1, MOST_BYTES // (4 * each * width))
    for name in ("train", "validation", "test"):
        part = data.part(name)
        n = part.observations
        index = torch.randperm(n, generator=stream(seed, f"activations/{name}"))[:most].sort().values
        if len(index) < n:
            read = f"{len(index):,} of {n:,} {name} observations"
            problems.append(f"activations of {read} are read: more would exceed 512 MiB")
        told = f"{identity} {layer} {fingerprint} {name} {len(index)} {seed}"
        rows = part.rows()[1] if given else None
        parts[name] = Activations(at, _read(model, part, index), None if rows is None else rows[index], each, told)
    return replace(
        data, domain=Vectors(width), condition=data.condition if given else None, problems=tuple(problems),
        indices={}, log_prob=None, **parts,
    )  # fmt: skip


def _read(model: Any, part: Part, index: Tensor) -> Batch:
    """Observations of a part, with their condition rows where the model is given any."""
    x, c = part.rows()
    return x[index], None if c is None or getattr(model, "condition", None) is None else c[index]
