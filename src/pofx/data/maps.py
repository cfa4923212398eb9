"""Data larger than memory: numbers in files of the cache, mapped, of which only what is asked for is read.

A file of the cache holds raw numbers and, last, their CRC-32. It is written whole or not at all, may be deleted at any
time (it is then made again), and is the same whoever writes it, so that two processes do each other no harm.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator, Tensor

from pofx.data.dataset import Batch, Part
from pofx.data.order import shuffled
from pofx.data.request import Request
from pofx.files import write_whole
from pofx.progress import say
from pofx.randomness import stream

IN_MEMORY = 512 << 20  # bytes of canonical tensors: a larger source is read through a map
AT_MOST = 128 << 20  # bytes of canonical rows that are scored, or that ``adapt`` reads
CHECKED = 1 << 30  # bytes of a cache that are compared with their checksums; of a larger one, only the lengths are
PIECE = 1 << 20  # bytes read at a time
CURE = "free space, or name another folder in POFX_CACHE"


def goes_on_disk(request: Request, size: int) -> bool:
    """Whether a source of so many bytes of canonical tensors is read through a map."""
    return request.options.mapped or size > IN_MEMORY


@runtime_checkable
class Store(Protocol):
    """Observations that are read from the disk when they are asked for."""

    @property
    def digests(self) -> np.ndarray:
        """(N,) int64: equal rows, equal digests."""
        ...

    @property
    def comparable(self) -> bool:
        """Whether equal digests mean equal observations."""
        ...

    @property
    def most(self) -> int:
        """How many of a part are read at once, to be scored."""
        ...

    def __len__(self) -> int: ...

    def read(self, rows: Tensor) -> Tensor:
        """Canonical observations (B, ...) of rows (B,), on the CPU."""
        ...


@dataclass(frozen=True)
class Mapped:
    """Rows of a store: a batch is read from the disk, and only the batch moves to the device.

    Args:
        store: all observations of the source.
        index: (N,) the rows of this part.
        c: (N, ...) their condition rows, or None.
        most: observations that ``rows`` gives at most.
        device: where batches go.
    """

    store: Store
    index: Tensor
    c: Tensor | None
    most: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def observations(self) -> int:
        """How many there are, however many ``rows`` gives."""
        return len(self)

    @property
    def scored(self) -> int:
        """How many ``rows`` gives."""
        return min(len(self), self.most)

    def take(self, index: Tensor, *, generator: Generator | None = None) -> Batch:
        """Rows by index."""
        index = index.cpu()
        x = self.store.read(self.index[index]).to(self.device)
        return x, None if self.c is None else self.c[index].to(self.device)

    def rows(self) -> Batch:
        """All of them, or a fixed subset of ``most``, in order."""
        return self.take(_subset(len(self), self.scored))

    def to(self, device: str | torch.device) -> "Mapped":
        """Batches go to a device; the rest stays on the disk."""
        return replace(self, device=torch.device(device))

    def feed(self, digest: "hashlib._Hash") -> None:
        """The digests of the rows, in order, and the condition rows."""
        digest.update(self.store.digests[self.index.numpy()].tobytes())
        if self.c is not None:
            digest.update(self.c.numpy().tobytes())


@dataclass(frozen=True)
class MappedWindows:
    """``Windows`` over a map of unsigned integers: what is taken becomes int64, the rest stays on the disk.

    Args:
        tokens: (L,) mapped.
        length: of a window.
        digest: of all that the map holds.
        device: where batches go.
    """

    tokens: np.ndarray
    length: int
    digest: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.tokens) - self.length + 1

    @property
    def observations(self) -> int:
        """The disjoint windows, however many ``rows`` gives."""
        return len(self.tokens) // self.length

    @property
    def scored(self) -> int:
        """How many ``rows`` gives."""
        return min(self.observations, rows_at_most(8 * self.length))

    def take(self, index: Tensor, *, generator: Generator | None = None) -> Batch:
        """The windows that begin at ``index``."""
        places = index.cpu().numpy()[:, None] + np.arange(self.length)
        return torch.from_numpy(self.tokens[places].astype(np.int64)).to(self.device), None

    def rows(self) -> Batch:
        """The disjoint windows, or a fixed subset of at most ``AT_MOST`` bytes, in order."""
        return self.take(self.length * _subset(self.observations, self.scored))

    def to(self, device: str | torch.device) -> "MappedWindows":
        """Batches go to a device; the rest stays on the disk."""
        return replace(self, device=torch.device(device))

    def feed(self, digest: "hashlib._Hash") -> None:
        """What stands in the map, and how much of it is this part."""
        digest.update(f"{self.digest}/{len(self.tokens)}/{self.length}".encode())


OnDisk = Mapped | MappedWindows


def rows_at_most(row_bytes: int) -> int:
    """How many observations of so many bytes are scored."""
    return max(1, AT_MOST // row_bytes)


def partly_read(parts: Mapping[str, Part]) -> list[str]:
    """A line for each part of which ``rows`` gives only a subset."""
    return [
        f"{name} does not fit in memory: what is counted, scored or compared is a fixed {part.scored:,} of its "
        f"{part.observations:,} observations"
        for name, part in parts.items()
        if isinstance(part, OnDisk) and part.scored < part.observations
    ]


def _subset(n: int, most: int) -> Tensor:
    """All of n rows, or ``most`` of them, drawn once and for all, in order."""
    return torch.arange(n) if n == most else shuffled(n, stream(0, "rows"))[:most].sort().values


def key_of(*what: Any) -> str:
    """A name for what depends on these values alone."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:24]


def keep(path: Path, pieces: Iterable[np.ndarray]) -> None:
    """Writes arrays one after the other, and their checksum.

    Raises:
        Unusable: the cache cannot be written.
    """

    def write(temporary: Path) -> None:
        checksum = 0
        with temporary.open("wb") as file:
            for piece in pieces:
                content = np.ascontiguousarray(piece).data
                file.write(content)
                checksum = zlib.crc32(content, checksum)
            file.write(struct.pack("<I", checksum))

    write_whole(path, write, cure=CURE)


def kept(path: Path, layout: Sequence[tuple[Any, tuple[int, ...]]], *, check: bool) -> list[np.ndarray] | None:
    """Maps of the arrays that ``keep`` wrote, by dtype and shape; None where there is no whole file of them."""
    sizes = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in layout]
    try:
        if not path.is_file():
            return None
        content = np.memmap(path, dtype=np.uint8, mode="r")
        whole = len(content) == sum(sizes) + 4 and (not check or _sound(path, sum(sizes)))
    except (OSError, ValueError):  # it cannot be read, or is empty
        whole = False
    if not whole:
        say(f"{path} is damaged; it is made again")
        return None
    starts = np.cumsum([0, *sizes])
    return [
        content[start : start + size].view(dtype).reshape(shape)
        for start, size, (dtype, shape) in zip(starts, sizes, layout)
    ]


def blocks(content: np.ndarray) -> Iterator[np.ndarray]:
    """A mapped array in pieces that fit in memory."""
    step = max(1, PIECE // content.itemsize)
    for start in range(0, len(content), step):
        yield content[start : start + step]


def _sound(path: Path, size: int) -> bool:
    checksum = 0
    with path.open("rb") as file:
        for start in range(0, size, PIECE):
            checksum = zlib.crc32(file.read(min(PIECE, size - start)), checksum)
        return struct.pack("<I", checksum) == file.read()
