"""The VAE's priors, posteriors and objectives against what knows the answer: quadrature, torch.distributions, PCA."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pofx.conditions import Classes
from pofx.distributions import Bernoulli
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoencoders.posteriors import posterior_of
from pofx.models.autoencoders.vae import VAE
from pofx.protocols import Learns, Plays, Progress, capabilities
from pofx.randomness import seeded_init, stream
from pofx.testing import densities, learning
from pofx.testing.specimens import TWO_CLASSES, lattice, rounds, tiny_data
from pofx.testing.verdicts import ensure_counts_fit

PRIORS, POSTERIORS = ("normal", "mixture", "vamp", "flow"), ("diagonal", "full", "iaf")
PAIRS = [(prior, "diagonal") for prior in PRIORS] + [("normal", "full"), ("normal", "iaf"), ("vamp", "full")]
PIXELS = Images(1, 1, 2, levels=3)


def normals(*shape, role="x"):
    return torch.randn(*shape, generator=stream(0, role), dtype=torch.float64)


def small(domain=PIXELS, condition=None, **arguments):
    return VAE(domain, condition=condition, **{"latent_dim": 2, "hidden": (8,), "components": 3} | arguments)


def trained(domain=PIXELS, condition=None, steps=60, rate=0.01, **arguments):
    """After some steps on tiny data, in double precision."""
    x, c = tiny_data(domain, condition)
    with seeded_init(0):
        model = small(domain, condition, **arguments).double()
    model.adapt(x, c, generator=stream(0, "adapt"))
    for _ in rounds(model, x, c, steps=steps, generator=stream(0, "train"), rate=rate):
        pass
    return model


# ---- laws


def law_of(kind, dim, batch=3):
    """A law far from the one it begins with, and its makers."""
    with seeded_init(0):
        law = posterior_of(kind, dim, layers=2).double()
    for p in law.parameters():
        nn.init.normal_(p, std=0.15, generator=stream(1, "weights"))
    return law(0.5 * normals(batch, law.numbers(dim)))


def test_a_full_normal_is_that_of_torch():
    q = law_of("full", 3)
    z = q.rsample(5, generator=stream(0, "z"))
    truth = MultivariateNormal(q.mu, scale_tril=q.tril)
    torch.testing.assert_close(q.log_prob(z), truth.log_prob(z))
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    torch.testing.assert_close(q.kl_to_standard_normal().sum(-1), kl_divergence(truth, prior))
    many = q.rsample(200_000, generator=stream(0, "many"))
    torch.testing.assert_close(many[:, 1].T.cov(), truth.covariance_matrix[1], atol=0.03, rtol=0.03)


def test_a_full_normals_rate_is_the_chain_rules():
    """Of each number given those before it: the first is that of its marginal, the whole that of all."""
    q = law_of("full", 3)
    first = kl_divergence(Normal(q.mu[:, 0], q.tril[:, 0, 0]), Normal(0.0, 1.0))
    torch.testing.assert_close(q.kl_to_standard_normal()[:, 0], first)
    assert (q.kl_to_standard_normal() > 0).all()


def test_a_diagonal_normals_rate_is_that_of_torch():
    q = law_of("diagonal", 3)
    each = kl_divergence(Normal(q.mu, (q.log_var / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(q.kl_to_standard_normal(), each)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_the_density_under_each_part_is_that_of_each(kind):
    q, z = law_of(kind, 3, batch=4), normals(5, 2, 3, role="z")
    torch.testing.assert_close(q.log_prob_by_each(z), q.log_prob(z[..., None, :]))


@pytest.mark.parametrize("dim", [2, 5])
def test_an_autoregressive_flow_is_undone_and_counts_its_jacobian(dim):
    q = law_of("iaf", dim)
    z = q.rsample(4, generator=stream(0, "z"))
    told = q.log_prob(z)
    torch.testing.assert_close(q.log_prob(z.clone()), told, msg="log q by inversion is not that of the draw")
    assert z.std() > 0.1
    row = law_of("iaf", dim, batch=1)
    start = normals(1, dim, role="start")
    jacobian = torch.autograd.functional.jacobian(lambda v: row._carried(v)[0][0], start)[:, 0]
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], row._carried(start)[1][0])
    assert (jacobian.abs() > 1e-6).sum() > dim, "every number stands alone: nothing is bent"


def test_an_autoregressive_flow_integrates_to_one():
    q = law_of("iaf", 2, batch=1)
    line = torch.linspace(-5, 5, 121, dtype=torch.float64)
    with torch.no_grad():
        log_q = q.log_prob(torch.cartesian_prod(line, line)[:, None])
    assert float(log_q.exp().sum() * (line[1] - line[0]) ** 2) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("condition", [None, TWO_CLASSES])
@pytest.mark.parametrize("prior", PRIORS)
def test_a_prior_integrates_to_one_and_its_draws_meet_it(prior, condition):
    model = trained(prior=prior, condition=condition, prior_layers=2)
    space = lattice(Vectors(2), fine=12, reach=6.0)
    for c in [None] if condition is None else [torch.tensor([0]), torch.tensor([1])]:
        with torch.no_grad():
            # The lattice lies about tiny data; the latent about 0.
            low, high = torch.tensor([-6.0, -6.0]).double(), torch.tensor([6.0, 6.0]).double()
            unit = (space.points - space.low) / (space.high - space.low)
            points = low + unit * (high - low)
            volume = math.log(float((high - low).prod()) / len(points))
            log_p = model.log_prior(points, c)
            assert float((log_p + volume).exp().sum()) == pytest.approx(1, abs=5e-3)
            z = model.prior.sample(10_000, model.context_of(c, 10_000), generator=stream(0, "z"), like=model.bias)
            back = space.low + (z - low) / (high - low) * (space.high - space.low)
            p = space.probabilities(log_p + volume - space.log_volume)
            ensure_counts_fit(space.counts(back), p, f"draws of the {prior} prior are off its density")


@pytest.mark.parametrize("condition", [None, TWO_CLASSES])
@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_with_many_samples_the_bound_is_the_integral_over_z(prior, posterior, condition):
    def build():
        return small(prior=prior, posterior=posterior, condition=condition, prior_layers=2)

    if condition is None or (prior != "flow" and posterior != "iaf"):  # classes of slow ones: by the next check
        densities.check_bound_meets_quadrature(build, PIXELS, condition, steps=30)
    densities.check_bound_meets_plain_monte_carlo(build, PIXELS, condition, steps=30)


@pytest.mark.parametrize("domain", [Images(1, 20, 20, levels=4), Tokens(5, 6, end=4), Vectors(3)])
@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_every_law_on_every_domain(prior, posterior, domain):
    """Every parameter learns; what is drawn is canonical; meters are finite."""
    condition = Classes(("a", "b"), (0.5, 0.5))
    with seeded_init(0):
        model = VAE(domain, condition=condition, prior=prior, posterior=posterior, hidden=(8,), width=4, latent_dim=3)
    x, c = tiny_data(domain, condition, 40)
    model.adapt(x, c, generator=stream(0, "adapt"))
    model.loss(x, c, generator=stream(0, "loss")).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    domain.check(model.sample(6, generator=stream(0, "sample")))
    domain.check(model.decode(model.encode(x, c), c).mode)
    assert all(value.isfinite() for value in model.meters(x, c).values())


def test_a_vamp_prior_starts_at_training_rows():
    x, _ = tiny_data(PIXELS, None, 40)
    with seeded_init(0):
        model = small(prior="vamp", components=50)
    model.adapt(x, generator=stream(0, "adapt"))
    rows, starts = model.inside(x), model.prior.parts.inputs
    assert all((rows == start).all(1).any() for start in starts)
    z = normals(5, 2, role="z").float()
    each = torch.stack([model.posterior(x).log_prob(row) for row in z])  # as many parts as rows, in another order
    assert model.log_prior(z).shape == each[:, 0].shape
    with seeded_init(0):
        exact = small(prior="vamp", components=40)
    exact.adapt(x, generator=stream(0, "adapt"))
    torch.testing.assert_close(exact.log_prior(z), each.logsumexp(1) - math.log(40), atol=1e-5, rtol=1e-5)


# ---- objectives


def linear(objective, importance, *, off=0.0, spread=0.09, **more):
    """x = w z + noise with a posterior that is off the exact one: log p(x) is known. (model, truth)"""
    with seeded_init(0):
        model = VAE(
            Vectors(2), latent_dim=1, hidden=(), likelihood="normal", spread="shared",
            objective=objective, importance=importance, **more,
        ).double()  # fmt: skip
    w, b = torch.tensor([[0.9], [0.4]]).double(), torch.tensor([0.2, -0.1]).double()
    var = 1 / (1 + w.square().sum() / spread)
    with torch.no_grad():
        model.decoder.head.weight.copy_(w)
        model.decoder.head.bias.zero_()
        model.bias.copy_(b)
        model.spread.fill_(-12 + math.log(math.expm1(math.log(spread) + 12)))
        mean = var * w.T / spread
        model.encoder.head.weight.copy_(torch.cat([mean, 0 * mean + 0.1 * off]))
        model.encoder.head.bias.copy_(torch.cat([-mean @ b + off, (var.log() + off)[None]]))
    return model, MultivariateNormal(b, w @ w.T + spread * torch.eye(2).double())


def expected_bound(model, x, samples):
    """E[log mean_k w_k] for one latent number and at most 2 samples: by Gauss-Hermite quadrature over their noise."""
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    q = model.posterior(x)
    z = q.mu + (q.log_var / 2).exp() * nodes[:, None, None]
    log_w = model.decode(z).log_prob(x) + model.log_prior(z) - q.log_prob(z)
    if samples == 1:
        return (weights[:, None] * log_w).sum(0).mean()
    both = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
    return (weights[:, None, None] * weights[None, :, None] * both).sum((0, 1)).mean()


@pytest.mark.parametrize(("objective", "importance"), [("elbo", 1), ("elbo", 3), ("iwae", 2), ("dreg", 2), ("dreg", 1)])
def test_gradients_are_those_of_the_expected_bound(objective, importance):
    """Means over many draws meet finite differences of the bound's expectation, for each parameter."""
    model, truth = linear(objective, importance, off=0.3)
    x = truth.mean + 0.7 * normals(5, 2)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    draws = []
    for seed in range(100):
        many = x.repeat(100, 1)
        total = model.loss(many, generator=stream(seed, "draws")).total
        draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, [p for _, p in named])]))
    draws = torch.stack(draws)
    mean, error = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    terms = importance if objective != "elbo" else 1
    exact, h = [], 1e-5
    with torch.no_grad():
        for _, p in named:
            for i in range(p.numel()):
                values = []
                for step in (h, -h):
                    p.view(-1)[i] += step
                    values.append(float(expected_bound(model, x, terms)))
                    p.view(-1)[i] -= step
                exact.append(-(values[0] - values[1]) / (2 * h))
    far = (mean - torch.tensor(exact).double()).abs() - 5 * error
    assert float(far.max()) < 1e-6, [name for name, _ in named]
    assert float(torch.tensor(exact).abs().max()) > 0.1


