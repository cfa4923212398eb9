"""``pofx runs`` tells every run below a folder, whatever state it is in, and changes nothing by looking."""

import json
import os
import shutil
import signal

import pytest
from filelock import FileLock

from pofx import fitting
from pofx.cli import main
from pofx.runlist import listed
from pofx.train.loop import Trainer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a finished run, a stopped one, broken ones, one in a comparison, and what is no run."""
    folder = tmp_path_factory.mktemp("home")
    small = {"hidden": (8,), "latent_dim": 2, "device": "cpu", "limit": 200}
    fitting.fit("vae", "digits", out=folder / "finished", steps=3, **small)
    fitting.fit("wgan-gp", "moons", out=folder / "deep" / "er" / "wgan", steps=2, device="cpu", limit=200)
    _stopped(folder / "stopped", small)
    compared = folder / "compare-digits" / "runs" / "vae-seed0"
    shutil.copytree(folder / "finished", compared)
    scores = compared.parents[1] / "scores" / "vae-seed0.json"
    scores.parent.mkdir()
    score = {"metric": "log p(x)", "value": -120.0, "kind": "lower bound", "unit": "nats", "n": 180, "split": "test"}
    scores.write_text(json.dumps({"scores": [score]}))
    for name in ("no-json", "no-weights", "odd"):
        shutil.copytree(folder / "finished", folder / name)
    (folder / "no-json" / "config.json").write_text("{")
    (folder / "no-weights" / "model.safetensors").unlink()
    (folder / "odd" / "config.json").write_text("[1, 2]")
    shutil.copytree(folder / "stopped", folder / "killed")
    (folder / "killed" / "model.safetensors").unlink()
    (folder / "cut").mkdir()
    shutil.copy(folder / "finished" / "config.json", folder / "cut")
    (folder / "cut" / "model.safetensors").write_bytes(b"x")
    (folder / "notes").mkdir()
    (folder / "notes" / "read.me").write_text("not a run")
    return folder


def _stopped(out, small):
    play = Trainer.round

    def interrupted(self):
        play(self)
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitting.fit("vae", "digits", out=out, steps=5, **small)


def test_states(home):
    runs = {str(run.folder.relative_to(home)): run for run in listed(home)}
    assert {name: run.state for name, run in runs.items()} == {
        "finished": "finished",
        "deep/er/wgan": "finished",
        "stopped": "stopped",
        "killed": "stopped",
        "compare-digits/runs/vae-seed0": "finished",
        "no-json": "broken",
        "no-weights": "broken",
        "odd": "broken",
        "cut": "broken",
    }
    assert runs["stopped"].standing == "stopped at 2 of 5"
    assert runs["no-weights"].standing == "broken: model.safetensors is missing"
    assert runs["no-json"].standing.startswith("broken: config.json cannot be read as JSON")
    assert runs["cut"].reason.startswith(os.path.join("checkpoint", "state.safetensors") + " is missing")
    assert (runs["finished"].model, runs["finished"].source, runs["finished"].step) == ("vae", "digits", 3)
    assert runs["finished"].size == sum(p.stat().st_size for p in (home / "finished").rglob("*") if p.is_file())


def test_scores(home):
    runs = {run.folder.name: run for run in listed(home)}
    best = max(row["validation"] for row in fitting.load(home / "finished").history if "validation" in row)
    validation, test = runs["finished"].score, runs["vae-seed0"].score
    assert (validation.split, validation.kind) == ("validation", "lower bound")
    assert validation.value == pytest.approx(best)
    assert runs["finished"].shown.startswith("<= ")
    assert (test.split, test.value) == ("test", -120.0)
    assert runs["wgan"].score is None


def test_a_prior_of_codes_has_a_bound_or_no_likelihood(tmp_path):
    """The score of its class would be that of codes."""
    for name, model in (("vae", "vae"), ("plain", "autoencoder")):
        fitting.fit(model, "moons", steps=2, out=tmp_path / name, device="cpu", hidden=(8,), latent_dim=1)
        given = {"width": 8, "layers": 1, "heads": 1}
        fitting.fit("gpt", "moons", steps=2, latent=tmp_path / name, out=tmp_path / f"on-{name}", device="cpu", **given)
    runs = {run.folder.name: run for run in listed(tmp_path)}
    assert runs["on-vae"].score.kind == "lower bound"
    assert (runs["on-plain"].score.metric, runs["on-plain"].score.kind) == ("loss", "none")


def test_newest_first(home, tmp_path):
    for i, name in enumerate(("b", "c", "a")):
        shutil.copytree(home / "finished", tmp_path / name)
        for path in (tmp_path / name).rglob("*"):
            os.utime(path, (i * 1000, i * 1000))
    assert [run.folder.name for run in listed(tmp_path)] == ["a", "c", "b"]


def test_a_held_lock_is_a_running_run_and_none_is_made_for_looking(home, tmp_path):
    shutil.copytree(home / "stopped", tmp_path / "run")
    with FileLock(tmp_path / "run" / "lock"):
        assert [run.standing for run in listed(tmp_path)] == ["running at 2 of 5"]
        shutil.rmtree(tmp_path / "run" / "checkpoint")
        assert [run.standing for run in listed(tmp_path)] == ["running at 0 of 5"]
    (tmp_path / "run" / "lock").unlink(missing_ok=True)
    assert [run.state for run in listed(tmp_path)] == ["broken"]
    assert not (tmp_path / "run" / "lock").exists()


def test_a_run_is_running_while_it_trains_and_not_after(tmp_path, monkeypatch):
    seen, play = [], Trainer.round

    def looked_at(self):
        play(self)
        seen.extend(run.state for run in listed(tmp_path))

    monkeypatch.setattr(Trainer, "round", looked_at)
    fitting.fit("vae", "moons", out=tmp_path / "run", steps=2, hidden=(8,), limit=200, device="cpu")
    assert seen == ["running", "running"]
    assert [run.state for run in listed(tmp_path)] == ["finished"]


def test_command(home, tmp_path, capsys, monkeypatch):
    before = sorted(map(str, home.rglob("*")))
    assert main(["runs", str(home), "--json", str(tmp_path / "runs.json")]) == 0
    printed = capsys.readouterr().out
    for words in ("stopped at 2 of 5", "broken: model.safetensors is missing", "deep/er/wgan", "bits/dim"):
        assert words in printed
    told = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert len(told) == 9
    assert {run["state"] for run in told} == {"finished", "stopped", "broken"}
    assert sorted(map(str, home.rglob("*"))) == before
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert "no runs below runs" in capsys.readouterr().out
    assert main(["runs", "nowhere"]) == 2
    assert capsys.readouterr().err == "pofx: there is no folder nowhere; name one that holds runs\n"
