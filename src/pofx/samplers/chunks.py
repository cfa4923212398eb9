"""Many samples, or completions: drawn in chunks, a generator each, so that more of them take no more memory."""

from typing import Any

import torch
from torch import Tensor

from pofx.conditions import Condition, expand
from pofx.randomness import stream
from pofx.samplers.decoding import Watch


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
    watch: Watch | None = None,
    **settings: Any,
) -> Tensor:
    """n samples; chunk i is drawn whole with the generator of (seed, role, i), then cut to what is asked for.

    So asking for more does not change the first ones.

    Args:
        model: it ``Samples``.
        condition: one row for all, or n rows.
        watch: sees one chunk after another grow, of each the rows that are asked for; the sampler takes it.
    """
    given: Condition | None = getattr(model, "condition", None)
    rows = expand(given, condition, n)
    parts = []
    for i, start in enumerate(range(0, n, chunk)):
        c = None if rows is None else _fill(rows[start : start + chunk], chunk).to(device)
        grows = {} if watch is None else {"watch": _cut(watch, n - start)}
        x = model.sample(chunk, c, generator=stream(seed, role, i, device=device), **grows, **settings)
        parts.append(x[: n - start].cpu())
    return torch.cat(parts) if parts else torch.empty(0)


@torch.no_grad()
def complete_many(
    model: Any,
    x: Tensor,
    known: Tensor,
    condition: Tensor | None = None,
    *,
    seed: int = 0,
    chunk: int = 64,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> Tensor:
    """x (N, ...) with what is not known of it drawn, chunk i by the generator of (seed, "complete", i).

    Args:
        model: it ``Completes``.
        x: canonical; what is not known is not read.
        known: a mask of x's shape, or of one observation's.
        condition: one row for all, or N rows.
    """
    rows = expand(getattr(model, "condition", None), condition, len(x))
    whole = known.expand(x.shape)
    parts = []
    for i, start in enumerate(range(0, len(x), chunk)):
        here = slice(start, start + chunk)
        c = None if rows is None else rows[here].to(device)
        generator = stream(seed, "complete", i, device=device)
        parts.append(model.complete(x[here].to(device), whole[here].to(device), c, generator=generator, **settings))
    return torch.cat(parts).cpu()


def _cut(watch: Watch, room: int) -> Watch:
    return lambda x, values: watch(x[:room], values)


def _fill(rows: Tensor, chunk: int) -> Tensor:
    """Rows repeated to a whole chunk: what is drawn for the first ones must not depend on how many follow."""
    return rows if len(rows) == chunk else torch.cat([rows, rows[-1:].expand(chunk - len(rows), *rows.shape[1:])])
