"""``--compile`` for every model of the catalogue: the same losses as without, or one line that says why not."""

import pytest
import torch
from torch import nn

from pofx import fitting
from pofx.catalogue import entries
from pofx.train.watch import Watcher

SOURCES = {"images": "digits", "vectors": "moons", "tokens": None}
ROUNDS = 3


class Heard(Watcher):
    def __init__(self):
        self.lines = []

    def said(self, line):
        self.lines.append(line)


@pytest.fixture
def traced(monkeypatch):
    """Networks are traced as ever, and run by PyTorch itself: making kernels of each would take half a minute."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def compile_quickly(self, *arguments, **settings):
        self._compiled_call_impl = torch.compile(self._call_impl, backend=backend)

    torch.compiler.reset()
    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    yield graphs
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "kind"),
    [(e.name, kind) for e in entries().values() for kind in e.domains if e.family != "baselines"],
)
def test_compiled_losses_are_those_of_the_model(name, kind, tmp_path, traced):
    source = SOURCES[kind]
    if source is None:
        source = tmp_path / "text.txt"
        source.write_text("to be, or not to be: that is the question. " * 60)
    given = {"length": 12} if kind == "tokens" else {"limit": 200}
    if kind == "images":
        given["condition"] = "class"

    def fitted(out, watch, **more):
        tiny = entries()[name].tiny[kind]
        return fitting.fit(
            name, str(source), out=tmp_path / out, steps=ROUNDS, batch_size=16, seed=3, device="cpu", watch=watch,
            **given, **tiny, **more,
        )  # fmt: skip

    plain = fitted("plain", Heard())
    assert not traced
    heard = Heard()
    run = fitted("compiled", heard, compile=True)
    refused = [line for line in heard.lines if line.startswith("--compile is not possible here")]
    assert len(refused) == 0 if traced else len(refused) == 1
    assert run.finished
    losses = [
        [{k: v for k, v in row.items() if k.endswith(("/loss", "validation"))} for row in fit.history]
        for fit in (plain, run)
    ]
    assert len(losses[0]) == len(losses[1]) == ROUNDS
    for expected, row in zip(*losses):
        assert row == pytest.approx(expected, abs=1e-4, rel=1e-4)
