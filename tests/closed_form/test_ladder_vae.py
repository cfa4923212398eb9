"""The ladder VAE against integrals over its latents, and against a linear model whose likelihood is a normal's."""

import math

import pytest
import torch
from torch.autograd.functional import hessian, jacobian
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pofx.conditions import Classes, VectorCondition
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoencoders.bounds import mean_weight
from pofx.models.autoencoders.ladder_vae import LadderVAE
from pofx.models.autoencoders.top_down import Posterior
from pofx.protocols import Plays, Progress, capabilities
from pofx.randomness import seeded_init, stream
from pofx.samplers.latents import interpolate, reconstruct
from pofx.testing.specimens import tiny_data

CLASSES = Classes(("a", "b", "c"), (0.5, 0.3, 0.2))
SMALL = Images(1, 2, 2, levels=3)


def build(domain, **arguments):
    with seeded_init(0):
        return LadderVAE(domain, **arguments).double()


def normals(*shape, role="x"):
    return torch.randn(*shape, generator=stream(0, role), dtype=torch.float64)


@torch.no_grad()
def moved(model, by=0.25):
    """The model itself with noise on every weight, so that each level and its law have a part."""
    for p in model.parameters():
        p.add_(by * torch.randn(p.shape, generator=stream(0, "moved"), dtype=p.dtype))
    return model


@pytest.fixture
def two():
    """Two levels of one number each, with weights far from where they begin."""
    return moved(build(SMALL, levels=2, sizes=(1, 1), hidden=(8,)))


@pytest.fixture
def grid():
    """Points of the plane of both levels, and the logarithm of the area of each."""
    steps = torch.linspace(-7, 7, 141, dtype=torch.float64)
    return torch.cartesian_prod(steps, steps), 2 * math.log(0.1)


def pictures(n):
    return torch.randint(0, 3, (n, 1, 2, 2), generator=stream(0, "x")).to(torch.uint8)


