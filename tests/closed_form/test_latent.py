"""A prior of codes as a model of the data: its bound against sums and integrals over codes, its parts as they are."""

import copy
import inspect
import math
from functools import partial

import pytest
import torch
from codes import TinyCodes

from pofx.catalogue import find
from pofx.conditions import Classes
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.composed import latent
from pofx.models.composed.latent import Latent
from pofx.protocols import (
    Adapts,
    Bounds,
    Infers,
    Learns,
    Plays,
    Represents,
    Samples,
    Scores,
    Watched,
    capabilities,
)
from pofx.randomness import seeded_init, stream
from pofx.testing import TWO_CLASSES
from pofx.testing.specimens import every_observation, shaken, specimen
from pofx.testing.verdicts import ensure_counts_fit
from pofx.train.ema import EMA

DOMAIN = Images(1, 2, 2, levels=2)
CODES = torch.cartesian_prod(torch.arange(3), torch.arange(3))
TINY = {
    "gpt": {"width": 8, "layers": 1, "heads": 2},
    "made": {"hidden": (8,)},
    "gaussian-mixture": {"components": 2},
    "flow-matching": {"hidden": (8,)},
    "vae": {"latent_dim": 2, "hidden": (8,)},
    "wgan-gp": {"latent_dim": 2, "hidden": (8,)},
    "copy": {},
}


def of_symbols(*, certain=False, condition=None):
    """TinyCodes under a gpt with random weights."""
    with seeded_init(0):
        autoencoder = TinyCodes(DOMAIN, certain=certain)
        prior = shaken(find("gpt").build(autoencoder.latent_domain, condition=condition, **TINY["gpt"]))
        return Latent(autoencoder, prior).double().eval()


@torch.no_grad()
def joint(model, x, c=None):
    """log p(x, z|c) (B, codes)."""
    rows, many = CODES.repeat(len(x), 1), x.repeat_interleave(len(CODES), 0)
    log_p = model.autoencoder.decode(rows).log_prob(many) + model.prior.log_prob(rows, c)
    return log_p.view(len(x), -1)


def trained_vae(domain=DOMAIN, latent_dim=1, condition=None):
    build = partial(find("vae").build, domain, condition=condition, latent_dim=latent_dim, hidden=(8,))
    return specimen(build, domain, condition, 100, double=True)


def over(autoencoder, name, condition=None):
    with seeded_init(0):
        prior = find(name).build(autoencoder.latent_domain, condition=condition, **TINY[name])
        return Latent(copy.deepcopy(autoencoder), prior)


# ---- the bound


@pytest.mark.parametrize(("given", "chunk"), [(None, 2**19), (None, 2**24), (0, 2**24), (1, 2**24)])
def test_the_bound_of_many_draws_is_the_sum_over_all_codes(monkeypatch, chunk, given):
    monkeypatch.setattr(latent, "_CHUNK", chunk)
    condition = None if given is None else TWO_CLASSES
    model, x, c = of_symbols(condition=condition), every_observation(DOMAIN), None
    c = None if given is None else torch.tensor([given])
    with torch.no_grad():
        bound = torch.stack([model.elbo(x, c, samples=300, generator=stream(s, "many")) for s in range(8)])
    error = bound.std(0) / 8**0.5
    assert ((bound.mean(0) - joint(model, x, c).logsumexp(1)).abs() < 5 * error + 0.02).all()


def test_the_bound_of_one_draw_is_the_expectation_over_the_posterior():
    model, x = of_symbols(), every_observation(DOMAIN)
    with torch.no_grad():
        log_q = model.posterior(x).logits.log_softmax(-1)
        log_q = (log_q[:, 0, :, None] + log_q[:, 1, None, :]).flatten(1)
        expected = (log_q.exp() * (joint(model, x) - log_q)).sum(1)
        draws = model.elbo(x.repeat(400, 1, 1, 1), generator=stream(0, "one")).view(400, -1)
    assert ((draws.mean(0) - expected).abs() < 5 * draws.std(0) / 400**0.5).all()


