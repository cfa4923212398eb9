"""Checkpoints: tensors and JSON in one safetensors file, written whole or not at all, and never unpickled.

The file holds checksums of both. So a file that was cut, or in which a bit has turned, is refused: what loads is what
was saved. Nothing is allocated by what a header claims before the file is known to be as long as it says.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.errors import Unusable, in_brief
from pofx.files import write_whole

State = tuple[dict[str, Tensor], dict[str, Any]]


def save(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any] | None = None) -> None:
    """Writes tensors, and plain values as the file's own JSON metadata."""
    from safetensors.torch import save as to_bytes

    owned = _unshared({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    text = json.dumps(plain or {})
    sums = {"plain_checksum": _checksum(text.encode()), "checksum": _checksum_of(owned)}
    data = to_bytes(owned, metadata={"plain": text} | sums)
    write_whole(path, lambda temporary: temporary.write_bytes(data))


def load(path: Path) -> State:
    """Reads what ``save`` wrote.

    Raises:
        Unusable: the file is missing, not safetensors, or not as it was written.
    """
    with _opened(path) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("checksum") != _checksum_of(tensors):
            raise ValueError("the tensors do not have the checksum that they were written with")
        return tensors, _plain(metadata)


def plain_values(path: Path) -> dict[str, Any]:
    """Only the plain values: cheap, the tensors are not read."""
    with _opened(path) as (_, metadata):
        return _plain(metadata)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    from safetensors import safe_open

    if not path.is_file():
        raise Unusable(f"{path} is missing: the run has just begun, or is not whole; 'pofx runs' tells which")
    try:
        with safe_open(path, framework="pt") as file:
            yield file, file.metadata() or {}
    except Exception as error:  # of many kinds, by what is wrong with the file
        raise Unusable(f"{path} is not a whole safetensors file ({in_brief(error)}); restore it or fit again") from None


def _plain(metadata: dict[str, str]) -> dict[str, Any]:
    text = metadata.get("plain", "")
    if metadata.get("plain_checksum") != _checksum(text.encode()):
        raise ValueError("the plain values do not have the checksum that they were written with")
    return json.loads(text)


def _checksum_of(tensors: Mapping[str, Tensor]) -> str:
    """Of names, kinds, shapes and bytes."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _checksum(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory (tied weights) copied: safetensors stores each on its own."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        apart[name] = tensor.clone() if tensor.numel() and tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart
