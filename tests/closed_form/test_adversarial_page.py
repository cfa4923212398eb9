"""What goes wrong with games, as docs/adversarial.md shows it: supports apart, circling, lost modes, a critic that won.

That each value with its best critic is a divergence is held in test_adversarial_theory.py.
"""

import copy
import math

import pytest
import torch

import pofx
from pofx.catalogue import find
from pofx.data import load
from pofx.data.toys import mixture
from pofx.divergences import auc, f_divergence, mode_coverage, wasserstein_1d
from pofx.models.adversarial.values import VALUES
from pofx.randomness import seeded_init, stream
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

F64 = torch.float64


def trained(name, data, steps, *, settings=None, **arguments):
    """A model after so many rounds, with its averaged weights."""
    with seeded_init(0):
        model = find(name).build(data.domain, **arguments)
    model.adapt(data.train.rows()[0], generator=stream(0, "adapt"))
    trainer = Trainer(model, data.train, settings_from(model.recipe, settings or {}), planned=steps)
    for _ in range(steps):
        trainer.round()
    with trainer.weights():
        return copy.deepcopy(model).eval()


# ---- supports apart


EDGES = torch.linspace(-4, 8, 1201, dtype=F64)


def normals(theta):
    """Cells of N(0, 1/16) and N(theta, 1/16)."""
    masses = [torch.special.ndtr(4 * (EDGES - m)).diff() for m in (torch.zeros_like(theta), theta)]
    return [mass / mass.sum() for mass in masses]


@pytest.mark.parametrize(("theta", "steepest"), [(0.5, 1.0), (1.0, 0.3), (2.0, 1e-3), (3.0, 1e-7)])
def test_of_laws_that_part_js_stands_still_and_the_wasserstein_distance_goes_on(theta, steepest):
    theta = torch.tensor(theta, dtype=F64, requires_grad=True)
    js = f_divergence(*normals(theta), "jensen-shannon")
    (slope,) = torch.autograd.grad(js, theta)
    assert 0 < slope.item() < steepest
    assert js.item() < math.log(2)
    cells = (EDGES[1:] + EDGES[:-1]) / 2
    p, q = normals(theta)
    distance = wasserstein_1d(cells, cells, p=1, weights_x=p, weights_y=q)
    assert distance.item() == pytest.approx(theta.item(), abs=1e-6)
    assert torch.autograd.grad(distance, theta)[0].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("apart", [0, 3, 10, 11, 30])
def test_uniforms_have_a_js_of_log_2_times_their_distance_until_it_is_their_width(apart):
    p, q = torch.zeros(2, 60, dtype=F64)
    p[:10], q[apart : apart + 10] = 0.1, 0.1
    assert f_divergence(p, q, "jensen-shannon").item() == pytest.approx(math.log(2) * min(apart / 10, 1), abs=1e-12)
    assert math.isinf(f_divergence(p, q, "kl").item()) == (apart > 0)
    assert math.isinf(f_divergence(q, p, "kl").item()) == (apart > 0)


# ---- the smallest game


def played(loss, slope, steps, rate=0.1):
    """How far from the equilibrium a point and a line end: theta and psi, f(x) = psi x, the data at 0."""
    theta, psi = (torch.tensor([start], dtype=F64, requires_grad=True) for start in (1.0, 0.0))
    value, real = VALUES[loss], torch.zeros(1, dtype=F64)
    for _ in range(steps):
        total = value.critic(psi * real, psi * theta.detach()) + slope / 2 * psi.square().sum()
        psi = (psi - rate * torch.autograd.grad(total, psi)[0]).detach().requires_grad_()
        total = value.generator(psi.detach() * real, psi.detach() * theta)
        theta = (theta - rate * torch.autograd.grad(total, theta)[0]).detach().requires_grad_()
    return torch.cat([theta, psi]).norm().item()


def test_two_numbers_circle_unless_the_slope_is_held():
    """Mescheder et al. 2018, sections 2 and 4: with R1 of weight r the distance falls as exp(-r t / 2)."""
    assert played("wasserstein", 0.0, 300) == pytest.approx(1, abs=0.06)
    slow = [played("non-saturating", 0.0, steps) for steps in (300, 600)]
    assert slow[0] > 0.3
    assert slow[1] > 0.6 * slow[0]
    for loss in ("non-saturating", "relativistic"):
        held = [played(loss, 0.5, steps) for steps in (150, 300)]
        assert held[1] < 1e-3
        assert math.log(held[0] / held[1]) == pytest.approx(0.25 * 150 * 0.1, rel=0.3)


# ---- what goes wrong


def test_a_plain_game_loses_modes_that_r3gan_has():
    data, centres = load("ring:sd=0.05,n=4096"), torch.tensor(mixture("ring").centres)
    plain = {"batch_size": 128, "learning_rate": 1e-3, "beta1": 0.5, "beta2": 0.9}
    games = {"gan": (plain, {"r1": 0.0}), "r3gan": (plain | {"learning_rate": 4e-3, "beta1": 0.0}, {})}
    kl = {}
    for name, (settings, held) in games.items():
        model = trained(name, data, 300, settings=settings, hidden=(64, 64), latent_dim=16, **held)
        kl[name] = mode_coverage(model.sample(2000, generator=stream(0, "sample")), centres, 0.05).kl
    assert kl["gan"] > 0.5
    assert kl["r3gan"] < 0.05


@pytest.mark.parametrize(
    ("model", "arguments", "gradient_left", "ill"),
    [
        ("gan", {"loss": "saturating", "r1": 0.0}, False, True),
        ("gan", {"r1": 0.0}, True, True),
        ("r3gan", {}, True, False),
    ],
)
def test_a_critic_that_has_won_is_told_of_and_one_whose_slope_is_held_is_not(
    model, arguments, gradient_left, ill, tmp_path
):
    planted = {"critic_steps": 8, "learning_rate": 0.02, "beta1": 0.9, "steps": 60, "threads": 1}
    run = pofx.fit(model, "digits", out=tmp_path / "run", **planted, **arguments)
    rung = {event["rule"] for event in run.events if event["kind"] == "alarm"}
    assert (run.history[-1]["generator/gradient"] > 1e-3) == gradient_left
    assert ("saturated critic" in rung) == ill
    assert bool(rung) == ill


@pytest.mark.slow
def test_a_critic_of_few_rows_learns_them_by_heart_and_augmentation_keeps_it_from_that():
    data = load("digits:limit=60")
    train, held_out = data.train.rows()[0], data.test.rows()[0]
    knows = []
    for augment in ((), ("translation",)):
        model = trained("r3gan", data, 700, settings={"batch_size": 60}, augment=augment)
        knows.append(auc(model.judge(train), model.judge(held_out))[0])
    assert knows[0] > 0.8
    assert knows[1] < 0.7
