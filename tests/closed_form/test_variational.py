"""Bounds by a critic: the best critic reaches them, no other passes them; information of correlated normals."""

import inspect
import math

import pytest
import torch
from torch import distributions as D

from pofx.divergences import (
    F_DIVERGENCES,
    alpha_divergence,
    donsker_varadhan,
    f_divergence,
    info_nce,
    normal_mutual_information,
    nwj,
    variational_bound,
    wasserstein_dual,
    wasserstein_exact,
)
from pofx.errors import Unusable
from pofx.randomness import stream

ALL = [*F_DIVERGENCES.values(), *(alpha_divergence(a) for a in (-1.5, 0.3, 2.5))]
named = pytest.mark.parametrize("which", ALL, ids=lambda d: d.name)


def normal(*shape, role="x", dtype=torch.float64):
    return torch.randn(shape, generator=stream(0, role), dtype=dtype)


@named
def test_the_best_critic_reaches_the_divergence_and_no_other_passes_it(which):
    """Weights are the probabilities, so that both means are exact."""
    p, q = normal(2, 6, role="p").softmax(-1)
    truth = f_divergence(p, q, which)
    best = which.slope((p / q).log())
    torch.testing.assert_close(variational_bound(best, best, which, weights_p=p, weights_q=q), truth)
    for v in normal(20, 6, role="v"):
        t = which.activation(v)
        assert variational_bound(t, t, which, weights_p=p, weights_q=q) <= truth + 1e-12


@pytest.mark.parametrize("name", ["kl", "jensen-shannon", "squared-hellinger", "gan"])
def test_a_critic_that_climbs_the_bound_arrives(name):
    p, q = normal(2, 4, role="p").softmax(-1)
    which = F_DIVERGENCES[name]
    v = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([v], line_search_fn="strong_wolfe", max_iter=60)

    def loss():
        optimiser.zero_grad()
        t = which.activation(v)
        minus = -variational_bound(t, t, which, weights_p=p, weights_q=q)
        minus.backward()
        return minus

    optimiser.step(loss)
    assert -loss().item() == pytest.approx(f_divergence(p, q, name).item(), abs=1e-6)


@pytest.mark.parametrize("name", ["reverse-kl", "jensen-shannon", "gan", "neyman", "squared-hellinger"])
def test_outside_the_domain_the_bound_says_nothing_and_is_no_nan(name):
    t = torch.tensor([-0.5, 2.0], requires_grad=True)
    bound = variational_bound(t, t, name)
    assert bound.item() == -math.inf
    bound.backward()
    assert not t.grad.isnan().any()


def test_weights_need_not_sum_to_one_and_leave_out_what_has_none():
    t = torch.tensor([0.3, 99.0, -0.4])
    weighted = variational_bound(t, t, "gan", weights_p=torch.tensor([2.0, 0.0, 2.0]), weights_q=torch.eye(3)[2])
    assert weighted.item() == pytest.approx((0.3 - 0.4) / 2 + math.log(1 - math.exp(-0.4)))


# W_1 of a shift is its length; of N(0, I) and N(0, 9 I), 2 E|N(0, I)|, which is sqrt(2 pi) in two dimensions.
@pytest.mark.parametrize(
    ("dim", "change", "truth"),
    [(1, lambda y: y + 2, 2.0), (2, lambda y: y + torch.tensor([3.0, -4.0]), 5.0), (2, lambda y: 3 * y, 2.507)],
)
def test_the_dual_is_a_lower_bound_near_the_distance(dim, change, truth):
    x, y = normal(400, dim, dtype=torch.float32), change(normal(400, dim, role="y", dtype=torch.float32))
    got = wasserstein_dual(x, y, generator=stream(0, "noise"), steps=80, width=32)
    assert 0.85 * truth - 4 * got.stderr < got.value < truth + 4 * got.stderr
    assert got.stderr < 0.06 * truth
    assert got.value == pytest.approx(wasserstein_exact(x, y, p=1).item(), abs=0.15 * truth + 4 * got.stderr)


def test_the_dual_of_equal_laws_is_about_zero_and_scales_with_the_unit():
    """In so many dimensions a critic tells its own rows apart, and only unseen ones show that it is by chance."""
    x, y = normal(200, 30), normal(200, 30, role="y")
    got = wasserstein_dual(x, y, generator=stream(0, "noise"), steps=40, width=16)
    assert abs(got.value) < 4 * got.stderr
    by_thousand = wasserstein_dual(1000 * x + 7, 1000 * y + 7, generator=stream(0, "noise"), steps=40, width=16)
    assert by_thousand.value == pytest.approx(1000 * got.value, rel=1e-4)


def test_the_dual_of_points_in_one_place():
    zero = torch.zeros(8, 2)
    assert wasserstein_dual(zero, zero, generator=stream(0, "noise"), steps=3, width=4)[:2] == (0, 0)
    got = wasserstein_dual(zero, zero + 1, generator=stream(0, "noise"), steps=80, width=4)
    assert got.value == pytest.approx(math.sqrt(2), rel=0.05)


