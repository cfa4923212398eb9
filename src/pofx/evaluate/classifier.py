"""The judge of conditional samples: a classifier of our own, trained on the training split, never downloaded.

A figure that comes from it (samples accepted as the class that was asked for) is read beside its own accuracy on
held-out data, which bounds what a perfect sampler would score.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pofx.conditions import Classes
from pofx.data.dataset import Data, Part
from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.files import cache_folder, write_whole
from pofx.nn.standardise import Standardise
from pofx.randomness import seeded_init, stream

VERSION = 1
BATCH, PEAK = 128, 3e-3
VISITS, FEWEST = 20, 200  # of each observation, and steps for a small set: more of either brought nothing


@dataclass(frozen=True)
class Judge:
    """A trained classifier.

    Args:
        network: (B, ...) canonical observations to (B, K) logits.
        steps: optimiser steps it took.
        accuracy: on the test split, or NaN where it was not measured.
    """

    network: nn.Module
    steps: int
    accuracy: float = math.nan

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Float[Tensor, "B K"]:
        """What it gives each class, (B, K)."""
        self.network.eval()
        home = next(self.network.parameters()).device
        return torch.cat([self.network(chunk.to(home)).softmax(1).to(x.device) for chunk in x.split(512)])

    def predict(self, x: Tensor) -> Int[Tensor, "B"]:
        """The class of each observation, int64 (B,)."""
        return self.probabilities(x).argmax(1) if len(x) else torch.empty(0, dtype=torch.int64, device=x.device)


def train_classifier(
    train: Part, domain: Domain, classes: Classes, *, seed: int, seconds: float | None = None, steps: int | None = None
) -> Judge:
    """Fits the classifier that suits the domain; equal seed and steps, equal weights.

    Args:
        train: the training split, with class rows.
        seconds: becomes a number of steps after a short probe; no more than help, about 20 visits of each observation.
        steps: or that number itself.

    Raises:
        Unusable: the part has no classes, or neither ``seconds`` nor ``steps`` is above zero.
    """
    if not (steps or seconds or 0) > 0:
        raise Unusable(f"a classifier needs seconds or steps above 0, got {seconds} and {steps}; give one of them")
    x, c = train.rows()
    if c is None or c.dtype != torch.int64 or c.ndim != 1:
        raise Unusable("a classifier needs a class for each observation; choose a source with classes")
    network = _network(domain, classes, x, seed)
    if steps is None and seconds is not None:
        steps = min(_affordable(network, train, seconds), max(FEWEST, math.ceil(VISITS * len(train) / BATCH)))
        network = _network(domain, classes, x, seed)
    _fit(network, train, steps or 1, seed)
    return Judge(network, steps or 1)


def judge_accuracy(judge: Judge, part: Part) -> float:
    """Share of a part's observations that the judge gives their own class."""
    x, c = part.rows()
    if c is None or not len(c):
        raise Unusable("accuracy needs observations with classes, got none; choose a source with classes")
    return float((judge.predict(x) == c).float().mean())


def cached_judge(data: Data, *, seed: int, seconds: float) -> Judge:
    """The judge of a data set, with its accuracy on the test split; trained once, then read from the cache folder.

    A kept judge serves if it was given at least as many ``seconds``. The folder is ``POFX_CACHE``, else the user's
    cache folder; where it cannot be written, nothing is kept.

    Raises:
        Unusable: the data have no classes.
    """
    if not isinstance(data.condition, Classes):
        raise Unusable(f"{data.source} has no classes to judge by; choose a source with classes")
    path = cache_folder() / "judges" / f"{data.fingerprint()}-{seed}-v{VERSION}.safetensors"
    kept = _load(path, data, seconds, seed)
    if kept is not None:
        return kept
    judge = train_classifier(data.train, data.domain, data.condition, seed=seed, seconds=seconds)
    judge = Judge(judge.network, judge.steps, judge_accuracy(judge, data.test))
    _store(path, judge, seconds)
    return judge


def _store(path: Path, judge: Judge, seconds: float) -> None:
    """One file, so that weights and figures cannot part: the JSON is the header's metadata."""
    from safetensors.torch import save_file

    told = json.dumps({"accuracy": judge.accuracy, "steps": judge.steps, "seconds": seconds})
    tensors = {name: t.detach().cpu().contiguous() for name, t in judge.network.state_dict().items()}
    try:
        write_whole(path, lambda temporary: save_file(tensors, temporary, metadata={"judge": told}))
    except Unusable:
        return  # no cache is no loss but time


def _load(path: Path, data: Data, seconds: float, seed: int) -> Judge | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file() or not isinstance(data.condition, Classes):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            told: dict[str, Any] = json.loads(file.metadata()["judge"])
            if told["seconds"] < seconds:
                return None
            network = _network(data.domain, data.condition, data.train.rows()[0], seed)
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None  # a broken file is trained again and written over
    return Judge(network, int(told["steps"]), float(told["accuracy"]))