def test_without_its_class_the_bound_is_of_the_mixture():
    model, x = of_symbols(condition=TWO_CLASSES), every_observation(DOMAIN)
    each = torch.stack([joint(model, x, torch.tensor([k])).logsumexp(1) + math.log(f) for k, f in ((0, 0.3), (1, 0.7))])
    with torch.no_grad():
        bound = torch.stack([model.elbo(x, samples=300, generator=stream(s, "both")) for s in range(8)])
    assert ((bound.mean(0) - each.logsumexp(0)).abs() < 5 * bound.std(0) / 8**0.5 + 0.02).all()


def test_a_certain_code_is_scored_once():
    model, x = of_symbols(certain=True), every_observation(DOMAIN)
    z = model.encode(x)
    with torch.no_grad():
        expected = model.decode(z).log_prob(x) + model.prior.log_prob(z)
        bound = model.elbo(x, samples=500, generator=stream(0, "certain"))
    assert model.autoencoder.decoded == len(x)
    assert torch.allclose(bound, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "chunk"), [("gaussian-mixture", 2**24), ("made", 2**20)])
def test_the_bound_of_many_draws_is_the_integral_over_numbers(monkeypatch, name, chunk):
    monkeypatch.setattr(latent, "_CHUNK", chunk)
    model, x = over(trained_vae(), name).double(), every_observation(DOMAIN)
    model.adapt(x.repeat(20, 1, 1, 1), generator=stream(0, "adapt"))
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        log_p = model.decode(z.repeat(len(x), 1)).log_prob(x.repeat_interleave(len(z), 0)).view(len(x), -1)
        truth = (log_p + model.log_prior(z)).logsumexp(1) + math.log(16 / 2000)
        bound = torch.stack([model.elbo(x, samples=300, generator=stream(s, "many")) for s in range(8)])
    assert ((bound.mean(0) - truth).abs() < 5 * bound.std(0) / 8**0.5 + 0.02).all()


