"""Games of generator and critic written by hand, as (parameters, loss) of each; they import nothing of pofx."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

LATENT = 16


def mlp_pair():
    """16-192-192-64 against 64-192-192-1."""
    g = nn.Sequential(
        nn.Linear(LATENT, 192), nn.SiLU(), nn.Linear(192, 192), nn.SiLU(), nn.Linear(192, 64), nn.Tanh(),
        nn.Unflatten(1, (1, 8, 8)),
    )  # fmt: skip
    f = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 192), nn.SiLU(), nn.Linear(192, 192), nn.SiLU(), nn.Linear(192, 1, bias=False)
    )
    return g, f


def conv_pair():
    """Pictures of 28 x 28, channels 32 to 128, against the mirror with norms."""
    g = nn.Sequential(
        nn.Linear(LATENT, 128 * 4 * 4), nn.Unflatten(1, (128, 4, 4)), nn.GroupNorm(1, 128), nn.SiLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1), Crop(7), nn.GroupNorm(1, 64), nn.SiLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.GroupNorm(1, 32), nn.SiLU(),
        nn.ConvTranspose2d(32, 1, 6, 2, 2), nn.Tanh(),
    )  # fmt: skip
    f = nn.Sequential(
        nn.Conv2d(1, 32, 5, 2, 2), nn.SiLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.SiLU(),
        nn.Conv2d(64, 128, 3, 2, 1), nn.SiLU(), nn.Flatten(),
        nn.Linear(128 * 4 * 4, 192), nn.SiLU(), nn.Linear(192, 1, bias=False),
    )  # fmt: skip
    return g, f


class Crop(nn.Module):
    """The first ``side`` rows and columns."""

    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, h):
        return h[..., : self.side, : self.side]


def gan(pair, *, levels, r1=0.1):
    """Cross-entropies, R1."""

    def critic(f, real, fake, rng):
        real.requires_grad_()
        f_real = f(real)
        slope = squared_slope(f_real, real)
        return F.softplus(-f_real).mean() + F.softplus(f(fake)).mean() + r1 / 2 * slope.mean()

    return players(*pair(), critic, lambda f, real, fake: F.softplus(-f(fake())).mean(), levels=levels)


def sngan(pair, *, levels):
    """Hinges, spectral norm."""
    g, f = pair()
    for module in f:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            spectral_norm(module)

    def critic(f, real, fake, rng):
        return F.relu(1 - f(real)).mean() + F.relu(1 + f(fake)).mean()

    return players(g, f, critic, lambda f, real, fake: -f(fake()).mean(), levels=levels)


def r3gan(pair, *, levels, r1=0.1, r2=0.1):
    """Judged in pairs, R1 and R2."""

    def critic(f, real, fake, rng):
        real.requires_grad_(), fake.requires_grad_()
        f_real, f_fake = f(real), f(fake)
        slopes = r1 / 2 * squared_slope(f_real, real).mean() + r2 / 2 * squared_slope(f_fake, fake).mean()
        return F.softplus(f_fake - f_real).mean() + slopes

    def generator(f, real, fake):
        with torch.no_grad():
            f_real = f(real())
        return F.softplus(f_real - f(fake())).mean()

    return players(*pair(), critic, generator, levels=levels)


def wgan_gp(pair, *, levels, penalty=1.0, share=0.25):
    """The gap, and the gradient penalty on a share of the batch."""

    def critic(f, real, fake, rng):
        epsilon = torch.rand(round(share * len(real)), 1, 1, 1, generator=rng)
        step = len(real) // len(epsilon)
        x_hat = torch.lerp(fake[::step], real[::step], epsilon).requires_grad_()
        slope = squared_slope(f(x_hat), x_hat).sqrt()
        return f(fake).mean() - f(real).mean() + penalty * (slope - 1).square().mean()

    return players(*pair(), critic, lambda f, real, fake: -f(fake()).mean(), levels=levels)


def squared_slope(f, x):
    """|grad f|^2 of each point."""
    (gradient,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def players(g, f, critic, generator, *, levels):
    """(parameters, loss(x, rng)) of the critic and of the generator."""

    def real(x, rng):
        return (x + torch.rand(x.shape, generator=rng)) * (2 / levels) - 1

    def fake(n, rng):
        return g(torch.randn(n, LATENT, generator=rng))

    def critic_loss(x, rng):
        y = real(x, rng)
        with torch.no_grad():
            y_fake = fake(len(x), rng)
        return critic(f, y, y_fake, rng)

    def generator_loss(x, rng):
        return generator(f, lambda: real(x, rng), lambda: fake(len(x), rng))

    return (list(f.parameters()), critic_loss), (list(g.parameters()), generator_loss)
