"""The options of a critic, and changes of pictures before it: each does what it says, and only that."""

import copy

import pytest
import torch
from torch import nn

from pofx.catalogue import find
from pofx.conditions import Classes
from pofx.data.dataset import Rows
from pofx.domains import Images, Vectors
from pofx.errors import Unusable
from pofx.models import GAN
from pofx.models.adversarial.augment import CHANGES, augment
from pofx.models.adversarial.game import _check_choices
from pofx.models.adversarial.gan import _check_arguments
from pofx.models.adversarial.networks import _spread
from pofx.nn.modes import evaluating
from pofx.randomness import seeded_init, stream
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

TWO = Classes(("a", "b"), (0.5, 0.5))
PICTURES, POINTS = Images(1, 9, 9, 5), Vectors(3)
SMALL = {"hidden": (8,), "width": 2}


def built(domain, name="gan", **arguments):
    with seeded_init(0):
        return find(name).build(domain, **SMALL | arguments)


def drawn(domain, n, seed=0):
    if isinstance(domain, Images):
        return torch.randint(domain.levels, (n, *domain.shape), generator=stream(seed, "test"), dtype=torch.uint8)
    return torch.randn(n, *domain.shape, generator=stream(seed, "test"))


def points(n, seed=0):
    return torch.randn(n, 3, generator=stream(seed, "points"))


def trained(model, rounds, n=64):
    c = None if model.condition is None else torch.arange(n) % 2
    settings = settings_from(model.recipe, {"batch_size": 16})
    trainer = Trainer(model, Rows(drawn(model.domain, n), c), settings, planned=rounds)
    for _ in range(rounds):
        trainer.round()
    return model


def test_clipped_weights_are_within_their_bounds_whenever_the_critic_is_asked():
    model, seen = built(POINTS, "wgan", weight_clip=0.03), []
    model.critic.register_forward_pre_hook(lambda critic, _: seen.append(largest(critic)))
    trained(model, 5)
    assert len(seen) == 5 * (model.critic_steps + 1)
    assert max(seen) == pytest.approx(0.03)
    assert largest(model.generator) > 0.03


def largest(network):
    return max(p.abs().max().item() for p in network.parameters())


@pytest.mark.parametrize(("domain", "options"), [(POINTS, {}), (PICTURES, {}), (PICTURES, {"network": "residual"})])
def test_spectral_norm_holds_every_layer_at_one_as_it_trains(domain, options):
    model = trained(built(domain, "sngan", condition=TWO, **options), 30)
    normed = [m for m in model.critic.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))]
    assert len(normed) >= 4
    for module in normed:
        assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.05)


def test_spectral_norm_bounds_how_steep_the_critic_is():
    """Layers and kinks of slope one, one after another: f is 1-Lipschitz, up to what a few power steps leave."""
    model = trained(built(POINTS, "sngan", hidden=(16, 16)), 30)
    y = (3 * points(400)).requires_grad_()
    (slope,) = torch.autograd.grad(model.critic(y, None).sum(), y)
    assert 0.05 < slope.norm(dim=1).max().item() < 1.05**3


