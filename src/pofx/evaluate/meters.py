"""A model's own meters on held-out rows, as scores."""

from typing import Any

import torch

from pofx.data.dataset import Data
from pofx.evaluate.likelihood import shuffled
from pofx.evaluate.pace import Watch
from pofx.evaluate.score import Score
from pofx.protocols import Encodes, Infers, Samples, Watched, capabilities

MOST = 10_000  # rows


@torch.no_grad()
def meter_scores(
    model: Any, data: Data, *, split: str, seed: int, device: str | torch.device, watch: Watch
) -> list[Score]:
    """What the meters of a model say that only encodes: no samples, no laws of the latent tell how good it is."""
    able = capabilities(model)
    if not {Watched, Encodes} <= able or {Infers, Samples} & able:
        return []
    x, c = (None if rows is None else rows[:MOST].to(device) for rows in shuffled(data, split, seed))
    assert x is not None
    watch(f"meters: {len(x)} of {split}")
    given = c if getattr(model, "condition", None) is not None else None
    return [
        Score(name.replace("_", " "), float(value), "statistic", "", len(x), split=split, better="reference",
              given="" if given is None else model.condition.kind)
        for name, value in model.meters(x, given).items()
    ]  # fmt: skip
