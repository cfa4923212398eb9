"""Many samples: drawn in chunks, a generator each, so that asking for more does not change the first ones."""

from typing import Any

import torch
from torch import Tensor

from pofx.conditions import Condition, expand
from pofx.randomness import stream


@torch.no_grad()
def sample_many(
    model: Any,
    n: int,
    condition: Tensor | None = None,
    *,
    seed: int = 0,
    chunk: int = 64,
    role: str = "sample",
    device: str | torch.device = "cpu",
    **settings: Any,
) -> Tensor:
    """n samples; chunk i is drawn whole with the generator of (seed, role, i), then cut to what is asked for.

    Args:
        model: it ``Samples``.
        condition: one row for all, or n rows.
    """
    given: Condition | None = getattr(model, "condition", None)
    rows = expand(given, condition, n)
    parts = []
    for i, start in enumerate(range(0, n, chunk)):
        c = None if rows is None else _fill(rows[start : start + chunk], chunk).to(device)
        x = model.sample(chunk, c, generator=stream(seed, role, i, device=device), **settings)
        parts.append(x[: n - start].cpu())
    return torch.cat(parts) if parts else torch.empty(0)


def _fill(rows: Tensor, chunk: int) -> Tensor:
    """Rows repeated to a whole chunk: what is drawn for the first ones must not depend on how many follow."""
    return rows if len(rows) == chunk else torch.cat([rows, rows[-1:].expand(chunk - len(rows), *rows.shape[1:])])
