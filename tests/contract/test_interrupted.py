"""Whatever fails or dies while a run is written, a whole checkpoint stays, and training goes on to the same bits.

Processes that die are forked from this one, which has torch imported: a fresh interpreter would take seconds each.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pofx import files, fitting, rendering
from pofx.cli import main
from pofx.errors import Unusable
from pofx.files import write_json
from pofx.runs import load
from pofx.train import course
from pofx.train.loop import Trainer

FLAGS = "vae moons --hidden 4 --latent-dim 2 --limit 100 --batch-size 16 --seed 3 --threads 1 --device cpu --quiet"
SHORT, LONG = "--steps 5 --keep-every 3", "--steps 80 --keep-every 20"


def fit(out, length=SHORT):
    return main(f"fit {FLAGS} {length} --out {out}".split())


def resume(out):
    return main(f"resume {out} --device cpu --quiet".split())


def same(a, b):
    for file in ("model.safetensors", "checkpoint/state.safetensors", "checkpoint/good.safetensors"):
        x, y = load_file(Path(a) / file), load_file(Path(b) / file)
        assert x.keys() == y.keys()
        assert [key for key in x if not x[key].equal(y[key])] == [], file
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in load(run).history] for run in (a, b)]
    assert rows[0] == rows[1]
    assert not [*Path(b).glob(".*.tmp"), *Path(b).glob("checkpoint/.*.tmp")], "nothing half-written stays"


@pytest.fixture(scope="module", autouse=True)
def plain_sheets():
    """What matplotlib draws takes longer than all else that is done here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "_scatter", lambda x, domain: Image.new("L", (8, 8)))
        yield


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    out = tmp_path_factory.mktemp("through") / "run"
    assert fit(out) == 0
    return out


@pytest.fixture(scope="module")
def long_through(tmp_path_factory):
    out = tmp_path_factory.mktemp("through") / "long"
    assert fit(out, LONG) == 0
    return out


