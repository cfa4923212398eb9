"""Planted illnesses ring their own alarm, healthy runs none, and a resumed run what the uninterrupted one rang."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import pofx
from pofx import data as sources
from pofx.catalogue import find
from pofx.cli.bar import Bar
from pofx.data.dataset import Data, Rows
from pofx.domains import Images, Vectors
from pofx.protocols import Adapts, Judges, Loss, Samples, Watched, capabilities
from pofx.randomness import seeded_init, stream
from pofx.train.health import RECOVERED, RULES, Alarm, Health, duplicated
from pofx.train.loop import Trainer
from pofx.train.modes import mode_meters, modes_made
from pofx.train.settings import settings_from
from pofx.train.validation import Validation

REPOSITORY = Path(__file__).resolve().parents[2]


def built(name, data, seed=0, **arguments):
    with seeded_init(seed):
        return find(name).build(data.domain, condition=data.condition, **arguments)


def trained(model, data, steps, seed=0, labels=None, **settings):
    """The history of a run: a row for each step, validation and meters on every twentieth part of it.

    Args:
        labels: of the validation rows, of which a game's samples are held against.
    """
    able = capabilities(model)
    if Adapts in able:
        model.adapt(*data.train.rows(), generator=stream(seed, "adapt"))
    recipe = {k: v for k, v in getattr(model, "recipe", {}).items() if k != "budget"}
    recipe["batch_size"] = min(recipe.get("batch_size", 64), len(data.train))
    trainer = Trainer(model, data.train, settings_from(recipe, settings), planned=steps, seed=seed)
    rows = tuple(None if part is None else part[:256] for part in data.validation.rows())
    validation = Validation(rows, batch_size=256, seed=seed) if Validation.name_for(model) else None
    history = []
    for step in range(1, steps + 1):
        trainer.round()
        row = {"step": step, **trainer.observed()} | ({"skipped": trainer.skipped} if trainer.skipped else {})
        if step % max(1, steps // 20) == 0:
            with trainer.weights():
                if validation is not None:
                    row["validation"] = validation.measure(model)
                if Watched in able:
                    row |= {f"meter/{name}": float(value) for name, value in model.meters(*rows).items()}
                if labels is not None and {Judges, Samples} <= able:
                    made = mode_meters(model, rows, labels[:256])
                    row |= {f"meter/{name}": float(value) for name, value in made.items()}
        history.append(row)
    return history


def rung(history, planned=None):
    """Names of the alarms, in order."""
    return [alarm.rule for alarm in Health().examine(history, planned or int(history[-1]["step"]))]


@pytest.fixture(scope="module")
def moons():
    return sources.load("moons", seed=0)


@pytest.fixture(scope="module")
def digits():
    return sources.load("digits", seed=0)


def test_a_collapsed_posterior(digits):
    assert rung(trained(built("vae", digits, beta=100.0), digits, 100)) == ["posterior collapse"]


def test_a_generator_of_one_point(moons):
    """Only the last bias is left to learn: it finds the middle of the data."""
    model = built("wgan-gp", moons)
    head = model.generator.network.head
    nn.init.zeros_(head.weight)
    critic, generator = model.turns()
    model.turns = lambda: (critic, replace(generator, parameters=(head.bias,)))
    assert rung(trained(model, moons, 80)) == ["mode collapse"]


def test_a_critic_that_is_held_by_no_penalty(digits):
    history = trained(built("wgan-gp", digits, penalty=1e-4), digits, 100)
    assert "steep or flat critic" in rung(history)
    assert "steep or flat critic" not in rung(trained(built("wgan-gp", digits), digits, 60))


def played(model, player, **settings):
    """The same game with other optimiser settings for one player."""
    turns = [replace(turn, optimiser=settings) if turn.player == player else turn for turn in model.turns()]
    model.turns = lambda: tuple(turns)
    return model


def test_a_critic_that_learns_a_hundred_times_too_fast(digits):
    model = built("gan", digits)
    history = trained(played(model, "critic", learning_rate=100 * model.recipe["learning_rate"]), digits, 60)
    assert rung(history) == ["steep or flat critic", "saturated critic"]
    steep, sure = Health().examine(history, 60)
    assert re.search(r"norm \S+, up to \S+, where 1 is usual$", steep.line)
    assert "tells 100.0% of pairs apart and gives the real one 100.0%" in sure.line


def test_a_generator_that_does_not_learn(digits):
    history = trained(played(built("gan", digits), "generator", learning_rate=1e-12), digits, 60)
    assert rung(history) == ["no learning", "saturated critic"]
    assert "the generator stands still" in Health().examine(history, 60)[0].line


def test_a_generator_of_one_class_in_ten():
    """It is shown ones alone; samples vary as ones do, and the validation rows have all ten classes."""
    labelled = sources.load("digits", seed=0, condition="class")
    (x, c), labels = labelled.train.rows(), labelled.validation.rows()[1]
    data = replace(sources.load("digits", seed=0), train=Rows(x[c == 1]))
    history = trained(built("r3gan", data), data, 100, labels=labels)
    assert "mode collapse" in rung(history)
    assert re.search("samples are of [123] of the 10 classes", Health().examine(history, 100)[0].line)


def test_classes_among_samples_are_those_of_the_nearest_rows():
    """Rows at 0, 10 and 20; one stray sample in a hundred is under a tenth of a third."""
    x, labels = torch.arange(3).repeat(20)[:, None] * 10.0, torch.arange(3).repeat(20)
    assert modes_made(x + 1.0, x, labels) == 3
    samples = torch.cat([torch.zeros(99, 1), torch.full((1, 1), 19.0)])
    assert modes_made(samples, x, labels) == 1
    assert modes_made(torch.cat([samples, samples[-1:].expand(9, 1)]), x, labels) == 2


def test_a_rate_that_explodes(moons):
    given = {"optimiser": "adam", "clip": 0.0, "learning_rate": 0.1}
    history = trained(built("vae", moons), moons, 100, **given)
    assert rung(history)[0] == "exploding gradients"
    assert set(rung(history)) <= {"exploding gradients", "not finite"}
    line = Health().examine(history, 100)[0].line
    before, after = map(float, re.search(r"from (\S+) to (\S+)$", line).groups())
    assert after > 10 * before


def test_a_rate_that_breaks_at_once(moons):
    history = trained(built("vae", moons), moons, 20, optimiser="sgd", clip=0.0, learning_rate=1e3)
    assert rung(history) == ["not finite"]


@pytest.mark.parametrize("name", ["vae", "flow-matching"])
def test_a_rate_that_learns_nothing(digits, moons, name):
    data = digits if name == "vae" else moons
    assert rung(trained(built(name, data), data, 60, learning_rate=1e-12)) == ["no learning"]


def test_thirty_rows_learnt_by_heart():
    data = sources.load("digits", seed=0, limit=30)
    history = trained(built("vae", data), data, 200, learning_rate=3e-3, weight_decay=0.0)
    assert rung(history) == ["overfitting"]
    best = max((row for row in history if "validation" in row), key=lambda row: row["validation"])
    assert f"at step {best['step']} " in Health().examine(history, 200)[0].line


class Saturated(nn.Module):
    """A sigmoid far out on its flat side: what lies before it receives nothing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        nn.init.constant_(self.layer.bias, 40.0)

    def loss(self, x, condition=None, *, generator):
        return Loss((self.layer(x).sigmoid() - x).square().mean())


