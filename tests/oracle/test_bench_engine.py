"""The engine benchmark compares like with like, and its yardstick is as bare as it claims to be."""

import ast
import importlib
import math
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn.utils import parameters_to_vector

from pofx.data.dataset import Rows
from pofx.train.loop import Trainer

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "engine"
NAMES = ("bare", "bare_game", "by_hand", "games_by_hand", "held", "loops", "measure", "peers", "workloads")


@pytest.fixture(scope="module")
def engine():
    """The benchmark's modules, which stand beside each other and not in a package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield {name: importlib.import_module(name) for name in NAMES}
        for name in NAMES:
            del sys.modules[name]


@pytest.mark.parametrize(("name", "imports"), [("bare", {"torch"}), ("bare_game", {"torch"})])
def test_the_bare_loops_are_short_and_import_torch_alone(name, imports):
    text = (HERE / f"{name}.py").read_text()
    tree = ast.parse(text)
    found = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert found - set(sys.stdlib_module_names) == imports
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    documented = {tree.body[0].lineno, *(n.body[0].lineno for n in tree.body if isinstance(n, ast.FunctionDef))}
    code = [i for i, line in enumerate(text.splitlines(), 1) if line.strip() and i not in documented]
    assert len(code) <= 25


@pytest.mark.parametrize("name", ["vae-1ms", "vae-digits", "vae-10ms", "gpt", "flow-matching", "wgan-gp"])
def test_the_bare_loop_and_the_trainer_reach_the_same_weights(engine, name):
    full = engine["workloads"].WORKLOADS[name]
    workload = replace(full, batch=8, rows=20)  # two batches an epoch, and a rest
    ours, theirs, start = workload.model(), workload.model(), workload.model()
    settings = workload.settings(ours, weight_decay=0.0)  # pofx decays matrices, the bare loop all
    trainer = Trainer(ours, Rows(workload.x), settings, planned=5)
    for _ in range(5):
        trainer.round()
    list(islice(engine["loops"].bare_steps(theirs, workload, settings, planned=5), 5))
    a, b, before = (parameters_to_vector(model.parameters()) for model in (ours, theirs, start))
    # in the norm: Adam turns rounding errors of a gradient near zero into steps of a weight
    assert (a - b).norm() < 1e-3 * (a - before).norm()


def test_gradients_derived_by_hand_are_autograds(engine):
    assert engine["by_hand"].derivation_error(engine["workloads"].pictures(28, 2)(16, torch.Generator())) < 1e-5


@pytest.mark.parametrize(("name", "tolerance"), [("vae-digits", 5e-3), ("vae-10ms", 1e-5)])
def test_the_model_by_hand_is_the_model(engine, name, tolerance):
    """The same loss as pofx's VAE with the same weights and the same noise; pofx's logistics have a least width too."""
    workload = replace(engine["workloads"].WORKLOADS[name], rows=16)
    model, (weights, loss) = workload.untrained(), workload.written()
    with torch.no_grad():
        model.bias.zero_()
        for mine, written in zip([*model.encoder.parameters(), *model.decoder.parameters()], weights, strict=True):
            mine.copy_(written)
    expected = model.loss(workload.x, generator=torch.Generator().manual_seed(3)).total
    torch.testing.assert_close(loss(workload.x, torch.Generator().manual_seed(3)), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", ["gan", "r3gan", "wgan-gp", "gan-conv", "sngan"])
def test_the_game_by_hand_is_the_game(engine, name):
    """Both players' losses with the same weights and the same noise."""
    workload = replace(engine["workloads"].WORKLOADS[name], rows=16)
    turns, written = workload.model().turns(), workload.written()
    tolerance = 1e-3 if name == "sngan" else 1e-5
    with torch.no_grad():
        for turn, (weights, _) in zip(turns, written, strict=True):
            for mine, theirs in zip(_drawn(turn.parameters), _drawn(weights), strict=True):
                theirs.copy_(mine)
    for turn, (_, loss) in zip(turns, written, strict=True):
        rngs = [torch.Generator().manual_seed(3) for _ in range(2)]
        for _ in range(30 if name == "sngan" else 1):  # each looks for singular vectors from where chance put it
            expected, found = turn.loss(workload.x, generator=rngs[0]).total, loss(workload.x, rngs[1])
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def _drawn(parameters):
    """Without those of norms, which begin as ones and zeros."""
    return [p for p in parameters if p.numel() == 1 or p.unique().numel() > 1]


def test_a_held_loop_makes_the_steps_asked_for_and_no_more(engine):
    made = []

    def run(tick):
        while len(made) < 9:
            tick()
            made.append(None)

    held = engine["held"].Held(run)
    assert len(made) == 0
    held.advance(3)
    assert len(made) == 3
    held.advance(5)
    assert len(made) == 8
    with pytest.raises(RuntimeError, match="the loop ended before the measurement did"):
        held.advance(5)


def test_the_interval_of_the_median_ratio_is_scipys(engine):
    pairs = np.random.default_rng(0).lognormal(0.05, 0.1, 40)
    ratio = engine["measure"].Ratio(tuple(pairs), (1.0, 1.0), 0.0)
    expected = scipy.stats.bootstrap((pairs,), np.median, method="percentile", random_state=0).confidence_interval
    assert math.isclose(ratio.quartiles[1], np.median(pairs))
    assert ratio.interval == pytest.approx((expected.low, expected.high), abs=0.01)


def test_a_peer_that_is_not_installed_is_missing(engine):
    peer = engine["peers"].Peer("no_such_package", "nowhere", "nothing")
    assert peer.missing
    assert not engine["peers"].PEERS["nanoGPT's loop"].missing
