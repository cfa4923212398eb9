"""Several processes compute what one does with the same batch; so does one batch that is cut into pieces."""

import signal
import subprocess
import sys
import tempfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pofx import data as sources
from pofx import fitting
from pofx.catalogue import entries, find
from pofx.cli import main
from pofx.data.dataset import Rows
from pofx.errors import Unusable
from pofx.evaluate.likelihood import likelihood_scores
from pofx.evaluate.pace import Clock
from pofx.protocols import Loss, Turn
from pofx.randomness import seeded_init, stream
from pofx.runs import load
from pofx.testing.specimens import TINY, TWO_CLASSES, tiny_data
from pofx.train.launch import launched, locked
from pofx.train.loop import Trainer
from pofx.train.settings import Settings
from pofx.train.validation import Validation
from pofx.train.watch import Watcher
from pofx.world import ALONE, World, check_strategy, joined

GAMES = [
    (entry.name, kind)
    for entry in entries().values()
    if entry.family != "baselines"
    for kind in entry.tiny
]  # fmt: skip


def tiny_model(name, kind):
    with seeded_init(0):
        return find(name).build(TINY[kind][-1], condition=TWO_CLASSES, **find(name).tiny[kind])


# The others say in ``whole_batch`` why their loss is no mean over rows.
SEPARABLE = [game for game in GAMES if not getattr(tiny_model(*game), "whole_batch", "")]


class Uneven(nn.Module):
    """The mean over the entries that are not zero: a loss whose pieces weigh unequally."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def loss(self, x, condition=None, *, generator):
        counted = (x != 0).sum()
        return Loss(((self.w * x - 1).square() * (x != 0)).sum() / counted, weight=counted)


class Normalised(nn.Module):
    """Two batch norms, over vectors and over maps: their statistics are those of the whole batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 8),
            nn.BatchNorm1d(8),
            nn.Unflatten(1, (2, 2, 2)),
            nn.BatchNorm2d(2, affine=False),
            nn.Flatten(),
        )
        self.head = nn.Linear(8, 1)

    def loss(self, x, condition=None, *, generator):
        return Loss((self.head(self.net(x).tanh()).squeeze(1) - x.sum(1)).square().mean())


class Following(nn.Module):
    """A buffer that follows the mean of each batch: what ``after`` is told is of the whole batch."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(2))

    def loss(self, x, condition=None, *, generator):
        return Loss((self.w * x - 1).square().mean(), carry={"mean": x.mean(0)})

    def turns(self):
        return (Turn("model", (self.w,), self.loss, after=lambda carry, _: self.mean.lerp_(carry["mean"], 0.5)),)


def following(world=ALONE, **settings):
    x = torch.randn(40, 2, generator=stream(0, "x"))
    return Trainer(Following(), Rows(x), Settings(batch_size=8, **settings), planned=10, world=world)


def normalised(world=ALONE):
    x = torch.randn(40, 2, generator=stream(0, "x"), dtype=torch.float64)
    with seeded_init(0):
        model = Normalised().double()
    return Trainer(model, Rows(x), Settings(batch_size=8), planned=10, world=world)


def trainer(name, kind, world=ALONE, **settings):
    """A tiny form on tiny data, in double precision, where equal means equal."""
    domain = TINY[kind][-1]
    model = tiny_model(name, kind)
    x, c = tiny_data(domain, TWO_CLASSES)
    if hasattr(model, "adapt"):
        model.adapt(x, c, generator=stream(0, "adapt"))
    given = {"batch_size": 16, "ema": 0.5, **settings}
    return Trainer(model.double(), Rows(x, c), Settings(**given), planned=10, seed=1, world=world)


def trained(game, rounds=3):
    for _ in range(rounds):
        game.round()
    losses = {f"loss/{k}": torch.tensor(v, dtype=torch.float64) for k, v in game.observed().items()}
    return {k: v.double() for k, v in game.model.state_dict().items()} | losses


def resumed(name, kind, world):
    """Stopped after two rounds, gone on with by another trainer for the third."""
    first, second = trainer(name, kind, world), trainer(name, kind, world)
    first.round()
    first.round()
    tensors, plain = first.state()
    second.load(({key: tensor.clone() for key, tensor in tensors.items()}, plain))
    return trained(second, rounds=1)


def uneven(world=ALONE, **settings):
    x = torch.randn(40, 2, generator=stream(0, "x")) * (torch.arange(80).view(40, 2) % 3 > 0)
    return Trainer(Uneven(), Rows(x), Settings(batch_size=8, **settings), planned=10, world=world)


def validated(world=ALONE):
    """Of 30 rows in batches of 16: the first is shared evenly, the rest of 14 too, and of 31 the last is not."""
    game = trainer("vae", "images")
    x, c = tiny_data(TINY["images"][-1], TWO_CLASSES)
    values = [Validation((x[:n], c[:n]), batch_size=16, seed=0, world=world).measure(game.model) for n in (30, 31)]
    return {"value": torch.tensor(values)}


def scored(world=ALONE):
    """Exact scores of held-out rows: given the class, as the marginal, and of the training split."""
    data = sources.load("digits", condition="class", limit=300)
    with seeded_init(0):
        model = find("gpt").build(data.domain, condition=data.condition, **find("gpt").tiny["images"])
    torch.nn.init.normal_(model.head.weight, generator=stream(0, "head"))
    scores = likelihood_scores(
        model.eval(),
        data,
        split="test",
        clock=Clock.of(600),
        seed=0,
        device="cpu",
        watch=lambda line: None,
        world=world,
    )
    return {f"{s.split}/{s.given}/{s.n}": torch.tensor(s.value, dtype=torch.float64) for s in scores}


def everything(world):
    made = {f"{name}-{kind}": trained(trainer(name, kind, world)) for name, kind in GAMES}
    made |= {f"resumed-{name}-{kind}": resumed(name, kind, world) for name, kind in GAMES}
    more = {
        "uneven": trained(uneven(world)),
        "following": trained(following(world)),
        "normalised": trained(normalised(world)),
        "validated": validated(world),
        "scored": scored(world),
    }
    return made | more


def in_two(folder, *, watch):
    torch.set_num_threads(1)
    with joined("ddp", "cpu") as world:
        for label, tensors in everything(world).items():
            if world.leads:
                save_file(tensors, f"{folder}/{label}.safetensors")


@pytest.fixture(scope="module")
def of_two():
    with tempfile.TemporaryDirectory() as folder:
        launched(in_two, 2, Watcher(), folder)
        games = [f"{name}-{kind}" for name, kind in GAMES]
        names = [
            *games,
            *(f"resumed-{game}" for game in games),
            "uneven",
            "following",
            "normalised",
            "validated",
            "scored",
        ]
        yield {label: load_file(f"{folder}/{label}.safetensors") for label in names}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("name", "kind"), SEPARABLE)
def test_two_processes_are_one(name, kind, of_two):
    assert_same(of_two[f"{name}-{kind}"], trained(trainer(name, kind)))


@pytest.mark.parametrize(("name", "kind"), GAMES)
def test_two_processes_stop_and_resume_to_the_same_bits(name, kind, of_two):
    through, again = of_two[f"{name}-{kind}"], of_two[f"resumed-{name}-{kind}"]
    assert through.keys() == again.keys()
    assert all(through[key].equal(again[key]) for key in through)


@pytest.mark.parametrize(("name", "kind"), SEPARABLE)
def test_a_batch_in_pieces_is_the_batch(name, kind):
    assert_same(trained(trainer(name, kind, accumulate=4)), trained(trainer(name, kind)))


def test_pieces_weigh_as_they_say(of_two):
    assert_same(of_two["uneven"], trained(uneven()))
    assert_same(trained(uneven(accumulate=4)), trained(uneven()))


def test_what_follows_a_step_is_told_of_the_whole_batch(of_two):
    assert_same(of_two["following"], trained(following()))
    assert_same(trained(following(accumulate=4)), trained(following()))


def test_batch_statistics_are_those_of_the_whole_batch(of_two):
    """Against torch's own batch norm, which the single process uses."""
    alone = trained(normalised())
    assert alone["net.1.num_batches_tracked"] == 3
    assert_same(of_two["normalised"], alone)


