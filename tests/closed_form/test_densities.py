"""Divergences of probability vectors and of laws with densities, against enumeration, SciPy and integrals."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.spatial.distance
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as D

from pofx.divergences import (
    F_DIVERGENCES,
    alpha_divergence,
    divergence_of_laws,
    f_divergence,
    f_divergence_of_logs,
)
from pofx.divergences.checks import check_points, check_tensors, check_weights
from pofx.errors import Unusable
from pofx.randomness import stream

ALL = [*F_DIVERGENCES.values(), *(alpha_divergence(a) for a in (-1.5, 0.3, 2.5))]
named = pytest.mark.parametrize("which", ALL, ids=lambda d: d.name)
quick = settings(derandomize=True, max_examples=25, deadline=None)


def in_numpy(name, p, q):
    """Each divergence as its own textbook formula, for a row without zeros."""
    entropy = scipy.special.rel_entr
    formulas = {
        "kl": entropy(p, q).sum(),
        "reverse-kl": entropy(q, p).sum(),
        "jensen-shannon": scipy.spatial.distance.jensenshannon(p, q) ** 2,
        "gan": 2 * scipy.spatial.distance.jensenshannon(p, q) ** 2 - math.log(4),
        "pearson": (p**2 / q).sum() - 1,
        "neyman": (q**2 / p).sum() - 1,
        "squared-hellinger": 2 - 2 * np.sqrt(p * q).sum(),
        "total-variation": np.maximum(p - q, 0).sum(),
    }
    if name in formulas:
        return formulas[name]
    a = float(name.removeprefix("alpha="))
    return ((p**a * q ** (1 - a)).sum() - 1) / (a * (a - 1))


def rows(*shape, role, dtype=torch.float64):
    return (2 * torch.randn(shape, generator=stream(0, role), dtype=dtype)).softmax(-1)


@named
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_probability_vectors_meet_the_textbook(which, dtype, tolerance):
    p, q = rows(3, 4, 6, role="p"), rows(4, 6, role="q")
    expected = [[in_numpy(which.name, p[i, j].numpy(), q[j].numpy()) for j in range(4)] for i in range(3)]
    got = f_divergence(p.to(dtype), q.to(dtype), which)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=1e-6)


def test_disjoint_supports_are_infinite_where_they_truly_are():
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 0.0])
    far = {"jensen-shannon": math.log(2), "gan": 0, "squared-hellinger": 2, "total-variation": 1, "alpha=0.3": 1 / 0.21}
    for which in ALL:
        assert f_divergence(p, q, which).item() == pytest.approx(far.get(which.name, math.inf), rel=1e-6), which.name


def test_a_hole_in_one_support_counts_by_the_slope_at_zero_or_infinity():
    p, q = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double()
    expected = {"kl": math.log(2), "reverse-kl": math.inf, "pearson": 1, "neyman": math.inf, "total-variation": 0.5}
    expected |= {"squared-hellinger": 2 - math.sqrt(2), "jensen-shannon": 0.75 * math.log(4 / 3)}
    for name, value in expected.items():
        assert f_divergence(p, q, name).item() == pytest.approx(value), name


@named
def test_equal_vectors_and_single_symbols_give_the_least(which):
    for p in (rows(5, role="p", dtype=torch.float32), torch.tensor([1.0]), torch.tensor([0.0, 1.0])):
        assert f_divergence(p, p, which).item() == pytest.approx(which.least, abs=1e-6)


def test_what_is_far_in_logarithms_is_not_infinite():
    """Ratios beyond float32, in sums that are not."""
    log_p, log_q = torch.tensor([0.0, -2000.0]), torch.tensor([-2000.0, 0.0])
    assert f_divergence_of_logs(log_p, log_q, "kl").item() == 2000
    assert f_divergence_of_logs(log_p, log_q, "jensen-shannon").item() == pytest.approx(math.log(2))
    log_p, log_q = torch.tensor([0.0, -40.0]), torch.tensor([0.0, -140.0])
    assert f_divergence_of_logs(log_p, log_q, "pearson").item() == pytest.approx(math.exp(60), rel=1e-4)


@named
def test_gradients_meet_finite_differences(which):
    logits = torch.randn(2, 5, generator=stream(0, "p"), dtype=torch.float64, requires_grad=True)

    def of_logits(logits):
        return f_divergence_of_logs(*logits.log_softmax(-1), which)

    assert torch.autograd.gradcheck(of_logits, logits)


@named
def test_gradients_of_equal_vectors_with_zeros_are_numbers(which):
    p = torch.tensor([0.0, 0.25, 0.75], requires_grad=True)
    f_divergence(p, p.detach(), which).backward()
    assert p.grad.isfinite().all()


@named
def test_f_its_slope_and_its_conjugate_belong_together(which):
    u = torch.linspace(0.05, 4, 40, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(which.f(u).sum(), u)
    u = u.detach()
    torch.testing.assert_close(which.slope(u.log()), slope)
    torch.testing.assert_close(which.conjugate(slope), u * slope - which.f(u))  # Fenchel's equality
    t = which.activation(torch.linspace(-4, 4, 30, dtype=torch.float64))
    assert which.conjugate(t).isfinite().all()
    assert (which.f(u)[:, None] + which.conjugate(t) >= u[:, None] * t - 1e-9).all()
    assert which.f(torch.ones(1)).item() == pytest.approx(which.least)


def test_alpha_has_the_others_as_special_cases():
    p, q = rows(6, role="p"), rows(6, role="q")
    for alpha, factor, name in ((2, 0.5, "pearson"), (-1, 0.5, "neyman"), (0.5, 2, "squared-hellinger")):
        torch.testing.assert_close(f_divergence(p, q, alpha_divergence(alpha)), factor * f_divergence(p, q, name))
    for alpha, name in ((1 + 1e-6, "kl"), (1e-6, "reverse-kl")):
        assert f_divergence(p, q, alpha_divergence(alpha)).item() == pytest.approx(
            f_divergence(p, q, name).item(), rel=1e-4
        )


def simplex(symbols=4):
    weight = st.one_of(st.just(0.0), st.floats(1e-6, 1))
    vectors = st.lists(weight, min_size=symbols, max_size=symbols).filter(lambda w: sum(w) > 0)
    return vectors.map(lambda w: torch.tensor(w, dtype=torch.float64) / sum(w))


@quick
@given(simplex(), simplex())
def test_every_divergence_is_least_for_equal_laws_and_falls_when_symbols_are_merged(p, q):
    for which in ALL:
        d = f_divergence(p, q, which).item()
        assert d >= which.least
        assert f_divergence(p, p, which).item() == pytest.approx(which.least, abs=1e-9)
        assert f_divergence(p.flip(0), q.flip(0), which).item() == pytest.approx(d, rel=1e-9, abs=1e-12)
        merged = f_divergence(p.view(2, 2).sum(1), q.view(2, 2).sum(1), which).item()
        assert merged <= d + 1e-9 * max(1, abs(d))


@quick
@given(simplex(), simplex(), simplex())
def test_the_root_of_jensen_shannon_is_a_distance(p, q, r):
    def js(a, b):
        return f_divergence(a, b, "jensen-shannon").item()

    assert js(p, q) == pytest.approx(js(q, p), abs=1e-12)
    assert js(p, q) <= math.log(2) + 1e-12
    assert math.sqrt(js(p, r)) <= math.sqrt(js(p, q)) + math.sqrt(js(q, r)) + 1e-7


MIXTURE = D.MixtureSameFamily(D.Categorical(torch.tensor([0.3, 0.7])), D.Normal(torch.tensor([-1.0, 2.0]), 0.7))


@pytest.mark.parametrize("name", ["kl", "reverse-kl", "jensen-shannon", "squared-hellinger", "total-variation"])
@pytest.mark.parametrize("p", [D.Normal(1.0, 0.8), MIXTURE], ids=["normal", "mixture"])
def test_laws_meet_an_integral_within_their_standard_error(p, name):
    q = D.Normal(0.0, 1.5)

    def integrand(x):
        x = torch.tensor(x, dtype=torch.float64)
        return F_DIVERGENCES[name].terms(p.log_prob(x), q.log_prob(x)).item()

    truth = scipy.integrate.quad(integrand, -12, 12, points=(0, 2), limit=200)[0]
    got = divergence_of_laws(p, q, name, n=4000, generator=stream(0, "noise"))
    exact = p is not MIXTURE and "kl" in name
    assert got.kind == ("exact" if exact else "unbiased")
    assert got.value == pytest.approx(truth, abs=4 * got.stderr + 1e-5)
    assert got.stderr < 0.03


class Die:
    """A law of ours: symbols (B, 1), drawn with a generator."""

    def __init__(self, p):
        self.p = p

    def log_prob(self, x, condition=None):
        return self.p.log()[x[:, 0]]

    def sample(self, n, condition=None, *, generator):
        return self.p.multinomial(n, replacement=True, generator=generator)[:, None]


def test_models_meet_enumeration_and_their_standard_error_is_true():
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.1, 0.3, 0.2, 0.4])
    for name in ("jensen-shannon", "total-variation"):
        truth = f_divergence(p, q, name).item()
        runs = [divergence_of_laws(Die(p), Die(q), name, n=100, generator=stream(i, "noise")) for i in range(100)]
        z = torch.tensor([(run.value - truth) / run.stderr for run in runs])
        assert abs(z.mean()) < 4 / math.sqrt(100)
        assert z.std().item() == pytest.approx(1, abs=0.3)


def test_supports_that_differ():
    p, q = D.Uniform(0.0, 1.0), D.Uniform(0.5, 1.5)
    for name, truth in (("jensen-shannon", math.log(2) / 2), ("total-variation", 0.5), ("kl", math.inf)):
        got = divergence_of_laws(p, q, name, n=2000, generator=stream(0, "noise"))
        assert got.value == pytest.approx(truth, abs=4 * got.stderr if math.isfinite(truth) else 0)
    got = divergence_of_laws(p, q, "pearson", n=100, generator=stream(0, "noise"))
    assert (got.value, got.stderr) == (math.inf, math.inf)
    apart = divergence_of_laws(p, D.Uniform(5.0, 6.0), "jensen-shannon", n=10, generator=stream(0, "noise"))
    assert apart.value == pytest.approx(math.log(2))


def test_draws_depend_on_the_generator_alone_and_leave_the_global_state():
    before = torch.get_rng_state()
    a, b = (divergence_of_laws(MIXTURE, D.Normal(0.0, 1.0), n=50, generator=stream(0, "noise")) for _ in range(2))
    assert a == b
    assert torch.get_rng_state().equal(before)
    assert divergence_of_laws(MIXTURE, MIXTURE, n=50, generator=stream(0, "noise"))[:2] == (0, 0)


class DrawsOnly:
    def sample(self, n, condition=None, *, generator):
        return torch.zeros(n, 1)


def of_laws(p, q, **settings):
    return divergence_of_laws(p, q, generator=stream(0, "noise"), **settings)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: f_divergence(torch.tensor([0.5, 0.4]), torch.tensor([0.5, 0.5]), "kl"), "p must sum to one"),
        (lambda: f_divergence(torch.tensor([0.5, 0.5]), torch.tensor([1.5, -0.5]), "kl"), "q must hold probabilities"),
        (lambda: f_divergence(torch.tensor([0.5, math.nan]), torch.tensor([0.5, 0.5]), "kl"), "p must be finite"),
        (
            lambda: f_divergence(torch.tensor([0.5, 0.5]), torch.tensor([1.0]), "kl"),
            "got shapes (2,) and (1,)",
        ),
        (lambda: f_divergence(torch.ones(2, 1), torch.ones(3, 1), "kl"), "must pair up, got shapes (2, 1) and (3, 1)"),
        (lambda: check_tensors(x=[0.0]), "x must be a tensor, got list"),
        (lambda: f_divergence(torch.ones(1), torch.ones(1), "jensen-shanon"), "did you mean 'jensen-shannon'"),
        (lambda: alpha_divergence(1), "use 'reverse-kl' for 0 and 'kl' for 1"),
        (lambda: of_laws(MIXTURE, D.Normal(0.0, 1.0), n=1), "n of at least 2, got 1"),
        (lambda: of_laws(D.Normal(torch.zeros(3), 1.0), MIXTURE), "got a batch of shape (3,)"),
        (lambda: of_laws(DrawsOnly(), MIXTURE), "DrawsOnly lacks Scores; compare samples instead"),
        (lambda: of_laws(D.Dirichlet(torch.ones(3)), MIXTURE), "shape (3,) and ()"),
        (
            lambda: of_laws(D.Normal(0.0, 1.0), D.Poisson(2.0), which="jensen-shannon"),
            "a continuous and a discrete",
        ),
        (lambda: check_points(x=torch.zeros(3)), "x must be (N, F)"),
        (lambda: check_points(4, x=torch.zeros(3, 2)), "x needs at least 4 rows, got 3"),
        (lambda: check_points(x=torch.zeros(3, 2), y=torch.zeros(3, 1)), "same columns, got shapes (3, 2) and (3, 1)"),
        (lambda: check_points(x=torch.zeros(3, 2), y=torch.zeros(3, 2).double()), "one dtype"),
        (lambda: check_points(x=torch.zeros(3, 2).long()), "must be real numbers, got torch.int64"),
        (lambda: check_points(x=torch.full((3, 2), math.inf)), "x must be finite, got 6 of 6"),
        (lambda: check_weights(torch.tensor([0.5, 0.6]), 2, "a"), "a must sum to one, got 1.1"),
        (lambda: check_weights(torch.tensor([1.5, -0.5]), 2, "a"), "a must not be negative, got -0.5"),
        (lambda: check_weights(torch.ones(2) / 2, 3, "a"), "one for each of 3 samples"),
        (lambda: check_weights(torch.tensor([math.nan, 1]), 2, "a"), "a must be finite"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(call, told):
    with pytest.raises(Unusable) as caught:
        call()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
