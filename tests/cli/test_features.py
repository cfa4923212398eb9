"""``--features RUN:layer`` from end to end: fit, evaluate, encode, reconstruct, resume, repeat; and what goes wrong."""

import json
import shutil

import numpy as np
import pytest

from pofx import fitting
from pofx.cli import main
from pofx.runs import load


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "book.txt").write_text("it was the best of times, it was the worst of times. " * 60)
    np.save(folder / "table.npy", np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32))
    small = {"steps": 5, "device": "cpu"}
    fitting.fit("gpt", str(folder / "book.txt"), out=folder / "gpt", length=16, width=16, layers=2, heads=2, **small)
    line = "fit sparse-autoencoder {home}/book.txt --features {home}/gpt:trunk.blocks.0 --dictionary 40 --k 3 --steps 9"
    assert main((line + " --out {home}/sae --keep-every 4 --quiet").format(home=folder).split()) == 0
    return folder


def pofx(line, home, out):
    return main(line.format(home=home, out=out).split())


def test_evaluate_says_what_the_dictionary_does(home, tmp_path):
    assert pofx("evaluate {home}/sae --json {out}/said.json --quiet", home, tmp_path) == 0
    scores = {s["metric"]: s for s in json.loads((tmp_path / "said.json").read_text())["scores"]}
    for metric in ("l0", "variance explained", "dead share"):
        assert scores[metric]["kind"] == "statistic"
    assert scores["l0"]["value"] <= 3
    for ablation in ("zero", "mean"):
        assert "bits/char" in scores[f"loss recovered, {ablation} ablation"]["note"]


def test_a_source_goes_through_the_same_layer(home, tmp_path):
    for verb, width in (("encode", 40), ("reconstruct", 16)):
        assert pofx(verb + " {home}/sae {home}/book.txt -o {out}/x.npy --quiet", home, tmp_path) == 0
        rows = load(home / "gpt").data.test.observations
        assert np.load(tmp_path / "x.npy").shape == (16 * rows, width)
    assert pofx("score {home}/sae {home}/book.txt -o {out}/x.csv", home, tmp_path) == 2


def test_resumed_and_repeated_it_has_the_same_bits(home, tmp_path):
    whole, kept = load(home / "sae"), tmp_path / "kept"
    shutil.copytree(home / "sae", kept)
    shutil.copy(kept / "checkpoint" / "step-000004.safetensors", kept / "checkpoint" / "state.safetensors")
    assert not load(kept).finished
    assert pofx("resume {out}/kept --quiet", home, tmp_path) == 0
    assert pofx("fit --config {home}/sae/config.json --out {out}/again --quiet", home, tmp_path) == 0
    for other in (kept, tmp_path / "again"):
        for name, tensor in load(other).model.state_dict().items():
            assert tensor.equal(whole.model.state_dict()[name]), name


def test_without_a_layer_the_model_s_own_features_are_read(home, tmp_path):
    line = (
        "fit sparse-autoencoder {home}/book.txt --features {home}/gpt --dictionary 20 --steps 2 --out {out}/f --quiet"
    )
    assert pofx(line, home, tmp_path) == 0
    assert load(tmp_path / "f").data.train.observations == load(home / "gpt").data.train.observations
    assert pofx("evaluate {out}/f --quiet", home, tmp_path) == 0


def test_any_model_can_be_fitted_on_features(home, tmp_path):
    line = "fit gaussian {home}/book.txt --features {home}/gpt:trunk --out {out}/g --quiet"
    assert pofx(line, home, tmp_path) == 0
    assert pofx("score {out}/g {home}/book.txt -o {out}/x.csv --quiet", home, tmp_path) == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{home}/book.txt --features {home}/none:trunk", "there is no run at"),
        ("{home}/book.txt --features {home}/gpt:trunk.blocks.9", "no layer 'trunk.blocks.9'; did you mean"),
        ("{home}/table.npy --features {home}/gpt:trunk", "must hold integers"),
        ("{home}/book.txt --features {home}/gpt:trunk --length 8", "of another shape, alphabet or palette"),
        ("{home}/book.txt --features {home}/gpt:trunk --k 0", "k must be at least 1, got 0"),
        ("{home}/book.txt --features {home}/gpt:trunk --k 50 --dictionary 40", "at most the 40 latents, got 50"),
        ("{home}/book.txt --features {home}/gpt:trunk --activation relu", "invalid choice: 'relu'"),
        ("{home}/book.txt --feature {home}/gpt:trunk", "did you mean '--features'"),
    ],
)
def test_what_is_wrong_is_one_line(line, words, home, tmp_path, capsys):
    assert pofx("fit sparse-autoencoder " + line + " --steps 2 --out {out}/run", home, tmp_path) == 2
    printed = capsys.readouterr().err.strip()
    assert len(printed.splitlines()) == 1
    assert words in printed
    assert not (tmp_path / "run").exists()


def test_a_changed_or_missing_run_is_refused(home, tmp_path, capsys):
    for name in ("gpt", "sae"):
        shutil.copytree(home / name, tmp_path / name)
    config = (tmp_path / "sae" / "config.json").read_text()
    small = {"steps": 6, "device": "cpu", "length": 16, "width": 16, "layers": 2, "heads": 2}
    shutil.rmtree(home / "gpt")
    assert pofx("evaluate {home}/sae", home, tmp_path) == 2
    assert "there is no run at" in capsys.readouterr().err
    fitting.fit("gpt", str(home / "book.txt"), out=home / "gpt", **small)
    try:
        assert pofx("evaluate {home}/sae", home, tmp_path) == 2
        printed = capsys.readouterr().err.strip()
        assert "has changed since" in printed
        assert len(printed.splitlines()) == 1
    finally:
        shutil.rmtree(home / "gpt")
        shutil.copytree(tmp_path / "gpt", home / "gpt")
    assert (home / "sae" / "config.json").read_text() == config
