"""Spectra of waves and of blurs, whose power is known."""

import inspect
import math

import pytest
import torch

from pofx.divergences import lost_energy, power_spectrum
from pofx.errors import Unusable
from pofx.randomness import stream


def wave(cycles, size=32, *, upright=False):
    """A cosine of so many cycles across."""
    across = torch.cos(2 * math.pi * cycles * torch.arange(size, dtype=torch.float64) / size)
    picture = across.expand(size, size)
    return (picture.T if upright else picture)[None, None]


def blurred(x):
    """(1/4, 1/2, 1/4) along a line: the amplitude of f cycles per pixel is multiplied by cos^2(pi f)."""
    return 0.25 * x.roll(1, -1) + 0.5 * x + 0.25 * x.roll(-1, -1)


@pytest.mark.parametrize("cycles", [1, 5, 12])
@pytest.mark.parametrize("upright", [False, True])
def test_a_wave_has_its_power_at_its_frequency(cycles, upright):
    power = power_spectrum(3 * wave(cycles, upright=upright) + 7)
    assert power.shape == (17,)
    assert power[0].item() == pytest.approx(49 * 32 * 32)
    assert set((power > 1e-9).nonzero()[:, 0].tolist()) == {0, cycles}


def test_power_is_that_of_the_pixels():
    """Parseval: white noise of variance 4 has the power 4 at every frequency, whatever the shape."""
    noise = 2 * torch.randn(200, 2, 12, 20, generator=stream(0, "x"))
    power = power_spectrum(noise)
    assert power.shape == (7,)
    assert power.numpy() == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("cycles", [8, 12, 15])
def test_a_known_blur_loses_what_it_should(cycles):
    x = wave(cycles) + 5 * wave(2) + 10
    kept = math.cos(math.pi * cycles / 32) ** 4
    assert lost_energy(x, blurred(x)).item() == pytest.approx(1 - kept)
    assert power_spectrum(blurred(x))[cycles] / power_spectrum(x)[cycles] == pytest.approx(kept)


def test_coarse_changes_lose_nothing_fine_and_noise_adds():
    x = torch.randint(0, 256, (4, 1, 16, 16), generator=stream(0, "x")).to(torch.uint8)
    assert lost_energy(x, x) == 0
    assert lost_energy(x, x.double() + wave(1, 16)).item() == pytest.approx(0, abs=1e-12)
    assert lost_energy(x, torch.full_like(x, 9)).item() == pytest.approx(1)
    assert lost_energy(x.double(), x.double() + 50 * torch.randn(x.shape, generator=stream(1, "x"))).item() < 0
    assert lost_energy(wave(6), 0 * wave(6), above=0.15).item() == pytest.approx(1)


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(Unusable, match=r"alike, got \(1, 1, 32, 32\) and \(1, 1, 16, 16\)"):
        inspect.unwrap(lost_energy)(wave(1), wave(1, 16))
