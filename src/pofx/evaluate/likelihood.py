"""log p on held-out data: exact where the model can, else a bound, else an estimate, each saying which."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from pofx.conditions import Classes
from pofx.data.dataset import Batch, Data
from pofx.domains import Domain, Vectors
from pofx.errors import Unusable
from pofx.evaluate.pace import Clock, Watch, paced, timed
from pofx.evaluate.score import Kind, Score
from pofx.protocols import Bounds, Estimates, Scores, capabilities
from pofx.randomness import stream

MOST = 10_000  # observations scored where time is plentiful
_SAMPLES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of a bound; above 100 for vectors alone
_STEPS = (10, 20, 40, 80, 160)  # of an estimate
_SHARES = {1: (1.0,), 2: (0.8, 1.0), 3: (0.5, 0.75, 1.0)}  # of the time left, for each of so many figures


@dataclass(frozen=True)
class Way:
    """How a model's log p is had: ``call(x, c, generator)`` gives (B,) values in nats and (B,) biases or None."""

    call: Callable[[Tensor, Tensor | None, Generator], tuple[Tensor, Tensor | None]]
    kind: Kind
    note: str
    rows: int  # in one call
    rate: float  # seconds per row


def likelihood_scores(
    model: Any, data: Data, *, split: str, clock: Clock, seed: int, device: str | torch.device, watch: Watch
) -> list[Score]:
    """Mean log p per observation, in nats: given the condition, as the marginal where there are classes, and on the
    training split as a labelled reference.

    Empty where the model has no likelihood. Rows are a seeded subset of the split; as many as the time allows.
    """
    condition = getattr(model, "condition", None)
    x, c = shuffled(data, split, seed)
    given = condition.kind if condition is not None and c is not None else ""
    if condition is not None and not given and not isinstance(condition, Classes):
        return []  # p(x|c) without c, and no way to sum over c
    jobs = [(split, given)]
    jobs += [(split, "")] if given and isinstance(condition, Classes) else []
    jobs += [("train", given)] if split != "train" else []

    rows = (x, c if given else None)
    way = way_for(model, rows, clock.share(0.6), seed=seed, device=device)
    if way is None:
        return []
    scores = []
    for i, (part, told) in enumerate(jobs):
        x, c = shuffled(data, part, seed)
        summed = condition.count if isinstance(condition, Classes) and not told else 1
        share = clock.share(_SHARES[len(jobs)][i])
        n = min(len(x), MOST, int(share.left / (way.rate * summed)))
        if n < 2 and i:
            continue
        named = f"log p(x){' given ' + told if told else ''}, {way.kind}"
        watch(f"{named}: {n} of {part}, about {n * way.rate * summed:.1f} s")
        scores.append(_mean(way, (x, c if told else None), data, share, told, part, seed, device))
    return scores


def way_for(model: Any, rows: Batch, clock: Clock, *, seed: int, device: str | torch.device) -> Way | None:
    """The best way the model has; samples of a bound and steps of an estimate by what the time allows."""
    able = capabilities(model)
    if Scores in able:
        way = Way(lambda x, c, _: (model.log_prob(x, c), None), "exact", "", _rows_per_call(model.domain), 0.0)
        return replace(way, rate=_rate(way, rows, clock, seed, device))
    if Bounds in able:
        return _bound(model, rows, clock, seed, device)
    if Estimates in able:
        return _estimate(model, rows, clock, seed, device)
    return None


def shuffled(data: Data, split: str, seed: int) -> Batch:
    """All rows of a split in a seeded order, so that the first n are a fair subset."""
    x, c = data.part(split).rows()
    order = torch.randperm(len(x), generator=stream(seed, f"evaluate/{split}")).to(x.device)
    return x[order], None if c is None else c[order]


