"""Promises about learning: the loss is what it says, its gradient is right, and it moves what it should and no more."""

import math

import torch
from torch import Tensor, nn

from pofx.conditions import Condition
from pofx.domains import Domain
from pofx.protocols import Bounds, Learns, Scores, Turn, Watched
from pofx.randomness import stream
from pofx.testing.registry import promise
from pofx.testing.specimens import STEPS, Build, rounds, specimen, tiny_data, turns_of
from pofx.testing.verdicts import ensure


@promise(learns=True, stages=(0,))
def check_every_parameter_is_moved_by_its_player(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """After a few rounds every parameter of every turn has moved; no turn ever moves another's."""
    model = specimen(build, domain, condition).train()
    x, c = tiny_data(domain, condition)
    named = dict(model.named_parameters())
    owned = {id(p) for turn in turns_of(model) for p in turn.parameters}
    first = {name: p.detach().clone() for name, p in named.items()}
    last = dict(first)
    for turn in rounds(model, x, c, steps=6, generator=stream(0, "moves")):
        _ensure_only_its_own(turn, named, last)
        last = {name: p.detach().clone() for name, p in named.items()}
    for name, p in named.items():
        ensure(id(p) in owned or not p.requires_grad, f"parameter {name} wants gradients but belongs to no turn")
        ensure(id(p) not in owned or not torch.equal(p, first[name]), f"parameter {name} has not moved in 6 rounds")


def _ensure_only_its_own(turn: Turn, named: dict[str, nn.Parameter], last: dict[str, Tensor]) -> None:
    own = {id(p) for p in turn.parameters}
    for name, p in named.items():
        follows = turn.after is not None and not p.requires_grad
        ensure(id(p) in own or follows or torch.equal(p, last[name]), f"the turn of {turn.player} has moved {name}")


@promise(learns=True)
def check_gradient_meets_finite_differences(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """Along a random direction of each parameter, the generator frozen, in double precision.

    An estimator that is biased by design says so: ``model.biased_gradient``, a sentence, exempts it.
    """
    model = specimen(build, domain, condition, steps, double=True).train()
    if getattr(model, "biased_gradient", ""):
        return
    x, c = tiny_data(domain, condition, 40)
    names = {id(p): name for name, p in model.named_parameters()}
    for turn in turns_of(model):
        gradients = torch.autograd.grad(_total(turn, x, c), turn.parameters, allow_unused=True)
        for p, gradient in zip(turn.parameters, gradients):
            v = torch.randn(p.shape, generator=stream(0, "direction"), dtype=p.dtype)
            v /= v.norm()
            slope = 0.0 if gradient is None else float((gradient * v).sum())
            measured = _slope(turn, x, c, p, v)
            ensure(
                math.isclose(slope, measured, rel_tol=1e-3, abs_tol=2e-6),
                f"the gradient of {turn.player} along {names[id(p)]} is {slope:.6g}, by differences {measured:.6g}",
            )


def _total(turn: Turn, x: Tensor, c: Tensor | None, seed: int = 0) -> Tensor:
    return turn.loss(x, c, generator=stream(seed, "loss")).total


def _slope(turn: Turn, x: Tensor, c: Tensor | None, p: nn.Parameter, v: Tensor, h: float = 1e-5) -> float:
    start = p.detach().clone()
    values = []
    for shift in (h, -h):
        p.data.copy_(start + shift * v)
        values.append(float(_total(turn, x, c).detach()))
    p.data.copy_(start)
    return (values[0] - values[1]) / (2 * h)


@promise(learns=True)
def check_loss_is_a_mean_over_the_batch(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """A batch and the same batch twice have one loss, within its noise; total and parts are finite scalars.

    A model whose loss compares the rows of a batch says so: ``model.whole_batch``, a sentence, exempts it from that.
    """
    model = specimen(build, domain, condition, steps, double=True).train()
    x, c = tiny_data(domain, condition, 60)
    twice, rows = torch.cat([x, x]), None if c is None else torch.cat([c, c])
    for turn in turns_of(model):
        player = turn.player
        once = turn.loss(x, c, generator=stream(0, "loss"))
        for name, value in {"total": once.total, **once.parts}.items():
            ensure(value.ndim == 0, f"{name} of {player}'s loss has shape {tuple(value.shape)}, not a scalar's")
            ensure(bool(value.isfinite()), f"{name} of {player}'s loss is {value}")
        if getattr(model, "whole_batch", ""):
            continue
        small, large = (_totals(turn, *batch, draws=24) for batch in ((x, c), (twice, rows)))
        noise = 5 * float((small.var() / 24 + large.var() / 24).sqrt())
        gap = abs(float(small.mean() - large.mean()))
        ensure(
            gap < 0.25 * abs(float(small.mean())) + noise + 1e-6,
            f"{player}'s loss goes from {float(small.mean()):.4g} to {float(large.mean()):.4g} on the same batch twice",
        )


def _totals(turn: Turn, x: Tensor, c: Tensor | None, *, draws: int) -> Tensor:
    return torch.stack([_total(turn, x, c, seed).detach() for seed in range(draws)])


@promise(Learns, Scores)
def check_loss_is_the_likelihood(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """One of the loss's parts is the mean of -log_prob; the total is in a fixed proportion to it.

    A model that minimises something else says so: ``model.surrogate``, a sentence, exempts both.
    """
    x, c = tiny_data(domain, condition, 50)
    scales = []
    for n in (0, steps):
        model = specimen(build, domain, condition, n, double=True)
        with torch.no_grad():
            nll = -float(model.log_prob(x, c).mean())
            loss = model.loss(x, c, generator=stream(0, "loss"))
        parts = {name: float(value) for name, value in loss.parts.items()}
        told = any(abs(v - nll) < 1e-6 for v in parts.values()) or bool(getattr(model, "surrogate", ""))
        ensure(told, f"mean -log_prob is {nll:.6g}, but the parts say {parts}")
        scales.append(float(loss.total) / nll)
    same = math.isclose(scales[0], scales[1], rel_tol=1e-5) and scales[0] > 0
    ensure(
        same or bool(getattr(model, "surrogate", "")),
        f"the total is {scales[0]:.4g} times -log_prob before training and {scales[1]:.4g} times after",
    )


@promise(Learns, Bounds, given="nothing")
def check_loss_is_the_bound(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """A part, or the sum of all, is on average -elbo; the total as well, per observation or per dimension.

    A model that minimises something else says so: ``model.surrogate``, a sentence, exempts both. Conditions are
    left out, because a loss may hide some of them for the sake of guidance.
    """
    model = specimen(build, domain, condition, steps, double=True)
    x, _ = tiny_data(domain, condition)
    draws = 100
    with torch.no_grad():
        bound = torch.stack([-model.elbo(x, generator=stream(s, "elbo")).mean() for s in range(draws)])
        losses = [model.loss(x, generator=stream(s, "loss")) for s in range(draws)]
    parts = {name: torch.stack([loss.parts[name] for loss in losses]) for name in losses[0].parts}
    parts["their sum"] = torch.stack(list(parts.values())).sum(0)
    said = {name: round(float(v.mean()), 4) for name, v in parts.items()}
    means = f"mean -elbo is {float(bound.mean()):.4f}"
    exempt = bool(getattr(model, "surrogate", ""))
    ensure(exempt or any(_same_mean(v, bound) for v in parts.values()), f"{means}, but the loss's parts say {said}")
    total = torch.stack([loss.total for loss in losses])
    same = _same_mean(total, bound) or _same_mean(total * domain.dims, bound)
    ensure(same or exempt, f"{means}, but what is minimised is {float(total.mean()):.4f}")


def _same_mean(a: Tensor, b: Tensor) -> bool:
    noise = 5 * float((a.var() / len(a) + b.var() / len(b)).sqrt())
    return abs(float(a.mean() - b.mean())) < noise + 1e-6


@promise(Watched)
def check_meters_are_finite_scalars(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Each of what health rules read is one finite number."""
    model = specimen(build, domain, condition, steps)
    for name, value in model.meters(*tiny_data(domain, condition)).items():
        ensure(value.ndim == 0 and bool(value.isfinite()), f"meter {name} is {value}, not one finite number")


@promise(learns=True, stages=(0,))
def check_learning_lowers_the_loss(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """A game of one: after training, the loss on the training data is lower than before."""
    before, after = (specimen(build, domain, condition, n, double=True) for n in (steps, STEPS))
    x, c = tiny_data(domain, condition)
    if len(turns_of(before)) != 1:
        return
    start, end = (_totals(turns_of(model)[0], x, c, draws=8).mean() for model in (before, after))
    ensure(float(end) < float(start), f"the loss goes from {float(start):.4g} to {float(end):.4g} in {STEPS} rounds")
