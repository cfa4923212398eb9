"""Pictures: arrays of levels, and folders of picture files."""

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pofx.data import decoded
from pofx.data.dataset import Data
from pofx.data.decoded import Run, cached_folder, decode, loaded, measure, pixels_of
from pofx.data.maps import goes_on_disk, rows_at_most
from pofx.data.palettes import Painter
from pofx.data.request import Findings, Options, Request
from pofx.data.rows import Labels, Observations, split_rows
from pofx.domains import Images
from pofx.errors import Unusable

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
NATIVE = 64  # pixels a side: larger pictures are reduced only when the user says to what
SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def as_pictures(x: Tensor, levels: int, options: Options) -> tuple[Images, Tensor]:
    """Levels (N, C, H, W), resized and merged into fewer levels as the options say, and their domain."""
    if options.size is not None and tuple(x.shape[2:]) != (options.size, options.size):
        x = _resize(x, options.size, levels)
    if options.levels is not None:
        if options.levels > levels:
            raise Unusable(f"the pictures have {levels} levels, levels={options.levels} is finer; leave it out")
        x = x.to(torch.int32).mul_(options.levels).div_(levels, rounding_mode="floor")
        levels = options.levels
    channels, height, width = x.shape[1:]
    domain = Images(channels, height, width, levels)
    return domain, x.to(domain.dtype).contiguous()


def _resize(x: Tensor, size: int, levels: int) -> Tensor:
    """The centre square, resized with antialiasing."""
    height, width = x.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = x[:, :, top : top + side, left : left + side]
    resized = [
        torch.nn.functional.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        .round_().clamp_(0, levels - 1).to(x.dtype)
        for part in square.split(4096)
    ]  # fmt: skip
    return torch.cat(resized)


