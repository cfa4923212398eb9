"""Promises about what a model does: its randomness is the generator's, its samples canonical, its state its own."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Generator, Tensor

from pofx.conditions import Classes, Condition
from pofx.domains import Domain, Tokens, Vectors
from pofx.errors import Unusable
from pofx.protocols import (
    Adapts,
    Bounds,
    Completes,
    Decodes,
    Encodes,
    Estimates,
    Judges,
    PseudoScores,
    Represents,
    Samples,
    Scores,
    Turn,
    capabilities,
)
from pofx.randomness import seeded_init, stream
from pofx.samplers.chunks import sample_many
from pofx.testing.densities import masks
from pofx.testing.registry import promise
from pofx.testing.specimens import (
    TWO_CLASSES,
    Build,
    given_rows,
    lattice,
    padded,
    shaken,
    specimen,
    tiny_data,
    turns_of,
)
from pofx.testing.verdicts import ensure, ensure_close, ensure_same_bits, same_law

# ---- randomness


@promise()
def check_randomness_is_the_generator(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Equal generators give equal bits whatever the global state, which is neither read nor moved."""
    model = specimen(build, domain, condition, steps)
    for what, draw in _draws(model, domain, *tiny_data(domain, condition, 20)).items():
        with seeded_init(1):
            state, numpy_state = torch.get_rng_state(), _numpy_state()
            first = draw(stream(0, "draw"))
            ensure(torch.equal(state, torch.get_rng_state()), f"{what} moves torch's global random state")
            ensure(numpy_state == _numpy_state(), f"{what} moves numpy's global random state")
        with seeded_init(2):
            ensure_same_bits(first, draw(stream(0, "draw")), f"{what} differs between two calls with equal generators")