def test_both_laws_of_z_have_mass_one(two, grid):
    z, area = grid
    prior = two.log_prior(z).detach()
    posterior = two.posterior(pictures(3)).log_prob(z[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(prior.logsumexp(0) + area, torch.zeros_like(prior[0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(posterior.logsumexp(0) + area, torch.zeros(3).double(), atol=1e-3, rtol=0)


def test_the_bound_of_many_samples_is_the_integral_over_both_levels(two, grid):
    z, area = grid
    x, prior = pictures(4), two.log_prior(z)
    exact = [(two.decode(z).log_prob(row.expand(len(z), -1, -1, -1)) + prior).logsumexp(0) + area for row in x]
    bound = two.elbo(x, samples=20_000, generator=stream(0, "z"))
    torch.testing.assert_close(bound, torch.stack(exact), atol=0.02, rtol=0)


def test_the_kl_of_each_level_is_that_of_two_normals_on_the_way_down(two):
    x = pictures(5)
    path = two.posterior(x).path(3, generator=stream(0, "z"))
    for kl, q, p in zip(path.kls, path.q, path.p):
        a, b = (Normal(law.mu, (law.log_var / 2).exp()) for law in (q, p))
        torch.testing.assert_close(kl, kl_divergence(a, b))
    assert bool((path.kls[1] > 0).all())
    once = two.posterior(x).path(1, generator=stream(0, "z"))
    rate = two.loss(x, generator=stream(0, "z")).parts["rate"]
    torch.testing.assert_close(rate, sum(kl.sum(1).mean() for kl in once.kls))


def test_a_posterior_knows_the_density_of_what_it_drew(two):
    """Drawn on one way down, asked on another; leading axes are of z alone."""
    x = pictures(5)
    q = two.posterior(x)
    path, z = q.path(4, generator=stream(0, "z")), q.rsample(4, generator=stream(0, "z"))
    assert z.shape == (4, 5, 2)
    drawn = torch.stack([law.log_prob(part) for law, part in zip(path.q, path.z)]).sum(0).view(4, 5)
    torch.testing.assert_close(q.log_prob(z), drawn)
    torch.testing.assert_close(two.log_prior(z) - drawn, path.log_ratio.view(4, 5))
    torch.testing.assert_close(q.log_prob(z[2]), drawn[2])
    torch.testing.assert_close(two.posterior(x[3:4]).log_prob(z[:, 3:4]), drawn[:, 3:4])


@pytest.fixture
def linear():
    """Linear maps and variances that depend on nothing: z is a normal, and so is x; and that normal of x.

    The law of z is read off the curvature of ``log_prior``, that of x given z off ``decode``.
    """
    model = build(Vectors(2), levels=2, sizes=(1, 1), hidden=(), spread="shared")
    model.adapt(normals(500, 2).float() * torch.tensor([2.0, 0.5]) + 3, generator=stream(0, "adapt"))
    with torch.no_grad():
        moved(model.decoder)
        for head in (model.decoder.laws[0].head, *(head.head for head in model.encoder.heads)):
            head.weight[1] = 0
    zero = torch.zeros(1, 2, dtype=torch.float64)
    precision = -hessian(lambda z: model.log_prior(z)[0], zero)[0, :, 0]
    slope = jacobian(lambda z: model.log_prior(z)[0], zero)[0]
    a = jacobian(lambda z: model.decode(z).mean[0], zero)[:, 0].double()
    z_covariance = precision.inverse()
    mean = model.decode((z_covariance @ slope)[None]).mean[0].double()
    noise = model.decode(zero).base.log_var[0].exp().diag()
    return model, MultivariateNormal(mean.detach(), (a @ z_covariance @ a.T + noise).detach())


def test_with_the_posterior_learnt_the_bound_is_the_likelihood(linear):
    """The exact q(z_2|x) q(z_1|z_2, x) is of the form that the model has; before it is found, the bound is lower."""
    model, truth = linear
    x = truth.mean + normals(500, 2) @ torch.linalg.cholesky(truth.covariance_matrix).T
    exact = truth.log_prob(x)
    before = model.elbo(x, generator=stream(0, "before")).mean().detach()
    optimiser = torch.optim.LBFGS(model.encoder.parameters(), max_iter=80, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = model.loss(x, generator=stream(0, "z")).total
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        one = torch.stack([model.elbo(x, generator=stream(i, "one")) for i in range(20)]).mean(0)
        many = model.elbo(x, samples=200, generator=stream(0, "many"))
    assert float(before) < float(exact.mean()) - 0.1
    assert float(one.mean()) < float(exact.mean()) + 1e-3
    torch.testing.assert_close(one.mean(), exact.mean(), atol=0.01, rtol=0)
    torch.testing.assert_close(many.mean(), exact.mean(), atol=2e-3, rtol=0)
    torch.testing.assert_close(many, exact, atol=0.06, rtol=0)


def test_samples_have_the_moments_of_the_closed_form(linear):
    model, truth = linear
    x = model.sample(20_000, generator=stream(0, "sample")).double()
    spread = truth.covariance_matrix.diagonal().sqrt()
    torch.testing.assert_close((x.mean(0) - truth.mean) / spread, torch.zeros(2).double(), atol=0.04, rtol=0)
    scaled = x.T.cov() / spread / spread[:, None]
    torch.testing.assert_close(scaled, truth.covariance_matrix / spread / spread[:, None], atol=0.04, rtol=0)


def test_weights_drawn_some_at_a_time_have_the_mean_of_all():
    log_w, at = normals(20, 3), iter(range(0, 20, 8))

    def some(n):
        start = next(at)
        return log_w[start : start + n]

    expected = log_w.exp().mean(0).log()
    torch.testing.assert_close(mean_weight(some, 20, at_once=8), expected)


def test_memory_decides_how_many_are_drawn_at_a_time(two, monkeypatch):
    monkeypatch.setattr("pofx.models.autoencoders.ladder_vae._CHUNK", 7 * 3 * 256)
    drawn, path = [], Posterior.path
    monkeypatch.setattr(Posterior, "path", lambda q, n, **given: drawn.append(n) or path(q, n, **given))
    two.elbo(pictures(3), samples=16, generator=stream(0, "z"))
    assert drawn == [7, 7, 2]


def test_free_bits_do_not_count_what_a_level_tells_below_them():
    x = pictures(20)
    plain = moved(build(SMALL, levels=2, sizes=(2, 1), hidden=(8,)))
    rates = torch.stack([kl.sum(1) for kl in plain.posterior(x).path(1, generator=stream(0, "z")).kls]).detach()
    half = float(rates.mean(1).mean())  # above the mean of one level, below that of the other
    free = moved(build(SMALL, levels=2, sizes=(2, 1), hidden=(8,), free_bits=half))
    loss = free.loss(x, generator=stream(0, "z"))
    assert loss.parts == plain.loss(x, generator=stream(0, "z")).parts
    counted = rates.mean(1).clamp(min=half).sum()
    assert float(rates.mean(1).sum()) < float(counted) < float(rates.clamp(min=half).sum(0).mean())
    torch.testing.assert_close(loss.total, loss.parts["reconstruction"] + counted)
    assert free.surrogate


def test_the_kl_terms_warm_up_only_where_that_is_asked():
    x = pictures(20)
    assert Plays not in capabilities(build(SMALL, hidden=(8,)))
    model = build(SMALL, hidden=(8,), warm_up=0.5, beta=3.0)
    (turn,) = model.turns()
    assert {id(p) for p in turn.parameters} == {id(p) for p in model.parameters() if p.requires_grad}
    for step, share in ((0, 0.0), (25, 0.5), (50, 1.0), (90, 1.0)):
        turn.after({}, Progress(step, 100))
        loss = turn.loss(x, generator=stream(0, "z"))
        torch.testing.assert_close(loss.total, loss.parts["reconstruction"] + 3 * share * loss.parts["rate"])
    assert "weigh.progress" in model.state_dict()


def test_temperature_of_each_level():
    """At 0 nothing is drawn; a level's own temperature touches that level and those below it."""
    model = moved(build(SMALL, levels=2, sizes=(1, 1), hidden=(8,), likelihood="normal"))
    cold = model.sample(50, generator=stream(0, "a"), temperature=0, mean=True)
    assert bool((cold == cold[:1]).all())
    warm = {
        heat: model.sample(50, generator=stream(0, "a"), temperature=heat) for heat in (1.0, (1.0, 1.0), (0.0, 1.0))
    }
    assert torch.equal(warm[1.0], warm[1.0, 1.0])
    assert not torch.equal(warm[1.0], warm[0.0, 1.0])
    with pytest.raises(Unusable, match="one for each of 2 levels"):
        model.sample(2, generator=stream(0, "a"), temperature=(1.0, 1.0, 1.0))
    with pytest.raises(Unusable, match="from 0 up"):
        model.sample(2, generator=stream(0, "a"), temperature=-1.0)


def test_meters_tell_each_level_and_its_idle_units():
    """The encoder speaks to the first of two numbers of the lower level alone."""
    model = build(Vectors(3), levels=2, sizes=(3, 2), hidden=())
    with torch.no_grad():
        for head in model.encoder.heads:
            head.head.weight.zero_()
        model.encoder.heads[1].head.weight[0, :3] = 1.0
    meters = {name: float(value) for name, value in model.meters(normals(100, 3)).items()}
    assert (meters["active_units_2"], meters["active_units_1"], meters["active_units"]) == (0, 1, 1)
    assert meters["active_share"] == pytest.approx(1 / 5)
    assert meters["rate_2"] == pytest.approx(0, abs=1e-9)
    assert meters["rate"] == pytest.approx(meters["rate_1"])
    assert meters["rate_max"] == pytest.approx(meters["rate_1"])


@pytest.mark.parametrize(
    ("levels", "places"),
    [(2, [4, 7]), (3, [4, 7, 14]), (4, [4, 4, 7, 14]), (6, [4, 4, 7, 7, 14, 14])],
)
def test_levels_of_a_picture_have_maps_that_halve_upwards(levels, places):
    with torch.device("meta"):
        model = LadderVAE(Images(1, 28, 28, levels=2), levels=levels, width=4)
    assert [rung.place for rung in model.rungs] == [(side, side) for side in places]
    assert model.latent_domain.dim == sum(rung.size * rung.place[0] ** 2 for rung in model.rungs)


@pytest.mark.parametrize(
    ("domain", "arguments"),
    [
        (Images(1, 8, 8, levels=17), {"levels": 4}),
        (Images(3, 20, 17, levels=256), {"width": 4, "levels": 2}),
        (Images(1, 40, 20, levels=2), {"width": 4, "levels": 5, "blocks": 2}),
        (Images(1, 4, 3, levels=2), {"network": "conv", "width": 4, "levels": 6}),
        (Images(2, 4, 4, levels=None), {"likelihood": "normal"}),
        (Vectors(1), {"sizes": (1, 2, 3)}),
        (Vectors(30), {"hidden": (), "spread": "shared"}),
        (Tokens(5, 6), {"activation": "tanh"}),
        (Tokens(5, 6, end=4), {"levels": 2, "beta": 0.5}),
    ],
)
@pytest.mark.parametrize("condition", [None, CLASSES, VectorCondition((2,), ((0.0, 1.0), (2.0, 3.0)))])
def test_every_domain_and_condition(domain, arguments, condition):
    """Learns, draws canonical observations, and each parameter has a part in the loss."""
    with seeded_init(0):
        model = LadderVAE(domain, condition=condition, **{"hidden": (16, 8)} | arguments)
    y = normals(32, *domain.shape).float()
    x = domain.quantise(y.tanh()) if isinstance(domain, Images) else y
    x = tiny_data(domain, None, 32)[0] if isinstance(domain, Tokens) else x
    c = None if condition is None else condition.sample(32, generator=stream(0, "c"))
    model.adapt(x, c, generator=stream(0, "adapt"))
    model.loss(x, c, generator=stream(3, "loss")).total.backward()
    learnt = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    idle = [name for name, grad in learnt if grad is None or not grad.abs().sum() > 0]
    assert idle == []
    given = None if c is None else c[:4]
    domain.check(model.sample(4, given, generator=stream(0, "sample")))
    domain.check(model.sample(4, given, generator=stream(0, "sample"), mean=True))
    domain.check(reconstruct(model, x[:4], given, generator=stream(0, "z")))
    assert interpolate(model, x[:2], x[2:4], 5).shape == (5, 2, *domain.shape)
    assert model.features(x).shape == (32, model.latent_domain.dim)
    assert torch.isfinite(model.elbo(x[:4], given, samples=3, generator=stream(0, "z"))).all()


@pytest.mark.parametrize(
    ("domain", "arguments", "message"),
    [
        (Vectors(2), {"levels": 1}, "levels must be 2 to 6, got 1; for a latent of one level take vae"),
        (Vectors(2), {"levels": 7}, "levels must be 2 to 6, got 7"),
        (Vectors(2), {"sizes": (1, 1)}, "sizes must be 3 numbers of at least 1"),
        (Vectors(2), {"sizes": (1, 0, 1)}, "sizes must be 3 numbers of at least 1"),
        (Vectors(2), {"hidden": (0,)}, "hidden must be positive sizes"),
        (Vectors(2), {"blocks": 0}, "blocks must be at least 1, got 0"),
        (Vectors(2), {"width": 0}, "width must be at least 1, got 0"),
        (Vectors(2), {"network": "conv"}, "reads pictures"),
        (Vectors(2), {"beta": -1.0}, "beta must be at least 0"),
        (Vectors(2), {"free_bits": -1.0}, "free_bits must be at least 0"),
        (Vectors(2), {"warm_up": 1.5}, "warm_up is a share of the steps"),
        (Tokens(3, 4), {"spread": "shared"}, "a categorical likelihood has no spread"),
    ],
)
def test_what_cannot_be_built_is_refused(domain, arguments, message):
    with pytest.raises(Unusable, match=message):
        LadderVAE(domain, **arguments)


def test_what_cannot_be_asked_is_refused(two):
    with pytest.raises(Unusable, match="at least 1 sample, got 0"):
        two.elbo(pictures(2), samples=0, generator=stream(0, "z"))
    with pytest.raises(Unusable, match="without a condition"):
        two.elbo(pictures(2), torch.tensor([1]), generator=stream(0, "z"))
