"""What a linear classifier reads from features: how well classes can be told apart by planes in their space."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pofx.conditions import Classes
from pofx.data.dataset import Data
from pofx.domains import Domain, Images, Tokens
from pofx.errors import Unusable
from pofx.evaluate.features import FeatureMap, ngram_hash
from pofx.evaluate.likelihood import shuffled
from pofx.evaluate.pace import Clock, Watch, timed
from pofx.evaluate.score import Better, Score
from pofx.nn.standardise import Standardise

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
MOST = 10_000  # rows that a probe is fitted on, and scored on, where time is plentiful
_BATCH = 256
_ROUNDS = 60  # of L-BFGS, about what a penalty takes after a heavier one


@dataclass(frozen=True)
class Probe:
    """p(class | f) = softmax(W y + b), with y the features standardised by those it was fitted on.

    Args:
        standardise: of the features.
        weight: W, (K, F).
        bias: b, (K,).
        penalty: of W's square, that it was fitted with.
    """

    standardise: Standardise
    weight: Float[Tensor, "K F"]
    bias: Float[Tensor, "K"]
    penalty: float

    def logits(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """W y + b."""
        return F.linear(self.standardise(features), self.weight, self.bias)

    def accuracy(self, features: Float[Tensor, "N F"], y: Int[Tensor, "N"]) -> float:
        """Share of the rows whose likeliest class is their own."""
        return float((self.logits(features).argmax(1) == y).double().mean())


def linear_probe(
    features: Tensor,
    y: Tensor,
    *,
    classes: int,
    penalty: float = 1e-3,
    start: Probe | None = None,
    rounds: int = 300,
) -> Probe:
    """Multinomial logistic regression: minimises mean -log p(y | f) + penalty / 2 ||W||^2, to the end, by L-BFGS.

    Args:
        features: (N, F), of the training rows.
        y: (N,) their classes, 0 .. K-1.
        classes: K.
        penalty: 0 or more; features are standardised, so it means the same for all.
        start: a probe of the same features to begin at; the end is the same.
        rounds: of L-BFGS at most.

    Raises:
        Unusable: no rows, rows without a class, classes out of range, features that are not finite, or a negative
            penalty.
    """
    _check(features, y, classes, penalty)
    standardise = Standardise(features.shape[1]).to(features)
    standardise.adapt(features)
    f = standardise(features)
    weight, bias = (
        (f.new_zeros(classes, f.shape[1]), f.new_zeros(classes)) if start is None else (start.weight, start.bias)
    )
    theta = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    solver = torch.optim.LBFGS(
        theta, max_iter=rounds, history_size=20, tolerance_grad=1e-6, tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(f, *theta), y) + penalty / 2 * theta[0].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return Probe(standardise, theta[0].detach(), theta[1].detach(), penalty)


def chosen_probe(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    until: Callable[[], bool] = lambda: False,
) -> Probe:
    """The probe whose penalty does best on validation rows; of equals, that with the heavier one.

    Args:
        train: features (N, F) and classes (N,) to fit on.
        validation: as much to choose by.
        classes: K.
        penalties: tried from the heaviest down, each from where the last one ended.
        until: asked after each; True ends the search.
    """
    best, found, last = None, -1.0, None
    for penalty in sorted(penalties, reverse=True):
        last = linear_probe(*train, classes=classes, penalty=penalty, start=last)
        accuracy = last.accuracy(*validation)
        if accuracy > found:
            best, found = last, accuracy
        if until():
            break
    if best is None:
        raise Unusable("a probe is chosen among penalties, got none; give at least one")
    return best


def features_of(model: Any, x: Tensor, device: str | torch.device = "cpu") -> Float[Tensor, "N F"]:
    """``model.features`` of all rows, in batches, on the CPU."""
    with torch.no_grad():
        return torch.cat([model.features(part.to(device)).cpu().float() for part in x.split(_BATCH)])


def plain_map(domain: Domain) -> FeatureMap:
    """What a probe of features is compared with: the values themselves, in colours; of texts, counts of n-grams."""
    if isinstance(domain, Tokens):
        return FeatureMap("n-gram counts", lambda x: ngram_hash(x, end=domain.end))
    if isinstance(domain, Images):
        return FeatureMap("raw pixels", lambda x: domain.colours(x).flatten(1))
    return FeatureMap("raw columns", lambda x: x, batch=65536)


def probe_scores(
    model: Any, data: Data, *, split: str, clock: Clock, seed: int, watch: Watch, device: str | torch.device
) -> list[Score]:
    """Accuracy on held-out rows of a linear probe on the model's features, beside that of one on plain values.

    Both are fitted on the same rows of the training split, as many as the time allows, and their penalties chosen on
    the same rows of the validation split; where that split itself is scored, on one half of it for the other.

    Empty where the data have no classes, where no row is held out, or where fewer than ten rows a class are affordable.
    """
    parts = _parts(data, split, seed)
    if not parts or not isinstance(data.condition, Classes):
        return []
    (x, _), plain, classes = parts[0], plain_map(data.domain), data.condition.count
    read = partial(features_of, model, device=device)
    seconds_per_row = timed(lambda n: read(x[:n]), clock, largest=min(len(x), _BATCH))
    width = read(x[:1]).shape[1] + plain(x[:1]).shape[1]
    each = len(parts) * seconds_per_row + len(PENALTIES) * _ROUNDS * 2e-10 * width * classes
    n = min(len(x), MOST, int(clock.left / each))
    if n < 10 * classes:
        return []
    watch(f"probe accuracy: {n} training rows, about {n * each:.1f} s")
    rows = [(x[:n], c[:n].cpu()) for x, c in parts]
    values, own = (_measured(f, rows, classes, clock.share(share)) for f, share in ((plain, 0.5), (read, 1.0)))
    note = f"a linear probe of {{}} numbers on {n} training rows"
    return [
        _score("probe accuracy", *own, split, note=f"{note}; of {plain.name} {values[0]:.3f}"),
        _score(f"probe accuracy of {plain.name}", *values, split, note=note, better="reference"),
    ]


def _parts(data: Data, split: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Rows with their classes to fit on, to choose by, and to score on; none where there are no such."""
    names = {"test": ("train", "validation", "test"), "validation": ("train", "validation")}.get(split, ())
    parts = [(x, c) for x, c in (shuffled(data, name, seed) for name in names) if c is not None and len(x) > 1]
    if len(parts) < len(names):
        return []
    if split == "validation":
        x, c = parts.pop()
        half = len(x) // 2
        parts += [(x[:half], c[:half]), (x[half:], c[half:])]
    return parts


