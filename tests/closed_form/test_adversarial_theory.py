"""The values of the game where the critic has found its best answer, and what holds its slope, against closed forms."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn
from torch.nn.functional import logsigmoid, softplus

from pofx.conditions import Classes
from pofx.domains import Images, Vectors
from pofx.models import GAN
from pofx.models.adversarial.values import VALUES
from pofx.randomness import seeded_init, stream

# Two laws on six points, as counts of sixteen: every mean over points is then exact.
DATA, FAKES = torch.tensor([1, 2, 3, 4, 5, 1]), torch.tensor([4, 3, 2, 1, 1, 5])
P, Q = DATA.double() / 16, FAKES.double() / 16
CROSS_ENTROPIES = ("saturating", "non-saturating")


def built(domain, **arguments):
    with seeded_init(0):
        return GAN(domain, **arguments)


def scores(f, loss):
    """f of real points and of generated ones; of all pairs, where points are judged in pairs."""
    real, fake = f.repeat_interleave(DATA), f.repeat_interleave(FAKES)
    if VALUES[loss].paired:
        return [each.flatten() for each in torch.meshgrid(real, fake, indexing="ij")]
    return real, fake


def best(loss):
    """The critic's best answer on the six points by descent, f (6,), and what is left of its loss."""
    f = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [f], max_iter=200, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        total = VALUES[loss].critic(*scores(f, loss))
        total.backward()
        return total

    optimiser.step(closure)
    return f.detach(), closure().item()


def jensen_shannon(p, q):
    m = (p + q) / 2
    return ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()).item() / 2


