"""The benchmark beside nanoGPT scores every character once, splits as it says, and gave both sides as many trials."""

import csv
import importlib
import math
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from pofx.domains import Tokens
from pofx.models.autoregressive.gpt import GPT
from pofx.train.settings import settings_from

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "autoregressive"
NAMES = ("shakespeare", "ours", "theirs", "time_to_loss")


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules, which stand beside each other and not in a package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield {name: importlib.import_module(name) for name in NAMES}
        for name in NAMES:
            del sys.modules[name]


def test_every_character_is_scored_once_given_the_one_before(bench):
    seen = []

    def nats(windows):
        seen.extend(windows[:, 1:].flatten().tolist())
        assert windows[:, 1:].equal(windows[:, :-1] + 1)
        return windows[:, 1:].double()

    symbols = torch.arange(200, dtype=torch.uint8)
    assert bench["shakespeare"].loss_over(symbols, nats, rows=2) == pytest.approx(sum(range(1, 193)) / 192)
    assert seen == list(range(1, 193))


def test_tuning_never_sees_the_test(bench, tmp_path, monkeypatch):
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text("abcdefghij" * 10)
    monkeypatch.setenv("POFX_DATA", str(tmp_path))
    final, tuning = (bench["shakespeare"].split(tuning=tuning) for tuning in (False, True))
    assert (len(final.train), len(final.held_out)) == (90, 10)
    assert torch.cat([tuning.train, tuning.held_out]).equal(final.train)
    assert len(tuning.held_out) == 9
    assert final.vocabulary == 10


def test_the_schedule_is_nanogpts(bench):
    """train.py: (step + 1) / (warmup + 1) of the peak, then half a cosine to min_lr."""
    theirs = bench["theirs"]
    recipe = theirs.Recipe()
    assert theirs.rate(0, recipe) == pytest.approx(1e-3 / 101)
    assert theirs.rate(100, recipe) == pytest.approx(1e-3)
    assert theirs.rate(1050, recipe) == pytest.approx(5.5e-4)
    assert theirs.rate(575, recipe) == pytest.approx(1e-4 + 0.5 * (1 + math.cos(math.pi / 4)) * 9e-4)


def test_what_is_compared_is_within_the_size_and_can_be_built(bench):
    run = bench["time_to_loss"]
    recipes = {"short": run.SHORT, "long": run.LONG, "plain": run.PLAIN}
    for name, recipe in (recipes | {name: run.SHORT.but(**changes) for name, changes in run.ABLATIONS.items()}).items():
        model = GPT(Tokens(65, 65), **recipe.gpt)
        settings_from(model.recipe, recipe.settings)
        assert name not in recipes or sum(p.numel() for p in model.parameters()) <= 804_096


def test_both_sides_were_given_as_many_trials():
    with (HERE / "trials.csv").open() as file:
        trials = Counter(row["who"] for row in csv.DictReader(file))
    assert trials["gpt"] == trials["nanogpt"] > 8
