"""Every recipe can be trained and scored as it stands, and says beside its figure what is expected and what that is."""

import json
from dataclasses import replace

import pytest
import torch

import pofx.data
from pofx.cli import main
from pofx.data.request import parse
from pofx.recipes import Expected, entries, find, reproduce
from pofx.train.watch import Watcher

PICTURES = "digits:binary,size=4,limit=40"
STAND_INS = {
    "mnist": PICTURES,
    "fashion-mnist": PICTURES,
    "binarized-mnist": PICTURES,
    "tinyshakespeare": "{folder}/play.txt:length=16",
}
LINE = "To be, or not to be: that is the question; "


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Small data of the same kind for every source that a recipe names."""
    (tmp_path / "play.txt").write_text(LINE * 40)
    load = pofx.data.load

    def small(source, **options):
        place, _, written = source.removeprefix("name:").partition(":")
        assert place in pofx.data.sources()
        stack = parse(written).get("stack")
        stacked = f",stack={stack}" if stack else ""
        return load(STAND_INS[place].format(folder=tmp_path) + stacked, **options)

    monkeypatch.setattr("pofx.data.load", small)
    monkeypatch.setattr("pofx.recipes.figures.load", small)
    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


class Heard(Watcher):
    """Keeps the configuration of the run."""

    def opened(self, folder, config):
        self.config = config


@pytest.mark.parametrize("name", entries())
def test_trains_as_it_says_and_is_scored_on_the_test_split(name, stand_ins):
    recipe, watch = find(name), Heard()
    done = reproduce(name, steps=2, quick=True, out="run", watch=watch, device="cpu")
    config = watch.config
    assert (config["model"], config["source"], done.run.steps) == (recipe.model, recipe.source, 2)
    changed = ("steps", "budget", "batch_size", "validation_rows", "precision", "compile")
    kept = {key: value for key, value in recipe.given.items() if key not in (*changed, "condition")}
    assert kept.items() <= (config["arguments"] | config["settings"]).items()
    assert done.reached is None
    if recipe.expected.metric != "log p(x)":
        assert (done.score.metric, done.score.n, done.figure) == (recipe.expected.metric, 64, done.score.value)
        return
    x, _ = done.run.data.test.rows()
    exact = recipe.expected.kind == "exact"
    log_p = done.run.model.log_prob(x[:64]).detach() if exact else done.run.score(x[:64]).value
    assert done.score.value == pytest.approx(log_p.mean().item(), rel=1e-5)
    assert (done.score.n, done.score.split, done.score.kind) == (len(log_p), "test", recipe.expected.kind)
    each = done.run.domain.dims if recipe.expected.unit == "nats/char" else 1
    assert done.figure == pytest.approx(-log_p.mean().item() / each, rel=1e-5)


def test_the_whole_recipe_is_held_against_its_figure(stand_ins, monkeypatch):
    small = replace(
        find("image-gpt-mnist"), given={"layers": 1, "width": 8, "heads": 2, "steps": 3}, machine="two cores"
    )
    monkeypatch.setitem(entries(), "small", replace(small, name="small", expected=Expected(78.5, "nats", "exact")))
    done = reproduce("small", out="run", device="cpu")
    assert done.score.n == len(done.run.data.test)
    assert (done.whole, done.reached) == (True, True)
    strict = replace(small, expected=Expected(done.figure - 0.1, "nats", "exact", measured="two cores, 3 seeds"))
    judged = strict.judged(done.run)
    assert judged.reached is False
    assert "measured: two cores, 3 seeds): not reached" in str(judged)
    assert judged.score == done.score
    assert reproduce("small", out="shorter", device="cpu", steps=1).reached is None


def test_a_time_replaces_a_number_of_steps(stand_ins, monkeypatch):
    recipe = find("gpt-tinyshakespeare")
    monkeypatch.setattr("pofx.preparing.planned_rounds", lambda *_: 2)
    watch = Heard()
    reproduce(recipe.name, budget="30s", out="run", watch=watch, device="cpu")
    assert (watch.config["settings"]["budget"], watch.config["settings"]["steps"]) == (30.0, None)


def test_the_list(tmp_path, capsys):
    assert main(["reproduce", "--json", str(tmp_path / "list.json")]) == 0
    printed = capsys.readouterr().out
    listed = json.loads((tmp_path / "list.json").read_text())["recipes"]
    assert [recipe["name"] for recipe in listed] == list(entries())
    for recipe in entries().values():
        line = next(line for line in printed.splitlines() if line.startswith(recipe.name + " "))
        assert f"= {recipe.expected.value} {recipe.expected.unit}".rstrip() in line
        assert recipe.expected.standing in line


def test_one_recipe_on_the_command_line(stand_ins, tmp_path, capsys):
    line = f"reproduce image-gpt-mnist --quick --steps 2 --seed 3 --device cpu --out run --json {tmp_path}/figure.json"
    assert main(line.split()) == 0
    printed = capsys.readouterr().out
    expected = find("image-gpt-mnist").expected
    assert f"expected {expected}: not the whole recipe" in printed
    told = json.loads((tmp_path / "figure.json").read_text())
    assert f"{told['figure']:.3f}" in printed
    assert told["recipe"]["expected"]["value"] == expected.value
    assert (told["reached"], told["run"]) == (None, "run")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("reproduce image-gpt-mnsit", "there is no recipe 'image-gpt-mnsit'; did you mean 'image-gpt-mnist'?"),
        ("reproduce xyz", "there are: "),
        ("reproduce --quick", "--quick is of one recipe; name it first"),
        ("reproduce gpt-tinyshakespeare --steps 0", "--steps must be at least 1, got 0"),
        ("reproduce image-gpt-mnist", "image-gpt-mnist is a recipe for a GPU, and there is none here; --quick"),
    ],
)
def test_one_line_and_exit_two(line, words, stand_ins, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(line.split()) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
