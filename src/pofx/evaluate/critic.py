"""A game's own critic as a two-sample score: can it tell held-out rows from samples, and training rows from them?"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.data.dataset import Batch, Data
from pofx.divergences import auc
from pofx.evaluate.drawing import Drawn
from pofx.evaluate.likelihood import shuffled
from pofx.evaluate.pace import Clock, Watch, timed
from pofx.evaluate.score import Score
from pofx.protocols import Judges, capabilities

MOST = 2048  # rows of each where time is plentiful
FEWEST = 8  # lots of each
_AT_ONCE = 256


@torch.no_grad()
def critic_scores(
    model: Any,
    drawn: Drawn | None,
    data: Data,
    *,
    split: str,
    clock: Clock,
    seed: int,
    device: str | torch.device,
    watch: Watch,
) -> list[Score]:
    """P(f(held out) > f(sample)): half where its critic cannot tell. P(f(training) > f(held out)): above half where it
    has learnt training rows by heart.

    No ranking of models: each is judged by the critic that it grew up with, and a weak one cannot tell much.

    Args:
        drawn: samples, with the classes that they were asked to be.
    """
    if Judges not in capabilities(model):
        return []
    rows = {name: _rows(model, data, name, seed) for name in (split, "train")}
    if drawn is not None and (drawn.c is not None or rows[split][1] is None):
        rows["samples"] = drawn.x, drawn.c
    each = timed(lambda n: _judged(model, rows[split], n, device), clock, largest=min(_AT_ONCE, len(rows[split][0])))
    n = max(_AT_ONCE, min(MOST, int(clock.left / max(len(rows) * each, 1e-9))))
    watch(f"critic: {n} of each of {', '.join(rows)}, about {len(rows) * each * n:.1f} s")
    f = {name: _judged(model, batch, n, device) for name, batch in rows.items()}
    lot = getattr(model, "lot", 1)
    shared: dict[str, Any] = {"split": split, "given": "" if rows[split][1] is None else model.condition.kind}
    scores = []
    if "samples" in f:
        note = "P(f(real) > f(sample)); 0.5: its critic cannot tell them apart"
        scores += _compared(f"critic, {split} against samples", f[split], f["samples"], note, lot)
    if split != "train":
        note = f"P(f(train) > f({split})); above 0.5: its critic has learnt training rows by heart"
        scores += _compared(f"critic, train against {split}", f["train"], f[split], note, lot)
    return [replace(score, **shared) for score in scores]


def _compared(metric: str, a: Float[Tensor, "N"], b: Float[Tensor, "M"], note: str, lot: int) -> list[Score]:
    n = min(len(a), len(b))
    if n < FEWEST:
        return []
    note += f"; in lots of {lot} rows" if lot > 1 else ""
    if not bool(torch.isfinite(torch.cat([a, b])).all()):
        return [Score(metric, math.nan, "none", "", 0, better="reference", note="the critic's scores are not finite")]
    value, error = auc(a, b)
    return [Score(metric, value, "statistic", "", n, stderr=error, better="reference", note=note, floor=0.5)]


def _judged(model: Any, rows: Batch, n: int, device: str | torch.device) -> Float[Tensor, "L"]:
    """f of the first n rows, on the CPU; in pieces of whole lots."""
    lot = getattr(model, "lot", 1)
    x, c = (None if t is None else t[:n].to(device).split(lot * max(1, _AT_ONCE // lot)) for t in rows)
    assert x is not None
    return torch.cat([model.judge(part, None if c is None else c[i]) for i, part in enumerate(x)]).cpu()


def _rows(model: Any, data: Data, split: str, seed: int) -> Batch:
    x, c = shuffled(data, split, seed)
    return x, None if getattr(model, "condition", None) is None else c