def test_the_dual_depends_on_the_generator_alone_and_leaves_the_global_state():
    x, y = normal(20, 2), normal(20, 2, role="y")
    before = torch.get_rng_state()
    with torch.no_grad():
        a, b = (wasserstein_dual(x, y, generator=stream(0, "noise"), steps=3, width=4) for _ in range(2))
    assert a == b
    assert torch.get_rng_state().equal(before)


RHO = 0.8


def log_ratio(x, y):
    """log p(x, y) / (p(x) p(y)) of normals of correlation RHO, of each x with each y."""
    r2 = RHO**2
    quadratic = 2 * RHO * x[:, None] * y - r2 * (x.square()[:, None] + y.square())
    return quadratic / (2 * (1 - r2)) - math.log(1 - r2) / 2


def pairs(n, role):
    x, noise = normal(2, n, role=role)
    return x, RHO * x + math.sqrt(1 - RHO**2) * noise


def test_information_of_normals_is_the_kl_of_joint_and_product():
    joint = D.MultivariateNormal(torch.zeros(2), torch.tensor([[1, RHO], [RHO, 1]]))
    product = D.MultivariateNormal(torch.zeros(2), torch.eye(2))
    kl = D.kl_divergence(joint, product)
    torch.testing.assert_close(normal_mutual_information(torch.tensor([RHO, -RHO])), kl.expand(2))


@pytest.mark.parametrize(("bound", "shift"), [(info_nce, 0), (donsker_varadhan, 0), (nwj, 1)])
def test_the_best_critic_reaches_the_information(bound, shift):
    truth = normal_mutual_information(torch.tensor(RHO)).item()
    values = torch.stack([bound(log_ratio(*pairs(500, f"{i}")) + shift) for i in range(20)])
    stderr = values.std() / math.sqrt(20)
    assert values.mean().item() == pytest.approx(truth, abs=4 * stderr.item() + 0.01)
    assert stderr < 0.02


def test_info_nce_is_at_most_log_b_and_blind_to_a_function_of_x():
    x, y = pairs(6, "x")
    scores = log_ratio(x, y)
    torch.testing.assert_close(info_nce(scores + x[:, None] ** 3), info_nce(scores))
    assert abs(info_nce(scores + y**3) - info_nce(scores)) > 1e-3
    assert info_nce(1e6 * torch.eye(6)).item() == pytest.approx(math.log(6))
    assert info_nce(torch.zeros(1, 1)) == 0


def test_a_critic_trained_by_info_nce_is_the_log_ratio_up_to_a_function_of_x():
    """Of scores a x y + b y^2, whose y-part is free, the best are those of the normals' log ratio."""
    batches = [pairs(128, f"{i}") for i in range(40)]
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([theta], line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        scores = [theta[0] * x[:, None] * y + theta[1] * y.square() for x, y in batches]
        total = -torch.stack([info_nce(s) for s in scores]).mean()
        total.backward()
        return total

    optimiser.step(loss)
    expected = torch.tensor([RHO / (1 - RHO**2), -(RHO**2) / (2 * (1 - RHO**2))], dtype=torch.float64)
    torch.testing.assert_close(theta.detach(), expected, atol=0.15, rtol=0)


def test_nwj_is_the_variational_bound_of_kl():
    scores = normal(5, 5)
    apart = scores[~torch.eye(5, dtype=torch.bool)]
    torch.testing.assert_close(nwj(scores), variational_bound(scores.diagonal(), apart, "kl"))
    assert donsker_varadhan(scores) >= nwj(scores)  # log a <= a / e is what lies between them


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: wasserstein_dual(torch.zeros(7, 1), torch.zeros(9, 1), generator=stream(0, "n")),
            "x needs at least 8",
        ),
        (lambda: wasserstein_dual(torch.zeros(8, 1), torch.zeros(8, 2), generator=stream(0, "n")), "same columns"),
        (lambda: wasserstein_dual(*torch.zeros(2, 8, 1), generator=stream(0, "n"), width=3), "an even width"),
        (lambda: info_nce(torch.zeros(2, 3)), "got shape (2, 3)"),
        (lambda: nwj(torch.zeros(1, 1)), "B at least 2"),
        (lambda: variational_bound(torch.zeros(0), torch.zeros(2), "kl"), "t_p needs at least 1 row, got 0"),
        (
            lambda: inspect.unwrap(variational_bound)(
                torch.zeros(2, 1), torch.zeros(2, 1), "kl", weights_p=torch.ones(2)
            ),
            "weights_p must be one for each sample, got shape (2,) for (2, 1)",
        ),
        (lambda: variational_bound(torch.zeros(2), torch.zeros(2), "jsd"), "no f-divergence is called 'jsd'"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(call, told):
    with pytest.raises(Unusable) as caught:
        call()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
