"""Pictures in tar shards, for sets whose pixels do not fit on a disk: indexed, and decoded when they are asked for.

A shard is an uncompressed tar file in the manner of WebDataset: members of one name up to its first dot are one sample,
a picture with, where they stand beside it, ``.cls`` (its class) and ``.txt`` (its caption). A tar file allows random
access, so that a shard set is split, shuffled and resumed as any other source is.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pofx.data.dataset import Data
from pofx.data.decoded import pixels_of
from pofx.data.maps import rows_at_most
from pofx.data.pictures import SPLIT_FOLDERS, SUFFIXES, as_pictures
from pofx.data.request import Options, Request
from pofx.data.rows import Captions, Given, Labels, Observations, cut, split_rows
from pofx.errors import Unusable
from pofx.progress import bar

MOST = 4096  # pictures that are scored: each is decoded anew
FEWEST = 10  # shards: of fewer, single pictures are split
_LARGEST = 1 << 20  # bytes of a class or a caption


@dataclass
class _Sample:
    """What a shard holds under one name: where the picture lies, its class and its caption."""

    name: str
    offset: int = -1
    size: int = 0
    label: int | None = None
    caption: str | None = None


@dataclass(frozen=True)
class _Index:
    """Every picture of every shard: which shard, and where in it."""

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    digests: np.ndarray
    labels: list[int | None]
    captions: list[str | None]


def shard_files(place: Path) -> list[Path]:
    """One shard, or those below a folder in the order of their paths."""
    return sorted(place.rglob("*.tar")) if place.is_dir() else [place]


def read_shards(request: Request) -> Data:
    """Tar shards: split by shard, by the names of shards or the seed; with fewer than ten, picture by picture."""
    size = request.options.size
    if size is None:
        raise Unusable(f"{request.place}: pictures of shards need one size; give it with --size 64 (centre crop)")
    paths = shard_files(request.path)
    with bar(f"indexing {request.place}", len(paths)) as tick:
        index = _indexed(paths, tick)
    if not len(index.shard):
        raise Unusable(f"{request.place} has no pictures; its shards need members such as 0001.jpg")
    domain, _ = as_pictures(torch.empty(0, 3, size, size, dtype=torch.uint8), 256, request.options)
    official, described = _split(paths, index, request)
    return split_rows(
        Observations(
            domain, Shards(paths, index, request.options), official=official, described=described, given=_given(index)
        ),
        request,
    )


class Shards:
    """Pictures that are decoded when they are read.

    Args:
        paths: of the shards.
        index: of their pictures.
        options: size and levels.
    """

    comparable = False  # equal pictures of two names are not seen to be equal

    def __init__(self, paths: Sequence[Path], index: _Index, options: Options) -> None:
        self.paths, self.index, self.options = paths, index, options
        self.digests = index.digests

    def __len__(self) -> int:
        return len(self.index.shard)

    @property
    def most(self) -> int:
        """How many are read at once, to be scored."""
        return min(MOST, rows_at_most(3 * self._side**2))

    @property
    def _side(self) -> int:
        assert self.options.size is not None  # asked for where the source is read
        return self.options.size

    def read(self, rows: Tensor) -> Tensor:
        """Canonical pictures of rows (B,).

        Raises:
            Unusable: a shard is no longer there, or a picture is unreadable.
        """
        numbers, side = rows.numpy(), self._side
        pixels = np.empty((len(numbers), 3, side, side), dtype=np.uint8)
        for shard in np.unique(self.index.shard[numbers]):
            with self.paths[shard].open("rb") as file:
                for i in np.flatnonzero(self.index.shard[numbers] == shard):
                    file.seek(self.index.offset[numbers[i]])
                    content = file.read(self.index.size[numbers[i]])
                    pixels[i] = self._decoded(content, int(numbers[i]))
        return as_pictures(torch.from_numpy(pixels), 256, self.options)[1]

    def _decoded(self, content: bytes, row: int) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content)) as picture:
                return pixels_of(picture, (self._side, self._side)).transpose(2, 0, 1)
        except Exception:  # Pillow answers broken files with many kinds of exception
            path, offset = self.paths[self.index.shard[row]], self.index.offset[row]
            raise Unusable(
                f"the picture at byte {offset:,} of {path} is unreadable; write that shard again without it"
            ) from None


def _indexed(paths: Sequence[Path], tick: Callable[[int], None]) -> _Index:
    shards, samples = [], []
    for i, path in enumerate(paths):
        found = [sample for sample in _samples(path) if sample.offset >= 0]
        samples += found
        shards += [i] * len(found)
        tick(1)
    digests = [hashlib.blake2b(f"{s.name}/{s.size}".encode(), digest_size=8).digest() for s in samples]
    return _Index(
        np.array(shards, dtype=np.int64),
        np.array([s.offset for s in samples], dtype=np.int64),
        np.array([s.size for s in samples], dtype=np.int64),
        np.frombuffer(b"".join(digests), dtype="<i8"),
        [s.label for s in samples],
        [s.caption for s in samples],
    )


def _samples(path: Path) -> list[_Sample]:
    """The samples of a shard, in the order in which they begin."""
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, last = member.name.rpartition("/")
                stem, _, kind = last.partition(".")
                if member.isreg() and stem:
                    sample = samples.setdefault(f"{folder}/{stem}", _Sample(f"{folder}/{stem}"))
                    _note(sample, kind.lower(), member, tar)
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
    except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise Unusable(f"{path} is no whole uncompressed tar file ({error}); write that shard again") from None
    return list(samples.values())


def _note(sample: _Sample, kind: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    if f".{kind}" in SUFFIXES:
        sample.offset, sample.size = member.offset_data, member.size
    elif kind in ("cls", "txt") and member.size <= _LARGEST:
        file = tar.extractfile(member)
        text = file.read().decode() if file else ""
        if kind == "txt":
            sample.caption = text
        else:
            sample.label = int(text)


def _given(index: _Index) -> dict[str, Given]:
    """Classes and captions, where every picture has one."""
    given: dict[str, Given] = {}
    labels = [label for label in index.labels if label is not None]
    if len(labels) == len(index.labels):
        names, rows = np.unique(np.array(labels), return_inverse=True)
        given["class"] = Labels(torch.from_numpy(rows.astype(np.int64)), tuple(map(str, names.tolist())))
    captions = [caption for caption in index.captions if caption is not None]
    if len(captions) == len(index.captions):
        given["text"] = Captions(tuple(captions))
    return given


def _split(paths: Sequence[Path], index: _Index, request: Request) -> tuple[dict[str, Tensor], str]:
    """Rows of each split: as the shards are named, else whole shards by the seed, else none, for few shards."""
    named = [_named_split(path) for path in paths]
    if any(named):
        if "train" not in named or "" in named:
            odd = next((path.name for path, split in zip(paths, named) if not split), "no shard")
            raise Unusable(
                f"{request.place}: if one shard is named after a split, all must be, some of them train; got {odd}"
            )
        shards = {split: torch.tensor([i for i, n in enumerate(named) if n == split]) for split in sorted(set(named))}
        described = "by the names of the shards"
    elif len(paths) >= FEWEST:
        shards = cut(torch.arange(len(paths)), ("validation", "test"), 0.1, request.seed)
        described = "seeded 80/10/10 of the shards"
    else:
        return {}, ""
    starts = np.searchsorted(index.shard, np.arange(len(paths) + 1))
    rows = {
        split: torch.cat([torch.arange(starts[i], starts[i + 1]) for i in chosen.tolist()])
        for split, chosen in shards.items()
    }
    return rows, described


def _named_split(path: Path) -> str:
    """The split that a word of the shard's name or folder names."""
    words = [*re.split(r"[-_.]", path.stem), path.parent.name]
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), "")