def toy_data():
    return Data("toy", Vectors(3), *(Rows(torch.randn(300, 3, generator=stream(seed, "toy"))) for seed in range(3)))


def test_gradients_that_vanish():
    assert rung(trained(Saturated(), toy_data(), 40)) == ["vanishing gradients", "no learning"]


class Codebook(nn.Module):
    """Each x takes the nearest of 64 entries, of which one in ``stride`` lies among the data."""

    def __init__(self, stride):
        super().__init__()
        entries = torch.randn(64, 3, generator=stream(0, "entries"))
        entries[torch.arange(64) % stride > 0] += 100.0
        self.entries = nn.Parameter(entries)

    def nearest(self, x):
        return torch.cdist(x, self.entries).argmin(1)

    def loss(self, x, condition=None, *, generator):
        return Loss((x - self.entries[self.nearest(x)]).square().sum(1).mean())

    @torch.no_grad()
    def meters(self, x, condition=None):
        return {"codes_used": torch.tensor(len(self.nearest(x).unique()) / 64)}


@pytest.mark.parametrize(("stride", "alarms"), [(16, ["dead codes"]), (1, [])])
def test_entries_of_a_codebook_that_nothing_takes(stride, alarms):
    assert rung(trained(Codebook(stride), toy_data(), 40, learning_rate=0.02)) == alarms


SOUND = {"critic/loss": -1.0, "generator/loss": 0.1, "generator/gradient": 3.0, "meter/critic_accuracy": 0.6}


def game(later=()):
    """Forty rows of a sound game, with other readings in its second half."""
    first = [{"step": step, **SOUND} for step in range(1, 21)]
    return first + [{"step": step, **SOUND, **dict(later)} for step in range(21, 41)]


def test_a_critic_that_leaves_its_generator_nothing():
    right = {"meter/critic_accuracy": 0.999}
    assert rung(game()) == []
    assert rung(game({**right, "generator/gradient": 0.01})) == ["saturated critic"]
    assert rung(game(right)) == [], "a good critic that teaches is no illness"


def test_a_game_is_not_asked_for_a_falling_loss():
    assert rung(game()) == []
    assert rung([{"step": row["step"], "model/loss": row["critic/loss"]} for row in game()]) == ["no learning"]


def test_overfitting_needs_a_loss_that_fell():
    rising = [{"step": s, "model/loss": 1 / s, "validation": -abs(s - 12.0)} for s in range(1, 41)]
    assert rung(rising) == ["overfitting"]
    assert rung([row | {"model/loss": max(row["model/loss"], 1 / 12)} for row in rising]) == []
    assert rung([row | {"critic/loss": 0.0} for row in rising]) == [], "a game is not asked"


