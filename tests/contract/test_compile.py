"""``--compile`` for every model of the catalogue: the losses are those without, and a refusal is one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TRAINED, tiny_trainer
from torch import nn

from pofx import fitting
from pofx.catalogue import entries
from pofx.train.loop import compiled
from pofx.train.plan import measured_round
from pofx.train.watch import Watcher

SUPPORT = str(Path(__file__).parents[1] / "support")
TRACED = """
import json, sys, torch
from torch import nn
sys.path.insert(0, sys.argv[1])
from tiny import TRAINED, tiny_trainer
from pofx.train.loop import compiled
from pofx.train.plan import measured_round

graphs = []
def run_as_traced(graph, inputs):
    graphs.append(graph)
    return graph.forward

def compile_without_kernels(self, **settings):
    self._compiled_call_impl = torch.compile(self._call_impl, backend=run_as_traced)

nn.Module.compile = compile_without_kernels
told = []
for case in TRAINED:
    graphs.clear()
    torch.compiler.reset()
    game, said = tiny_trainer(*case), []
    compiled(game.model, lambda: measured_round(game, seconds=0.0), said.append)
    losses = []
    for _ in range(3):
        game.round()
        losses.append(game.observed())
    told.append((losses, said, len(graphs)))
print(json.dumps(told))
"""


def losses_of(game):
    """Of three rounds."""
    losses = []
    for _ in range(3):
        game.round()
        losses.append(game.observed())
    return losses


@pytest.fixture(scope="module")
def traced():
    """What each model gave, its networks traced and then run as they are: making kernels would take half a minute each.

    In a process of its own, since the shape checks of tests cannot be traced.
    """
    done = subprocess.run([sys.executable, "-c", TRACED, SUPPORT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(TRAINED, json.loads(done.stdout.splitlines()[-1])))


@pytest.mark.parametrize("case", TRAINED, ids="-".join)
def test_compiled_losses_are_those_of_the_model(case, traced):
    losses, said, graphs = traced[case]
    assert graphs or said, "it is compiled, or says why not"
    assert len(said) <= 1
    for row, expected in zip(losses, losses_of(tiny_trainer(*case)), strict=True):
        assert row == pytest.approx(expected, abs=1e-4, rel=1e-4)


def refuse_the_second_call(monkeypatch):
    """The first network of a round runs, and what it draws is drawn; the second call has no kernel."""
    calls = []

    def refused(self, **settings):
        def called(*arguments, **keywords):
            calls.append(self)
            if len(calls) == 2:
                raise RuntimeError("no kernel for this\nand a trace")
            return self._call_impl(*arguments, **keywords)

        self._compiled_call_impl = called

    monkeypatch.setattr(nn.Module, "compile", refused)


REFUSAL = "--compile is not possible here (no kernel for this); going on without it"


@pytest.mark.parametrize("case", TRAINED, ids="-".join)
def test_a_refusal_in_the_middle_of_a_round_leaves_no_trace(case, monkeypatch):
    game, said = tiny_trainer(*case), []
    refuse_the_second_call(monkeypatch)
    compiled(game.model, lambda: measured_round(game, seconds=0.0), said.append)
    assert said == [REFUSAL]
    assert losses_of(game) == losses_of(tiny_trainer(*case))


def test_a_run_says_a_refusal_and_trains_on(tmp_path, monkeypatch):
    class Heard(Watcher):
        lines = []

        def said(self, line):
            self.lines.append(line)

    def weights(out, **more):
        tiny = entries()["vae"].tiny["vectors"]
        run = fitting.fit("vae", "moons", out=tmp_path / out, steps=3, limit=200, device="cpu", **tiny, **more)
        return (run.folder / "model.safetensors").read_bytes()

    expected = weights("plain")
    refuse_the_second_call(monkeypatch)
    assert weights("refused", compile=True, watch=Heard()) == expected
    assert REFUSAL in Heard.lines