def _bound(model: Any, rows: Batch, clock: Clock, seed: int, device: str | torch.device) -> Way:
    """As many samples a row as let the clock reach 1000 rows."""
    vectors = isinstance(model.domain, Vectors)

    def way(k: int, rate: float = 0.0) -> Way:
        def call(x: Tensor, c: Tensor | None, generator: Generator) -> tuple[Tensor, None]:
            return model.elbo(x, c, samples=k, generator=generator), None

        per_call = max(1, (16 if vectors else 4) * _rows_per_call(model.domain) // k)
        return Way(call, "lower bound", f"{k} samples", min(per_call, _rows_per_call(model.domain)), rate * k)

    rate = _rate(way(10), rows, clock, seed, device) / 10
    affordable = min(clock.left / (rate * min(1000, len(rows[0]))), 1000 if vectors else 100)
    return way(max(k for k in _SAMPLES if k <= max(1, affordable)), rate)


def _estimate(model: Any, rows: Batch, clock: Clock, seed: int, device: str | torch.device) -> Way:
    """The fewest steps whose bias is below half the standard error, while the clock allows them for 256 rows."""
    largest = max(1, _rows_per_call(model.domain) // 4)
    generator = stream(seed, "evaluate/steps", device=device)

    def way(steps: int, kind: Kind, rate: float = 0.0) -> Way:
        def call(x: Tensor, c: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor]:
            estimate = model.estimate_log_prob(x, c, generator=generator, steps=steps)
            return estimate.value, estimate.bias

        return Way(call, kind, f"{steps} steps", largest, rate * steps)

    x, c = _first(rows, 1, device)
    with torch.no_grad():
        of_bound = model.estimate_log_prob(x, c, generator=generator, steps=2).of_bound
    kind: Kind = "estimate of a lower bound" if of_bound else "estimate"
    rate = _rate(way(_STEPS[0], kind), rows, clock, seed, device) / _STEPS[0]
    for steps, more in zip(_STEPS, _STEPS[1:]):
        chosen = way(steps, kind, rate)
        if way(more, kind, rate).rate * min(256, len(rows[0])) > clock.left:
            return chosen
        value, bias = _called(chosen, *_first(rows, 16, device), generator)
        n = min(len(rows[0]), MOST, clock.left / chosen.rate)
        if bias is not None and bias.mean().abs() < 0.5 * value.std(correction=0) / math.sqrt(n):
            return chosen
    return way(_STEPS[-1], kind, rate)


def _mean(
    way: Way, rows: Batch, data: Data, clock: Clock, given: str, split: str, seed: int, device: str | torch.device
) -> Score:
    """The mean over as many rows as the clock allows."""
    x, c = rows
    values, biases = [], []
    for i, batch in enumerate(paced(min(len(x), MOST), clock, largest=way.rows)):
        c_batch = None if c is None else c[batch].to(device)
        value, bias = _called(way, x[batch].to(device), c_batch, stream(seed, "evaluate/noise", i, device=device))
        values.append(value)
        biases += [] if bias is None else [bias]
    log_p = torch.cat(values)
    impossible = int((log_p == -math.inf).sum())
    notes = [way.note, f"{impossible} of {len(log_p)} have probability 0" if impossible else ""]
    return Score(
        "log p(x)",
        log_p.mean().item(),
        way.kind,
        "nats",
        len(log_p),
        stderr=(log_p.std() / math.sqrt(len(log_p))).item() if len(log_p) > 1 else None,
        bias=torch.cat(biases).mean().abs().item() if biases else None,
        given=given,
        split=split,
        better="higher" if split != "train" else "reference",
        note=", ".join(note for note in notes if note),
        floor=None if data.log_prob is None or given else data.log_prob(x[: len(log_p)]).mean().item(),
    )


@dataclass(frozen=True)
class Scored:
    """log p of each observation: (N,) nats, of one kind; (N,) biases where it is an estimate."""

    value: Tensor
    kind: Kind
    bias: Tensor | None = None


def per_observation(
    model: Any, rows: Batch, *, samples: int = 100, steps: int = 40, seed: int = 0, device: str | torch.device = "cpu"
) -> Scored:
    """log p of each row, the best way the model has.

    Args:
        model: in eval mode, on ``device``.
        rows: canonical observations, and condition rows or None.
        samples: of the latent, for a bound.
        steps: of the solver, for an estimate.
        seed: of the noise.

    Raises:
        Unusable: the model has no likelihood.
    """
    way = _way(model, samples, steps)
    values, biases = [], []
    for i, start in enumerate(range(0, len(rows[0]), way.rows)):
        x, c = (None if part is None else part[start : start + way.rows].to(device) for part in rows)
        value, bias = _called(way, x, c, stream(seed, "score", i, device=device))
        values.append(value)
        biases += [] if bias is None else [bias]
    return Scored(torch.cat(values), way.kind, torch.cat(biases) if biases else None)


def _way(model: Any, samples: int, steps: int) -> Way:
    """The best way the model has, at a given expense."""
    able, size = capabilities(model), _rows_per_call(model.domain)
    if Scores in able:
        return Way(lambda x, c, _: (model.log_prob(x, c), None), "exact", "", size)
    if Bounds in able:
        return Way(lambda x, c, g: (model.elbo(x, c, samples=samples, generator=g), None), "lower bound", "", size)
    if Estimates not in able:
        raise Unusable("the model has no likelihood to score by; 'pofx evaluate' scores its samples instead")

    def call(x: Tensor, c: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor]:
        estimate = model.estimate_log_prob(x, c, generator=generator, steps=steps)
        return estimate.value, estimate.bias

    integers = getattr(model.domain, "levels", None) is not None
    return Way(call, "estimate of a lower bound" if integers else "estimate", "", size)


@torch.no_grad()
def _called(way: Way, x: Tensor, c: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor | None]:
    value, bias = way.call(x, c, generator)
    return value.double().cpu(), None if bias is None else bias.double().cpu()


def _rate(way: Way, rows: Batch, clock: Clock, seed: int, device: str | torch.device) -> float:
    """Seconds per row."""
    generator = stream(seed, "evaluate/probe", device=device)
    return timed(
        lambda n: _called(way, *_first(rows, n, device), generator), clock, largest=min(way.rows, len(rows[0]))
    )


def _first(rows: Batch, n: int, device: str | torch.device) -> Batch:
    return rows[0][:n].to(device), None if rows[1] is None else rows[1][:n].to(device)


def _rows_per_call(domain: Domain) -> int:
    """Few enough that a call is short and its memory small."""
    return min(1024, max(16, 2**16 // domain.dims))