@promise(Samples)
def check_another_generator_gives_other_samples(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """Two generators, two sets of samples; one generator used twice, as well."""
    model = specimen(build, domain, condition, steps)
    g = stream(0, "one")
    x, later = model.sample(64, generator=g), model.sample(64, generator=g)
    ensure(not torch.equal(x, model.sample(64, generator=stream(0, "other"))), "another generator, the same samples")
    ensure(not torch.equal(x, later), "sample does not move its generator on")


@promise(Samples)
def check_chunks_keep_the_first_samples(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """Asking ``sample_many`` for more samples does not change the first ones."""
    model = specimen(build, domain, condition, steps)
    few, many = (sample_many(model, n, chunk=8) for n in (11, 21))
    ensure_same_bits(few, many[:11], "the first samples depend on how many are asked for")


@promise(Samples)
def check_cache_changes_nothing(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Where ``sample`` takes ``cached``, the samples are the same without; real numbers but for their last digits."""
    model = specimen(build, domain, condition, steps, double=True)
    if "cached" in inspect.signature(model.sample).parameters:
        with_it, without = (model.sample(200, generator=stream(0, "cache"), cached=cached) for cached in (True, False))
        ensure_close(with_it, without, "samples differ between cached and uncached decoding")


def _numpy_state() -> str:
    return str(np.random.get_state())  # noqa: NPY002  the old global state is just what must not move


def _draws(model: Any, domain: Domain, x: Tensor, c: Tensor | None) -> dict[str, Callable[[Generator], Tensor]]:
    """Every method of the contract that takes a generator."""
    able = capabilities(model)
    draws: dict[str, Callable[[Generator], Tensor]] = {}
    if Samples in able:
        draws["sample"] = lambda g: model.sample(len(x), c, generator=g)
        draws["sample without a condition"] = lambda g: model.sample(20, generator=g)
    if Bounds in able:
        draws["elbo"] = lambda g: model.elbo(x, c, samples=2, generator=g)
    if Estimates in able:
        draws["estimate_log_prob"] = lambda g: model.estimate_log_prob(x, c, generator=g, steps=4).value
    if Encodes in able:
        draws["encode"] = lambda g: model.encode(x, c, generator=g)
    if Encodes in able and Decodes in able:
        with torch.no_grad():
            z = model.encode(x, c)  # once: it may be a search
        draws["decode's sample"] = lambda g: model.decode(z, c).sample(generator=g)
    if Completes in able:
        for what, known in masks(domain):
            if model.completes(known):
                draws[f"complete with {what} known"] = partial(_complete, model, x, known, c)
    for turn in turns_of(model):
        draws[f"loss of {turn.player}"] = partial(_total, turn, x, c)
    return draws


def _complete(model: Any, x: Tensor, known: Tensor, c: Tensor | None, g: Generator) -> Tensor:
    return model.complete(x, known, c, generator=g)


def _total(turn: Turn, x: Tensor, c: Tensor | None, g: Generator) -> Tensor:
    return turn.loss(x, c, generator=g).total


# ---- samples


@promise(Samples)
def check_samples_are_canonical(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """n observations of the domain, on their own from any graph; one row of a condition serves all."""
    model = specimen(build, domain, condition, steps)
    for given, c in given_rows(condition):
        for n in (1, 30):
            x = model.sample(n, c, generator=stream(0, "canonical"))
            _ensure_canonical(domain, x, n, f"sample({n}{given})")
        if c is not None:
            rows = c.expand(30, *c.shape[1:])
            again = model.sample(30, rows, generator=stream(0, "canonical"))
            ensure_same_bits(x, again, "one row of a condition does not serve all samples")


def _ensure_canonical(domain: Domain, x: Tensor, n: int, what: str) -> None:
    try:
        domain.check(x)
    except Unusable as wrong:
        raise AssertionError(f"{what} is not canonical: {wrong}") from None
    ensure(len(x) == n, f"{what} has {len(x)} observations, not {n}")
    ensure(not x.requires_grad, f"{what} carries a graph; sample under torch.no_grad")
    if isinstance(domain, Tokens) and domain.end is not None:
        ensure(torch.equal(padded(x, domain.end), x), f"{what} goes on after the end symbol")


@promise(Completes)
def check_completion_keeps_what_is_known(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """The known values come back as they were, canonical; a mask of one observation serves all; some mask is taken."""
    model = specimen(build, domain, condition, steps)
    x, c = tiny_data(domain, condition, 30)
    taken = [(what, known) for what, known in masks(domain) if model.completes(known)]
    ensure(bool(taken), "completes() refuses every mask, even that of nothing known")
    for what, known in taken:
        filled = model.complete(x, known, c, generator=stream(0, "complete"))
        _ensure_canonical(domain, filled, len(x), f"complete with {what} known")
        whole = known.expand(x.shape)
        ensure_same_bits(filled[whole], x[whole], f"complete with {what} known changes a known value")
        again = model.complete(x, whole, c, generator=stream(0, "complete"))
        ensure_same_bits(filled, again, "a mask of one observation and the same mask for each differ")


# ---- conditions


@promise(Samples, given="classes")
def check_condition_changes_the_samples(build: Build, domain: Domain, condition: Classes, *, steps: int) -> None:
    """Samples of two classes have different laws, with random weights at the latest."""
    model = shaken(specimen(build, domain, condition, steps))
    a, b = (_counts(model, domain, c) for _, c in given_rows(condition)[1:3])
    statistic, limit = same_law(a, b)
    ensure(
        statistic > limit, f"two classes give the same samples: chi-square {statistic:.1f}, {limit:.1f} would differ"
    )


@promise(Samples, given="classes")
def check_unconditional_samples_are_the_mixture(
    build: Build, domain: Domain, condition: Classes, *, steps: int
) -> None:
    """Without a condition, classes are drawn by their training frequencies."""
    model = shaken(specimen(build, domain, condition, steps))
    rows = condition.sample(4000, generator=stream(0, "classes"))
    a, b = (_counts(model, domain, c) for c in (None, rows))
    statistic, limit = same_law(a, b)
    ensure(
        statistic < limit, f"sample(n) is not the mixture over classes: chi-square {statistic:.1f}, limit {limit:.1f}"
    )


@promise(Scores, given="classes")
def check_condition_informs_the_density(build: Build, domain: Domain, condition: Classes, *, steps: int) -> None:
    """The training data are likelier given their own class than given another's."""
    model = specimen(build, domain, condition, steps, double=True)
    x, own_class = tiny_data(domain, condition)
    assert own_class is not None
    with torch.no_grad():
        own, other = (float(model.log_prob(x, c).mean()) for c in (own_class, (own_class + 1) % condition.count))
    ensure(own > other + 0.01, f"mean log_prob given the own class is {own:.4f}, given another's {other:.4f}")


@promise(Bounds, given="classes")
def check_condition_informs_the_bound(build: Build, domain: Domain, condition: Classes, *, steps: int) -> None:
    """The training data have a higher bound given their own class than given another's."""
    model = specimen(build, domain, condition, steps, double=True)
    x, own_class = tiny_data(domain, condition)
    assert own_class is not None
    with torch.no_grad():
        own, other = (
            float(model.elbo(x, c, samples=20, generator=stream(0, "elbo")).mean())
            for c in (own_class, (own_class + 1) % condition.count)
        )
    ensure(own > other, f"mean elbo given the own class is {own:.4f}, given another's {other:.4f}")


@promise()
def check_condition_not_trained_with_is_refused(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """A model without a condition does not silently ignore one; a class that there is not is refused."""
    model = specimen(build, domain, condition, steps)
    c = TWO_CLASSES.sample(4, generator=stream(0, "refused")) + (0 if condition is None else 90)
    x = tiny_data(domain, condition, 4)[0]
    able = capabilities(model)
    asked: dict[type, Callable[[], Any]] = {
        Samples: lambda: model.sample(4, c, generator=stream(0, "refused")),
        Scores: lambda: model.log_prob(x, c),
        PseudoScores: lambda: model.pseudo_log_prob(x, c),
        Bounds: lambda: model.elbo(x, c, generator=stream(0, "refused")),
        Estimates: lambda: model.estimate_log_prob(x, c, generator=stream(0, "refused"), steps=4),
    }
    for protocol in able & asked.keys():
        try:
            asked[protocol]()
        except Unusable:
            continue
        raise AssertionError(f"{protocol.__name__}: a condition that the model was not trained with is not refused")


def _counts(model: Any, domain: Domain, c: Tensor | None) -> Tensor:
    x = model.sample(4000, c, generator=stream(0, "counts of all" if c is None else "counts"))
    if not isinstance(domain, Vectors):
        return lattice(domain).counts(x)
    cuts = torch.quantile(tiny_data(domain, None)[0], torch.linspace(0.1, 0.9, 7), dim=0)
    cells = torch.stack([torch.bucketize(x[:, d].contiguous(), cuts[:, d].contiguous()) for d in range(2)], dim=1)
    return torch.bincount(cells[:, 0] * 8 + cells[:, 1], minlength=64)


# ---- representations


@promise(Encodes)
def check_encoding_without_a_generator_is_one_value(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """``encode`` without a generator is the mode: the same bits each time, each row alone as in the batch, finite."""
    model = specimen(build, domain, condition, steps, double=True)
    x, c = tiny_data(domain, condition, 10)
    with torch.no_grad():
        z = model.encode(x, c)
        ensure_same_bits(z, model.encode(x, c), "encode without a generator gives two values")
        first = model.encode(x[:1], None if c is None else c[:1])
    ensure(len(z) == 10 and bool(z.isfinite().all()), f"encode gives shape {tuple(z.shape)} for 10 observations")
    ensure_close(z[:1], first, "encode of a row depends on the rest of the batch")


@promise(Encodes, Decodes)
def check_decoding_is_a_distribution_over_observations(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """``decode(z)`` has ``log_prob`` (B,), and ``sample`` and ``mode`` that are canonical."""
    model = specimen(build, domain, condition, steps)
    x, c = tiny_data(domain, condition, 10)
    with torch.no_grad():
        p = model.decode(model.encode(x, c), c)
        log_p = p.log_prob(x)
        drawn, mode = p.sample(generator=stream(0, "decode")), p.mode
    ensure(tuple(log_p.shape) == (10,), f"decode(z).log_prob has shape {tuple(log_p.shape)} for 10 observations")
    _ensure_canonical(domain, drawn, 10, "decode(z).sample")
    _ensure_canonical(domain, mode() if callable(mode) else mode, 10, "decode(z).mode")


@promise(Judges)
def check_judging_scores_each_lot_by_itself(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """(L,), finite, without a graph, the same bits each time; a lot alone as among others."""
    model = specimen(build, domain, condition, steps, double=True)
    x, c = tiny_data(domain, condition, 60)
    f = model.judge(x, c)
    ensure(f.ndim == 1 and 0 < len(f) <= 60, f"judge gives shape {tuple(f.shape)} for 60 observations")
    ensure(bool(f.isfinite().all()) and not f.requires_grad, "judge's scores are not finite, or carry a graph")
    ensure_same_bits(f, model.judge(x, c), "scores of the same observations differ")
    lot = 60 // len(f)
    first = model.judge(x[:lot], None if c is None else c[:lot])
    ensure_close(f[:1], first, "the score of a lot depends on the rest of the batch")


@promise(Represents)
def check_features_are_finite_rows(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """(B, F), finite, the same bits each time, each row alone as in the batch."""
    model = specimen(build, domain, condition, steps, double=True)
    x = tiny_data(domain, condition, 10)[0]
    with torch.no_grad():
        f = model.features(x)
        ensure(f.ndim == 2 and len(f) == 10, f"features have shape {tuple(f.shape)} for 10 observations, not (10, F)")
        ensure(f.is_floating_point() and bool(f.isfinite().all()), "features are not finite real numbers")
        ensure_same_bits(f, model.features(x), "features of the same observations differ")
        ensure_close(f[:1], model.features(x[:1]), "features of a row depend on the rest of the batch")


# ---- state


@promise()
def check_saved_and_loaded_gives_the_same_bits(
    build: Build, domain: Domain, condition: Condition | None, *, steps: int
) -> None:
    """Tensors alone, through safetensors, into a model that was built anew and never adapted."""
    model = specimen(build, domain, condition, steps)
    saved = save({name: t.clone().contiguous() for name, t in model.state_dict().items()})
    with seeded_init(1):
        loaded = build()
    loaded.load_state_dict(load(saved))
    loaded.eval()
    x, c = tiny_data(domain, condition, 20)
    again = _outputs(loaded, domain, x, c)
    for what, value in _outputs(model, domain, x, c).items():
        ensure_same_bits(value, again[what], f"{what} differs after saving and loading")


@promise()
def check_what_is_given_is_left_alone(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """No method writes into its arguments, moves a parameter or leaves a gradient; equal seeds build equal models."""
    model = specimen(build, domain, condition, steps)
    x, c = tiny_data(domain, condition, 20)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    _outputs(model, domain, x, c)
    for given, again in zip((x, c), tiny_data(domain, condition, 20)):
        if given is not None and again is not None:
            ensure_same_bits(given, again, "a method has written into what it was given")
    for name, t in model.state_dict().items():
        ensure_same_bits(t, before[name], f"asking the model has changed its {name}")
    with seeded_init(3):
        one = build().state_dict()
    with seeded_init(3):
        two = build().state_dict()
    for name, t in one.items():
        ensure_same_bits(t, two[name], f"{name} differs between two models built from one seed")


@promise(Adapts)
def check_adapting_repeats(build: Build, domain: Domain, condition: Condition | None, *, steps: int) -> None:
    """Equal data and generators adapt to equal bits, without the global random state."""
    states = []
    for seed in (1, 2):
        with seeded_init(0):
            model = build()
        with seeded_init(seed):
            state = torch.get_rng_state()
            model.adapt(*tiny_data(domain, condition), generator=stream(0, "adapt"))
            ensure(torch.equal(state, torch.get_rng_state()), "adapt moves torch's global random state")
        states.append(model.state_dict())
    for name, t in states[0].items():
        ensure_same_bits(t, states[1][name], f"adapting twice with equal generators gives two values of {name}")


@torch.no_grad()
def _outputs(model: Any, domain: Domain, x: Tensor, c: Tensor | None) -> dict[str, Tensor]:
    """What the model says about some observations, its draws included."""
    able = capabilities(model)
    outputs = {}
    if Scores in able:
        outputs["log_prob"] = model.log_prob(x, c)
    if PseudoScores in able:
        outputs["pseudo_log_prob"] = model.pseudo_log_prob(x, c)
    if Represents in able:
        outputs["features"] = model.features(x)
    if Judges in able:
        outputs["judge"] = model.judge(x, c)
    if Encodes in able:
        outputs["the mode of encode"] = model.encode(x, c)
    with torch.enable_grad():
        draws = {what: draw(stream(0, "outputs")).detach() for what, draw in _draws(model, domain, x, c).items()}
    return outputs | draws