def test_the_bound_of_a_linear_model_rises_with_samples_to_the_likelihood():
    model, truth = linear("iwae", 2, off=0.3)
    x = truth.mean + normals(20, 2) @ truth.scale_tril.T
    exact, means, errors = truth.log_prob(x).mean(), [], []
    with torch.no_grad():
        for k in (1, 4, 16, 4000):
            draws = torch.stack([model.elbo(x, samples=k, generator=stream(s, f"{k}")).mean() for s in range(40)])
            means.append(float(draws.mean()))
            errors.append(float(draws.std()) / 40**0.5)
    assert all(a + 4 * e < b for a, e, b in zip(means, errors, means[1:3]))
    assert means[2] < float(exact)
    assert abs(means[3] - float(exact)) < 5 * errors[3] + 1e-4


def test_dreg_has_less_noise_than_iwae_and_one_of_the_exact_posterior_has_none():
    """At the exact posterior each weight is the same whatever z: what the encoder is told is 0, not 0 on average."""
    model, truth = linear("dreg", 4)
    x = truth.mean + normals(5, 2)
    loss = model.loss(x, generator=stream(0, "z"))
    for p in model.encoder.parameters():
        gradient = torch.autograd.grad(loss.total, p, retain_graph=True)[0]
        assert float(gradient.abs().max()) < 1e-8
    other, _ = linear("iwae", 4)
    told = torch.autograd.grad(other.loss(x, generator=stream(0, "z")).total, list(other.encoder.parameters()))
    assert max(float(g.abs().max()) for g in told) > 1e-3