def by_hand(loss, real, fake):
    """(critic's side, generator's side), written out."""
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    critic = {
        "least-squares": 0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean(),
        "hinge": (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean(),
        "relativistic": -(real - fake).sigmoid().log().mean(),
        "wasserstein": -(real.mean() - fake.mean()),
    }
    generator = {
        "saturating": (1 - d_fake).log().mean(),
        "non-saturating": -d_fake.log().mean(),
        "least-squares": 0.5 * ((fake - 1) ** 2).mean(),
        "hinge": -fake.mean(),
        "relativistic": -(fake - real).sigmoid().log().mean(),
        "wasserstein": -fake.mean(),
    }
    cross_entropy = -(d_real.log().mean() + (1 - d_fake).log().mean())
    return critic.get(loss, cross_entropy), generator[loss]


@pytest.mark.parametrize("loss", VALUES)
def test_both_sides_of_every_value_are_the_formula_written_out(loss):
    real, fake = 2 * torch.randn(2, 40, generator=stream(0, "test"), dtype=torch.float64)
    expected = by_hand(loss, real, fake)
    value = VALUES[loss]
    torch.testing.assert_close((value.critic(real, fake), value.generator(real, fake)), expected)
    assert value.paired == (not value.generator(real, fake).equal(value.generator(real + torch.arange(40.0), fake)))


@pytest.mark.parametrize("loss", VALUES)
def test_sure_scores_give_finite_losses_and_gradients(loss):
    real, fake = (torch.tensor([-200.0, 200.0], requires_grad=True) for _ in range(2))
    total = VALUES[loss].critic(real, fake) + VALUES[loss].generator(real, fake)
    total.backward()
    assert total.isfinite()
    assert fake.grad.isfinite().all()
    assert real.grad.isfinite().all()


@pytest.mark.parametrize("loss", CROSS_ENTROPIES)
def test_the_best_discriminator_is_p_over_p_plus_q_and_its_value_the_jensen_shannon_divergence(loss):
    """Goodfellow et al. 2014, proposition 1 and theorem 1: V = -log 4 + 2 JS, of which the critic descends -V."""
    f, total = best(loss)
    torch.testing.assert_close(f.sigmoid(), P / (P + Q), atol=1e-6, rtol=0)
    assert -total == pytest.approx(-math.log(4) + 2 * jensen_shannon(P, Q), abs=1e-9)


def test_the_saturating_game_is_of_sum_zero():
    """What the generator gains the critic loses: their sum does not depend on the fakes."""
    real, fake = torch.randn(2, 8, generator=stream(0, "test"), dtype=torch.float64)
    for loss in ("saturating", "wasserstein"):
        value = VALUES[loss]
        torch.testing.assert_close(*(value.critic(real, y) + value.generator(real, y) for y in (fake, fake - 3)))


def test_least_squares_leave_pearsons_chi_squared_to_the_mixture():
    """Mao et al. 2017, eq. (5) and section 3.2.1 with a = 0, b = c = 1; chi^2(q || m) = sum (q - m)^2 / m."""
    f, total = best("least-squares")
    m = (P + Q) / 2
    chi_squared = ((Q - m) ** 2 / m).sum().item()
    torch.testing.assert_close(f, P / (P + Q), atol=1e-7, rtol=0)
    assert total == pytest.approx((1 - chi_squared) / 4, abs=1e-10)
    generator = VALUES["least-squares"].generator
    both = generator(f, f.repeat_interleave(FAKES)) + generator(
        f, f.repeat_interleave(DATA)
    )  # the latter g cannot move
    assert both.item() == pytest.approx((1 + chi_squared) / 4, abs=1e-9)


def test_hinges_leave_the_total_variation():
    """The best f is the sign of p - q, and the critic's loss 2 (1 - TV): no f is below it."""
    critic = VALUES["hinge"].critic
    f = (P - Q).sign()
    total = critic(*scores(f, "hinge"))
    assert total.item() == pytest.approx(2 * (1 - (P - Q).abs().sum().item() / 2), abs=1e-12)
    rng = stream(0, "test")
    for size in (0.01, 0.3, 2.0):
        others = f + size * torch.randn(50, 6, generator=rng, dtype=torch.float64)
        assert all(critic(*scores(other, "hinge")) >= total for other in others)


def test_the_relativistic_critic_finds_the_log_ratio_up_to_a_constant():
    """A pair is told from its exchange: f = log p / q, and what is left is log 2 - JS(p x q, q x p)."""
    f, total = best("relativistic")
    expected = (P / Q).log()
    torch.testing.assert_close(f - f.mean(), expected - expected.mean(), atol=1e-5, rtol=0)
    pairs = P[:, None] * Q
    assert total == pytest.approx(math.log(2) - jensen_shannon(pairs.flatten(), pairs.T.flatten()), abs=1e-9)


def test_the_gap_of_the_best_critic_of_slope_one_is_the_wasserstein_distance():
    """On a line the best f climbs where more of q than of p lies below."""
    climbs = (Q.cumsum(0) - P.cumsum(0))[:-1].sign()
    f = torch.cat([torch.zeros(1, dtype=torch.float64), climbs.cumsum(0)])
    total = VALUES["wasserstein"].critic(*scores(f, "wasserstein")).item()
    points = range(6)
    assert -total == pytest.approx(wasserstein_distance(points, points, P.numpy(), Q.numpy()))


class Fixed(nn.Module):
    """g(z) = 1 + z / 2."""

    def forward(self, z, c):
        return 1 + z / 2


def test_a_trained_discriminator_finds_the_ratio_of_two_normal_laws():
    """Against fakes of N(1, 1/4) and data of N(0, 1) log p / q is a parabola; its value is a numerical integral."""
    model = built(Vectors(1), hidden=(16,), latent_dim=1)
    model.generator = Fixed()
    optimiser = torch.optim.Adam(model.critic.parameters(), lr=0.01)
    rng = stream(0, "test")
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / 300)
        model.critic_loss(torch.randn(256, 1, generator=rng), generator=rng).total.backward()
        optimiser.step()
        optimiser.zero_grad()
    x = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    p, q = (torch.distributions.Normal(m, s).log_prob(x).exp() for m, s in ((0.0, 1.0), (1.0, 0.5)))
    m, dx = (p + q) / 2, 24 / 4800
    found = model.critic(x[:, None].float(), None).sigmoid().detach().double()
    assert ((found - p / (p + q)).abs() * m).sum().item() * dx < 0.02  # the mean error where points are
    divergence = (torch.special.xlogy(p, p / m) + torch.special.xlogy(q, q / m)).nansum().item() * dx / 2
    total = model.critic_loss(torch.randn(50_000, 1, generator=rng), generator=rng).total.item()
    assert total == pytest.approx(math.log(4) - 2 * divergence, abs=0.015)


class Parabola(nn.Module):
    """f(y) = y . A y / 2, whose gradient is A y."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, y, c):
        return (y @ self.a * y).sum(1) / 2


def constant(model, value):
    """The generator's output becomes ``value`` whatever the noise."""
    with torch.no_grad():
        model.generator.network.head.weight.zero_()
        model.generator.network.head.bias.copy_(value)


