"""Weights that are spread over processes: PyTorch's ``fully_shard``, and checkpoints to which each writes its share.

Source: Zhao et al. 2023, arXiv:2304.11277.
"""

import inspect
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pofx.errors import Unusable
from pofx.protocols import Learns, Plays, capabilities
from pofx.train.checkpoint import State
from pofx.world import World

METHODS = ("loss", "log_prob", "pseudo_log_prob", "elbo", "meters")  # gather their weights, as ``forward`` does
SHARDS = "shards"


def shard(model: nn.Module) -> None:
    """Spreads every weight over the processes: block by block where a module lists its ``blocks``, then the rest.

    Raises:
        Unusable: a game of several players, whose losses are not methods known beforehand.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if Learns not in capabilities(model) or Plays in capabilities(model):
        raise Unusable("--strategy fsdp shards models with one loss, such as gpt; use --strategy ddp for this one")
    for module in list(model.modules()):
        for block in getattr(module, "blocks", ()):
            fully_shard(block)
    fully_shard(model, reshard_after_forward=True)
    for name in METHODS:
        if hasattr(model, name):
            signature = inspect.signature(getattr(type(model), name))
            register_fsdp_forward_method(model, name)
            getattr(model, name).__func__.__signature__ = signature  # the wrapper's own would hide what it takes


def is_sharded(tensor: Any) -> bool:
    """Whether this process holds a part of it."""
    return hasattr(tensor, "full_tensor")


def whole(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Sharded tensors gathered; each process takes part."""
    return {name: t.full_tensor() if is_sharded(t) else t for name, t in tensors.items()}


def save_shards(home: Path, tensors: dict[str, Tensor], step: int, world: World) -> tuple[dict[str, Tensor], str]:
    """Writes the sharded tensors to a folder of their own, a file for each process; the rest, and the folder's name.

    The folder gets its name when all have written; a checkpoint then names it, so one rename still decides.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    parts = {name: tensor.detach() for name, tensor in tensors.items() if is_sharded(tensor)}
    name = world.led(lambda: _unused(home, step))
    temporary = home / f".{name}.tmp"
    save(parts, storage_writer=HuggingFaceStorageWriter(path=str(temporary), save_distributed=True))
    world.wait()
    world.led(lambda: _finish(temporary, home / name))
    return {key: tensor for key, tensor in tensors.items() if key not in parts}, name


def _unused(home: Path, step: int) -> str:
    """A name that no folder has: what a checkpoint names is never written over."""
    home.mkdir(parents=True, exist_ok=True)
    return next(name for k in range(10_000) if not (home / (name := f"{SHARDS}-{step:06d}-{k}")).exists())


def _finish(temporary: Path, folder: Path) -> None:
    for path in temporary.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    os.replace(temporary, folder)


def load_shards(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder, whole, whatever number of processes wrote it."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    if not folder.is_dir():
        raise Unusable(f"{folder} is missing, so the checkpoint is not whole; restore it or fit again")
    stored: dict[str, Any] = HuggingFaceStorageReader(path=str(folder)).read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {name: torch.empty(t.size, dtype=t.properties.dtype) for name, t in stored.items()}
    load(tensors, storage_reader=HuggingFaceStorageReader(path=str(folder)), no_dist=True)
    return tensors


def spread(state: State, model: nn.Module) -> State:
    """A checkpoint's tensors cut as the model's weights are: averages and moments like the weight they belong to."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    weight = next(p for p in model.parameters() if isinstance(p, DTensor))
    buffers = {name for name, _ in model.named_buffers()}

    def follows(name: str) -> bool:
        kind, _, rest = name.partition("/")
        if kind in ("model", "best"):
            return rest not in buffers
        return kind == "ema" or (kind == "optimiser" and not name.endswith("/step"))

    tensors, plain = state
    return {
        name: distribute_tensor(t, weight.device_mesh, weight.placements) if follows(name) else t
        for name, t in tensors.items()
    }, plain


def forget_shards(home: Path, keep: set[str]) -> None:
    """Removes the folders that no checkpoint names any more."""
    for folder in home.glob(f"{SHARDS}-*"):
        if folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)
