"""Pictures: arrays of levels, and folders of picture files."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pofx.data.dataset import Data
from pofx.data.request import Findings, Options, Request
from pofx.data.rows import Labels, Observations, split_rows
from pofx.domains import Images
from pofx.errors import Unusable

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
NATIVE = 64  # pixels a side: larger pictures are reduced only when the user says to what
_SPLIT_FOLDERS = {
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
    files, sizes = _measure(files, request, skip=skip)
    width, height = _target(sizes, options, findings)
    files, x = _decode(files, (width, height), request, skip=skip)
    grey = bool((x[:, 0] == x[:, 1]).all() and (x[:, 1] == x[:, 2]).all())
    if grey:
        x = x[:, :1].clone()
    levels = 256
    if options.levels is None and not options.binary and bool(((x == 0) | (x == 255)).all()):
        x, levels = x // 255, 2  # black and white pictures have two levels, whatever the file says
    domain, x = as_pictures(x, levels, options)
    labels = _labels(files, findings)
    return split_rows(
        Observations(
            domain, x, official=_official(files), described="by folder", given={"class": labels} if labels else {}
        ),
        request,
    )


def _files(root: Path, findings: Findings) -> list[_File]:
    """Every picture below the root, in the order of its path."""
    tops = {entry.name for entry in root.iterdir() if entry.is_dir()}
    splits = tops & _SPLIT_FOLDERS.keys()
    if splits and "train" not in splits:
        raise Unusable(f"{root} has {', '.join(sorted(splits))} but no train; rename a folder to train, or these")
    files, others = [], []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(folder).relative_to(root).parts
        split = _SPLIT_FOLDERS.get(inside[0], "") if splits and inside else ""
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


def _measure(files: list[_File], request: Request, *, skip: bool) -> tuple[list[_File], list[tuple[int, int]]]:
    """Width and height of each picture, from its header alone."""
    from PIL import Image

    good: list[_File] = []
    sizes: list[tuple[int, int]] = []
    bad: list[Path] = []
    for file in files:
        try:
            with Image.open(file.path) as picture:
                sizes.append(picture.size)
            good.append(file)
        except Exception:  # Pillow answers broken files with many kinds of exception
            bad.append(file.path)
    _report_unreadable(bad, request, skip=skip)
    if not good:
        raise Unusable(f"{request.place} has no readable picture; convert them to PNG or JPEG")
    return good, sizes


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


def _decode(files: list[_File], target: tuple[int, int], request: Request, *, skip: bool) -> tuple[list[_File], Tensor]:
    """Pixels (N, 3, H, W), uint8."""
    from PIL import Image

    x = np.empty((len(files), target[1], target[0], 3), dtype=np.uint8)
    good: list[_File] = []
    bad: list[Path] = []
    for file in files:
        try:
            with Image.open(file.path) as picture:
                x[len(good)] = _pixels(picture, target)
            good.append(file)
        except Exception:  # a header may be whole and the pixels cut off
            bad.append(file.path)
    _report_unreadable(bad, request, skip=skip)
    if not good:
        raise Unusable(f"{request.place} has no readable picture; convert them to PNG or JPEG")
    return good, torch.from_numpy(x[: len(good)]).permute(0, 3, 1, 2).contiguous()


def _pixels(picture: "Image.Image", target: tuple[int, int]) -> np.ndarray:
    """RGB of the upright picture, transparency on white, cropped to the centre and resized."""
    from PIL import Image, ImageOps

    if picture.mode.startswith("I"):  # 16 bits: Pillow would clip, not scale
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    picture = ImageOps.exif_transpose(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    if picture.size != target:
        picture = ImageOps.fit(picture, target, Image.Resampling.LANCZOS)
    return np.asarray(picture)


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
