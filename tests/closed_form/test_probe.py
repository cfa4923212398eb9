"""The linear probe: logistic regression where its answer is known, and what it reads of a model."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pofx.conditions import Classes
from pofx.data import Data, Rows
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.evaluate.pace import Clock
from pofx.evaluate.probe import chosen_probe, features_of, linear_probe, plain_map, probe_scores
from pofx.randomness import stream

THREE = Classes(("a", "b", "c"), (0.2, 0.3, 0.5))


def blobs(n, seed=0, *, dim=4, apart=1.5):
    """A normal blob per class, in columns of very different units, and the classes."""
    g = stream(seed, "blobs")
    y = THREE.sample(n, generator=g)
    f = torch.randn(n, dim, generator=g)
    f[:, :2] += apart * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[y]
    return f * 10.0 ** torch.arange(-1, dim - 1) + 5, y


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_a_probe_is_scikit_learns_logistic_regression(penalty):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    f, y = blobs(400)
    mine = linear_probe(f.double(), y, classes=3, penalty=penalty)
    scaled = StandardScaler().fit_transform(f.double().numpy())
    theirs = LogisticRegression(C=1 / (penalty * len(f)), tol=1e-9, max_iter=5000).fit(scaled, y.numpy())
    held, _ = blobs(200, seed=1)
    scaled = (held.double().numpy() - f.double().mean(0).numpy()) / f.double().std(0, correction=0).numpy()
    torch.testing.assert_close(
        mine.logits(held.double()).softmax(1), torch.tensor(theirs.predict_proba(scaled)), atol=1e-4, rtol=0
    )


def test_a_probe_is_the_minimum_wherever_it_begins():
    """The gradient is zero there, in single precision as well; features without variance count for nothing."""
    f, y = blobs(300)
    f = torch.cat([f, torch.full((300, 1), 7.0)], dim=1)
    cold = linear_probe(f, y, classes=3, penalty=1e-3)
    warm = linear_probe(f, y, classes=3, penalty=1e-3, start=linear_probe(f, y, classes=3, penalty=10.0))
    torch.testing.assert_close(warm.weight, cold.weight, atol=5e-3, rtol=0)
    weight, bias = cold.weight.clone().requires_grad_(), cold.bias.clone().requires_grad_()
    loss = F.cross_entropy(F.linear(cold.standardise(f), weight, bias), y) + 1e-3 / 2 * weight.square().sum()
    slopes = torch.autograd.grad(loss, (weight, bias))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-4
    assert not cold.weight[:, -1].any()


def test_units_of_the_features_do_not_matter():
    f, y = blobs(300)
    a, b = linear_probe(f.double(), y, classes=3), linear_probe(1e4 * f.double() - 3e5, y, classes=3)
    torch.testing.assert_close(a.weight, b.weight, atol=1e-4, rtol=0)


def test_the_penalty_is_chosen_on_validation_rows():
    """Of many columns of noise and few rows a heavy penalty makes the best; of one column that tells all, a light one
    does no worse, and of equals the heavier is kept."""
    g = stream(0, "noise")
    f, y = blobs(60, dim=4, apart=3.0)
    noisy = torch.cat([f, torch.randn(60, 300, generator=g)], dim=1)
    held, target = blobs(2000, seed=1, dim=4, apart=3.0)
    validation = torch.cat([held, torch.randn(2000, 300, generator=g)], dim=1)
    probes = {p: linear_probe(noisy, y, classes=3, penalty=p) for p in (1e-5, 1e-1, 100.0)}
    best = max(probes, key=lambda p: probes[p].accuracy(validation, target))
    chosen = chosen_probe((noisy, y), (validation, target), classes=3, penalties=(1e-5, 1e-1, 100.0))
    assert chosen.penalty == best
    sure = 100.0 * y[:, None].float()
    assert chosen_probe((sure, y % 2), (sure, y % 2), classes=2, penalties=(1e-4, 1e-2)).penalty == 1e-2
    tried = chosen_probe((noisy, y), (validation, target), classes=3, penalties=(1e-5, 100.0), until=lambda: True)
    assert tried.penalty == 100.0, "from the heaviest down, until told to stop"


@pytest.mark.parametrize(
    ("f", "y", "penalty", "words"),
    [
        (torch.zeros(3, 2, 2), torch.zeros(3, dtype=torch.int64), 0.1, "flatten"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 0.1, "N classes, got"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), 0.1, "N classes, got"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, dtype=torch.int64), 0.1, "finite"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), 0.1, "classes lie in 0 to 1, got 0 to 2"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 1]), -1.0, "penalty must be at least 0"),
    ],
)
def test_refuses_what_cannot_be_probed(f, y, penalty, words):
    with pytest.raises(Unusable, match=words):
        linear_probe(f, y, classes=2, penalty=penalty)


class Distance(nn.Module):
    """Features by which classes at two distances from the middle are told apart; the values themselves cannot do it."""

    def __init__(self, told=True):
        super().__init__()
        self.told, self.batches = told, []

    def features(self, x):
        self.batches.append(len(x))
        return x.square().sum(1, keepdim=True) if self.told else torch.zeros(len(x), 1)


def rings(condition):
    """Two classes, on rings of radius 1 and 2."""

    def part(n, seed):
        g = stream(seed, "rings")
        y = torch.randint(2, (n,), generator=g)
        angle = 6.28318 * torch.rand(n, generator=g)
        x = (1.0 + y)[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
        return Rows(x, y if condition is not None else None)

    return Data("rings", Vectors(2), part(1000, 0), part(300, 1), part(400, 2), condition=condition)


TWO = Classes(("inner", "outer"), (0.5, 0.5))


def scores(model, data, split="test", seconds=600):
    told = {"clock": Clock.of(seconds), "seed": 0, "watch": lambda line: None, "device": "cpu"}
    return probe_scores(model, data, split=split, **told)


def test_scores_are_accuracies_beside_those_of_plain_values():
    own, plain = scores(Distance(), rings(TWO))
    assert (own.metric, own.value, own.n, own.stderr, own.split) == ("probe accuracy", 1.0, 400, 0.0, "test")
    assert f"of raw columns {plain.value:.3f}" in own.note
    assert plain.metric == "probe accuracy of raw columns"
    assert plain.better == "reference"
    assert plain.value < 0.7, "a line parts two thirds of two rings at best"
    assert plain.stderr == pytest.approx((plain.value * (1 - plain.value) / 400) ** 0.5)
    blind, _ = scores(Distance(told=False), rings(TWO))
    assert blind.value == pytest.approx(0.5, abs=0.06)


def test_a_validation_split_is_scored_on_the_half_that_chose_nothing():
    own, _ = scores(Distance(), rings(TWO), "validation")
    assert (own.value, own.n, own.split) == (1.0, 150, "validation")


def test_no_probe_without_classes_or_held_out_rows_or_time():
    assert scores(Distance(), rings(None)) == []
    assert scores(Distance(), rings(TWO), "train") == []
    assert scores(Distance(), rings(TWO), seconds=0) == []


def test_features_are_read_in_batches():
    model, x = Distance(), torch.randn(700, 2, generator=stream(0, "x"))
    assert torch.equal(features_of(model, x), x.square().sum(1, keepdim=True))
    assert model.batches == [256, 256, 188]


def test_plain_values():
    palette = ((255, 255, 255), (255, 0, 0))
    red = plain_map(Images(1, 1, 2, levels=2, palette=palette))(torch.tensor([[[[0, 1]]]], dtype=torch.uint8))
    assert (red > 0).tolist() == [[True, True, True, False, True, False]], "red, green and blue of each"
    text = plain_map(Tokens(5, 6))(torch.tensor([[0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 1]]))
    assert text.shape[0] == 2
    assert not torch.equal(text[0], text[1])


def test_a_run_without_classes_is_probed_with_those_of_its_source(tmp_path):
    """Its own data have none; the accuracy is that of the probe on the features of the model, and is said by class."""
    from pofx import fitting

    small = {"width": 8, "layers": 1, "heads": 2, "decoder_heads": 2}
    run = fitting.fit("masked-autoencoder", "digits", out=tmp_path / "run", steps=3, device="cpu", **small)
    assert run.data.condition is None
    assert run.labelled.condition.count == 10
    assert torch.equal(run.labelled.train.rows()[0], run.data.train.rows()[0])
    found = {s.metric: s for s in run.evaluate(seconds=200)}
    (x, y), (v, w), (held, target) = (run.labelled.part(p).rows() for p in ("train", "validation", "test"))
    read = run.model.features
    with torch.no_grad():
        probe = chosen_probe((read(x), y), (read(v), w), classes=10)
        expected = probe.accuracy(read(held), target)
    assert found["probe accuracy"].n == len(held) == 180
    assert found["probe accuracy"].value == pytest.approx(expected, abs=0.03)
    assert found["probe accuracy of raw pixels"].value > 0.9
    shown = torch.zeros(8, 8, dtype=torch.bool)[None]
    shown[:, ::2] = True
    with pytest.raises(Unusable, match="known whole"):
        run.complete(held[:2], shown)


def test_a_source_without_classes_is_read_once(tmp_path):
    from pofx import fitting

    small = {"width": 8, "layers": 1, "heads": 2, "decoder_heads": 2}
    run = fitting.fit("masked-autoencoder", "moons", out=tmp_path / "run", steps=3, device="cpu", limit=200, **small)
    if "class" not in run.data.offers:
        assert run.labelled is run.data
        assert not [s for s in run.evaluate(seconds=20) if "probe" in s.metric]
