"""A run's layer as data: rows for symbols, places and observations; and the loss that a reconstruction recovers."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pofx.data.activations import activations
from pofx.data.dataset import Data, Rows
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.evaluate.meters import meter_scores
from pofx.evaluate.pace import Clock
from pofx.evaluate.recovery import recovered_scores
from pofx.models import GPT, VAE, FlowMatching, MaskedLM, PixelCNN, SparseAutoencoder
from pofx.nn.layer import Layer, as_outputs, as_rows
from pofx.randomness import seeded_init, stream
from pofx.testing import TWO_CLASSES
from pofx.testing.specimens import tiny_data


def data_of(domain, condition=None, n=60):
    x, c = tiny_data(domain, condition, n)
    cut = [slice(0, n // 2), slice(n // 2, 3 * n // 4), slice(3 * n // 4, n)]
    parts = [Rows(x[part], None if c is None else c[part]) for part in cut]
    return Data("tiny", domain, *parts, condition=condition)


def built(cls, domain, **given):
    with seeded_init(0):
        return cls(domain, **given).eval()


TRUNK = {"width": 8, "layers": 2, "heads": 2}


@pytest.mark.parametrize(
    ("model", "layer", "each", "width"),
    [
        (built(GPT, Tokens(3, 5), **TRUNK), "trunk.blocks.1", 5, 8),
        (built(MaskedLM, Tokens(3, 5), **TRUNK), "trunk", 5, 8),
        (built(GPT, Images(1, 2, 3, levels=4), **TRUNK), "trunk.blocks.0.up", 6, 32),
        (built(PixelCNN, Images(1, 3, 4, levels=4), width=8, layers=1), "", 1, None),
        (built(VAE, Images(1, 20, 20, levels=4), width=4, latent_dim=3), "encoder", 1, 6),
        (built(VAE, Vectors(3), latent_dim=2, hidden=(7,)), "", 1, 2),
        (built(FlowMatching, Vectors(3), hidden=(7,)), "", 1, None),
    ],
    ids=["symbols", "masked symbols", "pixels", "pixelcnn", "pictures", "vectors", "a field"],
)
def test_a_row_per_symbol_place_or_observation(model, layer, each, width):
    data = data_of(model.domain)
    inside = activations(model, layer, data)
    for name in ("train", "validation", "test"):
        part, of = inside.part(name), data.part(name)
        assert len(part) == part.observations == each * len(of)
        assert part.rows()[0].shape == (each * len(of), inside.domain.dim)
        assert part.rows()[1] is None
    assert width in (None, inside.domain.dim)
    inside.domain.check(inside.train.rows()[0])


class Convolution(nn.Module):
    """A model of pictures that has nothing but an encoder of places."""

    def __init__(self):
        super().__init__()
        self.domain, self.condition = Images(1, 4, 5, levels=4), None
        self.places = nn.Conv2d(1, 3, 1)

    def encode(self, x, condition=None, *, generator=None):
        return self.places(x.float()).flatten(1)


def test_a_row_of_channels_per_place():
    model, data = Convolution(), data_of(Images(1, 4, 5, levels=4))
    rows = activations(model, "places", data).test.rows()[0]
    expected = model.places(data.test.x.float())
    assert rows.shape == (len(data.test) * 20, 3)
    torch.testing.assert_close(rows[7], expected[0, :, 1, 2])
    torch.testing.assert_close(as_outputs(as_rows(expected), expected.shape), expected)


def test_values_are_those_of_the_module():
    model, data = built(GPT, Tokens(3, 5), **TRUNK), data_of(Tokens(3, 5))
    rows = activations(model, "trunk", data).train.rows()[0]
    s = model.read(data.train.x)
    expected = model.trunk(model._inputs(s, None, 0, 5), model._turn(0, 5))
    torch.testing.assert_close(rows, expected.flatten(0, 1))


def test_condition_rows_are_repeated_where_they_are_asked_for():
    domain = Tokens(3, 5)
    model, data = built(GPT, domain, condition=TWO_CLASSES, **TRUNK), data_of(domain, TWO_CLASSES)
    with_it, without = (activations(model, "trunk", data, given=given) for given in (True, False))
    assert with_it.condition == TWO_CLASSES
    assert with_it.train.rows()[1].tolist() == [int(c) for c in data.train.c for _ in range(5)]
    assert without.condition is None
    assert without.train.rows()[1] is None
    assert torch.equal(with_it.train.rows()[0], without.train.rows()[0]), "the model is given its classes all the same"


def test_of_too_many_a_seeded_subset_is_taken_and_said(monkeypatch):
    model, data = built(GPT, Tokens(3, 5), **TRUNK), data_of(Tokens(3, 5))
    monkeypatch.setattr("pofx.data.activations.MOST_BYTES", 10 * 5 * 8 * 4)
    a, b, other = (activations(model, "trunk", data, seed=seed) for seed in (0, 0, 1))
    assert len(a.train) == 50
    assert any("activations of 10 of 30 train observations" in problem for problem in a.problems)
    assert torch.equal(a.train.rows()[0], b.train.rows()[0])
    assert not torch.equal(a.train.rows()[0], other.train.rows()[0])


def test_the_fingerprint_is_of_model_layer_and_source():
    model, data = built(GPT, Tokens(3, 5), **TRUNK), data_of(Tokens(3, 5))
    prints = [
        activations(model, layer, data_of(Tokens(3, 5), n=n), identity=identity).fingerprint()
        for layer, n, identity in (("trunk", 60, "a"), ("trunk", 60, "b"), ("head", 60, "a"), ("trunk", 64, "a"))
    ]
    assert len(set(prints)) == 4
    again = activations(model, "trunk", data, identity="a")
    assert again.fingerprint() == prints[0]
    assert "held" not in vars(again.train), "known without running the model"


class Pair(nn.Module):
    """Puts out two tensors."""

    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("trunk.blocks.2", "no layer 'trunk.blocks.2'; did you mean 'trunk.blocks.1'"),
        ("xyz", "no layer 'xyz'; there are: "),
        ("trunk.blocks", "'trunk.blocks' is never called as a module"),
    ],
)
def test_a_wrong_layer_is_one_line(layer, message):
    model = built(GPT, Tokens(3, 5), **TRUNK)
    with pytest.raises(Unusable, match=message) as wrong:
        activations(model, layer, data_of(Tokens(3, 5)))
    assert "\n" not in str(wrong.value)


def test_a_layer_that_gives_no_vectors_is_one_line():
    model = Convolution()
    model.places = nn.Sequential(Pair())
    model.encode = lambda x, condition=None, *, generator=None: model.places(x.float())[0]
    with pytest.raises(Unusable, match=r"'places' gives tuple; name another"):
        activations(model, "places", data_of(model.domain))
    with pytest.raises(Unusable, match="no features of its own; name a layer"):
        activations(model, "", data_of(model.domain))


class Through(nn.Module):
    """An autoencoder of one function."""

    condition = None

    def __init__(self, change):
        super().__init__()
        self.change = change

    def encode(self, x, condition=None, *, generator=None):
        return x

    def decode(self, z, condition=None):
        return SimpleNamespace(mode=self.change(z))


def language_model():
    model, data = built(GPT, Tokens(3, 5), **TRUNK, zero_init=False), data_of(Tokens(3, 5), n=200)
    return model, data


@pytest.mark.parametrize("layer", ["trunk.blocks.0", "trunk"])
def test_nothing_is_lost_by_the_identity_and_all_by_the_ablation(layer):
    model, data = language_model()
    at = Layer(model, layer)

    def recovered(change):
        given = {"split": "test", "clock": Clock.of(30), "seed": 0, "watch": lambda line: None}
        return {score.metric: score for score in recovered_scores(at, Through(change), data, **given)}

    zero, mean = "loss recovered, zero ablation", "loss recovered, mean ablation"
    same = recovered(lambda z: z)
    assert same[zero].value == same[mean].value == 1
    assert recovered(torch.zeros_like)[zero].value == pytest.approx(0, abs=1e-9)
    outputs = at.outputs(data.test.x[torch.randperm(50, generator=stream(0, "evaluate/test"))[:32]], None)
    average = as_rows(outputs).mean(0)
    assert recovered(lambda z: average.expand_as(z))[mean].value == pytest.approx(0, abs=1e-9)
    half = recovered(lambda z: 0.5 * z)[zero]
    with torch.no_grad(), at.replaced(lambda out: 0.5 * out):
        reconstructed = -model.log_prob(data.test.x).double().mean()
    with torch.no_grad(), at.replaced(torch.zeros_like):
        ablated = -model.log_prob(data.test.x).double().mean()
    with torch.no_grad():
        original = -model.log_prob(data.test.x).double().mean()
    assert half.value == pytest.approx(float((ablated - reconstructed) / (ablated - original)), rel=1e-5)
    assert half.n == 50
    assert half.stderr > 0


def test_nothing_is_recovered_where_nothing_is_computed_from_the_layer():
    model, data = language_model()
    given = {"split": "test", "clock": Clock.of(30), "seed": 0, "watch": lambda line: None}
    assert recovered_scores(Layer(model, ""), Through(lambda z: z), data, **given) == []
    vae = built(VAE, Vectors(3), latent_dim=2, hidden=(7,))
    assert recovered_scores(Layer(vae, "encoder"), Through(lambda z: z), data_of(Vectors(3)), **given) == []


def test_meters_become_scores_of_a_model_that_only_encodes():
    data, given = data_of(Vectors(3)), {"split": "test", "seed": 0, "device": "cpu", "watch": lambda line: None}
    model = built(SparseAutoencoder, Vectors(3), dictionary=8, k=2)
    scores = meter_scores(model, data, **given)
    told = model.meters(data.test.x)
    assert {s.metric: pytest.approx(s.value) for s in scores} == {
        k.replace("_", " "): float(v) for k, v in told.items()
    }
    assert {s.n for s in scores} == {15}
    assert meter_scores(built(VAE, Vectors(3), latent_dim=2, hidden=(7,)), data, **given) == []


def test_outputs_are_tensors_of_the_first_call():
    model, data = language_model()
    assert isinstance(Layer(model, "head").outputs(data.test.x, None), Tensor)
