"""Runs that are stopped on their way, and whether two runs are one."""

import itertools
import signal

import pytest
from safetensors.torch import load_file

from pofx.train.loop import Trainer


def stopped(monkeypatch, at, fit, *args, **given):
    """A fit that Ctrl-C stops after ``at`` rounds."""
    play, played = Trainer.round, itertools.count(1)

    def interrupted(self):
        play(self)
        if next(played) == at:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(*args, **given)


def timeless(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same(a, b):
    """Two runs are equal: weights, checkpoints, what is written for people; but for the seconds that it took."""
    files = sorted(str(path.relative_to(a.folder)) for path in a.folder.rglob("*.safetensors"))
    assert files == sorted(str(path.relative_to(b.folder)) for path in b.folder.rglob("*.safetensors"))
    for file in files:
        x, y = load_file(a.folder / file), load_file(b.folder / file)
        assert x.keys() == y.keys()
        assert [key for key in x if not x[key].equal(y[key])] == [], file
    assert timeless(a.history) == timeless(b.history)
    assert a.events == b.events
    assert timeless([a.progress]) == timeless([b.progress])
