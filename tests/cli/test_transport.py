"""A map between two data sets, by the command line: fitted, repeated, resumed, asked where rows go, drawn."""

import csv

import numpy as np
import pytest
import torch
from interrupting import same, stopped
from PIL import Image
from safetensors.torch import load_file

from pofx import fitting
from pofx.cli import main
from pofx.runs import load

TINY = {"steps": 4, "hidden": (8,), "limit": 300, "device": "cpu"}


def pofx(line, **places):
    assert main(line.format(**places).split()) == 0, line


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transport")
    rows = np.random.default_rng(0).normal(size=(120, 2)) * [2, 1] + [5, 0]
    np.savetxt(folder / "here.csv", rows, delimiter=",", header="height,width", comments="")
    np.save(folder / "wide.npy", np.random.default_rng(1).normal(size=(120, 3)).astype(np.float32))
    (folder / "nan.csv").write_text("a,b\n" + "1,2\n" * 60 + "nan,3\n" * 10)
    pofx("fit w2-gan moons --limit 300 --from {home}/here.csv --steps 4 --hidden 8 --out {home}/run", home=folder)
    fitting.fit("w2-gan", str(folder / "wide.npy"), out=folder / "three", **TINY | {"limit": None})
    fitting.fit("gaussian", "moons", out=folder / "gaussian", limit=300, device="cpu")
    return folder


def test_rows_of_a_file_are_mapped_in_their_order(home, tmp_path):
    pofx("map {home}/run {home}/here.csv -o {out}/there.csv", home=home, out=tmp_path)
    pofx("map {home}/run {home}/here.csv -o {out}/there.npy", home=home, out=tmp_path)
    x = torch.from_numpy(np.loadtxt(home / "here.csv", delimiter=",", skiprows=1)).float()
    mapped = np.load(tmp_path / "there.npy")
    np.testing.assert_allclose(mapped, load(home / "run").model.transport(x).numpy(), rtol=1e-5, atol=1e-6)
    rows = list(csv.reader((tmp_path / "there.csv").open()))
    assert rows[0] == ["x1", "x2"]
    np.testing.assert_allclose(np.array(rows[1:], dtype=float), mapped, rtol=1e-5)


def test_arrows_are_drawn_and_samples_are_of_the_target(home, tmp_path):
    pofx("map {home}/run -n 50 -o {out}/arrows.png", home=home, out=tmp_path)
    pofx("sample {home}/run -n 5 -o {out}/x.npy", home=home, out=tmp_path)
    assert Image.open(tmp_path / "arrows.png").size[0] > 300
    assert np.load(tmp_path / "x.npy").shape == (5, 2)


def test_a_run_is_repeated_from_its_record(home, tmp_path):
    pofx("fit --config {home}/run --out {out}/again", home=home, out=tmp_path)
    first, second = (load_file(folder / "model.safetensors") for folder in (home / "run", tmp_path / "again"))
    assert all(first[name].equal(second[name]) for name in first)
    assert load(tmp_path / "again").config["from_source"]["fingerprint"]


def test_stop_and_resume_draws_the_rows_that_would_have_come(home, tmp_path, monkeypatch):
    given = ("w2-gan", "moons"), {**TINY, "from_source": str(home / "here.csv"), "seed": 3}
    through = fitting.fit(*given[0], out=tmp_path / "through", **given[1])
    stopped(monkeypatch, 2, fitting.fit, *given[0], out=tmp_path / "stopped", **given[1])
    same(through, fitting.resume(tmp_path / "stopped", device="cpu"))


CASES = [
    ("fit w2-gan moons --from {home}/wide.npy", "--from takes rows as wide as the target's"),
    ("fit w2-gan moons --from digits", "--from takes rows as wide as the target's"),
    ("fit w2-gan moons --from {home}/nan.csv", "nan.csv"),
    ("fit w2-gan moons --from nowhere.csv", "nowhere.csv"),
    ("fit gaussian moons --from spirals", "--from is for a model that maps one data set to another, got gaussian"),
    ("fit w2-gan moons --from spirals --latent {home}/run", "leave one of them out"),
    ("fit w2-gan moons --hidden 0", "hidden sizes of at least 1, got (0,)"),
    ("fit w2-gan moons --network deep", "invalid choice: 'deep'"),
    ("fit w2-gan digits", "w2-gan takes vectors, but the data are images"),
    ("map {home}/run {home}/wide.npy -o {out}/x.npy", "w2-gan maps rows as wide as it was fitted on"),
    ("map {home}/run {home}/here.csv -o {out}/x.txt", ".txt"),
    ("map {home}/run -o {out}/x.csv", "arrows are drawn into a .png"),
    ("map {home}/run --grid -o {out}/x.png", "has no latent; leave it out"),
    ("map {home}/three -o {out}/x.png", "arrows are drawn of rows of 2 numbers, got 3"),
    ("map {home}/gaussian {home}/here.csv -o {out}/x.csv", "gaussian cannot map the rows of"),
]


@pytest.mark.parametrize(("line", "words"), CASES, ids=[words for _, words in CASES])
def test_one_line_and_exit_two(home, tmp_path, capsys, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    assert main(line.format(home=home, out=tmp_path).split()) == 2
    printed = capsys.readouterr().err
    assert words in printed, printed
    assert len(printed.splitlines()) == 1


def test_evaluation_tells_how_far_the_two_are_apart(home):
    scores = {score.metric: score for score in load(home / "run").evaluate(seconds=5)}
    assert scores["w2 squared"].value > 0
    assert scores["cycle"].split == "test"
