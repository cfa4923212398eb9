"""Stop and resume equals no stop, bit for bit, for every model of the catalogue, through the run folder."""

import itertools
import math
from typing import get_args

import pytest
from interrupting import same, stopped

from pofx import fitting
from pofx.catalogue import entries
from pofx.models.autoencoders.vae import VAE
from pofx.protocols import Learns, Loss, Plays, capabilities
from pofx.runs import load
from pofx.train import course
from pofx.train.loop import Trainer
from pofx.train.settings import Optimiser

SOURCES = {"images": "digits", "vectors": "moons", "tokens": None}
FORMS = [(entry.name, kind) for entry in entries().values() for kind in entry.tiny]
TRAINED = [(name, kind) for name, kind in FORMS if {Learns, Plays} & capabilities(entries()[name].load())]
OPTIMISERS, EMAS, STEPS = get_args(Optimiser), (0.0, 0.5), 7


def fitted(name, source, out, **given):
    tiny = entries()[name].tiny
    kind = "vectors" if source == "moons" else "images" if source == "digits" else "tokens"
    condition = "class" if source == "digits" else "none"
    given = {"steps": STEPS, "batch_size": 16, "condition": condition, "limit": 200, "device": "cpu", **given}
    return fitting.fit(name, str(source), out=out, seed=3, **{**tiny[kind], **given})


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be, or not to be: that is the question. " * 60)
    return path


def check(name, kind, at, tmp_path, monkeypatch, text, **given):
    source = SOURCES[kind] or text
    given |= {"length": 12, "limit": None} if kind == "tokens" else {}
    through = fitted(name, source, tmp_path / "through", **given)
    stopped(monkeypatch, at, fitted, name, source, tmp_path / "stopped", **given)
    left = load(tmp_path / "stopped")
    assert (left.steps, left.finished) == (at, at == STEPS)
    same(through, fitting.resume(left.folder, device="cpu"))


# Each form once, the optimiser, the average and the step of the stop going round.
QUICK = [
    (name, kind, OPTIMISERS[i % 4], EMAS[i // 2 % 2], 1 + (2 * i) % (STEPS - 1))
    for i, (name, kind) in enumerate(TRAINED)
]


@pytest.mark.parametrize(("name", "kind", "optimiser", "ema", "at"), QUICK)
def test_stop_and_resume(name, kind, optimiser, ema, at, tmp_path, monkeypatch, text):
    check(name, kind, at, tmp_path, monkeypatch, text, optimiser=optimiser, ema=ema)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "optimiser", "ema", "at"), list(itertools.product(TRAINED, OPTIMISERS, EMAS, range(1, STEPS)))
)
def test_stop_and_resume_at_any_step(form, optimiser, ema, at, tmp_path, monkeypatch, text):
    check(*form, at, tmp_path, monkeypatch, text, optimiser=optimiser, ema=ema)


@pytest.mark.parametrize(("name", "kind"), [form for form in FORMS if form not in TRAINED])
def test_what_only_counts_is_the_same_twice(name, kind, tmp_path, text):
    source, given = SOURCES[kind] or text, {"length": 12, "limit": None} if kind == "tokens" else {}
    runs = [fitted(name, source, tmp_path / out, **given) for out in ("a", "b")]
    same(runs[0], fitting.resume(runs[1].folder, device="cpu"))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("vae", {"accumulate": 2}),
        ("vae", {"warm_up": 0.6, "prior": "vamp", "components": 5, "ema": 0.5}),
        ("vae", {"capacity": 2.0, "posterior": "iaf", "accumulate": 2}),
        ("vae", {"objective": "dreg", "importance": 3, "posterior": "full", "prior": "mixture", "components": 4}),
        ("wgan-gp", {"accumulate": 2, "optimiser": "muon"}),
        ("flow-matching", {"keep_every": 2, "schedule": "trapezoid", "clip": 0.0}),
        ("gpt", {"condition": "none", "keep_every": 3, "weight_decay": 0.1}),
    ],
)
def test_stop_and_resume_in_pieces_and_with_checkpoints_kept(name, given, tmp_path, monkeypatch, text):
    check(name, "images", 4, tmp_path, monkeypatch, text, **given)
    kept = sorted(path.name for path in (tmp_path / "stopped" / "checkpoint").glob("step-*"))
    every = given.get("keep_every", STEPS + 1)
    assert kept == [f"step-{step:06d}.safetensors" for step in range(every, STEPS + 1, every)]


def test_a_save_at_any_moment_changes_nothing(tmp_path, monkeypatch):
    """Saves go by the clock too; losses are then read, and the history's means are summed, in other portions."""
    monkeypatch.setattr(course, "RECORDS", 6)
    long = {"steps": 60, "condition": "none", "hidden": (4,)}
    through = fitted("vae", "moons", tmp_path / "through", **long)
    play = Trainer.round

    def saving(self):
        play(self)
        if self.step % 4 == 0:
            self.state()

    monkeypatch.setattr(Trainer, "round", saving)
    saved = fitted("vae", "moons", tmp_path / "saving", **long)
    assert len(saved.history) < 30
    same(through, saved)


@pytest.fixture
def diverging(monkeypatch):
    """The loss is NaN from step 70 on, until the learning rate has been halved twice: back to step 55 from step 80."""
    play, loss, now = Trainer.round, VAE.loss, {}

    def watched(self):
        now.update(step=self.step, brake=self.brake)
        play(self)

    def spoilt(self, x, condition=None, *, generator):
        right = loss(self, x, condition, generator=generator)
        bad = now["step"] >= 70 and now["brake"] > 0.25
        return Loss(right.total * math.nan, right.parts) if bad else right

    monkeypatch.setattr(Trainer, "round", watched)
    monkeypatch.setattr(VAE, "loss", spoilt)
    return {"steps": 110, "condition": "none", "hidden": (4,)}


def test_stop_and_resume_around_a_way_back(diverging, tmp_path, monkeypatch):
    through = fitted("vae", "moons", tmp_path / "through", **diverging)
    assert [event["kind"] for event in through.events if event["kind"] != "alarm"] == ["rollback", "rollback"]
    assert [event["step"] for event in through.events[1:]] == [55, 55]
    for at in (75, 80, 81):
        out = tmp_path / f"stopped-{at}"
        stopped(monkeypatch, at, fitted, "vae", "moons", out, **diverging)
        same(through, fitting.resume(out, device="cpu"))


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    run = fitted("vae", "digits", tmp_path / "run")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    assert fitting.resume(run.folder, device="cpu").finished
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_more_samples_do_not_change_the_first(tmp_path):
    run = fitted("vae", "digits", tmp_path / "run")
    assert run.sample(5, "3", seed=1).x.equal(run.sample(150, "3", seed=1).x[:5])
    assert not run.sample(5, "3", seed=1).x.equal(run.sample(5, "3", seed=2).x)
