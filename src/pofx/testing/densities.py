"""Promises about numbers: densities sum to one, bounds stay below the truth, samples follow the density they claim."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pofx.conditions import Classes, Condition, expand
from pofx.domains import Domain, Vectors
from pofx.protocols import (
    Bounds,
    Chains,
    Completes,
    Decodes,
    Encodes,
    Estimates,
    Infers,
    PseudoScores,
    Samples,
    Scores,
    capabilities,
)
from pofx.randomness import stream
from pofx.testing.registry import promise
from pofx.testing.specimens import (
    STEPS,
    Build,
    Lattice,
    every_observation,
    given_rows,
    lattice,
    shaken,
    specimen,
    tiny_data,
)
from pofx.testing.verdicts import ensure, ensure_close, ensure_counts_fit

BOTH = (0, STEPS)


# ---- what log p is


@promise(Scores, stages=BOTH)
def check_density_sums_to_one(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Over all observations, or by quadrature; given each class, and as the marginal."""
    model = specimen(build, domain, condition, steps, double=True)
    space = lattice(domain, fine=16, reach=8.0)
    for given, c in given_rows(condition):
        with torch.no_grad():
            mass = _mass(model.log_prob(space.points, c), space)
        tolerance = 1e-3 if isinstance(domain, Vectors) else 1e-5
        ensure(abs(mass - 1) < tolerance, f"exp(log_prob(x{given})) sums to {mass:.6f}, not to one")


@promise(Scores, stages=BOTH, given="classes")
def check_marginal_is_the_mixture(build: Build, domain: Domain, condition: Classes, *, steps: int) -> None:
    """log_prob(x) = log sum_c f_c p(x|c), f the training frequencies."""
    model = specimen(build, domain, condition, steps, double=True)
    x = _points(domain)
    with torch.no_grad():
        mixture = _mixture(condition, [model.log_prob(x, c) for _, c in given_rows(condition)[1:]])
        ensure_close(model.log_prob(x), mixture, "log_prob(x) is not the mixture of log_prob(x, c) over the classes")


