"""The table of probes gives every row its figure, and trains the networks that it says."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import pofx
from pofx.data import Rows
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
