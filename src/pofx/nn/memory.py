"""How much memory is free, asked before much is taken: where none is left, a system ends a process without a word."""

import os
from pathlib import Path

import torch

from pofx.errors import Unusable

_GROUP = Path("/sys/fs/cgroup")


def require_memory(needed: int, what: str, device: torch.device) -> None:
    """Refuses what takes more bytes than are free, where that is known.

    Raises:
        Unusable: it does.
    """
    there = free_memory(device)
    if there is not None and needed > there:
        raise Unusable(
            f"{what} must fit into memory: they take {needed / 1e9:.3g} GB, and {there / 1e9:.3g} GB are free; draw "
            "fewer at once with --chunk, or shorter ones with --length"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still take on a device; None where nobody says."""
    if device.type == "cuda":
        spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + spare
    if device.type != "cpu":
        return None
    known = [size for size in (_available(), _allowed()) if size is not None]
    return min(known, default=None)


def _available() -> int | None:
    """What the system counts as available, its caches included."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _allowed() -> int | None:
    """What the container's limit leaves."""
    try:
        return max(0, int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        return None
