"""Checkpoints: tensors and JSON in one safetensors file, written whole or not at all, and never unpickled."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from pofx.errors import Unusable
from pofx.files import write_whole

State = tuple[dict[str, Tensor], dict[str, Any]]


def save(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any] | None = None) -> None:
    """Writes tensors, and plain values as the file's own JSON metadata."""
    from safetensors.torch import save as to_bytes

    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = to_bytes(_unshared(owned), metadata={"plain": json.dumps(plain or {})})
    write_whole(path, lambda temporary: temporary.write_bytes(data))


def load(path: Path, *, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what ``save`` wrote.

    Raises:
        Unusable: the file is missing, cut short, or not safetensors.
    """
    with _opened(path, device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _plain(file)  # noqa: SIM118


def plain_values(path: Path) -> dict[str, Any]:
    """Only the plain values: cheap, the tensors are not read."""
    with _opened(path, "cpu") as file:
        return _plain(file)


@contextmanager
def _opened(path: Path, device: str) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise Unusable(f"{path} is missing, so the run is not whole; fit it again")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise Unusable(f"{path} is not a whole safetensors file ({reason}); restore it or fit again") from None


def _plain(file: Any) -> dict[str, Any]:
    return json.loads((file.metadata() or {}).get("plain", "{}"))


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory (tied weights) copied: safetensors stores each on its own."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        apart[name] = tensor.clone() if tensor.numel() and tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart
