"""What goes wrong with autoencoders, as docs/autoencoders.md shows it: holes, blur, what a rate buys.

Posterior collapse and its cures have a file of their own, test_vae_collapse.py.
"""

import pytest
import torch

from pofx.data import load
from pofx.divergences import lost_energy, nearest_distance
from pofx.domains import Images, Vectors
from pofx.evaluate.latents import rate_distortion
from pofx.models import VAE, Autoencoder, Gaussian
from pofx.randomness import stream
from pofx.samplers.latents import expected, reconstruct

LINEAR = {"latent_dim": 2, "hidden": (), "network": "mlp"}


def trained(model, x, steps, rate=1e-2, batch=128):
    """The model after some steps of Adam whose rate falls to 0."""
    generator = stream(0, "noise")
    model.adapt(x, generator=generator)
    optimiser = torch.optim.Adam(model.parameters(), rate, fused=True)
    for i in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - i / steps)
        rows = torch.randint(len(x), (min(batch, len(x)),), generator=generator)
        optimiser.zero_grad()
        model.loss(x[rows], generator=generator).total.backward()
        optimiser.step()
    return model.eval()


def built(seed, make, *args, **arguments):
    """A model whose weights the seed alone says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **arguments)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


# ---- holes


@torch.no_grad()
def test_a_plain_autoencoder_has_holes_that_a_vae_or_a_mixture_does_not_fall_into(digits):
    """A hole is farther from every training code than 95 of 100 test codes are: of the codes' own law 5% of draws."""
    x, (test, _) = digits.train.rows()[0], digits.test.rows()
    g, n = stream(0, "holes"), 1000
    with torch.enable_grad():
        plain = trained(built(0, Autoencoder, digits.domain, latent_dim=8, hidden=(64,)), x, 400)
        vae = trained(built(0, VAE, digits.domain, latent_dim=8, hidden=(64,)), x, 400)
    z, noise = plain.encode(x), torch.randn(n, 8, generator=g)
    one = z.mean(0) + noise @ torch.linalg.cholesky(torch.cov(z.T)).T
    mixture = Gaussian(Vectors(8), components=20)
    mixture.adapt(z, generator=g)

    def holes(drawn, train, test):
        usual = nearest_distance(test, train).quantile(0.95)
        return (nearest_distance(drawn, train) > usual).double().mean().item()

    in_one = holes(one, z, plain.encode(test))
    in_mixture = holes(mixture.sample(n, generator=g), z, plain.encode(test))
    in_vae = holes(noise, vae.encode(x, generator=g), vae.encode(test, generator=g))
    assert in_one > 1.5 * in_vae
    assert in_one > 1.5 * in_mixture


# ---- blur


def stripes(n, fine):
    """(n, 1, 4, 4) broad stripes of variance 1 in a pixel, and on them a chequerboard of variance ``fine``."""
    broad = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(4, 4)
    line = torch.tensor([1.0, -1.0]).repeat(2)
    a = torch.randn(n, 2, generator=stream(0, "stripes"))
    a = torch.linalg.qr(a - a.mean(0)).Q * n**0.5  # uncorrelated to the last digit
    return (a[:, :1, None] * broad + fine**0.5 * a[:, 1:, None] * line.outer(line))[:, None]


@pytest.mark.parametrize("fine", [1 / 32, 1 / 4])
def test_a_normal_blurs_what_varies_less_than_it_does(fine):
    """The linear VAE in closed form: of an axis of variance v comes back the share max(0, 1 - s^2 / v), s = 1."""
    x, v = stripes(512, fine), 16 * fine  # along the chequerboard's axis
    unit = trained(built(0, VAE, Images(1, 4, 4, levels=None), **LINEAR, spread="unit"), x, 800, rate=5e-2, batch=512)
    lost = lost_energy(x, reconstruct(unit, x), above=0.5).item()
    assert lost == pytest.approx(1 - max(0.0, 1 - 1 / v) ** 2, abs=0.05)


def test_a_normal_that_learns_its_spread_blurs_less():
    x = stripes(512, 1 / 4)
    shared = built(0, VAE, Images(1, 4, 4, levels=None), **LINEAR, spread="shared")
    lost = lost_energy(x, reconstruct(trained(shared, x, 800, rate=5e-2, batch=512), x), above=0.5).item()
    assert lost < 0.44 / 2


@pytest.mark.parametrize("arguments", [{"likelihood": "logistic"}, {"likelihood": "categorical"}])
@torch.no_grad()
def test_a_mean_is_blurred_and_a_draw_gives_its_energy_back_as_noise(arguments, digits):
    """Two numbers cannot tell a digit's edges: their mean is soft, and a draw of each pixel is as rough as the data."""
    with torch.enable_grad():
        model = trained(
            built(0, VAE, digits.domain, latent_dim=2, hidden=(64,), **arguments), digits.train.rows()[0], 300
        )
    x, _ = digits.test.rows()
    p = model.decode(model.encode(x))
    mean, draw = lost_energy(x, expected(p)), lost_energy(x, p.sample(generator=stream(0, "draw")))
    assert mean > 0.35
    assert abs(draw) < 0.25
    error = [(x.double() - back.double()).square().mean() for back in (expected(p), p.sample(generator=stream(0, "d")))]
    assert error[1] > 1.5 * error[0]


# ---- what a rate buys


def test_the_dearer_the_rate_the_less_of_it_and_the_bound_is_best_at_its_own_price(digits):
    rates, distortions = [], []
    for beta in (0.25, 1.0, 4.0):
        model = built(0, VAE, digits.domain, latent_dim=8, hidden=(64,), spread="shared", beta=beta)
        r, d = rate_distortion(trained(model, digits.train.rows()[0], 400), digits, split="train")
        rates.append(r.value)
        distortions.append(d.value)
    assert rates[0] > rates[1] + 3 > rates[2] + 6
    assert distortions[0] < distortions[1] - 1 < distortions[2] - 4
    total = [r + d for r, d in zip(rates, distortions)]
    assert total[1] == min(total)
