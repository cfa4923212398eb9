"""A data set: one domain, three splits, drawn once and stored.

A part is one canonical tensor on the device, indexed by a permutation: no per-item Python. One that does not fit in
memory stays on the disk (``maps.py``).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from pofx.conditions import Condition
from pofx.domains import Domain, Images
from pofx.randomness import rand

Batch = tuple[Tensor, Tensor | None]


@runtime_checkable
class Part(Protocol):
    """One split: something that batches are taken from."""

    def __len__(self) -> int: ...

    @property
    def observations(self) -> int:
        """How many rows there are to score; a part larger than memory gives fewer of them."""
        ...

    def take(self, index: Tensor, *, generator: Generator) -> Batch:
        """Observations (B, ...) and their condition rows, or None; ``generator`` for what is redrawn at every visit."""
        ...

    def rows(self) -> Batch:
        """Every observation once, canonical, the same at every call: what is scored, and what ``adapt`` reads.

        Of a part larger than memory, a fixed subset.
        """
        ...

    def to(self, device: str | torch.device) -> "Part":
        """The same part on a device."""
        ...

    def feed(self, digest: "hashlib._Hash") -> None:
        """Updates a hash with what tells this part from any other."""
        ...


@dataclass(frozen=True)
class Rows:
    """Observations as they are: x (N, ...) and condition rows c (N, ...) or None."""

    x: Tensor
    c: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def observations(self) -> int:
        """N."""
        return len(self.x)

    def take(self, index: Tensor, *, generator: Generator | None = None) -> Batch:
        """Rows by index."""
        # On rows of bytes a tenth of the time that x[index] takes.
        return self.x.index_select(0, index), None if self.c is None else self.c.index_select(0, index)

    def rows(self) -> Batch:
        """All of them."""
        return self.x, self.c

    def to(self, device: str | torch.device) -> "Rows":
        """On a device."""
        return Rows(self.x.to(device), None if self.c is None else self.c.to(device))

    def feed(self, digest: "hashlib._Hash") -> None:
        """Every observation and every condition row."""
        _feed(self.rows(), digest)


@dataclass(frozen=True)
class Windows:
    """One long stream of tokens (L,), read through windows of ``length``.

    Training takes windows at any place; ``rows`` are the disjoint ones, which see each symbol once.
    """

    tokens: Tensor
    length: int

    def __len__(self) -> int:
        return len(self.tokens) - self.length + 1

    @property
    def observations(self) -> int:
        """The disjoint windows."""
        return len(self.tokens) // self.length

    def take(self, index: Tensor, *, generator: Generator | None = None) -> Batch:
        """The windows that begin at ``index``."""
        return self.tokens[index[:, None] + torch.arange(self.length, device=index.device)], None

    def rows(self) -> Batch:
        """The disjoint windows; a shorter rest is left out."""
        whole = self.observations
        return self.tokens[: whole * self.length].view(whole, self.length), None

    def to(self, device: str | torch.device) -> "Windows":
        """On a device."""
        return replace(self, tokens=self.tokens.to(device))

    def feed(self, digest: "hashlib._Hash") -> None:
        """Every disjoint window."""
        _feed(self.rows(), digest)


@dataclass(frozen=True)
class Binarised:
    """Grey pictures as probabilities of ink: redrawn at every visit, from the data stream.

    Args:
        x: (N, C, H, W) levels of a picture with ``levels`` of them.
        drawn: one fixed draw, which ``rows`` gives.
    """

    x: Tensor
    c: Tensor | None
    levels: int
    drawn: Tensor

    def __len__(self) -> int:
        return len(self.x)

    @property
    def observations(self) -> int:
        """N."""
        return len(self.x)

    def take(self, index: Tensor, *, generator: Generator) -> Batch:
        """A fresh draw for each row."""
        p = self.x.index_select(0, index).float() / (self.levels - 1)
        x = (rand(p.shape, generator=generator, device=generator.device).to(p.device) < p).to(torch.uint8)
        return x, None if self.c is None else self.c[index]

    def rows(self) -> Batch:
        """The fixed draw."""
        return self.drawn, self.c

    def to(self, device: str | torch.device) -> "Binarised":
        """On a device."""
        c = None if self.c is None else self.c.to(device)
        return replace(self, x=self.x.to(device), c=c, drawn=self.drawn.to(device))

    def feed(self, digest: "hashlib._Hash") -> None:
        """The fixed draw and every condition row."""
        _feed(self.rows(), digest)


@dataclass(frozen=True)
class Data:
    """A source, loaded, checked and split.

    Args:
        source: as the user wrote it, e.g. ``mnist:binary``; loading it again with the same seed gives the same data.
        domain: what one observation is.
        train, validation, test: disjoint parts.
        condition: the meaning of the condition rows, or None.
        problems: one line each, for people: duplicates across splits, constant columns, too few examples, ...
        split: how the split was made, for people ("official", "seeded 80/10/10", ...).
        indices: rows of the source in each split; for a text, where the split starts and ends.
        log_prob: log-density (N, ...) -> (N,) where it is known, as for the toys.
        offers: what the rows could be conditioned on, by the names that ``condition`` takes.
    """

    source: str
    domain: Domain
    train: Part
    validation: Part
    test: Part
    condition: Condition | None = None
    problems: tuple[str, ...] = ()
    split: str = ""
    indices: dict[str, Tensor] = field(default_factory=dict)
    log_prob: Callable[[Tensor], Tensor] | None = None
    offers: tuple[str, ...] = ()

    def part(self, name: str) -> Part:
        """ "train", "validation" or "test"."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def fingerprint(self) -> str:
        """A hash of every observation of every split: equal data, equal fingerprint."""
        digest = hashlib.sha256(repr(self.domain).encode())
        if isinstance(self.domain, Images):
            digest.update(bytes(value for colour in self.domain.palette for value in colour))
        for part in (self.train, self.validation, self.test):
            part.feed(digest)
        return digest.hexdigest()[:16]


def _feed(rows: Batch, digest: "hashlib._Hash") -> None:
    for tensor in rows:
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().numpy().data)