def test_a_linear_decoder_with_one_spread_learns_probabilistic_pca():
    """Tipping and Bishop 1999: the likelihood of PCA's own density is the highest that the bound can reach."""
    from sklearn.decomposition import PCA

    rotation = torch.linalg.qr(normals(6, 6, role="rotation"))[0]
    x = (normals(400, 6) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.5, 0.5])) @ rotation + 1
    with seeded_init(0):
        model = VAE(
            Vectors(6), latent_dim=2, hidden=(), spread="shared", posterior="full", objective="elbo", importance=8
        ).double()
    model.adapt(x, generator=stream(0, "adapt"))
    y = model.standardise(x)
    exact = PCA(n_components=2).fit(y.numpy()).score(y.numpy()) - float(model.standardise.scale.log().sum())
    optimiser = torch.optim.Adam(model.parameters())
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        optimiser.zero_grad()
        model.loss(x, generator=stream(step, "pca")).total.backward()
        optimiser.step()
    with torch.no_grad():
        bound = model.elbo(x, samples=50, generator=stream(0, "z")).mean()
    assert float(bound) == pytest.approx(exact, abs=0.005)


# ---- what is minimised in place of the bound


def loss_of(model, x, role="loss"):
    return model.loss(x, generator=stream(0, role))


def test_free_bits_cost_each_dimension_what_it_has_at_least():
    x, _ = tiny_data(PIXELS, None)
    model = trained(free_bits=0.2, latent_dim=3)
    each = model.posterior(x).kl_to_standard_normal().mean(0)
    loss = loss_of(model, x)
    paid = loss.total - loss.parts["reconstruction"]
    torch.testing.assert_close(paid, each.clamp(min=0.2).sum())
    torch.testing.assert_close(loss.parts["rate"], each.sum())
    idle = small(free_bits=0.2, beta=3.0, latent_dim=3).double()
    with torch.no_grad():
        for p in idle.encoder.parameters():
            p.zero_()
    loss = loss_of(idle, x)
    assert float(loss.total - loss.parts["reconstruction"]) == pytest.approx(3 * 3 * 0.2)
    pooled = trained(free_bits=5.0, prior="mixture", latent_dim=3)
    loss = loss_of(pooled, x)
    assert float(loss.total - loss.parts["reconstruction"]) == pytest.approx(15)