def test_under_a_prior_that_has_a_bound_alone_more_draws_are_a_mean():
    model, x = over(trained_vae(latent_dim=2), "vae").double(), every_observation(DOMAIN)[:4]
    draws = 800
    many = x.repeat(draws, 1, 1, 1)
    with torch.no_grad():
        z = model.encode(many, generator=stream(0, "plain"))
        plain = model.decode(z).log_prob(many) + model.prior.elbo(z, generator=stream(1, "plain"))
        plain = (plain - model.posterior(many).log_prob(z)).view(draws, -1)
        for samples in (1, 10):
            bound = model.elbo(many, samples=samples, generator=stream(2, "bound")).view(draws, -1)
            error = ((bound.var(0) + plain.var(0)) / draws).sqrt()
            assert ((bound.mean(0) - plain.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize("samples", [0, -3])
def test_a_bound_needs_a_sample(samples):
    with pytest.raises(Unusable, match=r"at least 1 sample, got .*; leave it out"):
        of_symbols().elbo(every_observation(DOMAIN), samples=samples, generator=stream(0, "none"))


# ---- what it can do


@pytest.mark.parametrize(
    ("prior", "has", "lacks"),
    [
        ("gaussian-mixture", {Adapts, Bounds, Infers, Samples, Represents}, {Learns, Plays, Watched}),
        ("made", {Adapts, Learns, Bounds, Infers, Samples}, {Plays, Watched}),
        ("vae", {Learns, Bounds, Samples, Watched}, {Plays, Infers}),
        ("flow-matching", {Learns, Samples}, {Bounds, Infers, Plays}),
        ("wgan-gp", {Plays, Samples, Watched}, {Bounds, Learns}),
        ("copy", {Samples}, {Bounds, Learns, Plays}),
    ],
)
def test_a_method_is_there_only_where_it_is_true(prior, has, lacks):
    able = capabilities(over(trained_vae(latent_dim=2), prior))
    assert has <= able
    assert not lacks & able
    assert Scores not in able


def test_an_autoencoder_without_a_posterior_gives_no_bound():
    class Plain(TinyCodes):
        posterior = None

    model = Latent(Plain(DOMAIN), find("gpt").build(Tokens(3, 2), **TINY["gpt"]))
    assert not {Bounds, Infers} & capabilities(model)
    assert {Learns, Samples} <= capabilities(model)
    x = every_observation(DOMAIN)
    first, second = (model.loss(x, generator=stream(s, "loss")).total for s in (0, 1))
    assert first.equal(second), "its codes are not drawn"


def test_the_settings_of_the_sampler_are_the_priors_but_those_about_its_observations():
    known = inspect.signature(of_symbols().sample).parameters
    assert {"temperature", "top_k", "top_p", "cached", "generator"} <= known.keys()
    assert not {"length", "watch"} & known.keys()
    likeliest = of_symbols(certain=True).sample(200, generator=stream(0, "cold"), temperature=0.0)
    model = of_symbols(certain=True)
    z = CODES[model.prior.log_prob(CODES).argmax()]
    p = model.decode(z[None]).log_prob(every_observation(DOMAIN))
    ensure_counts_fit(_counts(likeliest), p.detach().exp(), "samples at temperature 0 are not of the likeliest code")


def test_samples_follow_the_sum_over_all_codes():
    model, x = of_symbols(condition=TWO_CLASSES), every_observation(DOMAIN)
    for k in (0, 1):
        c = torch.tensor([k])
        drawn = model.sample(4000, c, generator=stream(0, "draw"))
        ensure_counts_fit(_counts(drawn), joint(model, x, c).logsumexp(1).exp(), "samples are off p(x|c)")


def _counts(x):
    return (x.flatten(1)[:, None] == every_observation(DOMAIN).flatten(1)).all(2).sum(0)


# ---- learning


@pytest.mark.parametrize("name", ["wgan-gp", "made"])
def test_learning_is_the_priors_on_codes(name):
    model, x = over(trained_vae(latent_dim=2).float(), name), every_observation(DOMAIN)
    if name == "made":
        pairs = [(model.loss, model.prior.loss)]
    else:
        pairs = [(ours.loss, theirs.loss) for ours, theirs in zip(model.turns(), model.prior.turns())]
        for ours, theirs in zip(model.turns(), model.prior.turns()):
            for kept in ("player", "repeats", "fresh", "after", "optimiser"):
                assert getattr(ours, kept) == getattr(theirs, kept)
            assert list(map(id, ours.parameters)) == list(map(id, theirs.parameters))
    for ours, theirs in pairs:
        g = stream(0, "loss")
        z = model.encode(x, generator=g)
        assert ours(x, generator=stream(0, "loss")).total.equal(theirs(z, generator=g).total)


def test_the_autoencoder_neither_trains_nor_changes_its_mode():
    model = over(trained_vae(latent_dim=2), "made").train()
    assert model.training
    assert model.prior.training
    assert not any(module.training for module in model.autoencoder.modules())
    assert not any(p.requires_grad for p in model.autoencoder.parameters())


def test_an_average_of_what_does_not_move_is_itself():
    torch.manual_seed(0)
    model = torch.nn.Linear(50, 50)
    before = model.weight.detach().clone()
    ema = EMA(model, 0.3)
    for step in range(1, 200):
        ema.update(step, 200)
    with ema.weights():
        assert model.weight.equal(before)


# ---- what does not fit


def test_a_prior_of_another_domain_is_refused():
    with pytest.raises(Unusable, match=r"codes .* are Vectors\(dim=2.*models Vectors\(dim=3.*latent_domain"):
        Latent(trained_vae(latent_dim=2), find("made").build(Vectors(3)))


def test_what_has_no_codes_is_refused():
    prior = find("made").build(Vectors(3))
    with pytest.raises(Unusable, match="encodes and decodes, and Gaussian does not; use one"):
        Latent(find("gaussian").build(DOMAIN), prior)


@pytest.mark.parametrize("given", [None, Classes(("a", "b"), (0.5, 0.5))])
def test_a_conditional_autoencoder_needs_the_same_condition(given):
    autoencoder = trained_vae(latent_dim=2, condition=TWO_CLASSES)
    with pytest.raises(Unusable, match=r"\(classes\) needs a prior given the same one, got .*; fit both"):
        over(autoencoder, "made", given)
    assert over(autoencoder, "made", TWO_CLASSES).condition == TWO_CLASSES
