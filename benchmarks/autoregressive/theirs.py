"""nanoGPT, trained by its own model.py and optimiser from a checkout, in the loop of its train.py.

Source: Karpathy 2022, github.com/karpathy/nanoGPT: config/train_shakespeare_char.py with the README's flags for a CPU.
"""

import contextlib
import importlib.util
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shakespeare import BLOCK
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Recipe:
    """What may be tuned; the defaults are nanoGPT's."""

    steps: int = 2000
    batch: int = 12
    learning_rate: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip: float = 1.0


def module_of(folder: Path) -> Any:
    """nanoGPT's model.py."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    if spec is None or spec.loader is None or not (folder / "model.py").is_file():
        raise SystemExit(f"--nanogpt wants a checkout of github.com/karpathy/nanoGPT, {folder} has no model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(source: Any, text: Tensor, vocabulary: int, recipe: Recipe, seed: int) -> tuple[Any, float]:
    """The trained model and the CPU seconds of its training."""
    torch.manual_seed(1337 + seed)
    data, began = text.numpy(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its sizes
        sizes = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": BLOCK, "vocab_size": vocabulary}
        model = source.GPT(source.GPTConfig(**sizes, bias=False, dropout=0.0))
        betas = recipe.beta1, recipe.beta2
        optimiser = model.configure_optimizers(recipe.weight_decay, recipe.learning_rate, betas, "cpu")

    def get_batch() -> tuple[Tensor, Tensor]:
        places = torch.randint(len(data) - BLOCK, (recipe.batch,))
        x = torch.stack([torch.from_numpy(data[i : i + BLOCK].astype("int64")) for i in places])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + BLOCK].astype("int64")) for i in places])
        return x, y

    x, y = get_batch()
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, recipe)
        _, loss = model(x, y)
        x, y = get_batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return model.eval(), time.process_time() - began


def rate(step: int, recipe: Recipe) -> float:
    """Its get_lr."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / (recipe.warmup + 1)
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return recipe.min_lr + 0.5 * (1 + math.cos(math.pi * done)) * (recipe.learning_rate - recipe.min_lr)


def nats(model: Any) -> Callable[[Tensor], Tensor]:
    """As ``loss_over`` wants them."""

    def of(windows: Tensor) -> Tensor:
        x, y = windows[:, :-1], windows[:, 1:].contiguous()
        logits, _ = model(x, y)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)

    return of
