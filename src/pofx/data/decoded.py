"""Picture files decoded once: pixels in runs of files, each kept in the cache as soon as it is decoded.

An interrupted decoding goes on with the first run that is not there yet.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.data import maps
from pofx.data.maps import keep, kept, key_of
from pofx.errors import Unusable
from pofx.files import cache_folder
from pofx.progress import bar

if TYPE_CHECKING:
    from PIL import Image

VERSION = 1  # of how a picture becomes pixels
RUN = 64 << 20  # bytes of pixels in a run: what an interruption can cost
WORTH_KEEPING = 1 << 20  # bytes of picture files: fewer are decoded in a moment
Size = tuple[int, int]  # width and height


@dataclass(frozen=True)
class Run:
    """Pixels of consecutive files.

    Args:
        digests: (N,) int64, of the pixels.
        pixels: (N, 3, H, W) uint8; zeros where a file is unreadable.
        readable: (N,) whether it could be read.
        grey: whether every readable picture is.
        inked: whether their pixels are black or white alone.
    """

    digests: np.ndarray
    pixels: np.ndarray
    readable: np.ndarray
    grey: bool
    inked: bool


def cached_folder(root: Path, paths: Sequence[Path]) -> Path:
    """Where the pixels of these very files are kept: their names, sizes and times, and what decodes them, name it."""
    import PIL

    stats = [path.stat() for path in paths]
    files = [(str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats)]
    return cache_folder() / "pictures" / key_of(VERSION, PIL.__version__, files)


def measure(paths: Sequence[Path], folder: Path | None) -> list[Size]:
    """Width and height of each file, from its header alone; (0, 0) where that is unreadable."""
    layout: list[tuple[Any, tuple[int, ...]]] = [("<i4", (len(paths), 2))]
    found = kept(folder / "sizes.bin", layout, check=True) if folder else None
    sizes = found[0] if found else np.array([_size(path) for path in paths], dtype="<i4").reshape(-1, 2)
    if folder and not found:
        with suppress(Unusable):  # they are soon measured again
            keep(folder / "sizes.bin", [sizes])
    return [(width, height) for width, height in sizes.tolist()]


def _size(path: Path) -> Size:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception:  # Pillow answers broken files with many kinds of exception
        return 0, 0


def decode(paths: Sequence[Path], size: Size, folder: Path | None, *, name: str, must_keep: bool) -> list[Run]:
    """Pixels of all files, from the cache where they are kept there.

    Args:
        paths: of pictures.
        size: that each is cropped and resized to.
        folder: of the cache, or None.
        name: of the source, for the bar.
        must_keep: the pixels do not fit in memory; else a cache that cannot be written is done without.

    Raises:
        Unusable: the cache cannot be written, and must be.
    """
    each = 3 * size[0] * size[1]
    length = max(1, RUN // each)
    runs = []
    with bar(f"decoding {name}", len(paths)) as tick:
        for start in range(0, len(paths), length):
            part = paths[start : start + length]
            path = folder / f"{size[0]}x{size[1]}" / f"{start // length:06}.bin" if folder else None
            run = _from_cache(path, len(part), size, check=each * len(paths) < maps.CHECKED) if path else None
            if run is None:
                run = _decoded(part, size)
                try:
                    run = _kept(run, path, size) if path else run
                except Unusable:
                    if must_keep:
                        raise
                    folder = None
            runs.append(run)
            tick(len(part))
    return runs


def loaded(runs: Sequence[Run]) -> Tensor:
    """The readable pictures in memory, (N, 3, H, W) uint8."""
    return torch.from_numpy(np.concatenate([run.pixels[run.readable] for run in runs]))


def _layout(n: int, size: Size) -> list[tuple[Any, tuple[int, ...]]]:
    return [("<i8", (n,)), ("u1", (n, 3, size[1], size[0])), ("u1", (n,)), ("u1", (2,))]


def _kept(run: Run, path: Path, size: Size) -> Run:
    """Written to the cache, and mapped."""
    keep(path, [run.digests, run.pixels, run.readable, np.array([run.grey, run.inked])])
    return _from_cache(path, len(run.readable), size, check=False) or run


def _from_cache(path: Path, n: int, size: Size, *, check: bool) -> Run | None:
    found = kept(path, _layout(n, size), check=check)
    if found is None:
        return None
    digests, pixels, readable, (grey, inked) = found
    return Run(np.array(digests), pixels, np.array(readable, dtype=bool), bool(grey), bool(inked))


def _decoded(paths: Sequence[Path], size: Size) -> Run:
    from PIL import Image

    pixels = np.zeros((len(paths), 3, size[1], size[0]), dtype=np.uint8)
    readable = np.zeros(len(paths), dtype=bool)
    for i, path in enumerate(paths):
        try:
            with Image.open(path) as picture:
                pixels[i] = pixels_of(picture, size).transpose(2, 0, 1)
            readable[i] = True
        except Exception:  # a header may be whole and the pixels cut off
            continue
    digests = b"".join(hashlib.blake2b(picture.tobytes(), digest_size=8).digest() for picture in pixels)
    seen = pixels if readable.all() else pixels[readable]
    grey = bool((seen[:, 0] == seen[:, 1]).all() and (seen[:, 1] == seen[:, 2]).all())
    inked = bool(((seen == 0) | (seen == 255)).all())
    return Run(np.frombuffer(digests, dtype="<i8"), pixels, readable, grey, inked)


def pixels_of(picture: "Image.Image", size: Size) -> np.ndarray:
    """RGB (H, W, 3) of the upright picture, transparency on white, cropped to the centre and resized."""
    from PIL import Image, ImageOps

    if picture.mode.startswith("I"):  # 16 bits: Pillow would clip, not scale
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    picture = ImageOps.exif_transpose(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    if picture.size != size:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    return np.asarray(picture)
