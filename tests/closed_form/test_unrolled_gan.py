"""Unrolling, against the same steps made by hand and against finite differences."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from pofx.conditions import Classes
from pofx.domains import Vectors
from pofx.errors import Unusable
from pofx.models import UnrolledGAN
from pofx.randomness import seeded_init, stream

TWO = Classes(("dark", "bright"), (0.5, 0.5))


def built(**arguments):
    with seeded_init(0):
        return UnrolledGAN(Vectors(2), hidden=(6, 5), latent_dim=3, **arguments).double()


def points(n=8):
    g = stream(0, "test")
    return torch.randn(n, 2, generator=g).double(), torch.randn(n, 2, generator=g).double() + 0.5


@pytest.mark.parametrize("condition", [None, TWO])
def test_steps_ahead_are_those_of_plain_gradient_ascent(condition):
    model = built(unrolled=4, unrolled_rate=0.7, condition=condition)
    real, fake = points()
    c = None if condition is None else torch.arange(8) % 2
    critic = copy.deepcopy(model.critic)
    optimiser = torch.optim.SGD(critic.parameters(), lr=0.7)
    for _ in range(4):
        optimiser.zero_grad()
        (softplus(-critic(real, c)).mean() + softplus(critic(fake, c)).mean()).backward()
        optimiser.step()
    before = copy.deepcopy(model.critic.state_dict())
    ahead = model.unrolled_weights(real, fake, c)
    torch.testing.assert_close(dict(ahead), dict(critic.named_parameters()))
    torch.testing.assert_close(model.critic.state_dict(), before)


def test_gradient_goes_through_the_steps():
    """Of V(theta_G, theta_D^K) in points of the generator, against central differences."""
    model = built(unrolled=3, unrolled_rate=0.7)
    for module in (model.critic, model.critic.trunk):
        module.activation = nn.Tanh()  # differences must not straddle a kink
    real, fake = points(4)

    def surrogate(y):
        return model.game_value(model.unrolled_weights(real, y, None), real, y, None)

    assert torch.autograd.gradcheck(surrogate, (fake.requires_grad_(),))
    through = torch.autograd.grad(surrogate(fake), fake)[0]
    held = {name: w.detach() for name, w in model.unrolled_weights(real, fake, None).items()}
    beside = torch.autograd.grad(model.game_value(held, real, fake, None), fake)[0]
    assert (through - beside).norm() > 0.1 * beside.norm()


def test_generators_loss_is_the_value_after_the_steps():
    model = built(unrolled=2, unrolled_rate=0.5)
    x, rng = points()[0], stream(1, "noise")
    loss = model.generator_loss(x, generator=rng)
    real = model.centred(x)
    fake = model.generator(model.noise(8, stream(1, "noise")), None)
    f = model.critic
    theta = torch.func.functional_call
    ahead = model.unrolled_weights(real, fake, None)
    f_real, f_fake = theta(f, ahead, (real, None)), theta(f, ahead, (fake, None))
    expected = f_real.sigmoid().log().mean() + (1 - f_fake.sigmoid()).log().mean()
    torch.testing.assert_close(loss.total, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"unrolled": 0}, "use gan for none"), ({"unrolled_rate": 0.0}, "unrolled_rate must be above 0")],
)
def test_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(Unusable, match=message):
        built(**arguments)
