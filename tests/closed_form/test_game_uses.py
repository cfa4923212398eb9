"""What a trained game is good for beside sampling: its critic as a two-sample score, and the noise behind a point."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from pofx.catalogue import find
from pofx.conditions import Classes, VectorCondition
from pofx.data.dataset import Data, Rows
from pofx.distributions import PointMass
from pofx.divergences import auc
from pofx.domains import Images, Vectors
from pofx.errors import Unusable
from pofx.evaluate.critic import critic_scores
from pofx.evaluate.drawing import Drawn
from pofx.evaluate.latents import latent_scores
from pofx.evaluate.pace import Clock
from pofx.models.adversarial.augment import augment
from pofx.models.adversarial.inversion import VARIANCE
from pofx.randomness import seeded_init, stream
from pofx.samplers.latents import interpolate, reconstruct

TWO = Classes(("left", "right"), (0.5, 0.5))


def built(domain, **arguments):
    with seeded_init(0):
        return find("gan").build(domain, **{"hidden": (16,), **arguments}).eval()


class Affine(nn.Module):
    """g(z, c) = W z + b, b by the class where there are classes."""

    def __init__(self, dim, latent_dim, classes=1):
        super().__init__()
        g = stream(0, "affine")
        self.w = nn.Parameter(torch.randn(dim, latent_dim, generator=g, dtype=torch.float64))
        self.b = torch.randn(classes, dim, generator=g, dtype=torch.float64)

    def forward(self, z, c):
        return z @ self.w.T + self.b[torch.zeros(len(z), dtype=torch.int64) if c is None else c]


@pytest.mark.parametrize("condition", [None, TWO])
def test_the_noise_behind_a_point_of_a_linear_generator(condition):
    """z = (W^T W + sigma^2)^-1 W^T (y - b); y the standardised x."""
    model = built(Vectors(3), latent_dim=2, condition=condition).double()
    x = 5.0 + 2.0 * torch.randn(20, 3, generator=stream(0, "x"), dtype=torch.float64)
    c = None if condition is None else torch.arange(20) % 2
    model.adapt(x, c, generator=stream(0, "adapt"))
    g = model.generator = Affine(3, 2, 2)
    y = model.standardise(x) - g.b[torch.zeros(20, dtype=torch.int64) if c is None else c]
    z = torch.linalg.solve(g.w.T @ g.w + VARIANCE * torch.eye(2), g.w.T @ y.T).T
    found = model.encode(x, c)
    torch.testing.assert_close(found, z.detach(), atol=1e-3, rtol=1e-3)
    assert found.equal(model.encode(x, c, generator=stream(5, "unused"))), "nothing is drawn"
    assert not found.requires_grad
    assert g.w.grad is None


@pytest.mark.parametrize("domain", [Vectors(2), Images(1, 8, 8, 17)])
def test_what_was_generated_comes_back(domain):
    """With random weights: the error is below a hundredth of the samples' own variance."""
    model = built(domain, hidden=(32, 32), latent_dim=2)
    for p in model.generator.parameters():
        p.data.mul_(2.0)
    x = model.sample(50, generator=stream(0, "sample"))
    back = reconstruct(model, x)
    assert domain.check(back).shape == x.shape
    error, variance = (back.double() - x.double()).square().mean(), x.double().var(0).mean()
    assert error < 0.01 * variance
    assert variance > 0.01
    walk = interpolate(model, x[:3], x[3:6], 4)
    for end, x_end in ((walk[0], back[:3]), (walk[-1], back[3:6])):
        torch.testing.assert_close(end, x_end, atol=1e-3, rtol=1e-3)


def test_a_decoded_point_is_certain_and_needs_its_condition():
    model = built(Images(1, 2, 2, 4), condition=TWO)
    z, c = torch.randn(5, model.latent_dim, generator=stream(0, "z")), torch.arange(5) % 2
    p = model.decode(z, c)
    assert p.mode.equal(p.sample(generator=stream(0, "unused")))
    assert p.log_prob(p.mode).tolist() == [0.0] * 5
    assert p.log_prob(3 - p.mode).tolist() == [-math.inf] * 5
    assert model.latent_domain == Vectors(model.latent_dim)
    with pytest.raises(Unusable, match="got no condition"):
        model.decode(z)