def test_validation_is_shared(of_two):
    assert_same(of_two["validated"], validated())


def test_evaluation_shares_the_rows(of_two):
    alone = scored()
    assert set(alone) == {"test/classes/180", "test//180", "train/classes/300"}
    assert_same(of_two["scored"], alone)


def test_what_is_cut_into_pieces_must_be_a_multiple():
    with pytest.raises(Unusable, match=r"--batch-size must be a multiple of its 3 pieces .* got 16; try 15"):
        trainer("vae", "images", accumulate=3)


def finished(folder):
    return load_file(folder / "model.safetensors")


def test_a_run_goes_on_with_another_number_of_processes(tmp_path, monkeypatch):
    """Stopped in two processes, ended in one; and the sharded way, back and forth."""
    given = {"steps": 12, "batch_size": 16, "limit": 200, "condition": "class", "device": "cpu", "ema": 0.0}
    tiny = entries()["gpt"].tiny["images"]
    fitting.fit("gpt", "digits", out=tmp_path / "through", **given, **tiny)
    play = Trainer.round

    def interrupted(self):
        play(self)
        if self.step == 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitting.fit("gpt", "digits", out=tmp_path / "stopped", **given, **tiny)
    monkeypatch.setattr(Trainer, "round", play)
    run = fitting.resume(tmp_path / "stopped", devices=2, strategy="fsdp", device="cpu")
    assert (run.steps, run.finished) == (12, True)
    assert_same(finished(tmp_path / "stopped"), finished(tmp_path / "through"))
    shards = list((tmp_path / "stopped" / "checkpoint").glob("shards-*/*.safetensors"))
    assert len(shards) == 2, "each process wrote its share"
    other = fitting.fit("gpt", "digits", out=tmp_path / "two", devices=2, **given, **tiny)
    assert_same(finished(other.folder), finished(tmp_path / "through"))


def test_torchrun(tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pofx",
        "fit", "vae", "digits", "--steps", "3", "--batch-size", "16", "--out", "run", "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 2, "one process speaks"
    assert load(tmp_path / "run").finished


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--devices 4096", "--devices must be 1 to the"),
        ("--devices 0", "got 0"),
        ("--strategy zero", "--strategy is one of ddp, fsdp, got 'zero'"),
    ],
)
def test_bad_processes_are_one_line(flags, words, tmp_path, capsys):
    assert main(f"fit vae digits --steps 2 --out {tmp_path}/run {flags}".split()) == 2
    printed = capsys.readouterr().err.strip()
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_what_a_worker_cannot_use_is_one_line(tmp_path):
    with pytest.raises(Unusable, match="fsdp shards models with one loss"):
        fitting.fit(
            "wgan-gp", "digits", out=tmp_path / "run", steps=2, devices=2, strategy="fsdp", device="cpu"
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_under_torchrun_devices_is_left_out(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Unusable, match="under torchrun"):
        check_strategy("ddp", 2, "cpu")


def test_one_process_at_a_time(tmp_path):
    with locked(tmp_path, World()), pytest.raises(Unusable, match="is being trained by another process"), \
            locked(tmp_path, World()):  # fmt: skip
        pass
    with locked(tmp_path, World()):
        pass
