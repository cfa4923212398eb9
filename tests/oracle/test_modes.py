"""Modes of stacked digits are counted as they are known to be, and the benchmark prints what was counted."""

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import pofx
from pofx.evaluate.classifier import Judge, train_classifier
from pofx.evaluate.modes import count_modes
from pofx.randomness import stream

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "adversarial"
LAW = (0.5, 0.3, 0.2)


class Reads(nn.Module):
    """A picture of one pixel holds its class; 0.8 of the judge's trust goes there."""

    def __init__(self):
        super().__init__()
        self.trust = nn.Parameter(torch.tensor([0.8, 0.1, 0.1]).log())

    def forward(self, x):
        return torch.stack([self.trust.roll(int(k)) for k in x.flatten()])


JUDGE = Judge(Reads(), steps=1)


def test_the_histogram_and_its_divergences():
    """Three stacks of two: 00 twice and 21 once, by hand."""
    x = torch.tensor([[0, 0], [2, 1], [0, 0]], dtype=torch.uint8).view(3, 2, 1, 1)
    counted = count_modes(x, JUDGE, LAW)
    assert counted.found == 2
    assert counted.confidence == pytest.approx(0.8)
    assert counted.histogram.nonzero().flatten().tolist() == [0, 3 * 2 + 1]
    kl = 2 / 3 * math.log(2 / 3 / 0.25) + 1 / 3 * math.log(1 / 3 / (0.2 * 0.3))
    assert counted.kl == pytest.approx(kl)
    assert counted.kl_uniform == pytest.approx(math.log(9) + 2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert counted.score("test").floor == pytest.approx(8 / 6)


def test_the_floor_is_what_the_law_itself_gets():
    n, draws = 400, []
    for seed in range(40):
        x = torch.multinomial(torch.tensor(LAW), 2 * n, replacement=True, generator=stream(seed, "test")).view(
            n, 2, 1, 1
        )
        counted = count_modes(x, JUDGE, LAW)
        draws.append(counted.kl)
    mean, spread = torch.tensor(draws).mean().item(), torch.tensor(draws).std().item() / math.sqrt(len(draws))
    assert abs(mean - counted.floor) < 4 * spread


def test_a_mode_that_the_data_lack_is_infinitely_far():
    x = torch.tensor([[1]], dtype=torch.uint8).view(1, 1, 1, 1)
    assert count_modes(x, JUDGE, (0.5, 0.0, 0.5)).kl == math.inf


def test_the_benchmark_judges_a_run_beside_real_digits(tmp_path, monkeypatch, capsys):
    """The samples of two steps fall where they may; the real digits fall evenly."""
    pofx.fit("gan", "digits:stack=2", steps=2, network="mlp", hidden=(8,), validation_rows=16, out=tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        stacked = importlib.import_module("stacked")
        del sys.modules["stacked"]
    learn = lambda data, **_: train_classifier(data.train, data.domain, data.condition, seed=0, steps=150)  # noqa: E731
    monkeypatch.setattr(stacked, "cached_judge", learn)
    stacked.main(["--run", str(tmp_path / "run"), "--digits", "digits", "--samples", "500"])
    rows = {line[:15].strip(): line[15:].split() for line in capsys.readouterr().out.splitlines()[3:]}
    assert rows.keys() == {"samples", "real, test"}
    assert [float(row[3]) for row in rows.values()] == pytest.approx([99 / 1000] * 2, abs=1e-4)
    assert int(rows["real, test"][0].removesuffix("/100")) > 90
    assert float(rows["real, test"][1]) < 0.3 < float(rows["samples"][1])
