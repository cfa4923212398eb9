"""The loop, its averages, schedules and state, against things computed by hand."""

import inspect
import math

import pytest
import torch
from tiny import TRAINED, tiny_trainer
from torch import nn

from pofx import conditions
from pofx.data.dataset import Rows
from pofx.protocols import Loss, Turn
from pofx.randomness import stream
from pofx.train import checkpoint, course
from pofx.train.batches import Batches
from pofx.train.ema import EMA
from pofx.train.loop import Trainer, compiled
from pofx.train.plan import fastest_threads, measured_round
from pofx.train.schedule import rate
from pofx.train.settings import Settings, seconds, settings_from
from pofx.train.watch import Stop


class Line(nn.Module):
    """y = w x, by least squares, with noise from the generator and a hidden matrix for Muon."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(3, 4)
        self.head = nn.Linear(4, 1)

    def loss(self, x, condition=None, *, generator):
        noise = torch.randn(x.shape, generator=generator)
        y = self.head(self.hidden(x + 0.1 * noise).tanh()).squeeze(-1)
        total = (y - x.sum(1)).square().mean()
        return Loss(total, {"square": total})


class Duel(nn.Module):
    """Two players over the same batch: the second reuses it, and its ``after`` counts."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.zeros(()))

    def turns(self):
        def loss(mine, other):
            return lambda x, condition=None, *, generator: Loss((mine * x - other).square().mean(), {}, {"x": x})

        def after(carry, progress):
            self.count += 1

        first = Turn("a", (self.a,), loss(self.a, self.b), repeats=2, optimiser={"beta1": 0.0})
        return first, Turn("b", (self.b,), loss(self.b, self.a), fresh=False, after=after)


def trainer(model, steps=12, **settings):
    data = torch.randn(50, 2 if isinstance(model, Duel) else 3, generator=stream(0, "x"))
    return Trainer(model, Rows(data), Settings(batch_size=8, **settings), planned=steps, seed=1)


def fresh(kind):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return kind()


@pytest.mark.parametrize("kind", [Line, Duel])
@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd", "muon"])
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_stop_and_resume_is_no_stop(kind, optimiser, ema):
    through = trainer(fresh(kind), optimiser=optimiser, ema=ema)
    for _ in range(12):
        through.round()
    first = trainer(fresh(kind), optimiser=optimiser, ema=ema)
    for _ in range(7):
        first.round()
    tensors, plain = first.state()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    second = trainer(kind(), optimiser=optimiser, ema=ema)
    second.load((saved, plain))
    for _ in range(5):
        second.round()
    for a, b in zip(through.model.state_dict().values(), second.model.state_dict().values()):
        assert torch.equal(a, b)
    assert through.observed() == second.observed()
    if ema:
        assert all(torch.equal(a, b) for a, b in zip(through.ema.average, second.ema.average))


def test_a_probe_leaves_no_trace():
    probed, plain = trainer(fresh(Line)), trainer(fresh(Line))
    assert measured_round(probed, seconds=0.01) > 0
    for _ in range(5):
        probed.round()
        plain.round()
    for a, b in zip(probed.model.parameters(), plain.model.parameters()):
        assert torch.equal(a, b)


def test_players_move_their_own_parameters_only_and_reuse_the_batch():
    duel = fresh(Duel)
    game = trainer(duel)
    before = game.batches.position
    game.round()
    assert game.batches.position - before == 16, "two fresh batches; the second player drew none"
    assert int(duel.count) == 1
    assert game.players[0].optimisers[0].param_groups[0]["betas"] == (0.0, 0.99)


def test_the_average_is_the_recurrence():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    ema = EMA(model, share=0.1)
    expected = 0.0
    for step in range(1, 30):
        model.weight.data.fill_(float(step))
        ema.update(step, planned=100)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with ema.weights():
        assert math.isclose(model.weight.item(), expected, rel_tol=1e-5)
    assert model.weight.item() == 29


def test_batches_visit_each_row_once_an_epoch_and_resume():
    part = Rows(torch.arange(10)[:, None])
    batches = Batches(part, 5, stream(0, "data"), torch.device("cpu"))
    seen = torch.cat([batches.next()[0][0], batches.next()[0][0]]).flatten()
    assert sorted(seen.tolist()) == list(range(10))
    batches.next()
    tensors, plain = batches.state()
    again = Batches(part, 5, stream(9, "other"), torch.device("cpu"))
    again.load(tensors, plain)
    assert torch.equal(again.next()[0][0], batches.next()[0][0])
    assert torch.equal(again.next()[0][0], batches.next()[0][0])


def test_cosine_ends_near_zero_and_peaks_after_the_warm_up():
    settings = Settings(schedule="cosine", warmup=0.1)
    rates = [rate(s, 100, settings) for s in range(100)]
    assert max(rates) == pytest.approx(rates[9], abs=1e-3)
    assert rates[-1] < 0.001
    assert rates[0] == pytest.approx(0.1)