def test_a_point_mass_has_as_many_axes_as_its_values():
    mode = torch.arange(12).view(2, 2, 3)
    other = mode.clone()
    other[0, 1, 2] = -1
    assert PointMass(mode).log_prob(other).tolist() == [[0.0, -math.inf], [0.0, 0.0]]
    assert PointMass(mode, 2).log_prob(other).tolist() == [-math.inf, 0.0]
    assert PointMass(mode, 2).rsample(3, generator=stream(0, "unused")).shape == (3, 2, 2, 3)


def test_auc_is_a_count_of_pairs_and_its_error_that_of_many_draws():
    """Of N(1, 1) above N(0, 1) it is Phi(1 / sqrt 2); the errors given are the spread over repetitions."""
    g = stream(0, "auc")
    a, b = torch.randint(0, 5, (40,), generator=g).float(), torch.randint(0, 5, (30,), generator=g).float()
    pairs = (a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()
    assert auc(a, b)[0] == pytest.approx(pairs.mean().item())
    placements = pairs.mean(1).var() / 40 + pairs.mean(0).var() / 30
    assert auc(a, b)[1] == pytest.approx(placements.sqrt().item())
    found = [auc(1 + torch.randn(100, generator=g), torch.randn(200, generator=g)) for _ in range(300)]
    values, errors = torch.tensor(found, dtype=torch.float64).unbind(1)
    assert values.mean().item() == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=0.006)
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.15)


class Fixed(nn.Module):
    """f(x, c): what it is told to be."""

    lot = 1

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, y, c):
        return self.f(y, c)


def two_sampled(f, *, shift=0.0, condition=None, split="test", n=400, **arguments):
    """The scores of a critic f of one number: held-out rows and samples are N(0, 1), training rows N(shift, 1)."""
    model = built(Vectors(1), condition=condition, **arguments)
    lot = model.critic.lot
    model.critic = Fixed(f)
    model.critic.lot = lot
    x = {name: torch.randn(n, 1, generator=stream(0, name)) for name in ("train", "validation", "test", "drawn")}
    c = None if condition is None else torch.arange(n) % 2
    data = Data("toy", Vectors(1), *(Rows(x[name] + shift * (name == "train"), c) for name in list(x)[:3]))
    drawn = Drawn(x["drawn"], c, 64, 1.0)
    clock, watch = Clock.of(1000), lambda line: None
    found = critic_scores(model, drawn, data, split=split, clock=clock, seed=0, device="cpu", watch=watch)
    return {score.metric: score for score in found}


def test_a_critic_that_cannot_tell_and_one_that_learnt_by_heart():
    told = two_sampled(lambda y, c: y[:, 0], shift=1.0)
    blind, learnt = told["critic, test against samples"], told["critic, train against test"]
    assert blind.value == pytest.approx(0.5, abs=3 * blind.stderr)
    assert learnt.value == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=3 * learnt.stderr)
    assert (blind.n, blind.kind, blind.better, blind.floor) == (400, "statistic", "reference", 0.5)
    assert set(two_sampled(lambda y, c: y[:, 0], split="train")) == {"critic, train against samples"}


def test_lots_are_judged_as_one():
    """A pack is worth the sum of its two; four packs see each other: 400 rows are 50 lots, and the means of 8 numbers
    are as far apart as sqrt 8 single ones.
    """
    model = two_sampled(lambda y, c: y.view(-1, 2).sum(1), shift=-0.5, packing=2, minibatch_std=True)[
        "critic, train against test"
    ]
    assert model.n == 50
    assert "lots of 8 rows" in model.note
    expected = 0.5 * (1 + math.erf(-0.5 * math.sqrt(8) / 2))
    assert model.value == pytest.approx(expected, abs=4 * model.stderr)


def test_a_critic_is_told_what_comes_with_each():
    told = two_sampled(lambda y, c: c.to(y.dtype) + 1e-3 * y[:, 0], condition=TWO)
    score = told["critic, test against samples"]
    assert score.given == "classes"
    assert score.value == pytest.approx(0.5, abs=3 * score.stderr)
    assert score.stderr < 0.03


def test_a_critic_that_is_not_finite_says_so():
    score = two_sampled(lambda y, c: y[:, 0] / 0)["critic, test against samples"]
    assert (score.kind, score.n) == ("none", 0)
    assert math.isnan(score.value)


