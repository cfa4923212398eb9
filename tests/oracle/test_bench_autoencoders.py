"""The benchmarks of autoencoders tell the figures that they name, of networks trained as they say."""

import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pofx
from pofx.data import Rows
from pofx.domains import Tokens
from pofx.randomness import stream

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "autoencoders"


@pytest.fixture(scope="module")
def probes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield importlib.import_module("probes")
        del sys.modules["probes"]


@pytest.fixture(scope="module")
def digits():
    return pofx.datasets.load("digits", condition="class")


def test_the_table(probes, capsys):
    """The mean over the seeds, best first."""
    small = ["--source", "digits", "--seconds", "0.1", "--seeds", "2", "--rows", "200"]
    probes.main([*small, "--models", "masked-autoencoder", "--anchors", "patches"])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("features "))
    assert "probes fitted on 200 rows, chosen on 180, told on 180" in lines[0]
    seeds = [float(line.split()[-1]) for line in lines[1:start] if "random, patches" in line]
    rows = {line[:25].strip(): line[25:].split() for line in lines[start + 1 :]}
    assert rows.keys() == {"raw pixels", "random, patches", "supervised, patches", "masked-autoencoder"}
    assert float(rows["random, patches"][0]) == pytest.approx(sum(seeds) / 2, abs=1e-4)
    assert len(seeds) == 2
    means = [float(values[0]) for values in rows.values()]
    assert means == sorted(means, reverse=True)
    assert float(rows["raw pixels"][0]) > 0.8


def test_a_supervised_encoder_learns_the_classes_and_its_decoder_nothing(probes, digits):
    small = {"width": 16, "layers": 1, "heads": 2, "decoder_heads": 2}

    def build():
        return probes.Supervised(probes.built("masked-autoencoder", small, digits, 0), 10)

    before, (after, steps) = build(), probes.trained(build, digits.train, {}, 0, 0.3)
    before.adapt(digits.train.rows()[0], generator=stream(0, "adapt"))
    assert steps > 1
    for name, p in before.named_parameters():
        moved = not torch.equal(p, after.get_parameter(name))
        assert moved == ("decoder" not in name), name


def test_models_are_trained_without_classes_and_end_with_averaged_weights(probes, digits):
    small = {"width": 16, "layers": 1, "heads": 2, "decoder_heads": 2}
    x = digits.train.rows()[0]
    model, steps = probes.trained(
        lambda: probes.built("masked-autoencoder", small, digits, 0), Rows(x), {"ema": 1.0}, 0, 0.2
    )
    last, _ = probes.trained(
        lambda: probes.built("masked-autoencoder", small, digits, 0), Rows(x), {"ema": 0.0}, 0, 0.2
    )
    assert steps > 1
    assert not torch.equal(model.features(x[:3]), last.features(x[:3]))


@pytest.fixture(scope="module")
def vqvae():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield importlib.import_module("vqvae")
        del sys.modules["vqvae"]


@pytest.fixture(scope="module")
def quick(vqvae, tmp_path_factory):
    """Both models fitted on digits for a moment: the folder, and the arguments that made it."""
    out = tmp_path_factory.mktemp("vqvae")
    arguments = ["--source", "digits", "--out", str(out), "--vq-budget", "1s", "--gpt-budget", "1s"]
    arguments += ["--judge-seconds", "1", "--samples", "40", "--temperatures", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POFX_CACHE", str(out))
        vqvae.main(arguments)
        yield out, arguments


def test_a_code_is_used_by_more_than_a_tenth_of_an_even_share(vqvae):
    """Of 10 codes by more than a hundredth of the tokens."""
    z = torch.tensor([0] * 100 + [1] * 96 + [2] * 3 + [3]).view(20, 10)
    told = vqvae.use_of_codes(SimpleNamespace(latent_domain=Tokens(10, 10)), z)
    entropy = -sum(n / 200 * math.log(n / 200) for n in (100, 96, 3, 1))
    assert told["used"] == pytest.approx(0.3)
    assert told["perplexity"] == pytest.approx(math.exp(entropy))


def test_bits_of_indices_and_of_reconstruction_are_the_bound(quick, digits):
    out, _ = quick
    told = json.loads((out / "vqvae.json").read_text())["bits/dim given class"]
    model, (x, c) = pofx.load(out / "gpt").model, digits.test.rows()
    nats = -model.elbo(x, c, generator=torch.Generator()).mean().item()
    assert told["total"]["mean"] == pytest.approx(nats / 64 / math.log(2), rel=1e-5)
    assert told["total"]["mean"] == pytest.approx(told["indices"]["mean"] + told["reconstruction"]["mean"])
    assert told["total"]["n"] == len(x)


def test_samples_are_judged_by_the_class_they_were_asked_for(vqvae, quick):
    out, _ = quick
    judge = SimpleNamespace(predict=lambda x: x)
    told = vqvae.accepted(judge, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0]))
    assert (told["share"], told["each class"]) == (0.75, [pytest.approx(2 / 3), 1.0])
    found = json.loads((out / "vqvae.json").read_text())["accepted"]
    assert {name: a["n"] for name, a in found.items()} == dict.fromkeys(
        ("draws, temperature 1", "means, temperature 1", "test pictures decoded, draws",
         "test pictures decoded, means", "test pictures"), 40,
    )  # fmt: skip
    assert all(len(a["each class"]) == 10 for a in found.values())


def test_runs_are_not_fitted_again(vqvae, quick, monkeypatch):
    out, arguments = quick
    monkeypatch.setattr(pofx, "fit", lambda *a, **k: pytest.fail("fitted again"))
    before = json.loads((out / "vqvae.json").read_text())
    vqvae.main(arguments)
    assert json.loads((out / "vqvae.json").read_text()) == before
