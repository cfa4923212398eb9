"""What is said of a latent, on models whose every figure is known: linear maps and normals, and tables of codes."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pofx.conditions import Classes
from pofx.data import Data, Rows
from pofx.distributions import DiagonalNormal, FullNormal, standard_normal_log_prob
from pofx.domains import Images, Tokens, Vectors
from pofx.evaluate import evaluate
from pofx.evaluate.latents import code, cross_log_prob, log_aggregated, rate_distortion
from pofx.randomness import stream
from pofx.report.rows import Row
from pofx.report.verdict import likelihood_questions, sample_questions

CLASSES = Classes(("left", "right"), (0.5, 0.5))
PLENTY = 3000  # seconds that no machine needs, so that every row is told of


class Around:
    """N(mean, variance I), as a distribution over x."""

    def __init__(self, mean, variance):
        self.mode, self.law = mean, torch.distributions.Normal(mean, math.sqrt(variance))

    def log_prob(self, x):
        return self.law.log_prob(x).sum(-1)


class Linear(nn.Module):
    """q(z|x) = N(A x + a c, diag v), p(x|z) = N(W z, s I), p(z) = N(0, I)."""

    def __init__(self, a, w, v, s, condition=None, by_class=0.0):
        super().__init__()
        self.a, self.w, self.v, self.s = a, w, v, s
        self.domain, self.condition, self.latent_domain = Vectors(len(w)), condition, Vectors(len(v))
        self.by_class = by_class

    def posterior(self, x, condition=None):
        mu = x.double() @ self.a.T + (0 if condition is None else self.by_class * condition[:, None])
        return DiagonalNormal(mu, self.v.log().expand_as(mu))

    def encode(self, x, condition=None, *, generator=None):
        q = self.posterior(x, condition)
        return q.mu if generator is None else q.rsample(1, generator=generator)[0]

    def decode(self, z, condition=None):
        return Around(z @ self.w.T, self.s)

    def log_prior(self, z, condition=None):
        return standard_normal_log_prob(z)

    def elbo(self, x, condition=None, *, samples=None, generator):
        q = self.posterior(x, condition)
        z = q.rsample(1, generator=generator)
        return (self.decode(z).log_prob(x.double()) + self.log_prior(z) - q.log_prob(z))[0]


class Plain(nn.Module):
    """Encodes and decodes by itself; its latent has no laws."""

    condition = None

    def __init__(self, domain, latent_domain, encode, decode):
        super().__init__()
        self.domain, self.latent_domain, self._encode, self._decode = domain, latent_domain, encode, decode

    def encode(self, x, condition=None, *, generator=None):
        return self._encode(x)

    def decode(self, z, condition=None):
        return Told(self._decode(z))


class Told:
    """What is known of an x that comes back: itself."""

    def __init__(self, mode):
        self.mode = mode

    def log_prob(self, x):
        return torch.where((x == self.mode).all(-1), 0.0, -math.inf)


class Codebook(Plain):
    """A posterior of one code, a uniform prior."""

    def posterior(self, x, condition=None):
        return Point(self.encode(x))

    def log_prior(self, z, condition=None):
        return torch.full(z.shape[:-1], -z.shape[-1] * math.log(self.latent_domain.vocabulary))


class Point:
    """All mass on one code."""

    def __init__(self, code):
        self.code = code

    def log_prob(self, z):
        return torch.zeros(z.shape[:-1]).masked_fill((z != self.code).any(-1), -math.inf)

    def rsample(self, samples, *, generator):
        return self.code.expand(samples, *self.code.shape)


def data_of(x, domain, c=None, condition=None):
    cut = len(x) // 2
    rows = [Rows(x[part], None if c is None else c[part]) for part in (slice(0, cut), slice(cut, None))]
    return Data("made", domain, rows[0], rows[1], rows[1], condition)


def named(scores):
    return {score.metric: score for score in scores if score.split == "test"}


@pytest.fixture(scope="module")
def linear():
    """Three dimensions of x in two of z: one of them hardly moves with x; with the covariance of x."""
    root = torch.tensor([[1.2, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.1, 0.4]], dtype=torch.float64)
    a = torch.tensor([[0.8, 0.3, -0.2], [0.02, 0.0, 0.05]], dtype=torch.float64)
    w = torch.tensor([[0.9, 0.1], [0.5, -0.4], [-0.1, 0.2]], dtype=torch.float64)
    model = Linear(a, w, torch.tensor([0.2, 0.7], dtype=torch.float64), 0.3)
    x = torch.randn(2400, 3, generator=stream(0, "x"), dtype=torch.float64) @ root.T
    data = data_of(x.float(), Vectors(3))
    return model, data, root @ root.T


@pytest.fixture(scope="module")
def scores(linear):
    model, data, _ = linear
    return named(evaluate(model, data, seconds=PLENTY))


def test_rate_distortion_information_and_gap_are_the_known_numbers(linear, scores):
    model, _, cov = linear
    off = torch.eye(3).double() - model.w @ model.a
    squared = (off @ cov @ off.T).trace() + (model.w * model.v @ model.w.T).trace()
    mean_square = (model.a @ cov @ model.a.T).diagonal()
    of_z = model.a @ cov @ model.a.T + model.v.diag()
    prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    known = {
        "distortion": 0.5 * (squared / model.s + 3 * math.log(2 * math.pi * model.s)),
        "rate": 0.5 * (mean_square + model.v - model.v.log() - 1).sum(),
        "mutual information": 0.5 * (of_z.logdet() - model.v.log().sum()),
        "aggregated gap": kl_divergence(MultivariateNormal(prior.mean, of_z), prior),
        "reconstruction error": (off @ cov @ off.T).trace() / 3,
        "reconstruction error, constant": cov.trace() / 3,
    }  # fmt: skip
    for metric, value in known.items():
        score = scores[metric]
        error = 4.5 * score.stderr + (score.bias or 0.0)
        assert score.value == pytest.approx(value.item(), abs=error), metric
        assert error < 0.2 * max(0.5, abs(value.item())), f"{metric} is told too vaguely to test"
        assert score.n == 1200
        assert score.unit == ("units^2" if "error" in metric else "nats")


def test_the_rate_is_information_and_gap_and_with_the_distortion_the_bound(scores):
    rate = scores["rate"].value
    assert scores["mutual information"].value + scores["aggregated gap"].value == pytest.approx(rate, abs=1e-9)
    bound = scores["log p(x)"]
    told = -rate - scores["distortion"].value
    assert told == pytest.approx(bound.value, abs=4 * math.hypot(bound.stderr, scores["distortion"].stderr))


def test_rate_and_distortion_alone_are_those_of_all_scores(linear, scores):
    rate, distortion = rate_distortion(linear[0], linear[1])
    assert (rate, distortion) == (scores["rate"], scores["distortion"])


def test_units_and_dimensions(linear, scores):
    model, data, _ = linear
    x = data.test.rows()[0]
    kl = model.posterior(x).kl_to_standard_normal().mean(0).sort(descending=True).values
    assert scores["active units"].value == 1
    assert list(scores["rate of the fullest dimension"].parts) == pytest.approx(kl.tolist(), rel=1e-3)
    assert scores["rate of the fullest dimension"].value == scores["rate of the fullest dimension"].parts[0]
    assert sum(scores["rate of the fullest dimension"].parts) == pytest.approx(
        scores["rate"].value, abs=4 * scores["rate"].stderr
    )
    assert (
        scores["rate of the fullest dimension"].to_json()["parts"][0] == scores["rate of the fullest dimension"].value
    )


def test_another_prior_has_no_rate_by_dimension(linear):
    model, data, _ = linear

    class Shifted(Linear):
        def log_prior(self, z, condition=None):
            return standard_normal_log_prob(z - 1)

    shifted = named(evaluate(Shifted(model.a, model.w, model.v, model.s), data, seconds=PLENTY))
    assert "rate of the fullest dimension" not in shifted
    assert "rate" in shifted


def test_dependent_dimensions_have_no_rates_of_their_own(linear):
    """Of a full covariance the rates by the chain rule depend on the order of the dimensions."""
    model, data, _ = linear

    class Dependent(Linear):
        def posterior(self, x, condition=None):
            q = super().posterior(x, condition)
            return FullNormal(q.mu, (0.5 * q.log_var).exp().diag_embed())

    dependent = named(evaluate(Dependent(model.a, model.w, model.v, model.s), data, seconds=PLENTY))
    assert "rate of the fullest dimension" not in dependent
    assert "rate" in dependent


def test_information_is_too_low_on_average_and_by_less_with_more_rows(linear):
    """Draws of n rows each: the mean of the estimate lies below the truth, and rises with n."""
    model, _, cov = linear
    of_z = model.a @ cov @ model.a.T + model.v.diag()
    truth = 0.5 * (of_z.logdet() - model.v.log().sum()).item()
    means = []
    for n in (8, 64):
        told = []
        for draw in range(60):
            x = (
                torch.randn(n, 3, generator=stream(draw, f"rows {n}"), dtype=torch.float64)
                @ torch.linalg.cholesky(cov).T
            )
            coded = code(model, x, seed=draw)
            told.append((coded.log_posterior - log_aggregated(cross_log_prob(coded))).mean())
        told = torch.stack(told)
        means.append(told.mean().item())
        assert means[-1] < truth + 3 * told.std().item() / math.sqrt(60)
    assert means[0] < means[1] - 0.05


def test_every_z_meets_every_posterior(linear):
    model, data, _ = linear
    x = data.test.rows()[0][:300]  # more than one batch
    coded = code(model, x)
    crossed = cross_log_prob(coded)
    q = model.posterior(x)
    laws = torch.distributions.Independent(torch.distributions.Normal(q.mu, (0.5 * q.log_var).exp()), 1)
    torch.testing.assert_close(crossed, laws.log_prob(coded.z[:, None]))
    torch.testing.assert_close(crossed.diagonal(), coded.log_posterior)


def test_narrow_posteriors_are_told_apart_up_to_log_n_and_the_bias_says_so(linear):
    model, data, _ = linear
    narrow = Linear(50 * model.a, model.w / 50, model.v * 1e-8, model.s)
    told = named(evaluate(narrow, data, seconds=PLENTY))["mutual information"]
    assert told.value == pytest.approx(math.log(1200), abs=0.01)
    assert told.bias == pytest.approx(math.log(2), abs=0.01)


def test_what_the_class_alone_says_is_no_information_within_classes():
    a, w = torch.zeros(1, 2).double(), torch.zeros(2, 1).double()
    model = Linear(a, w, torch.tensor([0.01]).double(), 1.0, CLASSES, by_class=3.0)
    x = torch.randn(600, 2, generator=stream(0, "x"))
    data = data_of(x, Vectors(2), torch.arange(600) % 2, CLASSES)
    told = named(evaluate(model, data, seconds=PLENTY))
    assert told["mutual information"].value == pytest.approx(0, abs=1e-6)
    assert told["mutual information"].given == "classes"
    assert "log n = 5.01" in told["mutual information"].note, "150 rows of each class"
    apart = Linear(a, w, torch.tensor([0.01]).double(), 1.0, None)
    apart.posterior = lambda x, condition=None: model.posterior(x, (x[:, 0] > 0).long())
    told = named(evaluate(apart, data_of(x, Vectors(2)), seconds=PLENTY))
    assert told["mutual information"].value == pytest.approx(math.log(2), abs=0.02), "one bit, where none is given"


def test_codes_in_use_and_the_information_of_a_codebook_is_the_entropy_of_its_codes():
    x = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0]).repeat(100)[:, None]
    model = Codebook(Vectors(1), Tokens(8, 2), lambda x: (x + 1).long().expand(-1, 2), lambda z: z[..., :1] - 1.0)
    told = named(evaluate(model, data_of(x, Vectors(1)), seconds=PLENTY))
    entropy = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert told["mutual information"].value == pytest.approx(entropy, abs=1e-6)
    assert told["mutual information"].bias == pytest.approx(0, abs=0.02)
    assert told["rate"].value == pytest.approx(2 * math.log(8), abs=1e-6)
    assert told["codes used"].value == 3 / 8
    assert told["code perplexity"].value == pytest.approx(math.exp(entropy))
    assert told["reconstruction error"].value == 0
    assert not {"active units", "rate of the fullest dimension"} & set(told)


def test_a_rare_code_is_not_in_use():
    """9 of 400 symbols are less than a tenth of an even share of four codes, 1/40."""
    codes = torch.zeros(100, 4)
    codes[torch.arange(9) * 10, 1], codes[99, 0] = 1.0, 2.0
    model = Codebook(Vectors(4), Tokens(4, 4), lambda x: x.long(), lambda z: z.float())
    told = named(evaluate(model, data_of(codes, Vectors(4)), seconds=PLENTY))
    assert told["codes used"].value == 0.25
    assert told["code perplexity"].n == 50, "half of the rows are test rows"


@pytest.mark.parametrize("palette", [False, True])
def test_pictures_come_back(palette):
    """Half of the pixels come back, the others one level too high: an error, or a share of colours that are right."""
    colours = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    domain = Images(1, 2, 2, 4, palette=colours if palette else ())
    x = torch.randint(0, 3, (80, 1, 2, 2), generator=stream(0, "x")).to(torch.uint8)
    wrong = torch.tensor([1, 0, 0, 1], dtype=torch.uint8)

    def decode(z):
        return (z + wrong).view(-1, 1, 2, 2).to(torch.uint8)

    model = Plain(domain, Vectors(4), lambda x: x.flatten(1).float(), decode)
    told = named(evaluate(model, data_of(x, domain), seconds=PLENTY))
    if palette:
        assert told["symbols right"].value == 0.5
        assert 0.2 < told["symbols right, constant"].value < 0.5
    else:
        assert (told["reconstruction error"].value, told["reconstruction error"].unit) == (0.5, "levels^2")
    assert "rate" not in told, "its latent has no laws"


def test_padding_is_not_counted_as_right():
    domain = Tokens(3, 4, end=2)
    x = torch.tensor([[0, 2, 2, 2], [1, 1, 2, 2]]).repeat(20, 1)
    model = Plain(domain, Vectors(4), lambda x: x.float(), lambda z: torch.tensor([0, 2, 2, 2]).expand(len(z), 4))
    told = named(evaluate(model, data_of(x, domain), seconds=PLENTY))
    assert told["symbols right"].value == pytest.approx((1 + 1 / 3) / 2)


def test_nothing_is_ranked_by_them(scores):
    """They are told of each model, and no question of a comparison is about them."""
    row = Row("a", by_seed=(tuple(scores.values()),))
    assert [metric for metric, _ in likelihood_questions([row])] == ["log p(x)"]
    assert sample_questions([row]) == []