def test_a_capacity_leads_the_rate_to_it():
    x, _ = tiny_data(PIXELS, None)
    model = trained(capacity=0.8, beta=20.0, steps=150)
    loss = loss_of(model, x)
    assert float(loss.parts["rate"]) == pytest.approx(0.8, abs=0.1)
    torch.testing.assert_close(loss.total - loss.parts["reconstruction"], 20 * (loss.parts["rate"] - 0.8).abs())
    assert float(trained(beta=20.0, steps=150).meters(x)["rate"]) < 0.1


def test_a_warm_up_raises_the_weight_with_the_steps():
    x, _ = tiny_data(PIXELS, None)
    model = small(warm_up=0.5, beta=2.0).double()
    (turn,) = model.turns()
    for step, weight in ((0, 0.0), (25, 1.0), (50, 2.0), (100, 2.0)):
        turn.after({}, Progress(step, 100))
        loss = loss_of(model, x)
        torch.testing.assert_close(loss.total, loss.parts["reconstruction"] + weight * loss.parts["rate"])
    assert model.state_dict()["weigh.progress"] == 1
    assert Plays not in capabilities(small())
    assert {Plays, Learns} <= capabilities(model)
    assert not [name for name in small().state_dict() if name.startswith("weigh.")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({}, ""), ({"beta": 4.0}, "beta 4.0"), ({"free_bits": 0.1, "warm_up": 0.5}, "free_bits 0.1 and warm_up 0.5"),
     ({"capacity": 3.0}, "warm_up 0.5 and capacity 3.0")],
)  # fmt: skip
def test_what_is_not_the_bound_says_so(arguments, words):
    surrogate = small(**arguments).surrogate
    assert words in surrogate
    assert bool(surrogate) == bool(words)
    learning.check_loss_is_the_bound(lambda: small(**arguments), PIXELS, None, steps=30)


def test_what_is_not_the_bound_still_tells_its_parts(monkeypatch):
    rates = VAE._rates
    monkeypatch.setattr(VAE, "_rates", lambda *given: rates(*given) + 0.5)
    with pytest.raises(AssertionError, match="parts say"):
        learning.check_loss_is_the_bound(lambda: small(beta=0.25), PIXELS, None, steps=30)


