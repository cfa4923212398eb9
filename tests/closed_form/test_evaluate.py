"""``evaluate`` on models whose every figure is known."""

import math
import time

import pytest
import torch
from torch import nn

from pofx.conditions import Classes
from pofx.data import Data, Rows
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.evaluate import codec_scores, evaluate
from pofx.evaluate.drawing import balanced
from pofx.evaluate.features import feature_map, ngram_hash, scatter
from pofx.evaluate.pace import Clock, paced
from pofx.protocols import Estimate
from pofx.randomness import stream

CLASSES = Classes(("left", "right"), (0.25, 0.75))


class Normal(nn.Module):
    """N(0, I) or, told a class, N(+-3, I): sampled and scored exactly; every call can be made slow."""

    def __init__(self, domain, condition=None, wait=0.0):
        super().__init__()
        self.domain, self.condition, self.wait = domain, condition, wait
        self.net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(1))
        self.calls = []

    def law(self, c, n):
        shift = torch.zeros(n) if c is None else 6.0 * c - 3
        return torch.distributions.Normal(shift[:, None].expand(n, self.domain.dim), 1.0)

    def sample(self, n, condition=None, *, generator):
        assert not self.net.training
        time.sleep(self.wait * n)
        if self.condition is not None and condition is None:
            condition = self.condition.sample(n, generator=generator)
        return self.law(condition, n).mean + torch.randn((n, self.domain.dim), generator=generator)

    def log_prob(self, x, condition=None):
        time.sleep(self.wait * len(x))
        self.calls.append(len(x))
        if self.condition is not None and condition is None:
            terms = [
                math.log(f) + self.log_prob(x, torch.full((len(x),), k))
                for k, f in enumerate(self.condition.frequencies)
            ]
            return torch.stack(terms).logsumexp(0)
        return self.law(condition, len(x)).log_prob(x).sum(1)


class Bounded(nn.Module):
    """A bound that tells how many samples it was given."""

    domain, condition = Vectors(2), None

    def elbo(self, x, condition=None, *, samples=1, generator):
        return torch.full((len(x),), -1.0 / samples)


class Estimated(nn.Module):
    """An error of scale / steps^2."""

    domain, condition = Vectors(2), None

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def estimate_log_prob(self, x, condition=None, *, generator, steps):
        error = self.scale / steps**2
        return Estimate(x[:, 0] + error, torch.full((len(x),), -3 * error), of_bound=True)


class Copier(nn.Module):
    """Rows of the training set."""

    def __init__(self, data):
        super().__init__()
        self.domain, self.condition, self.x = data.domain, None, data.train.rows()[0]

    def sample(self, n, condition=None, *, generator):
        return self.x[torch.randint(len(self.x), (n,), generator=generator)]


def normal_data(n=300, dim=2, classes=None):
    def part(role, size):
        g = stream(0, role)
        c = None if classes is None else classes.sample(size, generator=g)
        shift = 0 if c is None else 6.0 * c[:, None] - 3
        return Rows(torch.randn((size, dim), generator=g) + shift, c)

    return Data("normal", Vectors(dim), part("train", 4 * n), part("validation", n), part("test", n), classes)


def by_metric(scores):
    return {(s.metric, s.given, s.split): s for s in scores}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POFX_CACHE", str(tmp_path))


def test_exact_likelihood_is_the_known_number():
    data, lines = normal_data(), []
    x = data.test.x
    scores = by_metric(evaluate(Normal(Vectors(2)), data, seconds=20, watch=lines.append))
    told = scores["log p(x)", "", "test"]
    log_p = -0.5 * x.double().square().sum(1) - math.log(2 * math.pi)
    assert told.value == pytest.approx(log_p.mean().item(), rel=1e-6)
    assert told.stderr == pytest.approx(log_p.std().item() / 300**0.5, rel=1e-6)
    assert (told.kind, told.n, told.unit) == ("exact", 300, "nats")
    assert scores["log p(x)", "", "train"].n == 1200
    assert any("log p(x), exact: 300 of test" in line for line in lines)
    assert any(line.startswith("frechet") and "300 samples, about" in line for line in lines)


def test_a_perfect_model_is_at_the_floor_and_a_shifted_one_is_not():
    data = normal_data()
    good = by_metric(evaluate(Normal(Vectors(2)), data, seconds=30))
    shifted = Normal(Vectors(2))
    shifted.law = lambda c, n: torch.distributions.Normal(torch.full((n, 2), 1.0), 1.0)
    bad = by_metric(evaluate(shifted, data, seconds=30))
    for metric in ("frechet", "kernel", "wasserstein"):
        key = (metric, "", "test")
        assert bad[key].value > 4 * abs(bad[key].floor)
        assert good[key].value < 0.25 * bad[key].value
        assert "standardised-v1" in good[key].note
        assert good[key].n == 300
        assert "n too small to tell" not in bad[key].note
    # two unit normals at distance |(1, 1)|, in units of the training split's scale, which is about one
    assert bad["frechet", "", "test"].value == pytest.approx(2, abs=0.5)
    assert bad["wasserstein", "", "test"].value == pytest.approx(2**0.5, abs=0.2)
    assert good["memorisation", "", "test"].value == pytest.approx(1, abs=0.25)


