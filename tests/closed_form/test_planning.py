"""What a plan counts is what paper and pencil count, and what a run then stores."""

import gc
import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pofx import fitting, planning, preparing
from pofx.cli import main
from pofx.data.dataset import Rows
from pofx.errors import Unusable
from pofx.evaluate.operations import Operations
from pofx.evaluate.spending import spent
from pofx.planning import Devices, plan, saved_bytes
from pofx.protocols import Loss
from pofx.train import checkpoint
from pofx.train.loop import Trainer
from pofx.train.settings import Settings

B, D, H, K = 16, 12, 32, 8
SMALL = {"hidden": (8,), "latent_dim": 2, "limit": 200, "device": "cpu"}


class TwoLayers(nn.Module):
    """relu(x W1) W2: every size is known."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, H, bias=False), nn.Linear(H, K, bias=False)

    def loss(self, x, condition=None, *, generator):
        return Loss(self.second(F.relu(self.first(x))).sum())


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """No time is tested, so none is spent on measuring it well."""
    monkeypatch.setattr(planning, "PROBE_SECONDS", 0.0)


@pytest.fixture
def trainer():
    return Trainer(TwoLayers(), Rows(torch.randn(64, D)), Settings(batch_size=B, ema=0.1), planned=10)


def test_operations_of_a_round_are_6nb_less_the_first_layers_input_gradient(trainer):
    n = D * H + H * K
    flops, _ = planning._counted(trainer, validated=False)
    assert flops == 6 * n * B - 2 * B * D * H


def test_memory_by_hand(trainer):
    n = 4 * (D * H + H * K)
    _, memory = planning._counted(trainer, validated=True)
    assert memory["weights"] == memory["gradients"] == memory["average"] == memory["best weights"] == n
    assert memory["optimiser"] == 2 * n + 2 * 4, "two moments, and a step for each of two matrices"
    # relu saves its output, and the second layer its input, which is the same; x is the batch; a sum saves nothing.
    assert memory["activations"] == saved_bytes(trainer, trainer.players[0]) == 4 * B * H
    assert not trainer.players[0].optimisers[0].state, "counting leaves no trace"
    assert trainer.step == 0


def test_attention_is_counted_on_the_cpu_too():
    heads, length, width = 2, 64, 16
    q, k, v = (torch.randn(1, heads, length, width, requires_grad=True) for _ in range(3))
    product = 2 * heads * length**2 * width
    with Operations() as counted:
        out = F.scaled_dot_product_attention(q, k, v)
    assert counted.total == 2 * product
    with Operations() as counted:
        out.sum().backward()
    assert counted.total == 5 * product, "scores again, and the gradients of v, scores, q and k"


def test_a_plan_foretells_what_the_run_stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foretold = plan("vae", "digits", steps=30, optimiser="muon", condition="class", **SMALL)
    assert not list(tmp_path.iterdir()), "a plan writes nothing"
    run = fitting.fit("vae", "digits", steps=30, optimiser="muon", condition="class", out="run", **SMALL)
    tensors, _ = checkpoint.load(run.folder / "checkpoint" / "state.safetensors")

    def stored(prefix):
        return sum(t.numel() * t.element_size() for name, t in tensors.items() if name.startswith(prefix))

    assert foretold.parameters == sum(p.numel() for p in run.model.parameters())
    assert foretold.memory["optimiser"] == stored("optimiser/")
    assert foretold.memory["average"] == stored("ema/")
    assert foretold.memory["best weights"] == stored("best/")
    assert (foretold.steps, foretold.threads) == (run.steps, run.threads)
    assert foretold.observations == run.config["settings"]["batch_size"]
    m = foretold.memory
    assert foretold.peak > sum(m[k] for k in ("base", "weights", "optimiser", "average", "gradients", "activations"))


def test_a_budget_is_planned_as_fit_plans_it(monkeypatch):
    monkeypatch.setattr(preparing, "planned_rounds", lambda *_: 7)
    foretold = plan("vae", "digits", budget="30s", **SMALL)
    assert foretold.steps == 7
    assert foretold.seconds["rounds"] == 7 * foretold.round_seconds
    assert foretold.seconds["sheets"] == 3 * foretold.seconds["last sheet"], "four sheets, the last after training"


def test_a_model_without_steps_has_none():
    foretold = plan("gaussian", "moons", limit=200, device="cpu")
    assert (foretold.steps, foretold.flops, foretold.training_seconds) == (0, 0.0, foretold.seconds["checkpoints"])


def test_other_devices():
    few = SimpleNamespace(steps=1000, flops=3.2e12)
    assert planning.Plan.seconds_on(few, Devices.parse("8x400")) == pytest.approx(1000 * 3.2e12 / (8 * 400e12 * 0.4))
    assert planning.Plan.seconds_on(few, Devices.parse("1 x 0.5", 1.0)) == pytest.approx(1000 * 3.2e12 / 0.5e12)
    for text in ("8by400", "0x400", "8x0", "8", "-1x3"):
        with pytest.raises(Unusable, match="such as 8x400, got"):
            Devices.parse(text)
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(Unusable, match="--utilisation must be in"):
            Devices.parse("8x400", share)


def test_what_a_call_takes():
    size = 256 * 2**20  # so much that nothing freed meanwhile weighs against it
    gc.collect()
    held, took = spent(lambda: torch.ones(size // 4), torch.device("cpu"))
    assert 0.95 * size < took.bytes < 1.3 * size
    assert len(held) == size // 4


def test_the_command(tmp_path, capsys):
    line = (
        f"plan wgan-gp moons --hidden 8,8 --limit 200 --steps 4 --on 8x400 --utilisation 0.5 --json {tmp_path}/p.json"
    )
    assert main(line.split()) == 0
    printed = capsys.readouterr().out
    assert "4 steps at" in printed
    assert "on 8 devices of 400 TFLOP/s at 50%" in printed
    told = json.loads((tmp_path / "p.json").read_text())
    assert told["on"]["rounds_seconds"] == pytest.approx(4 * told["flops"] / (8 * 400e12 * 0.5))
    assert told["total_seconds"] == pytest.approx(sum(told["seconds"].values()))


def test_the_command_plans_a_file(tmp_path):
    written = {"model": "vae", "source": "moons", "steps": 3, "hidden": [8], "out": "run", "logger": "tensorboard"}
    (tmp_path / "a.json").write_text(json.dumps(written))
    assert main(f"plan --config {tmp_path}/a.json --steps 5 --json {tmp_path}/p.json".split()) == 0
    told = json.loads((tmp_path / "p.json").read_text())
    assert (told["model"], told["source"], told["steps"], told["on"]) == ("vae", "moons", 5, None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("plan vay digits", "did you mean 'vae'"),
        ("plan vae digits --on 8by400", "--on is devices x TFLOP/s of each, such as 8x400, got '8by400'"),
        ("plan vae digits --on 8x400 --utilisation 40", "--utilisation must be in (0, 1], got 40.0"),
        ("plan vae digits --steps 0", "--steps must be at least 1"),
        ("plan vae digits --latnet-dim 3", "did you mean '--latent-dim'"),
        ("plan vae nowhere.csv", "nowhere.csv"),
        ("plan", "required: MODEL, SOURCE"),
    ],
)
def test_one_line_and_exit_two(capsys, line, words):
    assert main(line.split()) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
