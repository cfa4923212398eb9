"""What a model costs: parameters and memory. Its sampling speed is measured where samples are drawn."""

import sys
from typing import Any

import torch

from pofx.evaluate.score import Score


def cost_scores(model: Any, *, split: str, device: str | torch.device) -> list[Score]:
    """Numbers of parameters, and peak memory of the process (of the device, on CUDA) in MiB."""
    learnt, kept = list(model.parameters()), list(model.buffers())
    count = sum(p.numel() for p in learnt)
    note = f"and {sum(b.numel() for b in kept)} values in buffers" if kept else ""
    return [
        Score("parameters", float(count), "statistic", "", 1, split=split, better="lower", note=note),
        Score("peak memory", peak_memory(device), "statistic", "MiB", 1, split=split, better="lower",
              note="of the process, training included" if torch.device(device).type == "cpu" else "on the device"),
    ]  # fmt: skip


def peak_memory(device: str | torch.device = "cpu") -> float:
    """MiB at the highest so far; NaN where the system does not tell."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