def _fit(network: nn.Module, train: Part, steps: int, seed: int) -> None:
    """Adam, one cycle of the learning rate; batches from the seed's own streams."""
    device = next(network.parameters()).device
    generator = stream(seed, "judge", device=device)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98))
    network.train()
    order = torch.empty(0, dtype=torch.int64, device=device)
    for step in range(steps):
        if len(order) < min(BATCH, len(train)):
            order = torch.randperm(len(train), generator=generator, device=device)
        index, order = order[:BATCH], order[BATCH:]
        x, c = train.take(index, generator=generator)
        assert c is not None  # checked where training begins
        for group in optimiser.param_groups:
            group["lr"] = PEAK * min((step + 1) / (0.1 * steps + 1), 1.0) * min(1.0, (1 - step / steps) / 0.8)
        if isinstance(network, _Pictures):
            x = network.shifted(x, generator)
        loss = F.cross_entropy(network(x), c, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _affordable(network: nn.Module, train: Part, seconds: float) -> int:
    """How many steps fit in ``seconds``; spends a few of them, so the network is to be built again."""
    _fit(network, train, 2, seed=0)
    begun = time.perf_counter()
    _fit(network, train, 5, seed=0)
    return max(1, int(5 * seconds / (time.perf_counter() - begun)))


def _network(domain: Domain, classes: Classes, x: Tensor, seed: int) -> nn.Module:
    with seeded_init(seed):
        if isinstance(domain, Images):
            network: nn.Module = _Pictures(domain, classes.count)
        elif isinstance(domain, Vectors):
            network = _Numbers(domain, classes.count, x)
        else:
            network = _Text(domain, classes.count)
    return network.to(x.device)


class _Pictures(nn.Module):
    """Convolutions that halve the picture until at most 8 pixels a side are left, two more, then two layers."""

    def __init__(self, domain: Images, classes: int) -> None:
        super().__init__()
        self.domain = domain
        blank = domain.colours(torch.zeros(1, *domain.shape))
        side, width, inputs = max(domain.height, domain.width), 24, blank.shape[1]
        layers: list[nn.Module] = []
        while side > 8:
            layers += [nn.Conv2d(inputs, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            side, inputs, width = math.ceil(side / 2), width, min(2 * width, 96)
        for channels in (max(inputs, 32), 64):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            inputs = channels
        layers += [nn.MaxPool2d(2, ceil_mode=True), nn.Flatten()]
        self.trunk = nn.Sequential(*layers)
        with torch.no_grad():
            flat = self.trunk.eval()(blank).shape[1]
        self.head = nn.Sequential(nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, classes))

    def shifted(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The batch moved by up to a fourteenth of its side, edges repeated: a class does not depend on the place."""
        h, w = self.domain.height, self.domain.width
        reach = max(h, w) // 14
        dy, dx = torch.randint(2 * reach + 1, (2,), generator=generator, device=x.device).tolist()
        padded = F.pad(x.float(), (reach, reach, reach, reach), mode="replicate")
        return padded[:, :, dy : dy + h, dx : dx + w]

    def forward(self, x: Tensor) -> Float[Tensor, "B K"]:
        return self.head(self.trunk(self.domain.colours(x)))


class _Numbers(nn.Module):
    """Standardised columns, then a perceptron."""

    def __init__(self, domain: Vectors, classes: int, x: Tensor) -> None:
        super().__init__()
        self.standardise = Standardise(domain.dim)
        self.standardise.adapt(x.cpu())
        self.layers = nn.Sequential(
            nn.Linear(domain.dim, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, classes)
        )

    def forward(self, x: Tensor) -> Float[Tensor, "B K"]:
        return self.layers(self.standardise(x))


class _Text(nn.Module):
    """A bag of n-grams, n = 1, 2, 3, hashed into buckets and averaged up to the end; then a linear head."""

    BUCKETS = 2**15

    def __init__(self, domain: Tokens, classes: int) -> None:
        super().__init__()
        self.end = domain.end
        self.rows = nn.Embedding(self.BUCKETS, 64)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Float[Tensor, "B K"]:
        before = torch.ones_like(x) if self.end is None else ((x == self.end).cumsum(1) == 0).long()
        total = torch.zeros(len(x), 64, device=x.device)
        for n in range(1, 1 + min(3, x.shape[1])):
            windows = x.unfold(1, n, 1)
            powers = torch.tensor([1_000_003**i % 2**31 for i in range(n)], device=x.device)
            buckets = ((windows + 1) * powers).sum(-1).add(n * 7919) % self.BUCKETS
            used = before[:, n - 1 :, None]
            total = total + (self.rows(buckets) * used).sum(1) / used.sum(1).clamp(min=1)
        return self.head(total)
