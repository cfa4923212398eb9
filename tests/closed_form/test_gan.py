"""The game of generator and critic, against answers that can be written down."""

import pytest
import torch
from torch import nn

from pofx.catalogue import find
from pofx.cli import main
from pofx.conditions import Classes
from pofx.data.dataset import Rows
from pofx.domains import Images, Vectors
from pofx.errors import Unusable
from pofx.models import GAN
from pofx.models.adversarial.networks import in_octaves
from pofx.protocols import Progress
from pofx.randomness import seeded_init, stream
from pofx.runs import load
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

TWO = Classes(("dark", "bright"), (0.5, 0.5))


def built(domain, **arguments):
    with seeded_init(0):
        return find("wgan-gp").build(domain, **arguments)


class Linear(nn.Module):
    """f(y) = w . y, whose gradient is w everywhere."""

    def __init__(self, w):
        super().__init__()
        self.head = nn.Linear(len(w), 1, bias=False)
        self.head.weight.data.copy_(w)

    def forward(self, y, c):
        return self.head(y.flatten(1)).squeeze(1)


def constant(model, value):
    """The generator's output becomes ``value`` whatever the noise."""
    with torch.no_grad():
        model.generator.network.head.weight.zero_()
        model.generator.network.head.bias.copy_(value)


def test_losses_of_a_linear_critic_and_a_constant_generator():
    """Eq. (3): w.(fake - real) + lambda (|w| - 1)^2, and -w.fake."""
    model = built(Vectors(3), hidden=(4,), penalty=7.0, penalised=0.5)
    w, fake = torch.tensor([1.0, -2.0, 2.0]), torch.tensor([0.5, 0.0, 1.0])
    model.critic = Linear(w)
    constant(model, fake)
    x = torch.randn(10, 3, generator=stream(0, "test"))
    loss = model.critic_loss(x, generator=stream(0, "noise"))
    expected = w @ fake - (x @ w).mean() + 7.0 * (3.0 - 1.0) ** 2
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.parts["gradient_norm"], torch.tensor(3.0))
    torch.testing.assert_close(model.generator_loss(x, generator=stream(0, "noise")).total, -(w @ fake))


def test_critic_finds_the_wasserstein_distance_of_two_points():
    """Between two points W apart the best slope is 1 + W / (2 lambda), so that the gap is W (1 + W / (2 lambda))."""
    model = built(Vectors(2), hidden=(32,), penalty=10.0, penalised=1.0)
    constant(model, torch.tensor([-0.6, -0.8]))
    x = torch.tensor([[0.6, 0.8]]).expand(16, 2)
    optimiser = torch.optim.Adam(model.critic.parameters(), lr=0.01)
    for step in range(300):
        loss = model.critic_loss(x, generator=stream(step, "noise"))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    distance, slope = 2.0, 1 + 2.0 / 20.0
    assert loss.parts["gap"].item() == pytest.approx(distance * slope, rel=0.02)
    assert loss.parts["gradient_norm"].item() == pytest.approx(slope, rel=0.02)


def test_meters_of_a_linear_critic_and_a_generator_of_known_spread():
    """Fakes are 3 z, so their spread is 3; f(y) = y_1, and real points lie to the right of every fake, or of none."""
    model = built(Vectors(2), hidden=(4,), latent_dim=2)
    model.generator = Tripled()
    x = torch.randn(256, 2, generator=stream(0, "test"))
    for shift, accuracy in ((100.0, 1.0), (-100.0, 0.0)):
        model.critic = Linear(torch.tensor([1.0, 0.0]))
        meters = model.meters(x + shift)
        assert meters["critic_accuracy"].item() == accuracy
        assert meters["gradient_norm"].item() == pytest.approx(1.0)
        assert meters["sample_spread"].item() == pytest.approx(3.0, rel=0.15)
    near = model.meters(x)["critic_accuracy"].item()
    assert near == pytest.approx(0.5, abs=0.1)


class Tripled(nn.Module):
    """g(z) = 3 z."""

    def forward(self, z, c):
        return 3 * z


def test_the_two_players_own_everything_once_and_never_move_each_other():
    model = built(Images(1, 4, 4, 4), hidden=(8,), condition=TWO)
    turns = {turn.player: turn for turn in model.turns()}
    owned = [id(p) for turn in turns.values() for p in turn.parameters]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    x, c = torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 2
    turns["critic"].loss(x, c, generator=stream(0, "noise")).total.backward()
    assert all(p.grad is None for p in turns["generator"].parameters)
    assert all(p.grad is not None for p in turns["critic"].parameters)


def test_it_learns_which_vectors_belong_to_which_class():
    g = stream(0, "test")
    c = torch.randint(2, (512,), generator=g)
    x = torch.randn(512, 2, generator=g) * 0.5 + torch.stack([10.0 + 4.0 * c, -3.0 * c], 1)
    model = built(Vectors(2), hidden=(32, 32), condition=TWO)
    model.adapt(x, c, generator=g)
    settings = settings_from(model.recipe, {"batch_size": 64})
    trainer = Trainer(model, Rows(x, c), settings, planned=200)
    for _ in range(200):
        trainer.round()
    with trainer.weights():
        for k in range(2):
            drawn = model.sample(500, torch.tensor([k]), generator=stream(1, "sample"))
            torch.testing.assert_close(drawn.mean(0), x[c == k].mean(0), atol=1.0, rtol=0)  # they are 4 and 3 apart
            assert 0.2 < float(drawn.std(0).mean()) < 0.8


