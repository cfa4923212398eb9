"""Sample quality: samples and held-out rows compared on a fixed feature map, always beside a floor.

The floor is the same statistic of training rows against the same held-out rows, at the same n: what a model gets that
learnt the training split perfectly. All two-sample statistics depend on n, so a figure without its floor says little.
"""

import math
import time
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from pofx.data.dataset import Data
from pofx.divergences import (
    frechet,
    kernel_distance,
    memorisation,
    moments,
    prdc,
    sliced_wasserstein,
    wasserstein_exact,
)  # fmt: skip
from pofx.domains import Vectors
from pofx.evaluate.features import copy_map, feature_map
from pofx.evaluate.likelihood import shuffled
from pofx.evaluate.pace import Clock, Watch, timed
from pofx.evaluate.score import Score
from pofx.randomness import stream

_FEWEST = 8  # rows for any statistic at all
_EXACT = 1000  # rows up to which, and
_EXACT_DIM = 16  # dimensions up to which the Wasserstein distance is solved exactly
_BETTER: dict[str, Literal["lower", "near reference"]] = {
    "frechet": "lower",
    "kernel": "lower",
    "wasserstein": "lower",
    "sliced wasserstein": "lower",
    "density": "near reference",
}


def quality_scores(
    samples: Tensor, data: Data, *, split: str, clock: Clock, seed: int, watch: Watch
) -> list[Score]:  # fmt: skip
    """Frechet and kernel distance, precision, recall, density, coverage; for vectors Wasserstein distances: sliced,
    and exact where dimensions are few.

    ``stderr`` is the floor's spread over draws of training rows: the noise of a perfect model's figure at this n.
    """
    broken = int((~torch.isfinite(samples.float())).flatten(1).any(1).sum())
    if broken:
        return [_unusable(f"{broken} of {len(samples)} samples are not finite", split)]
    real, train = _rows(data, split, seed)
    phi, n = feature_map(data), min(len(samples), len(real), len(train))
    seconds_per_row = timed(lambda b: phi(real[:b]), clock, largest=max(1, min(n, 64)))
    vectors = isinstance(data.domain, Vectors)
    exact = isinstance(data.domain, Vectors) and data.domain.dim <= _EXACT_DIM and clock.left > 4
    while n > 2 * _FEWEST and _cost(n, seconds_per_row, exact) > clock.left:
        n //= 2
    if n < _FEWEST:
        return [_unusable(f"{n} rows are too few for a statistic", split)]
    what = f"frechet, kernel, precision, recall, density, coverage{', wasserstein' if vectors else ''}"
    watch(f"{what}: {n} samples, about {_cost(n, seconds_per_row, exact):.1f} s")

    held = phi(real[:n])
    values = statistics(held, phi(samples[:n]), data, exact=exact, seed=seed)
    floors: list[dict[str, float]] = []
    for draw in _training_rows(train, n, seed):
        begun = time.perf_counter()
        floors.append(statistics(held, phi(draw), data, exact=exact, seed=seed))
        if len(floors) > 1 and time.perf_counter() - begun > clock.left:
            break
    return [_beside_floor(metric, values[metric], floors, phi.name, n, split) for metric in values]


def statistics(real: Tensor, fake: Tensor, data: Data, *, exact: bool, seed: int) -> dict[str, float]:
    """Every two-sample statistic, of features (n, F) against features (n, F)."""
    neighbours = prdc(real, fake, k=_neighbours(len(real)))
    values = {
        "frechet": frechet(*moments(real), *moments(fake)).item(),
        "kernel": kernel_distance(real, fake).item(),
        **neighbours._asdict(),
    }
    if exact:
        values["wasserstein"] = wasserstein_exact(real[:_EXACT], fake[:_EXACT]).item()
    if isinstance(data.domain, Vectors):
        values["sliced wasserstein"] = sliced_wasserstein(real, fake, generator=stream(seed, "evaluate/slices")).item()
    return values


