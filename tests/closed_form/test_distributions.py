"""Likelihood heads against sums, quadrature and frequencies."""

import math
from dataclasses import replace

import pytest
import torch

from pofx.distributions import (
    Bernoulli,
    Categorical,
    DiagonalNormal,
    DiscretisedLogistic,
    DiscretisedLogisticMixture,
    DiscretisedNormal,
    FullNormal,
    Normal,
    TruncatedNormal,
    likelihood,
    standard_normal_log_prob,
)
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.nn.standardise import Standardise
from pofx.randomness import stream
from pofx.testing.specimens import every_observation


def randn(*shape):
    return torch.randn(*shape, generator=stream(0, "test"), dtype=torch.float64)


def discrete(levels, elements=3):
    """Each discrete distribution over ``levels``, of ``elements`` elements, with parameters that differ."""
    logistic = DiscretisedLogistic(randn(elements), randn(elements) - 2, levels)
    mixture = DiscretisedLogisticMixture(randn(4, elements), randn(4, elements), randn(4, elements) - 2, levels)
    table = Categorical(randn(elements, levels))
    normal = DiscretisedNormal(randn(elements), 2 * randn(elements) - 4, levels)
    return [logistic, mixture, table, normal] + ([Bernoulli(randn(elements))] if levels == 2 else [])


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_probabilities_sum_to_one(levels):
    for p in discrete(levels):
        log_p = p.log_prob(torch.arange(levels)[:, None].expand(-1, 3))
        torch.testing.assert_close(log_p.logsumexp(0), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("levels", [2, 5])
def test_samples_meet_the_probabilities(levels):
    n = 20_000
    for p in discrete(levels, elements=1):
        wide = copies(p, n)
        counts = torch.bincount(wide.sample(generator=stream(1, "test")).long(), minlength=levels)
        expected = n * p.log_prob(torch.arange(levels)[:, None]).exp().flatten()
        chi2 = float(((counts - expected).square() / expected.clamp(min=1e-9)).sum())
        assert chi2 < 30, (type(p).__name__, counts, expected)


def copies(p, n):
    """n independent copies of a distribution of one element."""
    if isinstance(p, Categorical):
        return Categorical(p.logits.expand(n, -1))
    wide = {name: v.expand(*v.shape[:-1], n) for name, v in vars(p).items() if isinstance(v, torch.Tensor)}
    return replace(p, **wide)


@pytest.mark.parametrize("levels", [2, 17])
def test_mode_and_mean_are_those_of_the_table(levels):
    for p in discrete(levels):
        table = p.log_prob(torch.arange(levels)[:, None].expand(-1, 3)).exp()
        mean = (table * torch.arange(levels)[:, None]).sum(0)
        torch.testing.assert_close(p.mean, mean)
        if not isinstance(p, DiscretisedLogisticMixture):
            torch.testing.assert_close(p.mode.long(), table.argmax(0))


def test_mode_of_a_mixture_is_the_likeliest_of_its_components_modes():
    p = DiscretisedLogisticMixture(
        torch.tensor([[1.0], [0.0]]), torch.tensor([[-0.501], [0.501]]), torch.tensor([[-4.0], [-9.0]]), 256
    )
    table = p.log_prob(torch.arange(256)[:, None])
    assert int(p.mode) == int(table.argmax(0))


@pytest.mark.parametrize("log_scale", [-30.0, -7.0, 0.0, 8.0])
def test_the_logistic_is_finite_however_narrow_or_wide(log_scale):
    mu = torch.linspace(-3, 3, 7).requires_grad_()
    p = DiscretisedLogistic(mu, torch.full((7,), max(log_scale, -12.0)), 256)
    log_p = p.log_prob(torch.tensor([0, 255, 7])[:, None])
    log_p.sum().backward()
    assert torch.isfinite(log_p).all()
    assert torch.isfinite(mu.grad).all()


def test_kl_to_the_standard_normal_is_the_closed_form():
    q = DiagonalNormal(randn(5, 3), randn(5, 3))
    other = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mu, (0.5 * q.log_var).exp()),
        torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double()),
    )
    torch.testing.assert_close(q.kl_to_standard_normal(), other)


def test_rsample_has_the_moments_and_carries_the_gradient():
    mu, log_var = torch.tensor([[1.0, -2.0]]).requires_grad_(), torch.tensor([[0.0, 1.0]]).requires_grad_()
    z = DiagonalNormal(mu, log_var).rsample(40_000, generator=stream(0, "test"))
    torch.testing.assert_close(z.mean(0), mu, atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(0), log_var.exp(), atol=0.1, rtol=0)
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.full((1, 2), 40_000.0))
    assert torch.count_nonzero(log_var.grad) == 2


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_narrow_normals_keep_their_digits(kind):
    """The density of draws under each of many: as narrow as a network's, in fp32, also where bf16 is asked for."""
    mu, tril = randn(40, 8), (randn(40, 8, 8) * 1e-3).tril(-1) + math.exp(-5.5) * torch.eye(8).double()
    exact = DiagonalNormal(mu, torch.full_like(mu, -11.0)) if kind == "diagonal" else FullNormal(mu, tril)
    z = exact.rsample(1, generator=stream(0, "z"))[0].float()
    parts = (exact.mu.float(), (exact.log_var if kind == "diagonal" else exact.tril).float())
    single, double = type(exact)(*parts), type(exact)(*(part.double() for part in parts))
    truth = double.log_prob_by_each(z.double()).diagonal()
    assert float((single.log_prob_by_each(z).diagonal() - truth).abs().max()) < 2e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float((single.log_prob_by_each(z).diagonal() - truth).abs().max()) < 2e-3
        assert float((single.log_prob(z) - truth).abs().max()) < 2e-3