def test_clipping_bounds_the_step():
    model = fresh(Line)
    before = [p.clone() for p in model.parameters()]
    game = trainer(model, optimiser="sgd", learning_rate=1.0, clip=1e-3, beta1=0.0, warmup=0.0)
    game.round()
    moved = math.sqrt(sum((a - b).square().sum().item() for a, b in zip(before, model.parameters())))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_what_cannot_be_compiled_goes_on_without():
    model, said = fresh(Line), []

    def refused():
        raise RuntimeError("double backward is not supported\nand more")

    compiled(model, refused, said.append)
    assert said == ["--compile is not possible here (double backward is not supported); going on without it"]
    assert all(network._compiled_call_impl is None for network in model.children())


def test_the_fastest_threads_are_measured_and_leave_no_trace():
    probed, plain = trainer(fresh(Line)), trainer(fresh(Line))
    threads, took = fastest_threads(probed, seconds=0.01)
    assert 1 <= threads <= torch.get_num_threads()
    assert took > 0
    probed.round()
    plain.round()
    for a, b in zip(probed.model.parameters(), plain.model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("2m", 120), ("1h30m", 5400), ("7", 7), (1.5, 1.5)])
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "3x", "-5s", "1.2.3s"])
def test_times_that_are_none(text):
    with pytest.raises(ValueError, match="a budget is a time like"):
        seconds(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"budget": 0.0}, "--budget must be above 0"),
        ({"learning_rate": -1.0}, "--learning-rate must be above 0, got -1.0"),
        ({"lerning_rate": 1.0}, "did you mean 'learning_rate'"),
    ],
)
def test_settings_say_what_is_wrong(given, message):
    with pytest.raises(ValueError, match=message):
        settings_from({}, given)


READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")


@pytest.mark.parametrize("case", TRAINED, ids="-".join)
@pytest.mark.parametrize("optimiser", ["recipe's", "adamw", "sgd", "muon"])
def test_a_round_reads_nothing_back_from_the_device(case, optimiser, monkeypatch):
    own = {} if optimiser == "recipe's" else {"optimiser": optimiser}
    game = tiny_trainer(*case, clip=1.0, ema=0.1, **own)
    if any(player.turn.after is not None for player in game.players):
        pytest.skip("what follows a step must not follow a skipped one, so a turn with an 'after' waits for each")

    def refuse(name):
        read = getattr(torch.Tensor, name)

        def refused(self, *arguments):
            if any("torch/optim" in frame.filename for frame in inspect.stack(0)):  # torch's own, on its own counters
                return read(self, *arguments)
            raise AssertionError(f"Tensor.{name} waits for the device")

        return refused

    monkeypatch.setattr(conditions, "_at_hand", lambda c: False)  # as on a GPU
    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, refuse(name))
    for _ in range(2):
        game.round()
    monkeypatch.undo()
    assert not game.streak()
    assert game.step == 2


def test_moments_are_laid_out_as_their_weights(tmp_path):
    """A checkpoint holds contiguous tensors; fused kernels walk the memory of weights that are not."""

    def one():
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(0)
            model = Pictures().to(memory_format=torch.channels_last)
        x = torch.randn(50, 3, 5, 5, generator=stream(0, "x"))
        return Trainer(model, Rows(x), Settings(batch_size=8), planned=12, seed=1)

    through, first, second = one(), one(), one()
    for _ in range(6):
        through.round()
    for _ in range(3):
        first.round()
    checkpoint.save(tmp_path / "state", *first.state())
    second.load(checkpoint.load(tmp_path / "state"))
    for _ in range(3):
        second.round()
    for a, b in zip(through.model.parameters(), second.model.parameters()):
        assert torch.equal(a, b)


class Pictures(nn.Module):
    """A convolution and its mean square."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def loss(self, x, condition=None, *, generator):
        return Loss(self.conv(x).square().mean())


def test_the_bar_has_the_last_losses_also_when_all_were_read():
    game = trainer(fresh(Line))
    game.round()
    shown = game.latest()
    assert shown.keys() == {"model/square", "model/loss", "model/gradient"}
    game.observed()
    assert game.latest() == shown


def test_pieces_of_a_batch_norm_are_refused():
    model = nn.Sequential(nn.BatchNorm1d(3))
    model.loss = lambda x, condition=None, *, generator: Loss(model(x).mean())
    with pytest.raises(ValueError, match="--accumulate must be 1 for a model with batch norm"):
        Trainer(model, Rows(torch.zeros(8, 3)), Settings(batch_size=8, accumulate=2), planned=1)


def test_a_run_that_the_clock_ends_is_measured_there(monkeypatch):
    game = trainer(fresh(Line), steps=1000)
    run = course.Course(game, None, save=lambda good: None, restore=lambda: None, budget=1e-9)
    monkeypatch.setattr(course, "RECORDS", 2)
    assert run.run(Stop())
    assert [row["step"] for row in run.history] == [1]
    assert (run.events[-1]["kind"], game.planned) == ("stopped", 1)


@pytest.mark.parametrize(("name", "kind"), TRAINED)
def test_bf16_trains(name, kind):
    """The forward pass in bf16: finite, and near the losses in full."""
    plain, half = (tiny_trainer(name, kind, precision=p) for p in ("fp32", "bf16"))
    for _ in range(3):
        plain.round()
        half.round()
    a, b = plain.observed(), half.observed()
    assert a.keys() == b.keys()
    assert half.skipped == 0
    assert all(abs(a[k] - b[k]) < 0.1 + 0.1 * abs(a[k]) for k in a if k.endswith("/loss")), (a, b)