def is_picture(path: Path) -> bool:
    """Whether a path is a picture's file."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_picture(path: Path, domain: Images) -> Tensor:
    """The picture in a file as an observation (1, C, H, W), cut and resized to the domain.

    Raises:
        Unusable: it cannot be read, or observations are no pictures that a file holds.
    """
    from PIL import Image

    if domain.levels is None or domain.channels not in (1, 3):
        what = "continuous" if domain.levels is None else f"of {domain.channels} channels"
        raise Unusable(
            f"a file holds grey or RGB levels, and observations here are {what}; complete a source's instead"
        )
    try:
        with Image.open(path) as file:
            rgb = Image.fromarray(pixels_of(file, (domain.width, domain.height)))
    except Exception:  # Pillow answers broken files with many kinds of exception
        raise Unusable(f"{path} is an unreadable picture; give one that opens") from None
    if domain.palette:
        return Painter(Images(3, domain.height, domain.width), domain.palette)(
            torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None]
        )
    pixels = np.array(rgb if domain.channels == 3 else rgb.convert("L")).reshape(domain.height, domain.width, -1)
    y = Images(domain.channels, domain.height, domain.width).centre(torch.from_numpy(pixels).permute(2, 0, 1))
    return domain.quantise(y)[None]


@dataclass(frozen=True)
class _File:
    path: Path
    split: str  # "" where the folder makes none
    label: str  # subfolder, "" at the top


def read_folder(request: Request) -> Data:
    """A folder of picture files: class = subfolder; train/, validation/ and test/ are splits."""
    findings, options = request.findings, request.options
    skip = options.skip_unreadable or findings.lenient
    files = _files(request.path, findings)
    paths = [file.path for file in files]
    worth = options.mapped or sum(path.stat().st_size for path in paths) >= decoded.WORTH_KEEPING
    folder = cached_folder(request.path, paths)
    files, sizes = _measure(files, request, folder if worth else None, skip=skip)
    size = _target(sizes, options, findings)
    on_disk = goes_on_disk(request, 3 * math.prod(size) * len(files)) and (options.mapped or not options.binary)
    paths = [file.path for file in files]
    runs = decode(paths, size, folder if worth or on_disk else None, name=request.place, must_keep=on_disk)
    files = _readable(files, runs, request, skip=skip)
    # Black and white pictures have two levels, whatever the file says.
    inked = options.levels is None and not options.binary and all(run.inked for run in runs)
    look = _Look(all(run.grey for run in runs), inked, options)
    domain, x = look.see(torch.empty(0, 3, size[1], size[0], dtype=torch.uint8) if on_disk else loaded(runs))
    labels = _labels(files, findings)
    return split_rows(
        Observations(
            domain,
            Pictures(runs, look) if on_disk else x,
            official=_official(files),
            described="by folder",
            given={"class": labels} if labels else {},
        ),
        request,
    )


@dataclass(frozen=True)
class _Look:
    """How decoded pixels (N, 3, H, W) become canonical pictures: one channel if grey, two levels if inked."""

    grey: bool
    inked: bool
    options: Options

    def see(self, pixels: Tensor) -> tuple[Images, Tensor]:
        """Domain and canonical pictures."""
        x = pixels[:, :1] if self.grey else pixels
        return as_pictures(x // 255, 2, self.options) if self.inked else as_pictures(x, 256, self.options)


class Pictures:
    """Decoded pictures on the disk.

    Args:
        runs: mapped.
        look: how their pixels become canonical.
    """

    comparable = True

    def __init__(self, runs: list[Run], look: _Look) -> None:
        self.runs, self.look = runs, look
        readable = np.concatenate([run.readable for run in runs])
        self.numbers = np.flatnonzero(readable)
        self.digests = np.concatenate([run.digests for run in runs])[self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def most(self) -> int:
        """How many are read at once, to be scored."""
        return rows_at_most(self.runs[0].pixels[0].size)

    def read(self, rows: Tensor) -> Tensor:
        """Canonical pictures of rows (B,)."""
        run, place = np.divmod(self.numbers[rows.numpy()], len(self.runs[0].readable))
        pixels = np.empty((len(rows), *self.runs[0].pixels.shape[1:]), dtype=np.uint8)
        for i in np.unique(run):
            here = run == i
            pixels[here] = self.runs[i].pixels[place[here]]
        return self.look.see(torch.from_numpy(pixels))[1]


def _files(root: Path, findings: Findings) -> list[_File]:
    """Every picture below the root, in the order of its path."""
    tops = {entry.name for entry in root.iterdir() if entry.is_dir()}
    splits = tops & SPLIT_FOLDERS.keys()
    if splits and "train" not in splits:
        raise Unusable(f"{root} has {', '.join(sorted(splits))} but no train; rename a folder to train, or these")
    files, others = [], []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(folder).relative_to(root).parts
        split = SPLIT_FOLDERS.get(inside[0], "") if splits and inside else ""
        for name in sorted(names):
            path = Path(folder) / name
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES or (splits and not split):
                others.append(path)
            else:
                files.append(_File(path, split, "/".join(inside[1:] if splits else inside)))
    if others:
        findings.note(f"{_named(others)} left out: not pictures, hidden, or beside the split folders")
    if not files:
        raise Unusable(f"{root} has no pictures; it takes {', '.join(sorted(SUFFIXES))}")
    return files


def _measure(
    files: list[_File], request: Request, folder: Path | None, *, skip: bool
) -> tuple[list[_File], list[tuple[int, int]]]:
    """Width and height of each picture, from its header alone."""
    sizes = measure([file.path for file in files], folder)
    good = [file for file, size in zip(files, sizes) if size[0]]
    _report_unreadable([file.path for file, size in zip(files, sizes) if not size[0]], request, skip=skip)
    if not good:
        raise Unusable(f"{request.place} has no readable picture; convert them to PNG or JPEG")
    return good, [size for size in sizes if size[0]]


def _report_unreadable(bad: list[Path], request: Request, *, skip: bool) -> None:
    if not bad:
        return
    if skip and not request.findings.lenient:
        request.findings.note(f"unreadable and left out: {_named(bad)}")
    else:
        request.findings.stop(f"unreadable: {_named(bad)}; mend or remove, or leave out with --skip-unreadable")


def _named(paths: list[Path]) -> str:
    rest = f" and {len(paths) - 5:,} more" if len(paths) > 5 else ""
    return ", ".join(str(path) for path in paths[:5]) + rest


def _target(sizes: list[tuple[int, int]], options: Options, findings: Findings) -> tuple[int, int]:
    """Width and height that every picture gets."""
    if options.size is not None:
        return options.size, options.size
    counts = Counter(sizes)
    if len(counts) == 1 and max(sizes[0]) <= NATIVE:
        return sizes[0]
    usual = ", ".join(f"{w}x{h} ({n:,})" for (w, h), n in counts.most_common(3)) + (", ..." if len(counts) > 3 else "")
    findings.stop(
        f"pictures keep their size only if all are equal and at most {NATIVE}x{NATIVE}, got {usual}; "
        "give one with --size 32 (centre crop)"
    )
    return 32, 32


def _readable(files: list[_File], runs: list[Run], request: Request, *, skip: bool) -> list[_File]:
    """The files whose pixels could be read: a header may be whole and the pixels cut off."""
    readable = np.concatenate([run.readable for run in runs])
    _report_unreadable([file.path for file, good in zip(files, readable) if not good], request, skip=skip)
    if not readable.any():
        raise Unusable(f"{request.place} has no readable picture; convert them to PNG or JPEG")
    return [file for file, good in zip(files, readable) if good]


def _labels(files: list[_File], findings: Findings) -> Labels | None:
    names = sorted({file.label for file in files})
    if names == [""]:
        return None
    if "" in names:
        count = sum(file.label == "" for file in files)
        findings.note(f"{count:,} pictures lie in no subfolder: as a class they are 'unclassified'")
    place = {name: i for i, name in enumerate(names)}
    index = torch.tensor([place[file.label] for file in files])
    return Labels(index, tuple(name or "unclassified" for name in names))


def _official(files: list[_File]) -> dict[str, Tensor]:
    """Rows of each split folder, training rows in a fixed shuffled order: a folder's order is by class."""
    splits: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        splits.setdefault(file.split, []).append(i)
    if "" in splits:
        return {}
    rows = {name: torch.tensor(index) for name, index in splits.items()}
    order = torch.randperm(len(rows["train"]), generator=torch.Generator().manual_seed(0))
    return rows | {"train": rows["train"][order]}
