"""How much of a model's likelihood is left where one of its layers is reconstructed by an autoencoder."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pofx.conditions import expand
from pofx.data.dataset import Data
from pofx.domains import in_unit
from pofx.evaluate.likelihood import shuffled
from pofx.evaluate.pace import Clock, Watch, paced
from pofx.evaluate.score import Score
from pofx.nn.layer import Layer, as_outputs, as_rows
from pofx.nn.modes import evaluating
from pofx.protocols import Scores, capabilities
from pofx.samplers.latents import reconstruct

MOST = 1000  # observations
_ROWS = 32  # in one pass

Change = Callable[[Tensor, Tensor | None], Tensor]
"""Rows of a layer's output (N, W) and their condition rows, or None, to what stands in their place."""


@torch.no_grad()
def recovered_scores(
    layer: Layer, autoencoder: Any, data: Data, *, split: str, clock: Clock, seed: int, watch: Watch
) -> list[Score]:
    """(L_ablated - L_reconstructed) / (L_ablated - L_original), L = -log p(x): 1 where nothing is lost, 0 where all is.

    Ablated is the layer's output set to zero, and to its mean over observations. Empty for a model without an exact
    likelihood, and for its ``features``, which nothing is computed from.

    Args:
        layer: of the model.
        autoencoder: of the layer's activations; its condition is that of the data.
        data: what the model reads.
        clock: fewer observations are taken where time is short.
    """
    if layer.module is None or Scores not in capabilities(layer.model):
        return []
    x, c = shuffled(data, split, seed)
    x, c = x[:MOST], None if c is None else c[:MOST]
    mean = as_rows(layer.outputs(x[:_ROWS], _given(layer.model, c, slice(_ROWS)))).mean(0)
    changes: dict[str, Change] = {
        "zero": lambda rows, told: torch.zeros_like(rows),
        "mean": lambda rows, told: mean.expand_as(rows),
        "reconstructed": lambda rows, told: reconstruct(autoencoder, rows.float(), told).to(rows.dtype),
    }
    watch(f"loss recovered: up to {len(x)} of {split}, at most {clock.left:.1f} s")
    losses: dict[str, list[Tensor]] = {name: [] for name in ("original", *changes)}
    with evaluating(layer.model), evaluating(autoencoder):
        for batch in paced(len(x), clock, largest=_ROWS):
            rows, model_c = x[batch].to(layer.device), _given(layer.model, c, batch)
            told = _given(autoencoder, c, batch)
            losses["original"].append(-layer.model.log_prob(rows, model_c).double().cpu())
            for name, change in changes.items():
                with layer.replaced(_in_rows(change, told)):
                    losses[name].append(-layer.model.log_prob(rows, model_c).double().cpu())
    of = {name: torch.cat(parts) for name, parts in losses.items()}
    return [_recovered(name, of, data, split) for name in ("zero", "mean")]


def _in_rows(change: Change, c: Tensor | None) -> Callable[[Tensor], Tensor]:
    """A change of rows as one of a layer's output."""

    def changed(out: Tensor) -> Tensor:
        rows = as_rows(out)
        told = None if c is None else c.to(out.device).repeat_interleave(len(rows) // len(c), 0)
        return as_outputs(change(rows, told), out.shape)

    return changed


def _given(model: Any, c: Tensor | None, batch: slice) -> Tensor | None:
    """Condition rows, where the model takes them."""
    condition = getattr(model, "condition", None)
    if condition is None or c is None:
        return None
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    return expand(condition, c[batch].to(device), len(c[batch]))


def _recovered(ablation: str, of: dict[str, Tensor], data: Data, split: str) -> Score:
    """A ratio of means of paired differences, with the standard error that its linearisation gives."""
    lost, room = of["reconstructed"] - of["original"], of[ablation] - of["original"]
    n, named = len(lost), f"loss recovered, {ablation} ablation"
    told = {name: in_unit(-of[name].mean().item(), data.domain) for name in ("original", "reconstructed", ablation)}
    note = ", ".join(f"{name} {value:.4g}" for name, value in told.items()) + f" {data.domain.unit}"
    if not bool(room.mean().abs() > 1e-9):
        return Score(named, math.nan, "none", "", n, split=split, note=f"the ablation changes nothing; {note}")
    value = 1 - (lost.mean() / room.mean()).item()
    spread = (lost - (1 - value) * room).std() / math.sqrt(n) / room.mean().abs() if n > 1 else None
    stderr = None if spread is None else spread.item()
    return Score(named, value, "statistic", "", n, stderr=stderr, split=split, note=note, floor=1.0)