def test_skipped_steps_ring_once_until_the_run_is_well_for_long():
    def history(skips):
        return [{"step": s, "a/loss": 1.0, "b/loss": 1.0, "skipped": sum(s >= k for k in skips)} for s in range(1, 81)]

    alarms = Health().examine(history([5, 6, 20]), 80)
    assert [(alarm.rule, alarm.step) for alarm in alarms] == [("not finite", 5)]
    alarms = Health().examine(history([5, 17 + RECOVERED]), 80)
    assert [alarm.step for alarm in alarms] == [5, 17 + RECOVERED]
    assert "2 optimiser steps" in alarms[1].line


def test_a_history_in_pieces_rings_as_the_whole_one_does(moons):
    history = trained(built("vae", moons), moons, 40, optimiser="adam", clip=0.0, learning_rate=0.1)
    whole, health = Health().examine(history, 40), Health()
    assert whole
    assert [alarm for n in range(1, 41) for alarm in health.examine(history[:n], 40)] == whole
    cut = int(whole[0].step)
    events = [{"kind": "rollback", "step": 1, "line": ""}, *(alarm.to_json() for alarm in whole if alarm.step <= cut)]
    assert Health(events).examine(history, 40) == [alarm for alarm in whole if alarm.step > cut]


def test_a_history_that_went_back_is_examined_again():
    """Were the rows that were taken back still counted, the rule would not yet ring for the second time."""

    def history(skips, last):
        return [{"step": s, "skipped": sum(s >= k for k in skips)} for s in range(1, last + 1)]

    health, rows = Health(), history([5, 30], 40)
    assert [alarm.step for alarm in health.examine(rows, 80)] == [5]
    back = rows[:20] + history([5, 17 + RECOVERED], 40)[20:]
    assert [alarm.step for alarm in health.examine(back, 80)] == [17 + RECOVERED]


def test_a_run_folder_holds_what_is_examined(tmp_path):
    run = pofx.fit("vae", "digits", steps=60, beta=100.0, threads=1, out=tmp_path / "run")
    assert rung(run.history, 60) == ["posterior collapse"]


def test_data_that_repeat_themselves(digits):
    x = digits.train.rows()[0]
    alarm = duplicated(replace(digits, train=Rows(torch.cat([x, x[:200]]))))
    assert (alarm.rule, alarm.step) == ("duplicates", 0)
    assert f"200 of {len(x) + 200:,} training" in alarm.line
    assert duplicated(digits) is None
    assert duplicated(replace(digits, train=Rows(torch.cat([x, x[:20]])))) is None, "a few copies are no illness"
    few = Rows(torch.randint(2, (500, 1, 2, 2), generator=stream(0, "few")).to(torch.uint8))
    assert duplicated(Data("few", Images(1, 2, 2, levels=2), few, few, few)) is None, "there are but 16 such pictures"


HEALTHY = [
    ("vae", "digits", 80, {}),
    ("vae", "moons", 60, {}),
    ("vae", "checkerboard", 60, {}),
    ("wgan-gp", "digits", 60, {}),
    ("wgan-gp", "moons", 60, {}),
    ("wgan-gp", "spirals", 60, {}),
    ("gan", "moons", 40, {}),
    ("lsgan", "moons", 40, {}),
    ("sngan", "moons", 60, {}),
    ("wgan", "moons", 30, {}),
    ("r3gan", "digits", 80, {}),
    ("dcgan", "digits", 30, {}),
    ("flow-matching", "moons", 150, {}),
    ("flow-matching", "digits", 12, {"width": 16}),
    ("gpt", "digits", 30, {"width": 16, "layers": 1, "heads": 2}),
    ("gpt", str(REPOSITORY / "CONTRIBUTING.md"), 40, {"width": 16, "layers": 1, "heads": 2}),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "source", "steps", "arguments"), HEALTHY, ids=lambda v: Path(str(v)).stem)
def test_healthy_runs_are_silent(name, source, steps, arguments, seed):
    data = sources.load(source, seed=seed)
    labels = None
    if "class" in data.offers:
        labels = sources.load(source, seed=seed, condition="class").validation.rows()[1]
    history = trained(built(name, data, seed, **arguments), data, steps, seed, labels)
    assert Health().examine(history, steps) == []
    assert duplicated(data) is None


def test_the_bar_says_what_is_wrong_and_what_to_try():
    bar = Bar()
    bar.console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    bar.alarmed(Alarm("overfitting", 7, "validation fell from [1] to 2", "use more data"))
    text = bar.console.file.getvalue()
    assert "warning: validation fell from [1] to 2; use more data" in text
    assert "\x1b[1;33m" in text


def test_every_rule_stands_in_the_documentation():
    table = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    assert [rule.name for rule in RULES if f"| {rule.name} |" not in table] == []
    assert "| duplicates |" in table