def _measured(
    read: Callable[[Tensor], Tensor], rows: Sequence[tuple[Tensor, Tensor]], classes: int, clock: Clock
) -> tuple[float, int, int]:
    """Accuracy of the chosen probe on the last of the rows; how many they are, and how many features were read."""
    train, validation, held = ((read(x), c) for x, c in rows)
    probe = chosen_probe(train, validation, classes=classes, until=lambda: clock.left == 0)
    return probe.accuracy(*held), len(held[1]), train[0].shape[1]


def _score(
    metric: str, accuracy: float, n: int, width: int, split: str, *, note: str, better: Better = "higher"
) -> Score:
    stderr = math.sqrt(accuracy * (1 - accuracy) / n)
    return Score(metric, accuracy, "statistic", "", n, stderr, split=split, note=note.format(width), better=better)


def _check(features: Tensor, y: Tensor, classes: int, penalty: float) -> None:
    if features.ndim != 2 or not len(features) or y.shape != features.shape[:1]:
        raise Unusable(
            f"a probe reads features (N, F) and N classes, got {tuple(features.shape)} and {tuple(y.shape)}; flatten "
            "the features"
        )
    if not bool(features.isfinite().all()):
        raise Unusable("a probe reads finite features, got NaN or infinity; is the model trained?")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise Unusable(f"classes lie in 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}; leave out the others")
    if not penalty >= 0:
        raise Unusable(f"penalty must be at least 0, got {penalty}; leave it out for the default")