def test_a_copier_is_caught_although_its_samples_are_perfect():
    data = normal_data()
    scores = by_metric(evaluate(Copier(data), data, seconds=20))
    assert scores["memorisation", "", "test"].value < 1e-3
    assert scores["coverage", "", "test"].value == pytest.approx(scores["coverage", "", "test"].floor, abs=0.05)
    assert ("log p(x)", "", "test") not in scores


def test_conditional_model_gets_both_likelihoods_and_is_judged():
    data = normal_data(classes=CLASSES)
    scores = by_metric(evaluate(Normal(Vectors(2), CLASSES), data, seconds=20))
    x, c = data.test.rows()
    given, marginal = scores["log p(x)", "classes", "test"], scores["log p(x)", "", "test"]
    model = Normal(Vectors(2), CLASSES)
    assert given.value == pytest.approx(model.log_prob(x, c).mean().item(), rel=1e-5)
    assert marginal.value == pytest.approx(model.log_prob(x).mean().item(), rel=1e-5)
    accuracy = scores["conditional accuracy", "classes", "test"]
    assert accuracy.value > 0.98
    assert accuracy.floor > 0.98
    assert "own accuracy on test rows is" in accuracy.note


def test_bounds_take_as_many_samples_as_useful_and_say_so():
    score = evaluate(Bounded(), normal_data(), seconds=20)[0]
    assert (score.kind, score.note, score.value) == ("lower bound", "1000 samples", pytest.approx(-1e-3))


@pytest.mark.parametrize(("scale", "steps"), [(0.5, 10), (10.0, 40)])
def test_estimates_take_steps_until_the_bias_is_small_and_report_it(scale, steps):
    data = normal_data()
    score = evaluate(Estimated(scale), data, seconds=20)[0]
    assert (score.kind, score.note) == ("estimate of a lower bound", f"{steps} steps")
    assert score.bias == pytest.approx(3 * scale / steps**2)
    assert score.value == pytest.approx(data.test.x[:, 0].mean().item() + scale / steps**2, abs=1e-5)


def test_the_true_density_stands_beside_a_toys_likelihood():
    data = normal_data()
    truth = Normal(Vectors(2)).log_prob
    data = Data(data.source, data.domain, data.train, data.validation, data.test, log_prob=truth)
    score = evaluate(Normal(Vectors(2)), data, seconds=20)[0]
    assert score.floor == pytest.approx(score.value, rel=1e-6)


def test_little_time_gives_few_rows_and_much_the_same_figures_twice():
    data = normal_data()
    begun = time.perf_counter()
    scores = by_metric(evaluate(Normal(Vectors(2), wait=0.002), data, seconds=1.0))
    assert time.perf_counter() - begun < 10
    assert 8 <= scores["log p(x)", "", "test"].n < 300
    assert scores["frechet", "", "test"].n < 300
    twice = [evaluate(Normal(Vectors(2)), data, seconds=30, seed=3) for _ in range(2)]
    timeless = [[s for s in scores if s.metric not in ("sampling speed", "peak memory")] for scores in twice]
    assert timeless[0] == timeless[1]
    assert timeless[0] != [s for s in scores.values() if s.metric not in ("sampling speed", "peak memory")]


@pytest.mark.parametrize("split", ["validation", "train"])
def test_other_splits_are_scored_and_say_so(split):
    scores = evaluate(Normal(Vectors(2)), normal_data(100), split=split, seconds=20)
    assert {s.split for s in scores if s.metric == "frechet"} == {split}
    frechet = next(s for s in scores if s.metric == "frechet")
    assert 0.001 < frechet.floor < 0.3  # rows of a floor are never those it is measured against


def test_modes_and_the_global_random_state_are_put_back():
    model = Normal(Vectors(2))
    model.train()
    model.net[1].eval()
    before = torch.get_rng_state()
    evaluate(model, normal_data(40), seconds=5)
    assert model.training
    assert model.net[0].training
    assert not model.net[1].training
    assert torch.get_rng_state().equal(before)


def test_broken_samples_are_told_not_raised():
    model = Normal(Vectors(2))
    model.sample = lambda n, condition=None, *, generator: torch.full((n, 2), math.nan)
    score = by_metric(evaluate(model, normal_data(), seconds=10))["frechet", "", "test"]
    assert score.kind == "none"
    assert "not finite" in score.note


