"""What a call takes: seconds, and the memory by which the process, or the device, grows while it runs."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from pofx.evaluate.cost import peak_memory

LOOK_SECONDS = 0.005
T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """Seconds and bytes."""

    seconds: float = 0.0
    bytes: int = 0


def spent(call: Callable[[], T], device: torch.device) -> tuple[T, Spent]:
    """Calls once; the result, and what it took. On the CPU the process is looked at every few milliseconds."""
    before, began = held(device), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        torch.cuda.synchronize(device)
        return result, Spent(time.perf_counter() - began, torch.cuda.max_memory_allocated(device) - before)
    peak, over = before, threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(LOOK_SECONDS):
            peak = max(peak, held(device))

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        result = call()
    finally:
        took = time.perf_counter() - began
        over.set()
        looker.join()
    return result, Spent(took, max(peak, held(device)) - before)


def held(device: torch.device) -> int:
    """Bytes in memory now, of the process or on a GPU; where the system does not tell, the most so far."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = peak_memory(device)
        return 0 if peak != peak else int(peak * 2**20)
    return pages * os.sysconf("SC_PAGE_SIZE")
