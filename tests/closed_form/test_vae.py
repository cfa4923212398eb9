"""The VAE against a model whose likelihood is known: linear maps and normals, where p(x) is a normal in closed form."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from pofx.conditions import Classes, VectorCondition
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoencoders.couplings import Couplings
from pofx.models.autoencoders.vae import VAE
from pofx.randomness import seeded_init, stream
from pofx.samplers.latents import interpolate, reconstruct
from pofx.testing import densities
from pofx.testing.specimens import tiny_data

CLASSES = Classes(("a", "b", "c"), (0.5, 0.3, 0.2))


def build(domain, **arguments):
    with seeded_init(0):
        return VAE(domain, **arguments).double()


def silence(model):
    """Both networks of a model of vectors become zero: what is left are their linear maps and biases."""
    with torch.no_grad():
        for skip in (model.encoder, model.decoder):
            for p in skip.network.parameters():
                p.zero_()
    return model


@pytest.fixture
def linear():
    """x = W z + b + s * noise in 2-D, with the exact posterior as q, in units that are not the standard ones.

    W has orthogonal columns, so the posterior's covariance is diagonal: (1 + |w_k|^2 / s^2)^-1.
    """
    model = silence(build(Vectors(2), latent_dim=2, hidden=(4,), importance=1))
    model.adapt(stream_normal(500, 2) * torch.tensor([2.0, 0.5]) + 3, generator=stream(0, "adapt"))
    angle, log_var = 0.4, math.log(0.09)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    w = rotation.double() * torch.tensor([1.5, 0.4], dtype=torch.float64)
    var = 1 / (1 + w.square().sum(0) / 0.09)
    b = torch.tensor([0.2, -0.1], dtype=torch.float64)
    with torch.no_grad():
        model.decoder.weight[:2], model.decoder.weight[2:] = w, 0
        # The head bends its parameter to stay above -12; this undoes it.
        raw = -12 + math.log(math.expm1(log_var + 12))
        model.bias.copy_(torch.cat([b, torch.full((2,), raw, dtype=torch.float64)]))
        mean = var[:, None] * w.T / 0.09
        model.encoder.weight[:2], model.encoder.weight[2:] = mean, 0
        model.encoder.network.head.bias.copy_(torch.cat([-mean @ b, var.log()]))
    scale, centre = model.standardise.scale, model.standardise.mean
    covariance = (w @ w.T + 0.09 * torch.eye(2)) * scale[:, None] * scale
    return model, torch.distributions.MultivariateNormal(centre + scale * b, covariance)


def stream_normal(*shape, role="x"):
    return torch.randn(*shape, generator=stream(0, role))


def test_with_the_exact_posterior_every_bound_is_the_likelihood(linear):
    """Each weight p(x|z) p(z) / q(z|x) is p(x), whatever z: no noise is left, with one sample or with many."""
    model, truth = linear
    x = truth.mean + stream_normal(6, 2).double()
    for samples in (1, 7):
        bound = model.elbo(x, samples=samples, generator=stream(1, "z"))
        torch.testing.assert_close(bound, truth.log_prob(x), atol=1e-6, rtol=0)


def test_the_loss_is_minus_the_mean_likelihood_there(linear):
    """KL in closed form and a drawn reconstruction: equal on average."""
    model, truth = linear
    x = truth.mean + stream_normal(200, 2).double()
    losses = [model.loss(x, generator=stream(i, "z")) for i in range(50)]
    mean = torch.stack([loss.total for loss in losses]).mean()
    torch.testing.assert_close(mean, -truth.log_prob(x).mean(), atol=0.02, rtol=0)
    loss = losses[0]
    torch.testing.assert_close(loss.total, loss.parts["reconstruction"] + loss.parts["rate"])


def test_samples_have_the_moments_of_the_closed_form(linear):
    model, truth = linear
    x = model.sample(20_000, generator=stream(0, "sample"))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double().mean(0), truth.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(x.double().T.cov(), truth.covariance_matrix, atol=0.15, rtol=0.03)


def test_more_samples_tighten_the_bound_towards_the_likelihood(linear):
    """A posterior that is wrong costs; the loss is monotone in K and vanishes (Burda et al. 2016, theorem 1)."""
    model, truth = linear
    with torch.no_grad():
        model.encoder.network.head.bias[2:] += 1.0
    x = (truth.mean + stream_normal(50, 2).double()).repeat(100, 1)
    means = [model.elbo(x, samples=k, generator=stream(k, "z")).mean().item() for k in (1, 4, 32)]
    exact = float(truth.log_prob(x).mean())
    assert means[0] < means[1] - 0.01
    assert means[1] < means[2] - 0.01
    assert means[2] < exact + 0.001
    assert exact - means[2] < 0.03


def test_samples_in_chunks_are_samples_at_once(linear, monkeypatch):
    model, _ = linear
    x = stream_normal(3, 2).double()
    whole = model.elbo(x, samples=20, generator=stream(0, "z"))
    monkeypatch.setattr("pofx.models.autoencoders.vae._CHUNK", 1)
    torch.testing.assert_close(model.elbo(x, samples=20, generator=stream(0, "z")), whole, atol=0.5, rtol=0)
    one = model.elbo(x, samples=1, generator=stream(0, "z"))
    assert not torch.equal(one, whole)


def test_importance_trains_on_the_bound_that_elbo_gives():
    model = build(Vectors(2), hidden=(8,), importance=5)
    x = stream_normal(40, 2).double()
    losses = torch.stack([model.loss(x, generator=stream(i, "z")).total for i in range(100)])
    bounds = torch.stack([model.elbo(x, generator=stream(i, "other")).mean() for i in range(100)])
    noise = ((losses.var() + bounds.var()) / 100).sqrt().item()
    assert (losses.mean() + bounds.mean()).abs().item() < 4 * noise


def test_the_bound_of_a_classful_model_without_a_class_is_that_of_the_marginal():
    """log sum_c p(c) exp(elbo(x|c)), by frequencies; with many samples it is log p(x) by quadrature over z."""
    model = build(Images(1, 2, 2, levels=3), condition=CLASSES, latent_dim=1, hidden=(8,))
    x = torch.randint(0, 3, (5, 1, 2, 2), generator=stream(0, "x")).to(torch.uint8)
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z) + math.log(float(z[1] - z[0]))
    given = []
    for c in range(3):
        each = [model.decode(z[:, None], torch.tensor([c])).log_prob(row.expand(len(z), -1, -1, -1)) for row in x]
        given.append((torch.stack(each) + prior).logsumexp(1) + math.log(CLASSES.frequencies[c]))
    bound = model.elbo(x, samples=20_000, generator=stream(0, "z"))
    torch.testing.assert_close(bound, torch.stack(given).logsumexp(0), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("domain", "arguments"),
    [
        (Images(1, 8, 8, levels=17), {}),
        (Images(3, 20, 17, levels=256), {"width": 4}),
        (Images(1, 5, 6, levels=2), {"network": "conv", "width": 4}),
        (Images(2, 4, 4, levels=None), {"likelihood": "normal"}),
        (Images(1, 3, 3, levels=5), {"likelihood": "categorical", "prior": "flow", "prior_layers": 3, "latent_dim": 3}),
        (Vectors(1), {}),
        (Vectors(30), {"latent_dim": 40}),
        (Vectors(3), {"hidden": (), "spread": "shared"}),
        (Images(1, 8, 8, levels=17), {"likelihood": "normal", "spread": "unit"}),
        (Tokens(5, 6), {"activation": "tanh"}),
        (Tokens(5, 6, end=4), {}),
    ],
)
@pytest.mark.parametrize("condition", [None, CLASSES, VectorCondition((2,), ((0.0, 1.0), (2.0, 3.0)))])
def test_every_domain_and_condition(domain, arguments, condition):
    """Learns, draws canonical observations, and each parameter has a part in the loss."""
    with seeded_init(0):
        model = VAE(domain, condition=condition, **{"hidden": (16, 8)} | arguments)
    y = stream_normal(32, *domain.shape)
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
    domain.check(reconstruct(model, x[:4], given))
    domain.check(reconstruct(model, x[:4], given, generator=stream(0, "z")))
    assert interpolate(model, x[:2], x[2:4], 5).shape == (5, 2, *domain.shape)
    assert model.features(x).shape == (32, model.latent_dim)
    assert torch.isfinite(model.elbo(x[:4], given, samples=3, generator=stream(0, "z"))).all()


@pytest.mark.parametrize(("dim", "context"), [(2, 0), (5, 3)])
def test_couplings_are_undone_and_count_their_jacobian(dim, context):
    with seeded_init(0):
        couplings = Couplings(dim, count=3, width=8, context=context).double()
        for layer in couplings.layers:
            nn.init.normal_(layer.head.weight)
    z = stream_normal(dim).double()
    given = stream_normal(context).double() if context else None
    u, log_det = couplings(z, given)
    torch.testing.assert_close(couplings.inverse(u, given)[0], z)
    torch.testing.assert_close(couplings.inverse(u, given)[1], -log_det)
    jacobian = torch.autograd.functional.jacobian(lambda v: couplings(v, given)[0], z)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det)


@pytest.mark.parametrize(
    ("check", "condition"),
    [
        (densities.check_bound_meets_quadrature, None),
        (densities.check_bound_meets_plain_monte_carlo, None),
        (densities.check_bound_meets_plain_monte_carlo, CLASSES),
    ],
)
def test_a_learnt_prior_keeps_the_promises_of_a_bound(check, condition):
    """After training, so that the couplings are far from the identity."""
    domain = Images(1, 1, 2, levels=3)
    check(
        lambda: VAE(domain, condition=condition, latent_dim=2, hidden=(8,), prior="flow", prior_layers=2),
        domain,
        condition,
        steps=30,
    )


def test_interpolation_ends_at_the_reconstructions():
    model = build(Images(1, 4, 4, levels=17), hidden=(16,))
    x = torch.randint(0, 17, (4, 1, 4, 4), generator=stream(0, "x")).to(torch.uint8)
    path = interpolate(model, x[:2], x[2:], 4)
    assert torch.equal(path[0], reconstruct(model, x[:2]))
    assert torch.equal(path[-1], reconstruct(model, x[2:]))


def test_meters_tell_idle_units_from_used_ones():
    """Two latent dimensions of three are fed by the encoder; the third is the prior."""
    model = silence(build(Vectors(3), latent_dim=3, hidden=(4,)))
    with torch.no_grad():
        model.encoder.weight.zero_()
        model.encoder.weight[:2, :2] = torch.eye(2)
    meters = model.meters(stream_normal(100, 3).double())
    assert float(meters["active_units"]) == 2
    assert float(meters["active_share"]) == pytest.approx(2 / 3)
    assert float(meters["rate"]) > 0.1
    q = model.posterior(stream_normal(100, 3).double())
    kl = kl_divergence(Normal(q.mu, (q.log_var / 2).exp()), Normal(0.0, 1.0)).mean(0).detach()
    assert float(meters["rate_max"]) == pytest.approx(float(kl.max()))


@pytest.mark.parametrize(
    ("domain", "arguments", "message"),
    [
        (Vectors(2), {"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        (Vectors(2), {"hidden": (0,)}, "hidden must be positive sizes"),
        (Vectors(2), {"network": "conv"}, "reads pictures"),
        (Vectors(2), {"prior": "flow", "prior_layers": 0}, "prior_layers must be at least 1"),
        (Vectors(1), {"prior": "flow", "latent_dim": 1}, "got latent_dim 1"),
        (Tokens(3, 4), {"spread": "shared"}, "a categorical likelihood has no spread"),
        (Vectors(2), {"beta": -1.0}, "beta must be at least 0"),
        (Vectors(2), {"beta": 2.0, "importance": 4}, "got beta 2.0"),
        (Vectors(2), {"drop": 1.0}, "drop must be in"),
        (Vectors(2), {"likelihood": "bernoulli"}, "one of normal"),
    ],
)
def test_what_cannot_be_built_is_refused(domain, arguments, message):
    with pytest.raises(Unusable, match=message):
        VAE(domain, **arguments)


def test_what_cannot_be_asked_is_refused():
    model = build(Vectors(2), hidden=(4,))
    x = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(Unusable, match="at least 1 sample, got 0"):
        model.elbo(x, samples=0, generator=stream(0, "z"))
    with pytest.raises(Unusable, match="without a condition"):
        model.elbo(x, torch.tensor([1]), generator=stream(0, "z"))
    with pytest.raises(Unusable, match="at least 2 steps"):
        interpolate(model, x, x, 1)
    given = build(Vectors(2), hidden=(4,), condition=VectorCondition((1,), ((0.0,),)))
    with pytest.raises(Unusable, match="the bound needs the condition"):
        given.elbo(x, generator=stream(0, "z"))