@pytest.mark.parametrize(("change", "words"), [({"split": "tset"}, "'tset'"), ({"seconds": 0}, "above 0, got 0")])
def test_what_cannot_be_evaluated_is_refused(change, words):
    with pytest.raises(Unusable, match=words):
        evaluate(Normal(Vectors(2)), normal_data(20), **change)


def test_pictures_and_tokens_have_feature_maps_that_see():
    """Features tell a picture from its transpose, and a text from its reverse."""
    y = torch.rand((3, 1, 8, 8), generator=stream(0, "y")) * 2 - 1
    y = y.cumsum(3) / 8
    assert (scatter(y) - scatter(y.transpose(2, 3))).norm(dim=1).min() > 1
    assert scatter(torch.zeros(1, 3, 5, 17)).norm() == 0
    x = torch.randint(5, (3, 40), generator=stream(0, "x"))
    torch.testing.assert_close(ngram_hash(x)[:, :128], ngram_hash(x.flip(1))[:, :128])
    assert (ngram_hash(x) - ngram_hash(x.flip(1))).norm(dim=1).min() > 1
    padded = torch.cat([x, torch.full((3, 1), 9), torch.randint(5, (3, 7), generator=stream(1, "x"))], 1)
    alone = torch.cat([x, torch.full((3, 8), 9)], 1)
    torch.testing.assert_close(ngram_hash(padded, end=9), ngram_hash(alone, end=9))


def test_a_rotation_by_one_orientation_turns_the_energies():
    """A plane wave has its energy at its own orientation: features of 8 orientations in order."""
    row = torch.arange(32.0)
    for o in range(8):
        angle = math.pi * o / 8
        wave = torch.cos(0.8 * (math.cos(angle) * row[None] + math.sin(angle) * row[:, None]))[None, None]
        energies = scatter(wave)[0, 64 : 64 + 128].view(8, 16).mean(1)
        assert energies.argmax() == o


def test_feature_map_is_named_by_domain():
    x = torch.zeros((4, 1, 8, 8), dtype=torch.uint8)
    rows = Rows(x)
    assert feature_map(Data("", Images(1, 8, 8, 17), rows, rows, rows)).name == "scatter-v1"
    tokens = Rows(torch.zeros((4, 9), dtype=torch.int64))
    assert feature_map(Data("", Tokens(5, 9), tokens, tokens, tokens)).name == "ngram-hash-v1"


def test_any_first_classes_are_balanced():
    classes = Classes(("a", "b", "c"), (0.2, 0.5, 0.3))
    rows = balanced(classes, 1000)
    for n in (50, 333, 1000):
        share = torch.bincount(rows[:n], minlength=3) / n
        assert (share - torch.tensor(classes.frequencies)).abs().max() < 3 / n


def test_pace_begins_small_grows_and_stops():
    sizes = [rows.stop - rows.start for rows in paced(100, Clock.of(60), largest=32)]
    assert sizes == [8, 16, 32, 32, 12]
    assert [rows.stop for rows in paced(100, Clock.of(0), largest=32)] == [8]
    assert [rows.stop for rows in paced(100, Clock.of(0), largest=1)] == [1]


@pytest.mark.parametrize(
    "domain", [Images(1, 8, 8, 2), Images(1, 8, 8, 17), Images(3, 8, 8, 256), Images(1, 8, 8, 1000)]
)
def test_codecs_cannot_beat_uniform_noise_but_see_repetition(domain):
    """Incompressible levels cost at least log2(levels) bits; constant pictures next to nothing."""
    noise = torch.randint(domain.levels, (60, *domain.shape), generator=stream(0, "noise")).to(domain.dtype)
    flat = torch.zeros_like(noise)
    entropy = domain.dims * math.log(domain.levels)
    scores = codec_scores(Data("noise", domain, Rows(noise[:20]), Rows(noise[:20]), Rows(noise[20:])))
    for score in (*scores["png"], *scores["xz"]):
        assert (score.kind, score.metric, score.n) == ("lower bound", "log p(x)", 40)
        assert -entropy * 4 < score.value <= -entropy * (1 - 1e-9)
    constant = codec_scores(Data("flat", domain, Rows(flat), Rows(flat), Rows(flat)))
    assert constant["xz"][1].value > -0.1 * entropy


def test_priming_makes_known_rows_nearly_free():
    x = torch.randint(50, (40, 200), generator=stream(0, "text"))
    primed, alone = codec_scores(Data("text", Tokens(50, 200), Rows(x), Rows(x), Rows(x)))["xz"]
    assert primed.value > 0.05 * alone.value
    assert alone.value < -200 * math.log(50)
    assert codec_scores(normal_data(20)) == {}
