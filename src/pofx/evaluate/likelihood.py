"""log p on held-out data: exact where the model can, else a bound, else an estimate, each saying which."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from pofx.conditions import Classes
from pofx.data.dataset import Batch, Data
from pofx.domains import Domain, Vectors
from pofx.errors import Unusable
from pofx.evaluate.pace import Clock, Watch, paced, timed
from pofx.evaluate.score import Kind, Score
from pofx.protocols import Bounds, Estimate, Estimates, PseudoScores, Samples, Scores, capabilities
from pofx.randomness import stream
from pofx.world import ALONE, World

LIKELIHOODS = frozenset({Scores, Bounds, Estimates, PseudoScores})
MOST = 10_000  # observations scored where time is plentiful
_SAMPLES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of a bound; above 100 for vectors alone
_STEPS = (10, 20, 40, 80, 160)  # of an estimate
_SHARES = {1: (1.0,), 2: (0.8, 1.0), 3: (0.5, 0.75, 1.0)}  # of the time left, for each of so many figures


@dataclass(frozen=True)
class Way:
    """How a model's log p is had: ``call(x, c, generator)`` gives (B,) values in nats, or an ``Estimate`` of them."""

    call: Callable[[Tensor, Tensor | None, Generator], Tensor | Estimate]
    kind: Kind
    note: str
    rows: int  # in one call
    rate: float = 0.0  # seconds per row, once measured


@dataclass(frozen=True)
class Scored:
    """log p of each observation: (N,) nats, of one kind; (N,) biases where it is an estimate."""

    value: Tensor
    kind: Kind
    bias: Tensor | None = None


def likelihood_scores(
    model: Any,
    data: Data,
    *,
    split: str,
    clock: Clock,
    seed: int,
    device: str | torch.device,
    watch: Watch,
    world: World = ALONE,
) -> list[Score]:
    """Mean log p per observation, in nats: given the condition, as the marginal where there are classes, and on the
    training split as a labelled reference.

    Empty where the model has no likelihood. Rows are a seeded subset of the split; as many as the time allows.
    """
    condition = getattr(model, "condition", None)
    x, c = shuffled(data, split, seed)
    given = condition.kind if condition is not None and c is not None else ""
    able = LIKELIHOODS & capabilities(model)
    summable = isinstance(condition, Classes) and able != {PseudoScores}
    if not able or (condition is not None and not given and not summable):
        return []  # none at all, or p(x|c) without c, and no way to sum over c
    jobs = [(split, given)]
    jobs += [(split, "")] if given and summable else []
    jobs += [("train", given)] if split != "train" else []

    plan = world.led(lambda: _planned(model, (x, c if given else None), clock.share(0.6), seed, device))
    way = replace(way_of(model, samples=plan.samples, steps=plan.steps), rate=plan.rate / world.size)
    scores = []
    for i, (part, told) in enumerate(jobs):
        x, c = shuffled(data, part, seed)
        summed = condition.count if isinstance(condition, Classes) and not told else 1
        share = clock.share(_SHARES[len(jobs)][i])
        n = world.agreed(min(len(x), MOST, int(share.left / (way.rate * summed))))
        if n < 8 and i:
            continue  # too few to say anything
        named = f"log p(x){' given ' + told if told else ''}, {way.kind}"
        watch(f"{named}: {n} of {part}, about {n * way.rate * summed:.1f} s")
        scores.append(_mean(way, (x, c if told else None), data, share, told, part, seed, device, world))
    return scores


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
    way = way_of(model, samples=samples, steps=steps)
    starts = range(0, len(rows[0]), way.rows)
    return _scored(way, rows, (slice(start, start + way.rows) for start in starts), "score", seed, device)