def memorisation_score(
    samples: Tensor, data: Data, *, split: str, clock: Clock, seed: int, watch: Watch
) -> list[Score]:
    """Nearest-training over nearest-held-out distances, over the same of unseen real rows: 0 copies, 1 healthy."""
    held_name = "test" if split == "train" else split
    other = "validation" if held_name == "test" else "test"
    phi = copy_map(data)
    train, held, reference = (shuffled(data, name, seed)[0] for name in ("train", held_name, other))
    n = min(len(samples), len(reference), 1024)
    if n < _FEWEST or len(held) < _FEWEST or not bool(torch.isfinite(samples.float()).all()):
        return []
    seconds_per_row = timed(lambda b: phi(train[:b]), clock, largest=min(len(train), 512))
    mapping = (len(train) + len(held)) * seconds_per_row
    per_sample = 2 * seconds_per_row + 4e-10 * (len(train) + len(held)) * (phi(train[:1]).shape[1] + 20)
    n = min(n, max(32, int((clock.left - mapping) / per_sample)))
    watch(f"memorisation: {n} samples against {len(train)} training rows, about {mapping + n * per_sample:.1f} s")
    value = memorisation(phi(samples[:n]), phi(train), phi(held), phi(reference[:n]))
    note = f"{phi.name}; 0 for copies of training rows, 1 for real rows that were never seen"
    return [Score("memorisation", value, "statistic", "", n, split=held_name, better="near reference", note=note,
                  floor=1.0)]  # fmt: skip


def _rows(data: Data, split: str, seed: int) -> tuple[Tensor, Tensor]:
    """Held-out rows and training rows, disjoint also where the split asked for is the training split."""
    real, train = (shuffled(data, name, seed)[0].cpu() for name in (split, "train"))
    return (train[::2], train[1::2]) if split == "train" else (real, train)


def _training_rows(train: Tensor, n: int, seed: int) -> Iterator[Tensor]:
    """Draws of n rows for the floor, more where n is small; disjoint where there are enough rows."""
    generator = stream(seed, "evaluate/floor")
    draws = _repeats(n)
    for i in range(draws):
        if draws * n <= len(train):
            yield train[i * n : (i + 1) * n]
        else:
            yield train[torch.randperm(len(train), generator=generator)[:n]]


def _repeats(n: int) -> int:
    return 8 if n <= 512 else 4


def _cost(n: int, seconds_per_row: float, exact: bool) -> float:
    """Seconds for the features and statistics of the model and of each draw for the floor, on one core."""
    solving = 3e-7 * min(n, _EXACT) ** 2 if exact else 0.0
    return (2 + _repeats(n)) * n * seconds_per_row + (1 + _repeats(n)) * (0.02 + 1.5e-7 * n * n + solving)


def _neighbours(n: int) -> int:
    """k of the neighbour statistics: 5, the papers' choice, unless rows are very few."""
    return min(5, n // 4)


def _beside_floor(
    metric: str, value: float, floors: list[dict[str, float]], features: str, n: int, split: str
) -> Score:  # fmt: skip
    of_real = torch.tensor([floor[metric] for floor in floors], dtype=torch.float64)
    floor, spread = of_real.mean().item(), of_real.std().item()
    if metric == "wasserstein":
        n = min(n, _EXACT)
    notes = [features]
    if metric in ("precision", "recall", "density", "coverage"):
        notes.append(f"k = {_neighbours(n)}")
    if abs(value - floor) <= 2 * spread:
        notes.append("n too small to tell from real data")
    return Score(metric, value, "statistic", "", n, stderr=spread, split=split, note="; ".join(notes), floor=floor,
                 better=_BETTER.get(metric, "higher"))  # fmt: skip


def _unusable(reason: str, split: str) -> Score:
    return Score("frechet", math.nan, "none", "", 0, split=split, better="lower", note=reason)