@pytest.mark.parametrize(
    ("domain", "network"),
    [
        (Images(1, 8, 8, 17), "mlp"),
        (Images(3, 9, 13, 256), "conv"),
        (Images(2, 8, 8, None), "auto"),
        (Vectors(5), "auto"),
    ],
)
def test_samples_are_canonical_and_the_same_in_training_and_evaluation(domain, network):
    model = built(domain, hidden=(16,), width=4, network=network, condition=TWO)
    first = model.train().sample(5, generator=stream(0, "sample"))
    assert domain.check(first).shape == (5, *domain.shape)
    assert first.equal(model.eval().sample(5, generator=stream(0, "sample")))
    assert not first.equal(model.sample(5, generator=stream(1, "sample")))
    assert model.features(first).shape == (5, 16)
    assert {"gap", "gradient_norm"} <= set(model.meters(first, torch.zeros(5, dtype=torch.int64)))


def test_without_truncation_noise_every_sample_of_a_class_is_the_same():
    model = built(Vectors(2), hidden=(8,), condition=TWO)
    x = model.sample(6, torch.arange(6) % 2, generator=stream(0, "sample"), truncation=0.0)
    assert x[::2].unique(dim=0).shape == (1, 2)
    assert not x[0].equal(x[1])


@pytest.mark.parametrize(
    ("domain", "arguments", "message"),
    [
        (Vectors(2), {"network": "conv"}, "needs images"),
        (Vectors(2), {"hidden": ()}, "one or more sizes"),
        (Vectors(2), {"latent_dim": 0}, "latent_dim must be at least 1"),
        (Vectors(2), {"critic_steps": 0}, "critic_steps must be at least 1"),
        (Vectors(2), {"penalty": -1.0}, "penalty must be at least 0"),
        (Images(1, 16, 16, 4), {"octaves": 2}, "0 with others, got 2"),
        (Vectors(2), {"critic_learning_rate": 0.0}, "critic_learning_rate must be above 0"),
        (Vectors(2), {"anneal": 0.0, "r1": 1.0}, r"in \(0, 1\]"),
        (Vectors(2), {"anneal": 0.5}, "give one, or leave it out"),
        (Vectors(2), {"penalised": 0.5}, "give penalty 1, or neither"),
        (Vectors(2), {"weight_clip": 0.1, "spectral_norm": True}, "undo each other"),
        (Vectors(2), {"signs": 3, "latent_dim": 2}, "how many of the 2 coordinates of noise, got 3"),
        (Vectors(2), {"penalty": 1.0, "penalised": 1.5}, r"share of the batch in \(0, 1\]"),
    ],
)
def test_arguments_are_refused_in_one_line(domain, arguments, message):
    with pytest.raises(Unusable, match=message):
        GAN(domain, **arguments)


def test_a_conditional_game_needs_conditions():
    model = built(Vectors(2), hidden=(8,), condition=TWO)
    with pytest.raises(Unusable, match="learns from pairs"):
        model.critic_loss(torch.zeros(3, 2), generator=stream(0, "noise"))


def test_signs_are_torn_apart_and_the_rest_is_normal():
    model = built(Vectors(2), hidden=(4,), signs=3)
    z = model.noise(4000, stream(0, "noise"))
    assert z.shape == (4000, 5)
    assert set(z[:, :3].unique().tolist()) == {-1.0, 1.0}
    assert z[:, :3].mean(0).abs().max() < 4 / 4000**0.5
    assert z[:, 3:].unique().numel() == 8000


def test_what_is_left_of_r1_and_r2_falls_geometrically():
    with seeded_init(0):
        model = find("r3gan").build(Vectors(2), hidden=(4,), r1=1.0, r2=1.0, anneal=0.01)
    model.critic = Linear(torch.tensor([3.0, 4.0]))
    (critic, _), x = model.turns(), torch.zeros(8, 2)
    for step, left in ((0, 1.0), (50, 0.1), (100, 0.01)):
        critic.after({}, Progress(step, 100))
        loss = critic.loss(x, generator=stream(0, "noise"))
        bare = model.value.critic(*model.judged(*model.pairs(x, None, stream(0, "noise"))))
        assert (loss.total - bare).item() == pytest.approx(left * 25.0, rel=1e-4)  # (1/2 + 1/2) |w|^2
    assert model.state_dict()["remaining"].item() == pytest.approx(0.01)


def test_octaves_are_sines_and_cosines_no_steeper_than_y():
    y = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None].requires_grad_()
    seen = in_octaves(y, 3)
    expected = [y, *((w * y).sin() / w for w in (1, 2, 4)), *((w * y).cos() / w for w in (1, 2, 4))]
    torch.testing.assert_close(seen, torch.cat(expected, 1))
    slopes = torch.stack([torch.autograd.grad(seen[:, i].sum(), y, retain_graph=True)[0] for i in range(7)])
    assert slopes.abs().max() <= 1 + 1e-12
    model = built(Vectors(2), hidden=(4,), octaves=3, packing=2)
    assert model.critic.trunk.head.in_features == 2 * 2 * 7


def test_the_critic_has_a_learning_rate_of_its_own():
    model = built(Vectors(2), hidden=(4,), critic_learning_rate=0.25)
    trainer = Trainer(model, Rows(torch.randn(64, 2)), settings_from(model.recipe, {"learning_rate": 0.5}), planned=1)
    assert trainer.peaks == [0.25, 0.5]


def test_several_words_are_read_from_one_flag(tmp_path, capsys):
    line = f"fit gan digits --steps 1 --hidden 4 --threads 1 --quiet --out {tmp_path}/run --augment".split()
    assert main([*line, "colour,red"]) == 2
    assert "must be some of colour, translation, cutout, got red" in capsys.readouterr().err
    assert main([*line, "colour,cutout"]) == 0
    assert load(tmp_path / "run").model.augment == ("colour", "cutout")
