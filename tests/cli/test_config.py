"""A run's own config.json trains it again to the same bits; what a file may say wrong is told in one line."""

import json
import sys

import pytest
from safetensors.torch import load_file

from pofx import fitting, preparing
from pofx.cli import main
from pofx.configs import fitting_arguments
from pofx.runs import load

SMALL = "--hidden 8,8 --latent-dim 2 --limit 200"


def pofx(line):
    assert main(line.split()) == 0


def weights(run):
    """Their bytes; the file also says how the run was asked for, which may differ."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(run / "model.safetensors").items()}


def unclocked(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in load(run).history]


@pytest.mark.parametrize(
    ("model", "source", "flags"),
    [
        ("vae", "digits", SMALL + " --steps 6 --condition class --optimiser muon"),
        ("wgan-gp", "moons", "--hidden 8,8 --limit 200 --steps 3 --threads 1"),
        ("gaussian-mixture", "moons", "--components 3 --limit 500"),
    ],
)
def test_a_run_is_repeated_to_the_same_bits(tmp_path, model, source, flags):
    pofx(f"fit {model} {source} {flags} --seed 5 --out {tmp_path}/first")
    pofx(f"fit --config {tmp_path}/first/config.json --out {tmp_path}/second")
    assert weights(tmp_path / "first") == weights(tmp_path / "second")
    assert unclocked(tmp_path / "first") == unclocked(tmp_path / "second")


def test_a_budgeted_run_is_repeated_by_its_plan(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "planned_rounds", lambda *_: 7)
        pofx(f"fit vae digits {SMALL} --budget 30s --seed 1 --out {tmp_path}/first")
    first = load(tmp_path / "first")
    assert (first.config["planned"], first.config["validation_rows"]) == (7, 32)
    pofx(f"fit --config {tmp_path}/first --out {tmp_path}/second --device cpu")
    second = load(tmp_path / "second")
    assert weights(first.folder) == weights(second.folder)
    assert [second.config[k] for k in ("planned", "threads", "validation_rows", "seed")] == [
        first.config[k] for k in ("planned", "threads", "validation_rows", "seed")
    ]
    assert fitting_arguments(first.folder) == fitting_arguments(second.folder)


def test_a_data_seed_of_its_own_is_kept(tmp_path):
    first = fitting.fit("vae", "moons", out=tmp_path / "a", steps=2, hidden=(8,), seed=1, data_seed=9, device="cpu")
    second = fitting.fit(**fitting_arguments(first.folder, device="cpu", out=tmp_path / "b"))
    assert second.config["data"] == first.config["data"]
    assert weights(first.folder) == weights(second.folder)


def test_a_file_by_hand_flat_or_in_groups(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flat = {"model": "vae", "source": "moons", "steps": 4, "latent_dim": 2, "hidden": [8], "limit": 300}
    grouped = {"model": "vae", "source": "moons", "arguments": {"latent_dim": 2, "hidden": [8]},
               "settings": {"steps": 4}, "source_options": {"limit": 300}}  # fmt: skip
    (tmp_path / "flat.json").write_text(json.dumps(flat))
    (tmp_path / "grouped.json").write_text(json.dumps(grouped))
    assert fitting_arguments("flat.json") == fitting_arguments("grouped.json") == flat | {"hidden": (8,)}
    pofx("fit --config flat.json --seed 3")
    run = load("runs/vae-moons")
    assert (run.steps, run.model.latent_dim, run.config["seed"]) == (4, 2, 3)


def test_yaml_says_the_same(tmp_path, monkeypatch):
    pytest.importorskip("yaml", reason="an extra, pofx[yaml]")
    (tmp_path / "a.yaml").write_text("model: vae\nsource: moons\nsteps: 4\nhidden: [8, 8]\n")
    assert fitting_arguments(tmp_path / "a.yaml") == {
        "model": "vae", "source": "moons", "steps": 4, "hidden": (8, 8),
    }  # fmt: skip


def test_flags_win_and_a_budget_replaces_steps(tmp_path):
    run = fitting.fit("vae", "moons", out=tmp_path / "run", steps=2, hidden=(8,), limit=300, device="cpu")
    assert fitting_arguments(run.folder)["steps"] == 2
    given = fitting_arguments(run.folder, budget="10s", source="ring8", latent_dim=1)
    assert (given["budget"], given["source"], given["latent_dim"]) == ("10s", "ring8", 1)
    assert not {"steps", "validation_rows"} & given.keys()
    pofx(f"fit --config {run.folder} spirals --steps 3 --latent-dim 1 --out {tmp_path}/other")
    other = load(tmp_path / "other")
    assert (other.config["source"], other.steps, other.model.latent_dim) == ("spirals", 3, 1)


CASES = [
    ({"model": "vae", "source": "moons", "latnet_dim": 3}, "no use for 'latnet_dim'; did you mean 'latent_dim'?"),
    ({"modle": "vae", "source": "moons"}, "no use for 'modle'; did you mean 'model'?"),
    ({"model": "vae", "sauce": "moons"}, "no use for 'sauce'; did you mean 'source'?"),
    ({"model": "vae"}, "lacks 'source'; add it, or give SOURCE"),
    ({"source": "moons", "latent_dim": 3}, "lacks 'model'"),
    ({"model": "vay", "source": "moons"}, "did you mean 'vae'"),
    ({"model": 3, "source": "moons"}, "model must be a text, got 3"),
    ({"model": "vae", "source": "moons", "latent_dim": "many"}, "latent_dim must be a whole number, got 'many'"),
    ({"model": "vae", "source": "moons", "steps": True}, "steps must be a whole number, got True"),
    ({"model": "vae", "source": "moons", "hidden": [8, "x"]}, "hidden must be a list, each a whole number"),
    ({"model": "vae", "source": "moons", "optimiser": "adma"}, "optimiser must be one of adamw, adam, sgd, muon"),
    ({"model": "vae", "source": "moons", "clip": -1}, "--clip must be at least 0"),
    ({"model": "vae", "source": "moons", "settings": [1]}, "settings must hold names with values, got list"),
    ({"model": "vae", "source": "moons", "format": 99}, "of format 99"),
    ([1], "must hold names with values, got list"),
]


@pytest.mark.parametrize(("written", "words"), CASES, ids=[words for _, words in CASES])
def test_one_line_and_exit_two(tmp_path, capsys, written, words):
    (tmp_path / "a.json").write_text(json.dumps(written))
    assert main(["fit", "--config", str(tmp_path / "a.json"), "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    assert main(["fit", "--config", str(tmp_path / "nowhere.json")]) == 2
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "a.json").write_text("{")
    assert main(["fit", "--config", str(tmp_path / "a.json")]) == 2
    assert "cannot be read as JSON" in capsys.readouterr().err
    (tmp_path / "a.yaml").write_text("model: vae\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["fit", "--config", str(tmp_path / "a.yaml")]) == 2
    printed = capsys.readouterr().err
    assert "pip install 'pofx[yaml]'" in printed
    assert len(printed.splitlines()) == 1
