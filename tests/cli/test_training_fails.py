"""Training that cannot go on, or must not begin, ends with exit status 2 and one line; the run stays whole."""

import errno
import json
import math
import os
import signal

import pytest

from pofx import files
from pofx.cli import main
from pofx.models.autoencoders.vae import VAE
from pofx.protocols import Loss
from pofx.runs import load
from pofx.train.loop import Trainer

FIT = "fit vae moons --hidden 4 --latent-dim 2 --limit 100 --batch-size 16 --threads 1 --device cpu --quiet"


@pytest.fixture
def line(capsys):
    """Runs a command that must fail; gives its one line."""

    def run(command):
        capsys.readouterr()
        assert main(command.split()) == 2
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == 1, printed.err
        assert printed.err.startswith("pofx: ")
        assert "Traceback" not in printed.err + printed.out
        return printed.err

    return run


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run that Ctrl-C stopped at step 3 of 5."""
    play = Trainer.round

    def interrupted(self):
        play(self)
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "round", interrupted)
        assert main(f"{FIT} --steps 5 --out {tmp_path / 'run'}".split()) == 130
    return tmp_path / "run"


def test_a_disk_that_fills_while_training(tmp_path, line, monkeypatch):
    out, play, sync = tmp_path / "run", Trainer.round, os.fsync
    now = {"step": 0}

    def watched(self):
        play(self)
        now["step"] = self.step

    def full(handle):
        if now["step"] > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "round", watched)
        patch.setattr(files.os, "fsync", full)
        said = line(f"{FIT} --steps 8 --keep-every 4 --out {out}")
    assert "No space left on device" in said
    assert "free space" in said
    left = load(out)
    assert (left.steps, left.finished) == (4, False)
    assert main(f"resume {out} --device cpu --quiet".split()) == 0
    assert load(out).finished


def test_a_folder_that_cannot_be_written(stopped, line, monkeypatch):
    """Permissions mean nothing to root, so the refusal is planted."""

    def refused(path, *args, **kwargs):
        if str(stopped) in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *args, **kwargs)

    opened = os.open
    monkeypatch.setattr(os, "open", refused)
    assert "cannot be written (Permission denied)" in line(f"resume {stopped} --device cpu")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(stopped, line):
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    for path in (stopped, stopped / "checkpoint"):
        path.chmod(0o555)
    try:
        assert "cannot be written" in line(f"resume {stopped} --device cpu")
        assert "cannot be made" in line(f"{FIT} --steps 5 --out {stopped / 'inside'}")
    finally:
        for path in (stopped, stopped / "checkpoint"):
            path.chmod(0o755)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_run_is_never_overwritten(stopped, line):
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    said = line(f"{FIT} --steps 6 --learning-rate 0.5 --out {stopped}")
    assert "it holds another configuration (" in said
    assert "settings.steps 5 -> 6" in said
    assert "-> 0.5" in said
    assert f"it is this very run: go on with 'pofx resume {stopped}'" in line(f"{FIT} --steps 5 --out {stopped}")
    assert before == {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda config: config["settings"].update(batch_size=8), "settings.batch_size 16 -> 8"),
        (lambda config: config["arguments"].update(latent_dim=3), "arguments.latent_dim 2 -> 3"),
        (lambda config: config.update(seed=1, data_seed=2), "seed 0 -> 1, data_seed 0 -> 2"),
    ],
)
def test_an_edited_configuration(change, difference, stopped, line):
    whole = (stopped / "config.json").read_text()
    config = json.loads(whole)
    change(config)
    (stopped / "config.json").write_text(json.dumps(config))
    said = line(f"resume {stopped} --device cpu")
    assert f"config.json was changed since the run began ({difference})" in said
    assert "change it back" in said
    (stopped / "config.json").write_text(whole)
    assert main(f"resume {stopped} --device cpu --quiet".split()) == 0


def test_hopeless_training(tmp_path, line, monkeypatch):
    loss = VAE.loss

    def spoilt(self, x, condition=None, *, generator):
        right = loss(self, x, condition, generator=generator)
        return Loss(right.total * math.nan, right.parts)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(VAE, "loss", spoilt)
        for command in (f"{FIT} --steps 30 --out {out}", f"resume {out} --device cpu --quiet"):
            said = line(command)
            assert "training diverged: 10 steps in a row" in said
            assert "after 3 tries from step 0, whose weights are kept" in said
            assert "try --learning-rate" in said
    left = load(out)
    assert (left.steps, left.finished) == (0, False)
    assert all(p.isfinite().all() for p in left.model.parameters())
    assert left.sample(2).x.isfinite().all()