def test_little_time_still_tells_how_held_out_rows_come_back():
    model = built(Vectors(2), latent_dim=2)
    data = Data("toy", Vectors(2), *(Rows(torch.randn(200, 2, generator=stream(k, "x"))) for k in range(3)))
    clock, watch = Clock.of(0.01), lambda line: None
    told = latent_scores(model, data, split="test", clock=clock, seed=0, device="cpu", watch=watch)
    assert [score.metric for score in told] == ["reconstruction error", "reconstruction error, constant"]
    assert {score.n for score in told} == {64}


def test_signs_stay_signs_whatever_is_asked_of_the_rest():
    model = built(Vectors(2), signs=3)
    x = torch.randn(8, 2, generator=stream(0, "x"))
    assert model.encode(x)[:, :3].abs().equal(torch.ones(8, 3))
    assert model.noise(50, stream(0, "z"), scale=0.1)[:, :3].abs().eq(1).all()
    assert model.noise(50, stream(0, "z"), scale=0.1)[:, 3:].abs().max() < 1


def test_each_row_is_sought_under_its_own_numbers():
    """Conditions that are all different are begun in lots; the answer is that of each row by itself."""
    condition = VectorCondition((1,), tuple((float(i),) for i in range(4)))
    model = built(Vectors(2), condition=condition)
    x, c = torch.randn(70, 2, generator=stream(0, "x")), torch.linspace(-1, 1, 70)[:, None]
    alone = torch.cat([model.encode(x[i : i + 1], c[i : i + 1]) for i in (0, 37, 69)])
    torch.testing.assert_close(model.encode(x, c)[[0, 37, 69]], alone, atol=1e-3, rtol=1e-3)


def test_meters_of_fewer_rows_than_a_pack():
    assert all(v.isfinite() for v in built(Vectors(2), packing=16).meters(torch.randn(10, 2)).values())


def test_groups_of_a_batch_are_whole():
    """Of 67 points 64 are judged, in groups of 4: a prime number of them would leave each by itself."""
    model = built(Vectors(2), minibatch_std=True)
    assert (model.whole_packs(67), model.whole_packs(3)) == (64, 3)


def test_pictures_are_moved_in_half_precision_too():
    y = torch.zeros(512, 1, 16, 16, dtype=torch.bfloat16)
    moved = augment(y, ("colour", "translation", "cutout"), generator=stream(0, "augment"))
    assert moved.dtype == torch.bfloat16
    assert moved.isfinite().all()


def test_scores_are_in_single_precision_where_the_networks_are_in_half():
    model = built(Vectors(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.critic(torch.zeros(4, 2), None).dtype == torch.float32


class Standard(nn.Module):
    """g(z) = z."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, z, c):
        return z


class LogRatio(nn.Module):
    """log p(y) - log N(y; 0, 1) of p = N(0.8, 0.6^2), up to a constant, which does not matter."""

    def forward(self, y, c):
        return (y.square() / 2 - ((y - 0.8) / 0.6).square() / 2).squeeze(1) + 3.0


def test_candidates_become_samples_of_the_data_where_the_critic_is_the_log_ratio():
    model = built(Vectors(1), latent_dim=1)
    model.generator, model.critic = Standard(), LogRatio()
    own, chosen = (model.sample(4000, generator=stream(0, "s"), candidates=k)[:, 0] for k in (1, 64))
    assert stats.kstest(own, stats.norm(0, 1).cdf).pvalue > 0.01
    assert stats.kstest(chosen, stats.norm(0.8, 0.6).cdf).pvalue > 0.01


def test_candidates_are_of_the_class_asked_for():
    model = built(Vectors(2), latent_dim=2, condition=TWO)
    c = torch.tensor([0, 1, 1, 0])
    assert model.sample(4, c, generator=stream(0, "s"), candidates=5).shape == (4, 2)
    model.generator = Affine(2, 2, 2)
    model.generator.w.data.zero_()
    drawn = model.double().sample(4, c, generator=stream(0, "s"), candidates=5)
    torch.testing.assert_close(drawn, model.outside(model.generator.b[c]))


@pytest.mark.parametrize(("name", "candidates", "message"), [("wgan-gp", 2, "a logit"), ("gan", 0, "at least 1")])
def test_candidates_that_cannot_be_are_refused(name, candidates, message):
    with seeded_init(0):
        model = find(name).build(Vectors(2), hidden=(8,))
    with pytest.raises(Unusable, match=message):
        model.sample(2, generator=stream(0, "s"), candidates=candidates)