def test_slopes_of_a_parabola_are_held_as_the_formula_says():
    """r1/2 E|A x|^2 + r2/2 |A g|^2 + lambda (|A g| - 1)^2: the last where real points are g too, so all between are."""
    root = torch.randn(3, 3, generator=stream(0, "test"), dtype=torch.float64)
    a, g = root + root.T, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    x = torch.randn(10, 3, generator=stream(1, "test"), dtype=torch.float64)
    for r1, r2, penalty in ((3.0, 0.0, 0.0), (0.0, 5.0, 0.0), (3.0, 5.0, 0.0), (0.0, 0.0, 7.0), (3.0, 5.0, 7.0)):
        model = built(Vectors(3), hidden=(4,), r1=r1, r2=r2, penalty=penalty).double()
        model.critic = Parabola(a)
        constant(model, g)
        real = g.expand(10, 3) if penalty else x
        f_real, f_fake = ((y @ a * y).sum(1) / 2 for y in (real, g[None]))
        expected = softplus(-f_real).mean() + softplus(f_fake).mean()
        expected = expected + r1 / 2 * (real @ a).square().sum(1).mean() + r2 / 2 * (a @ g).square().sum()
        expected = expected + penalty * ((a @ g).norm() - 1) ** 2
        loss = model.critic_loss(real, generator=stream(0, "noise"))
        torch.testing.assert_close(loss.total, expected)
        (gradient,) = torch.autograd.grad(loss.total, model.critic.parameters())
        a_free = a.clone().requires_grad_()
        f = [(y @ a_free * y).sum(1) / 2 for y in (real, g[None])]
        slopes = [(y @ (a_free + a_free.T) / 2).square().sum(1) for y in (real, g[None])]
        again = (
            -logsigmoid(f[0]).mean() - logsigmoid(-f[1]).mean() + r1 / 2 * slopes[0].mean() + r2 / 2 * slopes[1].mean()
        )
        again = again + penalty * (slopes[1].mean().sqrt() - 1) ** 2
        torch.testing.assert_close(gradient, torch.autograd.grad(again, a_free)[0])


TWO = Classes(("a", "b"), (0.5, 0.5))
OPTIONS = [
    (Vectors(3), {}),
    (Vectors(3), {"packing": 2}),
    (Vectors(3), {"minibatch_std": True, "conditioning": "concatenation"}),
    (Vectors(3), {"spectral_norm": True, "loss": "hinge"}),
    (Images(1, 9, 9, 5), {"loss": "relativistic", "augment": ("translation", "cutout")}),
    (Images(2, 9, 9, 5), {"network": "residual", "loss": "least-squares"}),
    (Images(1, 9, 9, 5), {"norm": "batch"}),
]


@pytest.mark.parametrize(("domain", "options"), OPTIONS)
@pytest.mark.parametrize(("r1", "r2"), [(2.0, 3.0), (2.0, 0.0), (0.0, 3.0)])
def test_one_pass_for_value_and_slopes_is_a_pass_for_each(domain, options, r1, r2):
    """The value and its gradient in every weight of the critic are those of slopes taken from passes of their own."""
    model = built(domain, condition=TWO, hidden=(6,), width=2, r1=r1, r2=r2, **options).double()
    if options.get("spectral_norm"):
        model.critic.eval()  # each pass would otherwise turn the singular vectors a little further
    if isinstance(domain, Images):
        x = torch.randint(5, (6, *domain.shape), generator=stream(0, "test"), dtype=torch.uint8)
    else:
        x = torch.randn(6, 3, generator=stream(0, "test"), dtype=torch.float64)
    c = torch.tensor([0, 1, 1, 0, 0, 1])
    loss = model.critic_loss(x, c, generator=stream(0, "noise")).total
    real, fake, told = model.pairs(x, c, stream(0, "noise"))
    total = VALUES[options.get("loss", "non-saturating")].critic(model.critic(real, told), model.critic(fake, told))
    for weight, y in ((r1, real), (r2, fake)):
        y = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.critic(y, told).sum(), y, create_graph=True)
        packs = slope.reshape(len(y) // options.get("packing", 1), -1)
        total = total + weight / 2 * packs.square().sum(1).mean()
    torch.testing.assert_close(loss, total)
    weights = list(model.critic.parameters())
    fast, slow = (torch.autograd.grad(value, weights, allow_unused=True) for value in (loss, total))
    for one, other in zip(fast, slow):
        torch.testing.assert_close(one, other)
