"""A loss or gradient that is not finite: the step is skipped without a trace, and what goes on diverging goes back."""

import copy
import math

import pytest
import torch
from torch import nn

from pofx.data.dataset import Rows
from pofx.errors import Unusable
from pofx.protocols import Loss, Turn
from pofx.randomness import stream
from pofx.train import optimisers
from pofx.train.course import PATIENCE, TRIES, Course
from pofx.train.loop import Trainer
from pofx.train.settings import Settings
from pofx.train.watch import Stop

OPTIMISERS = ["adamw", "adam", "sgd", "muon"]


def never(player):
    return ""


def spoilt(total, weight, how):
    """The loss itself made NaN, or finite with a gradient that is infinite."""
    if how == "loss":
        return total * math.nan
    if how == "gradient":
        return total + (weight - weight.detach()).sqrt().sum()
    return total


class Line(nn.Module):
    """Least squares under noise, spoilt where ``spoil(player)`` says how."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, 1)
        self.spoil = never

    def loss(self, x, condition=None, *, generator):
        noise = torch.randn(x.shape, generator=generator)
        y = self.head(self.hidden(x + 0.1 * noise).tanh()).squeeze(-1)
        total = spoilt((y - x.sum(1)).square().mean(), self.hidden.weight, self.spoil("model"))
        return Loss(total, {"square": total})


class Duel(nn.Module):
    """Two players; the second's ``after`` counts."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(()))
        self.spoil = never

    def turns(self):
        def loss(name, mine, other):
            def of(x, condition=None, *, generator):
                total = (mine(x) - other(x)).square().mean() + mine.weight.square().mean()
                return Loss(spoilt(total, mine.weight, self.spoil(name)), {}, {"x": x})

            return of

        def after(carry, progress):
            self.count += 1

        first = Turn("a", tuple(self.a.parameters()), loss("a", self.a, self.b), repeats=2)
        return first, Turn("b", tuple(self.b.parameters()), loss("b", self.b, self.a), fresh=False, after=after)


def kinds(run):
    """Of what happened, besides alarms."""
    return [event["kind"] for event in run.events if event["kind"] != "alarm"]


def trainer(kind, planned=12, **settings):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = kind()
    data = Rows(torch.randn(50, 3, generator=stream(0, "x")))
    settings = {"batch_size": 8, "schedule": "constant", "warmup": 0.0, **settings}
    return Trainer(model, data, Settings(**settings), planned=planned, seed=1)


def tensors_of(trainer, *parts):
    return {name: x.clone() for name, x in trainer.state()[0].items() if name.startswith(parts)}


def same(a, b):
    assert a.keys() == b.keys()
    assert [name for name in a if not a[name].equal(b[name])] == []


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_leaves_no_trace(how, optimiser, fused, monkeypatch):
    """Equal, to the last bit, to a run that at those steps draws its batch and its noise and does nothing."""
    if not fused:
        monkeypatch.setattr(optimisers, "_can_fuse", lambda parameters: False)
    through, quiet = trainer(Line, optimiser=optimiser), trainer(Line, optimiser=optimiser)
    bad = (0, 4, 5)
    through.model.spoil = lambda player: how if through.step in bad else ""
    for step in range(8):
        before = tensors_of(through, "model")
        through.round()
        assert (step in bad) == all(x.equal(before[name]) for name, x in tensors_of(through, "model").items())
        if step in bad:
            x, c = quiet.batches.next()[0]
            quiet.model.loss(x, c, generator=quiet.noise)
            quiet.step += 1
        else:
            quiet.round()
    assert (through.streak(), through.skipped) == (0, 3)
    everything = ("model/", "optimiser/", "noise/", "data/")
    same(tensors_of(through, *everything), tensors_of(quiet, *everything))
    assert through.observed() == quiet.observed()


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_player_that_fails_does_not_stop_the_other(how, optimiser):
    game = trainer(Duel, optimiser=optimiser, ema=0.0)
    game.model.spoil = lambda player: how if (player, game.step) == ("b", 1) else ""
    game.round()
    before = copy.deepcopy(game.model.state_dict())
    game.round()
    moved = {name for name, x in game.model.state_dict().items() if not x.equal(before[name])}
    assert moved == {"a.weight", "a.bias"}, "the second player stood still, and its `after` was not called"
    assert (game.streak(), game.skipped) == (1, 1)
    game.round()
    assert (game.streak(), game.skipped, int(game.model.count)) == (0, 1, 2)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_averages_stay_finite(optimiser):
    game = trainer(Line, optimiser=optimiser, ema=0.5)
    game.model.spoil = lambda player: "loss" if game.step % 2 else ""
    for _ in range(8):
        game.round()
    assert all(x.isfinite().all() for x in game.ema.average)


def course(game):
    """A course that keeps its checkpoints in memory."""
    kept = {}

    def save(good):
        kept["good" if good else "last"] = copy.deepcopy(game.state())

    made = Course(game, None, save=save, restore=lambda: game.load(copy.deepcopy(kept["good"])))
    save(True)
    return made, kept


@pytest.mark.parametrize(
    ("kind", "player", "optimiser", "how"),
    [
        *((Line, "model", optimiser, "loss") for optimiser in OPTIMISERS),
        (Duel, "a", "muon", "gradient"),
        (Duel, "b", "sgd", "gradient"),
    ],
)
def test_a_streak_goes_back_with_half_the_rate(kind, player, optimiser, how):
    game = trainer(kind, planned=250, optimiser=optimiser)
    peaks = [group["lr"] for group in game.groups]
    game.model.spoil = lambda who: how if who == player and game.step >= 130 and game.brake == 1.0 else ""
    run, _ = course(game)
    assert run.run(Stop())
    assert kinds(run) == ["rollback"]
    back = next(event["step"] for event in run.events if event["kind"] == "rollback")
    assert 50 <= back <= 130, "a checkpoint from before the trouble, and not the first"
    steps = [row["step"] for row in run.history]
    assert steps == sorted(set(steps))
    assert (steps[-1], game.step, game.brake) == (250, 250, 0.5)
    assert [group["lr"] for group in game.groups] == [peak / 2 for peak in peaks]
    assert all(p.isfinite().all() for p in game.model.parameters())


def test_short_streaks_do_not_go_back():
    game = trainer(Line, planned=250)
    game.model.spoil = lambda who: "loss" if game.step % 50 >= 50 - PATIENCE + 1 else ""
    run, _ = course(game)
    assert run.run(Stop())
    assert kinds(run) == []
    assert run.history[-1]["skipped"] == 5 * (PATIENCE - 1)


@pytest.mark.parametrize("kind", [Line, Duel])
def test_the_hopeless_is_stopped_with_a_diagnosis(kind):
    game = trainer(kind, planned=250)
    game.model.spoil = lambda who: "loss" if who != "a" and game.step >= 70 else ""
    run, kept = course(game)
    with pytest.raises(Unusable, match=rf"training diverged: .*0\.000125 after {TRIES} tries .*--learning-rate"):
        run.run(Stop())
    assert kinds(run) == [*["rollback"] * TRIES, "stopped"]
    good, plain = kept["last"]
    assert plain["step"] == game.step <= 70
    assert all(x.isfinite().all() for name, x in good.items() if name.startswith("model/"))
    with pytest.raises(Unusable, match=r"0\.000125 after"):  # gone on with, it ends in the same way
        run.run(Stop())