@pytest.mark.parametrize("kind", [DiscretisedNormal, TruncatedNormal])
def test_the_mean_of_many_levels_holds_few_edges_at_once(kind, monkeypatch):
    """And it is the table's."""
    sizes, ndtr = [], torch.special.ndtr
    monkeypatch.setattr(torch.special, "ndtr", lambda y: sizes.append(y.numel()) or ndtr(y))
    p = kind(torch.linspace(-1, 1, 5).double(), torch.full((5,), -2.0).double(), 256)
    k = torch.arange(256)
    torch.testing.assert_close(p.mean, (p.log_prob(k[:, None]).exp() * k[:, None]).sum(0))
    assert max(sizes) <= 16 * 5


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_the_outermost_draws_of_a_truncated_normal_are_near_it(u, monkeypatch):
    """The least and the most that a generator gives: not the end of the line, 160 standard deviations away."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, u))
    p = TruncatedNormal(torch.tensor([0.0]), torch.tensor([-10.0]), 256)
    assert abs(int(p.sample(generator=stream(0, "u"))) - 128) < 8


def test_normals_agree_with_torch():
    x, mu, log_var = randn(4, 3), randn(3), randn(3)
    other = torch.distributions.Normal(mu, (0.5 * log_var).exp()).log_prob(x)
    torch.testing.assert_close(Normal(mu, log_var).log_prob(x), other)
    torch.testing.assert_close(DiagonalNormal(mu, log_var).log_prob(x), other.sum(-1))
    torch.testing.assert_close(standard_normal_log_prob(x), torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1))


@pytest.mark.parametrize(
    ("domain", "kind", "mixtures", "outputs"),
    [
        (Images(1, 2, 3, levels=2), "bernoulli", 1, 1),
        (Images(3, 2, 2, levels=17), "logistic", 1, 2),
        (Images(3, 2, 2, levels=256), "logistic", 5, 15),
        (Images(1, 2, 2, levels=300), "categorical", 1, 300),
        (Images(1, 2, 2, levels=None), "normal", 1, 2),
        (Vectors(3), "normal", 1, 2),
    ],
)
def test_heads_draw_canonical_observations(domain, kind, mixtures, outputs):
    head = likelihood(domain, kind, mixtures=mixtures)
    assert head.outputs == outputs
    p = head(torch.randn(4, 6, outputs, *domain.shape, generator=stream(0, "test")))
    x = p.sample(generator=stream(1, "test"))
    assert p.log_prob(x).shape == (4, 6)
    for value in (x, p.mode, p.mean):
        domain.check(value.flatten(0, 1))


def test_auto_chooses_by_domain_and_refuses_what_does_not_fit():
    assert likelihood(Images(1, 2, 2, levels=2)).kind == "bernoulli"
    assert likelihood(Images(1, 2, 2, levels=3)).kind == "logistic"
    assert likelihood(Vectors(2)).kind == "normal"
    with pytest.raises(Unusable, match="continuous values is one of normal"):
        likelihood(Vectors(2), "logistic")
    with pytest.raises(Unusable, match="at least 1"):
        likelihood(Images(1, 2, 2), mixtures=0)


def test_a_standardised_head_is_a_density_in_the_units_of_x():
    """The integral over x, in its own units, is one: the Jacobian is accounted for."""
    units = Standardise(1)
    units.adapt(5 + 3 * torch.randn(100, 1, generator=stream(0, "test")))
    p = likelihood(Vectors(1), standardise=units)(torch.tensor([[[0.3], [-0.5]]], dtype=torch.float64))
    grid = torch.linspace(-40, 50, 20_001, dtype=torch.float64)
    mass = p.log_prob(grid[:, None]).exp().sum() * (grid[1] - grid[0])
    assert float(mass) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("kind", ["auto", "categorical"])
def test_initial_parameters_are_near_the_marginals(levels, kind):
    """The first guess costs little more than the entropy of a normal with the data's moments, cut into bins."""
    domain = Images(1, 2, 2, levels=levels)
    x = domain.quantise(torch.randn(4096, 1, 2, 2, generator=stream(0, "test")) * 0.2)
    head = likelihood(domain, kind, mixtures=3 if levels == 256 and kind == "auto" else 1)
    cost = -float(head(head.initial(x).expand(len(x), -1, -1, -1, -1)).log_prob(x).mean()) / 4
    normal = 0.5 * math.log(2 * math.pi * math.e * 0.2**2) + math.log(levels / 2)
    assert cost < (math.log(2) if levels == 2 else normal) + 0.25


@pytest.mark.parametrize("end", [None, 1])
def test_records_of_symbols_sum_to_one_and_end_once(end):
    """Over all records that can be: nothing follows an end but itself."""
    domain = Tokens(3, 4, end=end)
    p = likelihood(domain)(randn(3, 4))
    x = every_observation(domain)
    log_p = p.log_prob(x)
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros((), dtype=torch.float64))
    many = likelihood(domain)(randn(3, 4).expand(20_000, 3, 4)).sample(generator=stream(1, "test"))
    counts = (many[:, None] == x).all(2).sum(0)
    assert counts.sum() == 20_000
    assert ((counts - 20_000 * log_p.exp()).abs() < 5 * (20_000 * log_p.exp()).sqrt() + 1).all()