class Fault:
    """The ``at``-th of all writes, syncs, renames and links fails: with a full disk, or by the end of the process."""

    def __init__(self, at, kind):
        self.at, self.kind, self.calls = at, kind, itertools.count(1)
        self.struck = False

    def plant(self, patch):
        wrapped = {name: self._wrap(getattr(os, name)) for name in ("replace", "link", "fsync", "open")}
        patch.setattr(files, "os", SimpleNamespace(**(vars(os) | wrapped)))
        patch.setattr(files, "open", self._wrap(open), raising=False)
        for name, half in (("write_bytes", lambda data: data[: len(data) // 2]), ("write_text", lambda text: text[:9])):
            patch.setattr(Path, name, self._wrap(getattr(Path, name), half))

    def _wrap(self, call, half=None):
        def called(*args, **kwargs):
            due = next(self.calls) == self.at
            if due and half is not None and self.kind != "dead after":
                call(args[0], half(args[1]), **kwargs)
            if due:
                self.struck = True
                if self.kind == "full":
                    raise OSError(28, "No space left on device")
                if self.kind == "dead before":
                    os._exit(9)
            result = call(*args, **kwargs)
            if due:
                os._exit(9)
            return result

        return called


def child(work):
    """A process that does ``work`` and ends with its status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            status = work()
        finally:
            os._exit(status)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def calls_of_a_run(tmp_path, monkeypatch):
    counting = Fault(0, "full")
    with monkeypatch.context() as patch:
        counting.plant(patch)
        assert fit(tmp_path / "counted") == 0
    return next(counting.calls) - 1


def go_on(out, through):
    """From what is left: resumed, or begun again if no step had been saved; either way to the same bits."""
    if (out / "checkpoint" / "state.safetensors").exists():
        left = load(out)
        assert left.progress["step"] in (0, 3, 5)
        assert resume(out) == 0
    else:
        assert fit(out) == 0
    same(through, out)


def strike_everywhere(kind, stride, tmp_path, monkeypatch, capsys, through):
    for at in range(1, calls_of_a_run(tmp_path, monkeypatch) + 1, stride):
        out = tmp_path / f"run-{at}"
        fault = Fault(at, kind)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            fault.plant(patch)
            status = fit(out) if kind == "full" else ended(child(lambda: fit(out)))
        if kind == "full":
            lines = capsys.readouterr().err.splitlines()
            assert fault.struck
            # Without hard links a checkpoint is copied; anything else that fails ends the command.
            assert (status, len(lines)) in ((2, 1), (0, 0)), lines
            if status:
                assert lines[0].startswith("pofx: ")
                assert "No space left on device" in lines[0]
        else:
            assert status == 9
        go_on(out, through)


@pytest.mark.parametrize(("kind", "stride"), [("full", 3), ("dead before", 13), ("dead after", 13)])
def test_a_fault_at_any_write_loses_nothing(kind, stride, tmp_path, monkeypatch, capsys, through):
    strike_everywhere(kind, stride, tmp_path, monkeypatch, capsys, through)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "dead before", "dead after"])
def test_a_fault_at_every_write_loses_nothing(kind, tmp_path, monkeypatch, capsys, through):
    strike_everywhere(kind, 1, tmp_path, monkeypatch, capsys, through)


def killed_again_and_again(kills, seed, tmp_path, through):
    """Runs that are killed at random moments and gone on with, each to its end, until there were so many kills."""
    rng = random.Random(seed)
    began = time.perf_counter()
    assert ended(child(lambda: fit(tmp_path / "timed", LONG))) == 0
    whole = time.perf_counter() - began
    done = 0
    for i in itertools.count():
        out, status, here = tmp_path / f"run-{i}", -signal.SIGKILL, 0
        while status != 0:
            begun = (out / "checkpoint" / "state.safetensors").exists()
            pid = child(lambda: resume(out) if begun else fit(out, LONG))
            if done < kills and here < 8:
                time.sleep(rng.uniform(0.0, whole))
                os.kill(pid, signal.SIGKILL)
            status = ended(pid)
            assert status in (0, -signal.SIGKILL)
            done, here = done + (status != 0), here + (status != 0)
        same(through, out)
        if done >= kills:
            return


@pytest.fixture
def hasty(monkeypatch):
    """Saves by the clock come every few rounds, not twice a minute."""
    monkeypatch.setattr(course, "SAVE_SECONDS", 0.1)


def test_ten_kills(tmp_path, long_through, hasty):
    killed_again_and_again(10, 0, tmp_path, long_through)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path, long_through, hasty):
    killed_again_and_again(200, 1, tmp_path, long_through)


def waits_in_round(monkeypatch, step, told):
    """Training writes the file ``told`` after a round, and goes no further until it is killed."""
    play = Trainer.round

    def waiting(self):
        play(self)
        if self.step == step:
            told.write_bytes(b"")
            time.sleep(600)

    monkeypatch.setattr(Trainer, "round", waiting)


def wait_for(path):
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not come within a minute")


def test_one_process_at_a_time_and_the_dead_hold_nothing(tmp_path, through, monkeypatch, capsys):
    out, told = tmp_path / "run", tmp_path / "told"
    with monkeypatch.context() as patch:
        waits_in_round(patch, 4, told)
        pid = child(lambda: fit(out))
    try:
        wait_for(told)
        capsys.readouterr()
        statuses = resume(out), fit(out)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    said = capsys.readouterr().err.splitlines()
    assert (statuses, len(said)) == ((2, 2), 2)
    assert "is being trained by another process" in said[0]
    assert resume(out) == 0
    same(through, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_asked_to_stop(number, tmp_path, long_through):
    """A real one, as a person starts it: stopped once in the middle, killed once, and gone on with."""
    out = tmp_path / "run"
    command = [sys.executable, "-c", SLOWLY.format(fit=f"fit {FLAGS} {LONG} --out {out}".split())]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(out / "checkpoint" / "step-000020.safetensors")
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    left = load(out)
    assert 20 <= left.steps < 80
    assert left.model is not None
    if number == signal.SIGTERM:
        command = [sys.executable, "-c", SLOWLY.format(fit=["resume", str(out)])]
        process = subprocess.Popen(command)
        wait_for(out / "checkpoint" / f"step-{left.steps // 20 * 20 + 20:06d}.safetensors")
        process.kill()
        process.wait()
    assert resume(out) == 0
    same(long_through, out)


SLOWLY = """
import sys, time
from pofx.cli import main
from pofx.train.loop import Trainer
play = Trainer.round
def slowly(self):
    play(self)
    time.sleep(0.01)
Trainer.round = slowly
sys.exit(main({fit!r}))
"""


def test_nothing_is_taken_over_but_what_was_never_begun(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    write_json(out / "config.json", {})
    (out / "letter.txt").write_text("dear reader")
    with pytest.raises(Unusable, match="never overwritten"):
        fitting.fit("vae", "moons", out=out, steps=1, device="cpu")
    (out / "letter.txt").unlink()
    assert fit(out) == 0
