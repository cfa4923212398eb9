"""Stop and resume equals no stop, bit for bit, for every model of the catalogue, through the run folder."""

import signal

import pytest
from safetensors.torch import load_file

from pofx import fitting
from pofx.catalogue import entries
from pofx.runs import load
from pofx.train.loop import Trainer

SOURCES = {"images": "digits", "vectors": "moons", "tokens": None}


def fitted(name, source, out, **given):
    tiny = entries()[name].tiny
    kind = "vectors" if source == "moons" else "images" if source == "digits" else "tokens"
    condition = "class" if source == "digits" else "none"
    given = {"steps": 7, "batch_size": 16, "condition": condition, "limit": 200, "device": "cpu", **given}
    return fitting.fit(name, str(source), out=out, seed=3, **tiny[kind], **given)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be, or not to be: that is the question. " * 60)
    return path


@pytest.mark.parametrize(
    ("name", "kind"), [(entry.name, kind) for entry in entries().values() for kind in entry.domains]
)
def test_stop_and_resume(name, kind, tmp_path, monkeypatch, text):
    source = SOURCES[kind] or text
    given = {"length": 12, "limit": None} if kind == "tokens" else {}
    through = fitted(name, source, tmp_path / "through", **given)
    play = Trainer.round

    def interrupted(self):
        play(self)
        if self.step == 4:
            signal.raise_signal(signal.SIGINT)

    if through.steps:
        monkeypatch.setattr(Trainer, "round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted(name, source, tmp_path / "stopped", **given)
        monkeypatch.setattr(Trainer, "round", play)
        stopped = load(tmp_path / "stopped")
        assert (stopped.steps, stopped.finished) == (4, False)
        resumed = fitting.resume(tmp_path / "stopped", device="cpu")
        assert resumed.finished
    else:
        resumed = fitted(name, source, tmp_path / "stopped", **given)
    for file in ("model.safetensors", "checkpoint/state.safetensors"):
        a, b = load_file(through.folder / file), load_file(resumed.folder / file)
        assert a.keys() == b.keys()
        assert all(a[key].equal(b[key]) for key in a), [key for key in a if not a[key].equal(b[key])]
    clocks = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in clocks} for row in through.history] == [
        {k: v for k, v in row.items() if k not in clocks} for row in resumed.history
    ]


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    run = fitted("vae", "digits", tmp_path / "run")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    assert fitting.resume(run.folder, device="cpu").finished
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_more_samples_do_not_change_the_first(tmp_path):
    run = fitted("vae", "digits", tmp_path / "run")
    assert run.sample(5, "3", seed=1).x.equal(run.sample(150, "3", seed=1).x[:5])
    assert not run.sample(5, "3", seed=1).x.equal(run.sample(5, "3", seed=2).x)
