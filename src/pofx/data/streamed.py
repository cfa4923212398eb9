"""A training split that is read in order, as it comes: it may be larger than any disk, and has no known length.

What has to be counted, compared or shown is read from its *head*, the first rows, which are held in memory.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pofx.data.dataset import Batch, Rows
from pofx.errors import Unusable

BLOCK, BLOCK_BYTES = 8192, 128 << 20  # rows that are read, then shuffled together; fewer, if they are so large

Example = dict[str, Any]
Place = dict[str, Any]


@runtime_checkable
class Resumable(Protocol):
    """What is used of ``datasets.IterableDataset``."""

    def __iter__(self) -> Iterator[Example]: ...

    def state_dict(self) -> Place:
        """The place after the last example that was given; plain values."""
        ...

    def load_state_dict(self, state: Place) -> None:
        """The next iteration begins at a place."""
        ...


class Examples:
    """The usable examples of a stream from a place on, in order: once when iterated, for ever by ``next``.

    Args:
        stream: of all examples; it is copied, since where it stands is part of it.
        begin: the place of the first one.
        usable: tells those that are given from those that are passed over.
    """

    def __init__(
        self, stream: Resumable, begin: Place, usable: Callable[[Example], bool] = lambda example: True
    ) -> None:
        self.stream, self.begin, self.usable = copy.deepcopy(stream), begin, usable
        self._rest: Iterator[Example]
        self.go(begin)

    def __iter__(self) -> Iterator[Example]:
        for example in self._rest:
            self._moved = True
            if self.usable(example):
                yield example

    def next(self) -> Example:
        """The next one; after the last comes the first."""
        for example in self:
            return example
        self.go(self.begin)
        for example in self:
            return example
        raise Unusable("the stream has no usable example left; look at it with pofx data")

    def place(self) -> Place:
        """Where the next example stands."""
        return self.stream.state_dict() if self._moved else self._at

    def go(self, place: Place) -> None:
        """On from a place that ``place`` gave."""
        self.stream.load_state_dict(copy.deepcopy(place))
        self._at, self._moved, self._rest = place, False, _plainly(self.stream)


def _plainly(stream: Resumable) -> Iterator[Example]:
    """What the network or a file refuses, in one line."""
    try:
        yield from stream
    except (OSError, ImportError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Unusable(f"the stream broke off ({reason}); check network or files, and try again") from None


@runtime_checkable
class Layout(Protocol):
    """How examples become observations."""

    def weigh(self, rows: list[Any]) -> int:
        """Bytes of some rows as they are stored."""
        ...

    def rows(self, examples: Examples, n: int, rest: Tensor) -> tuple[list[Any], Tensor]:
        """The next n rows, still as they are stored, and what is left over for those after them."""
        ...

    def batch(self, rows: list[Any]) -> Batch:
        """Canonical observations and condition rows, on the CPU."""
        ...


@dataclass(frozen=True)
class Streamed:
    """Rows of a stream: read in blocks for training; everything else reads the head.

    Args:
        head: the first rows.
        stream: of examples.
        begin: the place in it of the first training example.
        usable: tells the examples that are read.
        layout: how they become observations.
        identity: what tells this stream from others of the same head.
        device: where batches go.
    """

    head: Rows
    stream: Resumable
    begin: Place
    usable: Callable[[Example], bool]
    layout: Layout
    identity: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.head)

    @property
    def observations(self) -> int:
        """Those of the head: how many the stream has, nobody knows before it ends."""
        return len(self.head)

    def take(self, index: Tensor, *, generator: torch.Generator | None = None) -> Batch:
        """Rows of the head by index."""
        return self.head.take(index)

    def rows(self) -> Batch:
        """The head."""
        return self.head.rows()

    def to(self, device: str | torch.device) -> "Streamed":
        """Head and batches go to a device."""
        return replace(self, head=self.head.to(device), device=torch.device(device))

    def feed(self, digest: "hashlib._Hash") -> None:
        """The head, and what the stream is called."""
        digest.update(self.identity.encode())
        self.head.feed(digest)

    def reader(self) -> "Reader":
        """Reads the stream from the first training example on."""
        return Reader(Examples(self.stream, self.begin, self.usable), self.layout)

    def batch(self, rows: list[Any]) -> Batch:
        """Canonical observations of rows that a reader gave, on the device."""
        x, c = self.layout.batch(rows)
        return x.to(self.device), None if c is None else c.to(self.device)


class Reader:
    """Rows of a stream, in order and for ever, resumable at any row."""

    def __init__(self, examples: Examples, layout: Layout) -> None:
        self.examples, self.layout = examples, layout
        self.rest = torch.empty(0, dtype=torch.int64)

    def block(self, size: int) -> list[Any]:
        """The next rows, still as they are stored: a whole number of batches of a size."""
        block: list[Any] = []
        held = 0
        while not block or (len(block) + size <= BLOCK and held < BLOCK_BYTES):
            rows, self.rest = self.layout.rows(self.examples, size, self.rest)
            block += rows
            held += self.layout.weigh(rows)
        return block

    def state(self) -> tuple[Tensor, str]:
        """What is left of the examples that were read, and the place of those that were not, as JSON."""
        return self.rest, json.dumps(self.examples.place(), sort_keys=True)

    def load(self, rest: Tensor, place: str) -> None:
        """The inverse of ``state``."""
        self.rest = rest.cpu()
        self.examples.go(json.loads(place))