@pytest.mark.parametrize("objective", ["iwae", "dreg"])
def test_a_learnt_prior_is_asked_once(objective, monkeypatch):
    model, asked = small(prior="mixture", objective=objective), []
    monkeypatch.setattr(type(model.prior), "log_prob", lambda prior, z, *_: asked.append(1) or z.sum(-1))
    model.loss(tiny_data(PIXELS, None)[0], generator=stream(0, "loss"))
    assert len(asked) == 1


@pytest.mark.parametrize(("objective", "importance"), [("elbo", 4), ("iwae", 4), ("dreg", 4)])
def test_each_objective_reports_its_bound(objective, importance):
    learning.check_loss_is_the_bound(lambda: small(objective=objective, importance=importance), PIXELS, None, steps=30)


# ---- scoring


@pytest.mark.parametrize("scale", [1, 8, 60])
@pytest.mark.parametrize("shape", [(3,), (4, 28, 28), (2, 5, 7)])
def test_a_product_of_probabilities_is_their_sum_of_logarithms(shape, scale):
    """Also where products are too small for a float, and where factors are."""
    logits = normals(50, *shape, role="logits").float()
    logits[7:9] *= scale
    x = (normals(*shape) > 0).to(torch.uint8)
    slow = Bernoulli(logits).log_prob(x).flatten(1).double().sum(1)
    for last in (False, True):
        fast = Bernoulli(logits.clone()).summed_log_prob(x, len(shape), last=last).double()
        torch.testing.assert_close(fast, slow, rtol=2e-6, atol=2e-5)
    kept = logits.clone()
    Bernoulli(kept).summed_log_prob(x, len(shape))
    assert torch.equal(kept, logits)


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "gelu"])
def test_networks_without_gradients_are_those_with_them(activation):
    with seeded_init(0):
        model = VAE(Images(1, 4, 4, levels=2), hidden=(16, 8), activation=activation)
    z = normals(20, 16).float()
    with torch.no_grad():
        fast = model.decode(z[:, : model.latent_dim]).base.logits
    torch.testing.assert_close(fast, model.decode(z[:, : model.latent_dim]).base.logits.detach(), rtol=1e-5, atol=1e-6)


def test_scoring_without_gradients_is_scoring_with_them():
    with seeded_init(0):
        model = VAE(Images(1, 8, 8, levels=2), hidden=(16,))
    x = (normals(6, 1, 8, 8) > 0).to(torch.uint8)
    slow = model.elbo(x, samples=30, generator=stream(0, "z"))
    assert slow.requires_grad
    with torch.no_grad():
        fast = model.elbo(x, samples=30, generator=stream(0, "z"))
    torch.testing.assert_close(fast, slow.detach(), rtol=1e-5, atol=1e-4)


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"importance": 0}, "importance must be at least 1, got 0"),
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"posterior_layers": 0}, "posterior_layers must be at least 1"),
        ({"objective": "iwae", "importance": 1}, "got importance 1"),
        ({"objective": "iwae", "beta": 2.0}, "iwae of 16 samples has no separate KL term to weigh, got beta 2.0"),
        ({"importance": 4, "warm_up": 0.5}, "iwae of 4 samples .* got warm_up 0.5"),
        ({"objective": "dreg", "free_bits": 0.5}, "got free_bits 0.5"),
        ({"posterior": "iaf", "latent_dim": 1}, "got latent_dim 1"),
        ({"posterior": "iaf", "prior": "vamp"}, "posterior iaf is slow at"),
        ({"posterior": "iaf", "objective": "dreg"}, "posterior iaf is slow at"),
        ({"capacity": 2.0, "free_bits": 0.5}, "leave one out"),
        ({"capacity": -2.0}, "capacity must be at least 0"),
        ({"beta": math.nan}, "beta must be at least 0, and finite, got nan"),
        ({"free_bits": math.inf}, "free_bits must be at least 0, and finite, got inf"),
        ({"capacity": math.nan}, "capacity must be at least 0, and finite, got nan"),
        ({"free_bits": -1.0}, "free_bits must be at least 0"),
        ({"warm_up": 1.5}, "warm_up is a share of the steps"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(arguments, message):
    with pytest.raises(Unusable, match=message) as refused:
        small(**arguments)
    assert "\n" not in str(refused.value)