def test_a_critic_of_packs_sees_m_points_together():
    """Exchanged packs give exchanged scores; a point changed changes the score of its own pack alone."""
    critic, y, c = built(POINTS, packing=3, condition=TWO).critic, points(12), torch.tensor([0, 1, 1, 0] * 3)
    f = critic(y, c)
    assert f.shape == (4,)
    order = torch.tensor([2, 0, 3, 1])
    exchanged = [v.view(4, 3, *v.shape[1:])[order].flatten(0, 1) for v in (y, c)]
    torch.testing.assert_close(critic(*exchanged), f[order])
    for k in (3, 4, 5):
        changed = y.clone()
        changed[k] += 1
        assert critic(changed, c).ne(f).tolist() == [False, True, False, False]


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
@pytest.mark.parametrize("packing", [1, 2])
@pytest.mark.parametrize("network", ["mlp", "conv", "residual"])
def test_each_point_is_judged_with_its_own_condition(conditioning, packing, network):
    critic = built(PICTURES, packing=packing, condition=TWO, conditioning=conditioning, network=network).critic.double()
    y, c = torch.randn(4, 1, 9, 9, generator=stream(0, "points"), dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    f = critic(y, c)
    for k in range(4):
        other = c.clone()
        other[k] = 1 - other[k]
        changed = (critic(y, other) - f).abs() > 1e-9
        assert changed.tolist() == [k // packing == pack for pack in range(4 // packing)]


def test_projection_is_the_formula():
    """Miyato and Koyama 2018, eq. (3): w . h + e(c)^T V h; and h knows nothing of c."""
    critic, y, c = built(POINTS, condition=TWO).critic, points(6), torch.arange(6) % 2
    h = critic.hidden(y, c)
    torch.testing.assert_close(h, critic.hidden(y, 1 - c))
    v, w, e = critic.project.weight, critic.head.weight[0], critic.embedding.rows.weight[c]
    torch.testing.assert_close(critic(y, c), h @ w + torch.einsum("be,fe,bf->b", e, v, h))


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_what_is_left_over_of_packs_is_left_out(conditioning):
    """Seven points in packs of three are the first six, with their conditions."""
    model = built(POINTS, packing=3, condition=TWO, conditioning=conditioning, penalty=1.0)
    x, c = drawn(POINTS, 7), torch.tensor([0, 1, 1, 0, 0, 1, 1])
    for loss in (model.critic_loss, model.generator_loss):
        seven, six = (loss(x[:n], c[:n], generator=stream(0, "noise")).total for n in (7, 6))
        assert seven.equal(six)
    with pytest.raises(Unusable, match=r"3 points together, got 2 .*; take a larger batch"):
        model.critic_loss(x[:2], c[:2], generator=stream(0, "noise"))


def test_minibatch_std_is_the_mean_spread_of_groups_of_four():
    h = torch.randn(8, 5, generator=stream(0, "test"), dtype=torch.float64)
    expected = torch.stack([g.std(0, correction=0).mean() for g in (h[:4], h[4:])]).repeat_interleave(4)[:, None]
    torch.testing.assert_close(_spread(h, 4), expected, atol=1e-7, rtol=1e-6)
    assert _spread(h[:1].expand(8, 5), 4).max() < 1e-3  # alike: no spread
    assert _spread(h[:6], 4).unique().numel() == 2  # six points are two groups of three
    alike = h[:1].expand(8, 5).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_spread(alike, 4).sum(), alike)
    assert gradient.isfinite().all()


def test_a_critic_with_minibatch_std_hears_of_copies():
    """One point four times over is judged otherwise than among others."""
    critic, y = built(POINTS, minibatch_std=True).critic, points(4)
    copies = critic(y[:1].expand(4, 3), None)
    torch.testing.assert_close(copies, copies[:1].expand(4))
    assert (critic(y, None)[0] - copies[0]).abs() > 1e-4


@pytest.mark.parametrize(
    ("domain", "options"),
    [(POINTS, {"minibatch_std": True}), (POINTS, {"packing": 2}), (PICTURES, {"norm": "batch"}), (POINTS, {})],
)
def test_real_points_are_judged_without_a_look_at_fakes(domain, options):
    model = built(domain, **options)
    real, fake = (torch.randn(8, *domain.shape, generator=stream(k, "points")) for k in range(2))
    f_real, f_fake = model.judged(real, fake, None)
    again, other = model.judged(real, 2 * fake, None)
    torch.testing.assert_close(again, f_real, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(other, f_fake)


EVERY_OPTION = [
    (POINTS, {"packing": 3}),
    (POINTS, {"minibatch_std": True, "spectral_norm": True}),
    (POINTS, {"condition": TWO, "conditioning": "concatenation", "packing": 2}),
    (PICTURES, {"norm": "batch", "condition": TWO}),
    (PICTURES, {"network": "residual", "minibatch_std": True, "packing": 2, "augment": ("cutout",)}),
]


@pytest.mark.parametrize(("domain", "options"), EVERY_OPTION)
def test_features_are_of_each_point_by_itself_and_using_a_model_changes_nothing(domain, options):
    model = built(domain, **options).train()
    x = drawn(domain, 5)
    state = copy.deepcopy(model.state_dict())
    features = model.features(x)
    alone = torch.cat([model.features(x[k : k + 1]) for k in range(5)])
    torch.testing.assert_close(features, alone, atol=1e-5, rtol=1e-5)
    model.sample(3, generator=stream(0, "sample"))
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_batch_norm_stays_out_of_samples():
    """A sample is made of its own noise: what else is drawn, and whether the model is in training, makes no odds."""
    model = trained(built(PICTURES, "dcgan"), 3).train()
    z = torch.randn(6, model.latent_dim, generator=stream(0, "noise"))
    with evaluating(model):
        torch.testing.assert_close(model.generator(z, None)[:2], model.generator(z[:2], None))
        expected = PICTURES.quantise(model.generator(model.noise(6, stream(0, "sample")), None))
    assert model.sample(6, generator=stream(0, "sample")).equal(expected)
    assert model.sample(1, generator=stream(0, "sample")).shape == (1, 1, 9, 9)


KINDS = [("colour",), ("translation",), ("cutout",), ("colour", "translation", "cutout")]


@pytest.mark.parametrize("kinds", KINDS)
def test_gradients_go_through_changes_of_pictures(kinds):
    y = torch.randn(2, 2, 4, 6, generator=stream(0, "test"), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: augment(y, kinds, generator=stream(1, "changes")), y)


def test_colour_moves_brightness_saturation_and_contrast_of_each_picture():
    y = torch.randn(300, 3, 6, 6, generator=stream(0, "test"), dtype=torch.float64)
    changed = augment(y, ("colour",), generator=stream(1, "changes"))
    brightness = changed.mean((1, 2, 3)) - y.mean((1, 2, 3))
    contrast = _slope(changed.mean(1), y.mean(1))  # of the grey picture
    saturation = _slope(changed - changed.mean(1, keepdim=True), y - y.mean(1, keepdim=True)) / contrast
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0.0, 2.0)):
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high


