"""A model's own meters on held-out rows, as scores."""

from typing import Any

import torch

from pofx.data.dataset import Data
from pofx.evaluate.likelihood import shuffled
from pofx.evaluate.pace import Clock, Watch, timed
from pofx.evaluate.score import Score
from pofx.protocols import Encodes, Infers, Samples, Transports, Watched, capabilities

MOST = 10_000  # rows where time is plentiful
FEWEST = 128  # as many as in training


@torch.no_grad()
def meter_scores(
    model: Any, data: Data, *, split: str, clock: Clock, seed: int, device: str | torch.device, watch: Watch
) -> list[Score]:
    """What the meters say of a model that only encodes, as no samples and no laws of a latent tell how good it is; and
    of one that maps between data sets, how far these are apart and what its map leaves.

    Meters are of all rows together, so their number is chosen beforehand, by how long a few take.
    """
    able = capabilities(model)
    only_encodes = Encodes in able and not {Infers, Samples} & able
    if Watched not in able or not (only_encodes or Transports in able):
        return []
    x, c = (None if rows is None else rows[:MOST].to(device) for rows in shuffled(data, split, seed))
    assert x is not None
    c = None if getattr(model, "condition", None) is None else c

    def measured(n: int) -> dict[str, torch.Tensor]:
        return model.meters(x[:n], None if c is None else c[:n])

    each = 1.2 * timed(measured, clock, largest=min(FEWEST, len(x)))
    n = min(len(x), max(FEWEST, int(clock.left / max(each, 1e-9))))
    watch(f"meters: {n} of {split}, about {each * n:.1f} s")
    return [
        Score(name.replace("_", " "), float(value), "statistic", "", n, split=split, better="reference",
              given="" if c is None else model.condition.kind)
        for name, value in measured(n).items()
    ]  # fmt: skip
