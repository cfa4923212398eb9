"""How many of the classes of the data a sampler makes, told by the nearest of a few real rows."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pofx.data.dataset import Batch
from pofx.randomness import stream


@torch.no_grad()
def mode_meters(model: Any, rows: Batch, labels: Int[Tensor, "B"]) -> dict[str, Tensor]:
    """``modes`` of ``modes_known``: classes made, of those among the rows.

    Args:
        model: it samples; as many samples as rows, for their conditions where it takes any.
        rows: real ones, a hundred or more.
        labels: their classes, which the model need not have been told.
    """
    x, c = rows
    samples = model.sample(len(x), c, generator=stream(0, "modes", device=x.device))
    known = torch.bincount(labels)
    return {"modes": modes_made(samples, x, labels).to(known), "modes_known": (known > 0).sum()}


def modes_made(samples: Float[Tensor, "N ..."] | Tensor, x: Tensor, labels: Int[Tensor, "B"]) -> Int[Tensor, ""]:
    """Classes that have at least a tenth of their share of x among the samples: one stray sample makes none."""
    nearest = torch.cdist(samples.flatten(1).float(), x.flatten(1).float()).argmin(1)
    real = torch.bincount(labels).double() / len(x)
    made = torch.bincount(labels[nearest], minlength=len(real)).double() / len(samples)
    return ((made >= real / 10) & (real > 0)).sum()
