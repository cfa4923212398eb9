"""Arrays of numpy: pictures or vectors, by shape and dtype."""

import zipfile
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pofx.data.dataset import Data
from pofx.data.pictures import as_pictures
from pofx.data.request import Request
from pofx.data.rows import Labels, Observations, split_rows
from pofx.domains import Domain, Images, Vectors
from pofx.errors import Unusable

_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_LABELS = ("y", "labels")


def read_arrays(request: Request) -> Data:
    """A single array, or by name: x with y or labels; or train, validation and test with y_train, ...

    With a length, an array (L,) of integers is a stream of tokens, read through a map.
    """
    as_tokens = request.options.length is not None
    try:
        loaded = np.load(request.path, allow_pickle=False, mmap_mode="r" if as_tokens else None)
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = "it holds Python objects" if "pickle" in str(error) else "it is broken or of another format"
        raise Unusable(f"{request.place} cannot be read as numpy arrays: {reason}; save it again with numpy") from None
    if as_tokens:
        _refuse_picture_options(request, "tokens")
        from pofx.data.streams import read_tokens

        return read_tokens(arrays["x"], request)
    return _read(arrays, request)


def _read(arrays: Mapping[str, np.ndarray], request: Request) -> Data:
    x, official = _find_x(arrays, request)
    labels = _find_labels(arrays, list(official), len(x), request)
    domain, rows = _observations(x, request)
    index = dict(official)
    if "train" in index:  # a file's order may be by class, and a limit takes the first rows
        order = torch.randperm(len(index["train"]), generator=torch.Generator().manual_seed(0))
        index["train"] = index["train"][order]
    given = {"class": labels} if labels else {}
    return split_rows(Observations(domain, rows, official=index, described="by array", given=given), request)


def _find_x(arrays: Mapping[str, np.ndarray], request: Request) -> tuple[np.ndarray, dict[str, Tensor]]:
    """All observations, and the rows of each split that the file makes."""
    parts = {}
    for key, split in _SPLITS.items():
        found = next((name for name in (key, f"x_{key}") if name in arrays), None)
        if found:
            parts[split] = arrays[found]
    if "train" in parts:
        rows = torch.arange(sum(map(len, parts.values()))).split([len(part) for part in parts.values()])
        try:
            return np.concatenate(list(parts.values())), {name: r.clone() for name, r in zip(parts, rows)}
        except ValueError:
            shapes = ", ".join(f"{name} {part.shape}" for name, part in parts.items())
            raise Unusable(f"{request.place}: the splits must have one shape per observation, got {shapes}") from None
    if "x" in arrays:
        return arrays["x"], {}
    if len(arrays) == 1:
        return next(iter(arrays.values())), {}
    names = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none"
    raise Unusable(f"{request.place} needs an array x (with y for classes), or train and test; it has {names}")


def _find_labels(arrays: Mapping[str, np.ndarray], splits: list[str], n: int, request: Request) -> Labels | None:
    if splits:
        keys = [
            next((f"{y}_{k}" for y in _LABELS for k, v in _SPLITS.items() if v == split and f"{y}_{k}" in arrays), None)
            for split in splits
        ]
        values = [arrays[key].ravel() for key in keys if key]
        if len(values) < len(splits):
            return None
        y = np.concatenate(values)
    else:
        name = next((name for name in _LABELS if name in arrays and "x" in arrays), None)
        if name is None:
            return None
        y = arrays[name].ravel()
    if len(y) != n:
        raise Unusable(f"{request.place}: y must have one class per observation ({n:,}), got {len(y):,}")
    names, index = np.unique(y, return_inverse=True)
    if len(names) > 1000:
        raise Unusable(
            f"{request.place}: y has {len(names):,} different values, classes are at most 1,000; leave y out"
        )
    return Labels(torch.from_numpy(index.astype(np.int64)), tuple(str(name) for name in names))


def _observations(x: np.ndarray, request: Request) -> tuple[Domain, Tensor]:
    """By shape: vectors for (N, D), pictures for (N, H, W), (N, C, H, W) and (N, H, W, 1 or 3)."""
    if x.dtype.kind not in "buif":
        raise Unusable(f"{request.place} must hold numbers, got {x.dtype}; save it as floats or integers")
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim not in (2, 3, 4):
        raise Unusable(f"{request.place} must be (N, D), (N, H, W) or (N, C, H, W), got {x.shape}; reshape it")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        x = _finite(x, request)
    if x.ndim == 2:
        _refuse_picture_options(request, "vectors")
        return Vectors(x.shape[1]), torch.from_numpy(x.astype(np.float32))
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] in (1, 3) and x.shape[1] > 4:
        x = np.moveaxis(x, 3, 1)
    return _pictures(np.ascontiguousarray(x), request)


def _finite(x: np.ndarray, request: Request) -> np.ndarray:
    """Says where it is not finite; a lenient look goes on with zeros there."""
    bad = ~np.isfinite(x.reshape(len(x), -1))
    row, column = np.argwhere(bad)[0]
    request.findings.stop(
        f"{request.place} has {int(bad.sum()):,} NaN or infinite values, the first in row {row}, "
        f"column {column}; mend or remove these rows"
    )
    return np.where(np.isfinite(x), x, 0)


def _refuse_picture_options(request: Request, what: str) -> None:
    for name in ("size", "levels", "palette", "binary"):
        if name in request.options.given():
            raise Unusable(f"{request.place} holds {what}, and {name} is for pictures; leave it out")


def _pictures(x: np.ndarray, request: Request) -> tuple[Images, Tensor]:
    """Integers are levels; floats are continuous pictures, or equal bins of [0, 1]: levels=K, or 256 for a palette."""
    options = request.options
    if x.dtype.kind == "f":
        if options.levels is not None or options.palette is not None:
            return _levels_of_unit(x, options.levels or 256, request)
        if options.size or options.binary:
            raise Unusable(f"{request.place} holds floats; give levels=256 (of [0, 1]) to treat them as pictures")
        channels, height, width = x.shape[1:]
        return Images(channels, height, width, levels=None), torch.from_numpy(x.astype(np.float32))
    low, high = int(x.min(initial=0)), int(x.max(initial=0))
    if low < 0 or high > 65535:
        raise Unusable(f"{request.place}: levels of pictures are 0 to 65535, got {low} to {high}; shift or scale them")
    return as_pictures(torch.from_numpy(x.astype(np.int32)), _levels(high), options)


def _levels_of_unit(x: np.ndarray, levels: int, request: Request) -> tuple[Images, Tensor]:
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise Unusable(f"{request.place}: {levels} levels need floats in [0, 1], got {low:g} to {high:g}; scale them")
    x = np.minimum(x * levels, levels - 1).astype(np.int32)
    return as_pictures(torch.from_numpy(x), levels, request.options)


def _levels(largest: int) -> int:
    """The next usual number of levels: 2, 4, 16, 17 (digits), 256, 65536, as the largest value needs."""
    return next(levels for levels in (2, 4, 16, 17, 256, 65536) if largest < levels)
