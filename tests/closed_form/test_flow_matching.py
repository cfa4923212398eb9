"""Flow matching against laws whose velocity field and density are known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pofx.conditions import Classes
from pofx.domains import Images, Vectors
from pofx.errors import Unusable
from pofx.models.diffusion.flow_matching import FlowMatching
from pofx.paths.straight import interpolate, precondition, stratified
from pofx.randomness import seeded_init, stream

CLASSES = Classes(("a", "b", "c"), (0.5, 0.3, 0.2))


def build(domain, *, silent=False, **arguments):
    """A model; ``silent``: its network says nothing, which leaves the field that is right for data N(0, I)."""
    with seeded_init(0):
        model = FlowMatching(domain, **arguments)
    if silent:
        for p in model.net.parameters():
            p.data.zero_()
    return model


def fit(model, x, steps, batch=256, rate=4e-3):
    """A short training with the rate falling to zero; averages nothing."""
    model.adapt(x, generator=stream(0, "adapt"))
    optimiser, data, noise = torch.optim.Adam(model.parameters(), rate), stream(0, "data"), stream(0, "noise")
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        model.loss(x[torch.randint(len(x), (batch,), generator=data)], generator=noise).total.backward()
        optimiser.step()
    return model


def test_path_and_its_velocity():
    x_0, x_1 = torch.randn(2, 4, 1, 4, 4, generator=stream(0, "path"))  # B equals the width: t must not meet columns
    for t in (torch.zeros(4), torch.ones(4), torch.tensor([0.0, 0.25, 0.5, 1.0])):
        x_t, velocity = interpolate(x_0, x_1, t)
        for i in range(4):
            torch.testing.assert_close(x_t[i], t[i] * x_1[i] + (1 - t[i]) * x_0[i])
        torch.testing.assert_close(velocity, x_1 - x_0)


def test_preconditioning_is_the_regression_on_normal_data():
    """Cov(x_1 - x_0, x_t) / Var(x_t) for independent normals, and what it leaves has variance c_out^2."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    c_skip, c_in, c_out = precondition(t, t[:, None])
    variance = t**2 + (1 - t) ** 2
    torch.testing.assert_close(c_skip[:, 0], (t - (1 - t)) / variance)
    torch.testing.assert_close(c_in[:, 0] ** 2 * variance, torch.ones_like(t))
    torch.testing.assert_close(c_out[:, 0] ** 2, 2 - c_skip[:, 0] ** 2 * variance)


def test_stratified_times_fill_the_cells():
    t = stratified(50, like=torch.zeros(1), generator=stream(0, "t"))
    assert (t * 50).floor().long().tolist() == list(range(50))


@pytest.mark.parametrize("dim", [2, 12])
def test_density_where_the_field_is_known(dim):
    """A silent network models independent normals: exact trace and random signs both give their density."""
    x = torch.randn(400, dim, generator=stream(1, "x")) * torch.linspace(0.1, 30, dim) + 5
    model = build(Vectors(dim), silent=True, hidden=(8,)).double()
    model.adapt(x, generator=stream(0, "adapt"))
    estimate = model.estimate_log_prob(x, generator=stream(0, "eval"), steps=100)
    exact = Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(1).double()
    torch.testing.assert_close(estimate.value, exact, atol=5e-3, rtol=0)
    assert estimate.bias.abs().max() < 2e-2
    assert not estimate.of_bound
    torch.testing.assert_close(model.encode(x), model.units(x).double(), atol=5e-3, rtol=0)


@pytest.mark.parametrize("levels", [4, None])
def test_density_of_pictures_counts_in_levels(levels):
    domain = Images(1, 2, 3, levels)
    x = torch.arange(60).view(10, 1, 2, 3).remainder(4).to(domain.dtype)
    estimate = build(domain, silent=True, hidden=(8,)).estimate_log_prob(x, generator=stream(0, "eval"), steps=60)
    y = domain.dequantise(x, generator=stream(0, "eval"))
    exact = Normal(0.0, 1.0).log_prob(y).sum((1, 2, 3)) + (6 * math.log(2 / 4) if levels else 0)
    torch.testing.assert_close(estimate.value, exact, atol=1e-2, rtol=0)
    assert estimate.of_bound == (levels is not None)


def test_continuous_pictures_are_standardised():
    """A latent picture has any scale: what it is multiplied by leaves the density as a Jacobian, and samples follow."""
    model = build(Images(1, 2, 3, None), silent=True, hidden=(8,))
    x = 20 * torch.randn(500, 1, 2, 3, generator=stream(0, "x")) + 7
    model.adapt(x, generator=stream(0, "adapt"))
    exact = Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum((1, 2, 3))
    estimate = model.estimate_log_prob(x, generator=stream(0, "eval"), steps=60)
    torch.testing.assert_close(estimate.value, exact, atol=1e-2, rtol=0)
    assert model.sample(500, generator=stream(0, "sample"), steps=20).std() == pytest.approx(20, rel=0.1)