def _slope(changed, y):
    """b of changed = a + b y in each picture, which must hold for every number in it."""
    changed, y = (v.flatten(1) - v.flatten(1).mean(1, keepdim=True) for v in (changed, y))
    b = (changed * y).sum(1) / y.square().sum(1)
    torch.testing.assert_close(changed, b[:, None] * y)
    return b


def test_translation_shifts_by_up_to_an_eighth_and_darkness_comes_in():
    y = torch.rand(300, 2, 16, 8, generator=stream(0, "test"))
    changed = augment(y, ("translation",), generator=stream(1, "changes"))
    shifts = {
        (down, right): nn.functional.pad(y, (1, 1, 2, 2), value=-1.0) for down in range(-2, 3) for right in (-1, 0, 1)
    }
    found = []
    for k in range(300):
        fits = [s for s, p in shifts.items() if changed[k].equal(p[k, :, 2 + s[0] : 18 + s[0], 1 + s[1] : 9 + s[1]])]
        assert len(fits) == 1
        found += fits
    assert set(found) == set(shifts)


def test_cutout_greys_a_box_of_at_most_half_the_size():
    y = 1 + torch.rand(300, 2, 8, 8, generator=stream(0, "test"))
    changed = augment(y, ("cutout",), generator=stream(1, "changes"))
    gone = changed == 0
    assert changed[~gone].equal(y[~gone])
    rows, columns = gone.any(3).any(1), gone.any(2).any(1)
    assert gone.equal((rows[:, None, :, None] & columns[:, None, None, :]).expand_as(gone))
    for side in (rows, columns):
        assert 1 <= side.sum(1).min() < side.sum(1).max() == 4
        assert side.any(0).all()  # it may be anywhere


def test_both_players_see_real_and_generated_pictures_changed():
    model = built(PICTURES, augment=("cutout",), loss="relativistic", r1=0.0)
    nn.init.constant_(model.generator.network.head.bias, 3.0)
    seen = []
    model.critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x = torch.full((16, 1, 9, 9), 4, dtype=torch.uint8)
    model.critic_loss(x, generator=stream(0, "noise"))
    model.generator_loss(x, generator=stream(0, "noise"))
    judged = torch.cat(seen)
    assert len(judged) == 4 * 16  # real and generated ones, for each player
    assert judged.flatten(1).eq(0).any(1).all()
    assert judged.flatten(1).gt(0.5).any(1).all()


REFUSED = [
    (POINTS, {"r1": -1.0}, "r1 must be at least 0, and finite, got -1.0"),
    (POINTS, {"r2": float("nan")}, "r2 must be at least 0, and finite, got nan"),
    (POINTS, {"penalty": float("inf")}, "penalty must be at least 0, and finite, got inf"),
    (POINTS, {"weight_clip": 0.0}, "weight_clip must be above 0, got 0.0; 0.01 is usual"),
    (POINTS, {"weight_clip": -0.1}, "weight_clip must be above 0, got -0.1"),
    (POINTS, {"loss": "wasserstein"}, "needs its slope held, got no penalty; give penalty 10 or weight_clip"),
    (POINTS, {"network": "residual"}, "'residual' needs images, got vectors"),
    (POINTS, {"norm": "batch"}, "norm 'batch' is of convolutions, got network 'mlp'"),
    (PICTURES, {"norm": "batch", "network": "mlp"}, "norm 'batch' is of convolutions, got network 'mlp'"),
    (PICTURES, {"norm": "batch", "network": "residual"}, "norm 'batch' is of convolutions, got network 'residual'"),
    (Images(1, 8, 8, 17), {"norm": "batch"}, "norm 'batch' is of convolutions, got network 'mlp'; take network 'conv'"),
    (POINTS, {"packing": 0}, "packing must be at least 1, got 0"),
    (POINTS, {"augment": ("colour",)}, "augment changes pictures, got vectors"),
]


@pytest.mark.parametrize(("domain", "arguments", "message"), REFUSED)
def test_what_cannot_be_played_is_refused_in_one_line(domain, arguments, message):
    with pytest.raises(Unusable, match=message) as refusal:
        GAN(domain, **arguments)
    assert "\n" not in str(refusal.value)


def test_unknown_names_are_refused_in_one_line():
    """Types say so already while tests run, so what users meet is asked itself."""
    known = {"network": "auto", "norm": "layer", "conditioning": "projection", "augment": ()}
    wrong = {"network": "unet", "norm": "group", "conditioning": "sum", "augment": ("flip",)}
    for name, value in wrong.items():
        with pytest.raises(Unusable, match=f"^{name} is (one|some) of .*, got '[a-z]+'; leave it out for .*"):
            _check_choices(PICTURES, **known | {name: value})
    with pytest.raises(Unusable, match=r"^loss is one of saturating, .*, got 'hinges'; leave it out for the default$"):
        _check_arguments("hinges", 1, 1.0)


def test_every_kind_of_change_is_tested_here():
    assert {kind for kinds in KINDS for kind in kinds} == set(CHANGES)