def way_of(model: Any, *, samples: int, steps: int) -> Way:
    """The best way the model has: exact, else a bound by so many samples, else an estimate by so many steps."""
    if samples < 1 and Bounds in capabilities(model):
        raise Unusable(f"--samples must be at least 1, got {samples}; leave it out for the default")
    able, rows = capabilities(model), _rows_per_call(model.domain)
    if Scores in able:
        return Way(lambda x, c, _: model.log_prob(x, c), "exact", "", rows)
    if Bounds in able:
        rows = min(rows, max(1, (16 if isinstance(model.domain, Vectors) else 4) * rows // samples))
        return Way(partial(_elbo, model, samples), "lower bound", f"{samples} samples", rows)
    if Estimates in able:
        return Way(partial(_estimate, model, steps), "estimate", f"{steps} steps", max(1, rows // 4))
    if PseudoScores in able:
        rows = max(1, rows // model.domain.dims)  # every value is a pass of its own
        return Way(
            lambda x, c, _: model.pseudo_log_prob(x, c), "pseudo-likelihood", "each value given all others", rows
        )
    instead = "'pofx evaluate' scores its samples instead" if Samples in able else "'pofx models' lists those that have"
    raise Unusable(f"the model has no likelihood to score by; {instead}")


def shuffled(data: Data, split: str, seed: int) -> Batch:
    """All rows of a split in a seeded order, so that the first n are a fair subset."""
    x, c = data.part(split).rows()
    order = torch.randperm(len(x), generator=stream(seed, f"evaluate/{split}")).to(x.device)
    return x[order], None if c is None else c[order]


def _elbo(model: Any, samples: int, x: Tensor, c: Tensor | None, generator: Generator) -> Tensor:
    return model.elbo(x, c, samples=samples, generator=generator)


def _estimate(model: Any, steps: int, x: Tensor, c: Tensor | None, generator: Generator) -> Estimate:
    return model.estimate_log_prob(x, c, generator=generator, steps=steps)


@dataclass(frozen=True)
class _Plan:
    """How many samples of a bound, or steps of an estimate; and the seconds that a row then takes."""

    samples: int
    steps: int
    rate: float


def _planned(model: Any, rows: Batch, clock: Clock, seed: int, device: str | torch.device) -> _Plan:
    """As many samples or steps as the time allows and the figure needs."""
    start = way_of(model, samples=10, steps=_STEPS[0])
    rate = _rate(start, rows, clock, seed, device)
    if start.kind == "lower bound":
        samples = _affordable_samples(model.domain, rate / 10, clock.left, len(rows[0]))
        return _Plan(samples, 0, rate / 10 * samples)
    if start.kind == "estimate":
        steps = _sufficient_steps(model, rate / _STEPS[0], clock, rows, seed, device)
        return _Plan(0, steps, rate / _STEPS[0] * steps)
    return _Plan(0, 0, rate)


def _affordable_samples(domain: Domain, seconds_per_sample: float, seconds: float, n: int) -> int:
    """Of a bound, as many for each row as let 500 rows be scored."""
    affordable = min(seconds / (seconds_per_sample * min(500, n)), 1000 if isinstance(domain, Vectors) else 100)
    return max(k for k in _SAMPLES if k <= max(1, affordable))


def _sufficient_steps(
    model: Any, seconds_per_step: float, clock: Clock, rows: Batch, seed: int, device: str | torch.device
) -> int:
    """Of an estimate, the fewest whose bias is below half the standard error, while 128 rows are affordable."""
    generator = stream(seed, "evaluate/steps", device=device)
    for steps, more in zip(_STEPS, _STEPS[1:]):
        if seconds_per_step * more * min(128, len(rows[0])) > clock.left:
            return steps
        pilot = _called(way_of(model, samples=0, steps=steps), *_first(rows, 16, device), generator)
        n = min(len(rows[0]), MOST, clock.left / (seconds_per_step * steps))
        if pilot.bias is None or pilot.bias.mean().abs() < 0.5 * pilot.value.std(correction=0) / math.sqrt(n):
            return steps
    return _STEPS[-1]


def _mean(
    way: Way,
    rows: Batch,
    data: Data,
    clock: Clock,
    given: str,
    split: str,
    seed: int,
    device: str | torch.device,
    world: World,
) -> Score:
    """The mean over as many rows as the clock allows."""
    slices = paced(min(len(rows[0]), MOST), clock, largest=way.rows * world.size)
    scored = _scored(way, rows, slices, "evaluate/noise", seed, device, world)
    log_p, n = scored.value, len(scored.value)
    impossible = int((log_p == -math.inf).sum())
    notes = [way.note, f"{impossible} of {n} have probability 0" if impossible else ""]
    return Score(
        "log p(x)",
        log_p.mean().item(),
        scored.kind,
        "nats",
        n,
        stderr=(log_p.std() / math.sqrt(n)).item() if n > 1 else None,
        bias=None if scored.bias is None else scored.bias.mean().abs().item(),
        given=given,
        split=split,
        better="higher" if split != "train" else "reference",
        note=", ".join(note for note in notes if note),
        floor=None if data.log_prob is None or given else data.log_prob(rows[0][:n]).mean().item(),
    )


def _scored(
    way: Way,
    rows: Batch,
    slices: Iterable[slice],
    role: str,
    seed: int,
    device: str | torch.device,
    world: World = ALONE,
) -> Scored:
    """The rows of each slice in turn, each with a generator of its own; several processes share each slice."""
    x, c = rows
    mine = []
    for i, batch in enumerate(world.together(slices)):
        share = world.share(batch)
        generator = stream(seed, world.own(role), i, device=device)
        mine.append(_called(way, x[share].to(device), None if c is None else c[share].to(device), generator))
    parts = [part for of_slice in zip(*world.gathered(mine)) for part in of_slice]
    biases = [part.bias for part in parts if part.bias is not None]
    return Scored(torch.cat([part.value for part in parts]), parts[0].kind, torch.cat(biases) if biases else None)


@torch.no_grad()
def _called(way: Way, x: Tensor, c: Tensor | None, generator: Generator) -> Scored:
    told = way.call(x, c, generator)
    if isinstance(told, Tensor):
        return Scored(told.double().cpu(), way.kind)
    kind: Kind = "estimate of a lower bound" if told.of_bound else "estimate"
    return Scored(told.value.double().cpu(), kind, told.bias.double().cpu())


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