@promise(Scores)
def check_log_prob_takes_each_row_alone(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """A row has the same log_prob alone as in a batch; one row of a condition serves all."""
    model = specimen(build, domain, condition, steps, double=True)
    x, c = tiny_data(domain, condition, 6)
    _ensure_rows_alone("log_prob", model.log_prob, x, c)


@promise(PseudoScores)
def check_pseudo_log_prob_takes_each_row_alone(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """A row has the same pseudo_log_prob alone as in a batch, of probabilities; one row of a condition serves all."""
    model = specimen(build, domain, condition, steps, double=True)
    x, c = tiny_data(domain, condition, 6)
    _ensure_rows_alone("pseudo_log_prob", model.pseudo_log_prob, x, c)
    with torch.no_grad():
        highest = float(model.pseudo_log_prob(x, c).max())
    ensure(highest <= 1e-9 or isinstance(domain, Vectors), f"pseudo_log_prob is {highest:.3g}, above that of certainty")


@promise(Chains, Scores, stages=BOTH)
def check_chain_is_the_density(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """The terms sum to log p(x|c); a walk that is told x's values gives x back and tells the same terms."""
    model = shaken(specimen(build, domain, condition, steps, double=True))
    x, c = tiny_data(domain, condition, 40)
    with torch.no_grad():
        terms = model.conditionals(x, c)
        ensure_close(terms.sum(1), model.log_prob(x, c), "the conditionals do not sum to log_prob")
    if isinstance(domain, Vectors):
        return
    s, told = model.read(x), []

    def choose(log_p: Tensor, t: int) -> Tensor:
        told.append(log_p)
        return s[:, t]

    ensure(bool((model.walk(len(x), choose, c) == x).all()), "a walk does not give back the values that it was told")
    log_p = torch.stack(told, 1)
    mass = log_p.double().exp().sum(2)
    ensure_close(mass, torch.ones_like(mass), "what a walk tells does not sum to one", rtol=1e-5, atol=1e-5)
    end = getattr(domain, "end", None)
    ends = torch.zeros_like(s) if end is None else (s == end).long()
    ended = ends.cumsum(1) > ends  # whatever follows an end has no terms
    walked = log_p.gather(2, s[:, :, None])[:, :, 0].masked_fill(ended, 0)
    ensure_close(walked, terms.to(walked.dtype), "a walk tells other terms than the conditionals")


# ---- bounds


@promise(Bounds, stages=BOTH)
def check_bound_is_below_the_truth(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """The mean of 1000 draws, minus four standard errors, is not above log p; more samples do not loosen the bound."""
    model = specimen(build, domain, condition, steps, double=True)
    x = _points(domain)[:8]
    for given, c in given_rows(condition):
        with torch.no_grad():
            truth, noise = _reference(model, x, c)
            one, error = _mean_elbo(model, x, c, draws=1000, samples=1)
            ten, error_ten = _mean_elbo(model, x, c, draws=200, samples=10)
        above = float((one - 4 * error - truth - 4 * noise).max())
        ensure(above < 1e-9, f"elbo(x{given}) is above log p by {above:.3g} nats beyond four standard errors")
        above = float((ten - 4 * error_ten - truth - 4 * noise).max())
        ensure(
            above < 1e-9, f"elbo(x{given}, samples=10) is above log p by {above:.3g} nats beyond four standard errors"
        )
        loose = float((one - ten - 5 * (error + error_ten)).max())
        ensure(loose < 1e-9, f"elbo(x{given}) falls by {loose:.3g} nats with ten samples instead of one")


@promise(Bounds, stages=BOTH)
def check_bound_has_no_mass_above_one(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """exp(elbo) is, on average, p(x) or less: its sum over x is at most one."""
    model = specimen(build, domain, condition, steps, double=True)
    space = lattice(domain, fine=6, reach=7.0)
    samples = 12 if isinstance(domain, Vectors) else 500
    for given, c in given_rows(condition):
        g = stream(0, "mass")
        with torch.no_grad():
            draws = [_mass(model.elbo(space.points, c, samples=samples, generator=g), space) for _ in range(8)]
        mass, error = _mean(torch.tensor(draws), 8)
        ensure(
            float(mass - 4 * error) < 1.005,
            f"exp(elbo(x{given})) sums to {float(mass):.4f} with a standard error of {float(error):.2g}: above one",
        )


@promise(Bounds, Infers, Decodes, stages=BOTH)
def check_bound_meets_quadrature(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """With many samples the bound is log p(x) = log integral p(x|z) p(z) dz, where z is one or two numbers, or a code.

    Not where q(z|x) leaves codes out: the bound then stays below. Observations where q is so far from the posterior
    that 20,000 draws do not settle the bound say nothing.
    """
    model = specimen(build, domain, condition, steps, double=True)
    x = _points(domain)[:8]
    for given, c in given_rows(condition):
        with torch.no_grad():
            truth = _by_quadrature(model, x, c)
            bound, error = _mean_elbo(model, x, c, draws=20, samples=1000)
        if truth is not None and _covers(model, x, c):
            settled = error < 0.02
            ensure(bool(settled.any()) or not steps, f"elbo(x{given}, samples=1000) has not settled anywhere")
            far = float((((bound - truth).abs() - 5 * error) * settled).max())
            ensure(far < 0.02, f"elbo(x{given}, samples=1000) is {far:.3g} nats from the integral over z")


@promise(Bounds, Infers, Encodes, Decodes, stages=BOTH)
def check_bound_meets_plain_monte_carlo(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """E[elbo] = E_q[log p(x|z) + log p(z) - log q(z|x)], with z from ``encode``.

    The weights are shaken first: little training leaves q near the prior, where much is forgiven.
    """
    model = shaken(specimen(build, domain, condition, steps, double=True))
    x, c = tiny_data(domain, condition, 8)
    draws = 1000
    many, rows = _repeat(x, draws), None if c is None else _repeat(c, draws)
    with torch.no_grad():
        z = model.encode(many, rows, generator=stream(0, "plain"))
        log_q = model.posterior(many, rows).log_prob(z)
        log_w = model.decode(z, rows).log_prob(many) + model.log_prior(z, rows) - log_q
        plain, error = _mean(log_w, draws)
        bound, bound_error = _mean_elbo(model, x, c, draws=draws, samples=1)
    far = float(((plain - bound).abs() - 5 * (error**2 + bound_error**2).sqrt()).max())
    ensure(far < 1e-6, f"elbo is {far:.3g} nats from plain Monte Carlo, beyond five standard errors")


# ---- estimates


@promise(Estimates)
def check_estimate_has_mass_one(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """exp(value) integrates to one within 2%; where it is of a bound, to one at most."""
    model = specimen(build, domain, condition, steps, double=True)
    space = lattice(domain, fine=6, reach=6.0)
    for given, c in given_rows(condition):
        value, _, of_bound = _estimate(model, domain, space.points, c)
        mass = _mass(value, space)
        ensure(mass < 1.02, f"exp(estimate_log_prob(x{given})) sums to {mass:.4f}, which is above one")
        ensure(mass > 0.98 or of_bound, f"exp(estimate_log_prob(x{given})) integrates to {mass:.4f}, not to one")


@promise(Estimates)
def check_estimate_converges(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Its bias, by halving the steps, shrinks with more of them."""
    model = specimen(build, domain, condition, steps, double=True)
    x, c = tiny_data(domain, condition, 50)
    with torch.no_grad():
        coarse, fine = (
            model.estimate_log_prob(x, c, generator=stream(0, "estimate"), steps=n).bias.abs().mean() for n in (4, 32)
        )
    ensure(
        float(fine) <= float(coarse), f"the bias grows from {float(coarse):.3g} at 4 steps to {float(fine):.3g} at 32"
    )
    ensure(float(fine) < 0.1, f"the bias is still {float(fine):.3g} nats at 32 steps")


# ---- samples


@promise(Samples, Scores)
def check_samples_meet_the_density(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Chi-square of 10,000 samples against log_prob: each observation counted, or blocks of the plane."""
    model = specimen(build, domain, condition, steps, double=True)
    space = lattice(domain)
    for given, c in given_rows(condition):
        with torch.no_grad():
            log_p = model.log_prob(space.points, c)
        _ensure_samples_fit(build, domain, condition, steps, space, log_p, given, c)


@promise(Samples, Bounds)
def check_samples_meet_the_bound(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Chi-square as above where z can be integrated out; else no observation is rarer than its bound says."""
    model = specimen(build, domain, condition, steps, double=True)
    space = lattice(domain, fine=4, reach=4.0)
    for given, c in given_rows(condition):
        truth = _by_quadrature(model, space.points, c) if {Infers, Decodes} <= capabilities(model) else None
        tight = truth is not None
        log_p = _many_samples(model, domain, space.points, c) if truth is None else truth
        mass = _mass(log_p, space)
        ensure(mass < 1.02 or not tight, f"p(x|z{given}) p(z) summed over z and x is {mass:.4f}, above one")
        _ensure_samples_fit(build, domain, condition, steps, space, log_p, given, c, one_sided=not tight)


@promise(Samples, Estimates)
def check_samples_meet_the_estimate(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Chi-square against exp(value); where it is of a bound, no observation is rarer than it says."""
    model = specimen(build, domain, condition, steps, double=True)
    space = lattice(domain, fine=6)
    for given, c in given_rows(condition):
        value, _, of_bound = _estimate(model, domain, space.points, c)
        _ensure_samples_fit(build, domain, condition, steps, space, value, given, c, one_sided=of_bound)


@promise(Completes, Scores)
def check_completions_follow_the_conditional(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """What is filled in is drawn from p(rest | known): chi-square against log_prob over all that agree with it."""
    model = specimen(build, domain, condition, steps, double=True)
    given_x = tiny_data(domain, condition)[0][0]
    for what, known in masks(domain):
        if not model.completes(known) or bool(known.all()):
            continue
        space = lattice(domain, given=given_x, known=known)
        for given, c in given_rows(condition):
            with torch.no_grad():
                log_p = model.log_prob(space.points, c) + space.log_volume
            n = 4000
            filled = specimen(build, domain, condition, steps).complete(
                given_x.expand(n, *domain.shape), known, c, generator=stream(0, "complete")
            )
            p = space.probabilities(log_p - log_p.logsumexp(0) - space.log_volume)
            ensure_counts_fit(space.counts(filled), p, f"complete(x{given}) with the {what} known is off p(rest|known)")


def masks(domain: Domain) -> list[tuple[str, Tensor]]:
    """Which values of one observation may be known: none, the first half, the last value, all."""
    place = torch.arange(domain.dims)
    named = {
        "nothing": place < 0,
        "first half": place < max(1, domain.dims // 2),
        "last value": place == domain.dims - 1,
        "whole": place >= 0,
    }
    return [(what, known.view(domain.shape)) for what, known in named.items()]


# ---- how they are computed


@torch.no_grad()
def _ensure_rows_alone(name: str, method: Callable[..., Tensor], x: Tensor, c: Tensor | None) -> None:
    n = len(x)
    whole = method(x, c)
    alone = torch.cat([method(x[i : i + 1], None if c is None else c[i : i + 1]) for i in range(n)])
    ensure(tuple(whole.shape) == (n,), f"{name} has shape {tuple(whole.shape)} for {n} observations")
    ensure_close(whole, alone, f"{name} of a row depends on the rest of the batch", rtol=1e-9, atol=1e-9)
    if c is not None:
        ensure_close(method(x, c[:1]), method(x, c[:1].expand(n, *c.shape[1:])), "one row does not serve all")


def _points(domain: Domain) -> Tensor:
    """Some observations, canonical: all where they can be listed."""
    return tiny_data(domain, None, 8)[0] if isinstance(domain, Vectors) else lattice(domain).points


def _mass(log_p: Tensor, space: Lattice) -> float:
    return float((log_p.double().logsumexp(0) + space.log_volume).exp())


def _mixture(condition: Classes, terms: list[Tensor]) -> Tensor:
    frequencies = torch.tensor(condition.frequencies, dtype=torch.float64)
    return (torch.stack(terms) + frequencies.log()[:, None]).logsumexp(0)


def _repeat(t: Tensor, times: int) -> Tensor:
    """(B, ...) to (times * B, ...), whole batches one after the other."""
    return t.repeat(times, *[1] * (t.ndim - 1))


def _mean(values: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Mean and standard error over the draws of (draws * B,)."""
    values = values.double().view(draws, -1)
    return values.mean(0), values.std(0) / draws**0.5


def _mean_elbo(model: Any, x: Tensor, c: Tensor | None, *, draws: int, samples: int) -> tuple[Tensor, Tensor]:
    rows = expand(model.condition, c, len(x))
    many = None if rows is None else _repeat(rows, draws)
    return _mean(model.elbo(_repeat(x, draws), many, samples=samples, generator=stream(0, f"elbo {samples}")), draws)


def _reference(model: Any, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """log p(x) and its error: by quadrature over z, else the bound itself with 5000 samples."""
    truth = _by_quadrature(model, x, c) if {Infers, Decodes} <= capabilities(model) else None
    if truth is not None:
        return truth, torch.zeros_like(truth)
    return _mean_elbo(model, x, c, draws=10, samples=500)


@torch.no_grad()
def _by_quadrature(model: Any, x: Tensor, c: Tensor | None) -> Tensor | None:
    """log integral p(x|z) p(z) dz (B,), a sum where z is of symbols; None where z has too many values."""
    if c is None and isinstance(model.condition, Classes):
        terms = [_by_quadrature(model, x, row) for _, row in given_rows(model.condition)[1:]]
        return None if terms[0] is None else _mixture(model.condition, [t for t in terms if t is not None])
    z, log_cell = _every_latent(model, model.encode(x[:1], c))
    if z is None:
        return None
    parts = []
    for some in x.split(200):
        each = some.repeat_interleave(len(z), dim=0)
        tiled, rows = z.repeat(len(some), 1), expand(model.condition, c, len(each))
        log_p = model.decode(tiled, rows).log_prob(each) + model.log_prior(tiled, rows)
        parts.append(log_p.view(-1, len(z)).logsumexp(1))
    return torch.cat(parts) + log_cell


def _every_latent(model: Any, latent: Tensor) -> tuple[Tensor | None, float]:
    """All codes, or the points of a grid over one or two numbers, (N, K), and the log-volume around each."""
    if not latent.is_floating_point():
        codes = model.latent_domain
        few = codes.vocabulary**codes.length <= 1000
        return (every_observation(codes) if few else None), 0.0
    step, dim = 0.35, latent.shape[-1]
    if latent.ndim != 2 or dim > 2:
        return None, 0.0
    axis = torch.arange(-4.5, 4.5 + step / 2, step, dtype=latent.dtype)
    return torch.cartesian_prod(*[axis] * dim).view(-1, dim), dim * math.log(step)


@torch.no_grad()
def _covers(model: Any, x: Tensor, c: Tensor | None) -> bool:
    """Whether q(z|x) gives every code some probability; one that leaves codes out never meets log p(x)."""
    z = model.encode(x, c)
    if z.is_floating_point():
        return True
    codes = torch.arange(model.latent_domain.vocabulary)[:, None, None].expand(-1, *z.shape)
    return bool(model.posterior(x, c).log_prob(codes).isfinite().all())


@torch.no_grad()
def _many_samples(model: Any, domain: Domain, x: Tensor, c: Tensor | None) -> Tensor:
    """The bound with so many samples that exp(elbo), summed over a block, is known within a few percent."""
    samples = 100 if isinstance(domain, Vectors) else 5000
    return model.elbo(x, c, samples=samples, generator=stream(0, "many samples"))


@torch.no_grad()
def _estimate(model: Any, domain: Domain, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, bool]:
    draws = 1 if isinstance(domain, Vectors) else 10
    rows = expand(model.condition, c, len(x))
    many = None if rows is None else _repeat(rows, draws)
    estimate = model.estimate_log_prob(_repeat(x, draws), many, generator=stream(0, "estimate"), steps=24)
    value, bias = (t.double().view(draws, -1).mean(0) for t in (estimate.value, estimate.bias))
    return value, bias, estimate.of_bound


def _ensure_samples_fit(
    build: Build,
    domain: Domain,
    condition: Condition | None,
    steps: int,
    space: Lattice,
    log_p: Tensor,
    given: str,
    c: Tensor | None,
    *,
    one_sided: bool = False,
) -> None:
    """Samples of the single-precision model against log p at the points of the lattice."""
    n = 10_000
    x = specimen(build, domain, condition, steps).sample(n, c, generator=stream(0, "density"))
    counts, p = space.counts(x), space.probabilities(log_p)
    if not one_sided:
        ensure_counts_fit(counts, p, f"samples{given} are off the density")
        return
    p = p[:-1]
    lack = n * p - 5 * (n * p * (1 - p).clamp(min=0) + 1).sqrt() - counts[:-1]
    worst = int(lack.argmax())
    ensure(
        float(lack[worst]) <= 0,
        f"{int(counts[worst])} of {n} samples{given} are where the bound promises at least {n * float(p[worst]):.0f}",
    )