def test_samples_where_the_field_is_known():
    model = build(Vectors(2), silent=True, hidden=(8,))
    model.adapt(torch.tensor([[1.0, -50.0], [3.0, 50.0]]), generator=stream(0, "adapt"))
    for method in ("heun", "euler"):
        x = model.sample(20000, generator=stream(0, "sample"), steps=100, method=method)
        torch.testing.assert_close(model.units(x).mean(0), torch.zeros(2), atol=0.03, rtol=0)
        torch.testing.assert_close(model.units(x).std(0), torch.ones(2), atol=0.03, rtol=0)
        assert x.dtype == torch.float32


def test_a_correlated_normal_is_learnt():
    """The density after a short training, and its mass on a grid wide enough to hold it."""
    factor = torch.tensor([[1.0, 0.0], [1.6, 0.8]])
    law = MultivariateNormal(torch.tensor([3.0, -2.0]), factor @ factor.T)
    x, held_out = (torch.randn(n, 2, generator=stream(n, "x")) @ factor.T + law.mean for n in (4000, 2000))
    model = fit(build(Vectors(2), hidden=(64, 64)), x, steps=600)
    gap = law.log_prob(held_out) - model.estimate_log_prob(held_out, generator=stream(0, "eval"), steps=30).value
    assert -0.01 < gap.mean() < 0.02
    side = torch.linspace(-8, 8, 81)
    points = torch.cartesian_prod(side, side) + law.mean
    density = model.estimate_log_prob(points, generator=stream(0, "eval"), steps=20).value.exp()
    assert float(density.sum()) * 0.2**2 == pytest.approx(1, abs=0.01)


def test_marginal_is_the_mixture_of_the_classes():
    model = build(Vectors(2), condition=CLASSES, hidden=(16,))
    x = torch.randn(6, 2, generator=stream(0, "x"))

    def ask(c):
        return model.estimate_log_prob(x, c, generator=stream(0, "eval"), steps=6)

    given = [ask(torch.tensor([k])) for k in range(3)]

    def mixture(values):
        return sum(f * v.exp() for f, v in zip(CLASSES.frequencies, values)).log()

    whole, halved = (mixture([g.value - part * g.bias for g in given]) for part in (0, 1))
    torch.testing.assert_close(ask(None).value, whole)
    torch.testing.assert_close(ask(None).bias, whole - halved, atol=1e-5, rtol=1e-3)


def test_guidance_leads_from_the_null_through_the_condition():
    model = build(Vectors(2), condition=CLASSES, hidden=(16,))

    def draw(c, guidance):
        c = torch.tensor([c])
        return model.sample(5, c, generator=stream(0, "sample"), steps=1, method="euler", guidance=guidance)

    null, given = draw(CLASSES.count, 1.0), draw(1, 1.0)
    assert not torch.allclose(null, given)
    torch.testing.assert_close(draw(1, 0.0), null)
    torch.testing.assert_close(draw(1, 3.0), null + 3 * (given - null))


@pytest.mark.parametrize("network", ["mlp", "unet"])
@pytest.mark.parametrize("levels", [17, None])
def test_pictures_in_canonical_form_come_back_so(network, levels):
    domain = Images(2, 8, 6, levels)
    model = build(domain, condition=CLASSES, network=network, width=8, hidden=(8,))
    x = model.sample(3, generator=stream(0, "sample"), steps=2)
    assert domain.check(x).shape == (3, 2, 8, 6)
    assert model.loss(x, torch.tensor([0, 1, 2]), generator=stream(0, "noise")).total.isfinite()
    assert model.features(x).shape == (3, 8 if network == "mlp" else 4 * 16)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"network": "unet"}, "takes images, got vectors"),
        ({"hidden": ()}, "hidden must name at least one layer"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"drop": 1.0}, r"drop must be in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_are_checked(arguments, rule):
    with pytest.raises(Unusable, match=rule):
        build(Vectors(2), **arguments)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"guidance": 2.0}, "guidance must be 1 for a model without a condition"),
    ],
)
def test_settings_are_checked(settings, rule):
    with pytest.raises(Unusable, match=rule):
        build(Vectors(2), hidden=(8,)).sample(1, generator=stream(0, "sample"), **settings)


def test_what_cannot_be_estimated_says_so():
    x = torch.zeros(1, 2)
    with pytest.raises(Unusable, match="steps must be at least 2"):
        build(Vectors(2), hidden=(8,)).estimate_log_prob(x, generator=stream(0, "eval"), steps=1)
    with pytest.raises(Unusable, match="needs the condition of each observation"):
        build(Vectors(2), condition=CLASSES, hidden=(8,)).loss(x, generator=stream(0, "noise"))
