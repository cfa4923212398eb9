"""Pictures by frequency: their power spectrum, and what of it a reconstruction lacks."""

import torch
from jaxtyping import Float, Real
from torch import Tensor

from pofx.errors import Unusable


def power_spectrum(x: Real[Tensor, "N C H W"]) -> Float[Tensor, "F"]:
    r"""Power by frequency, averaged over pictures, channels and directions.

    $P_k$ is the mean of $|\hat x(f)|^2 / (H W)$ over the frequencies with $k - 1/2 \le |f| S < k + 1/2$, where f is in
    cycles per pixel and S = min(H, W): k cycles across the shorter side, from 0 (the mean level) to S // 2.

    Levels are read as numbers; colours of a palette go through ``Images.colours`` first.

    >>> stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 1, 8, 8)
    >>> power_spectrum(stripes).nonzero()[:, 0].tolist()
    [0, 4]
    """
    rings = (_frequency(x) * min(x.shape[-2:])).round().long().flatten()
    power = _power(x).mean((0, 1)).flatten()
    count = min(x.shape[-2:]) // 2 + 1
    total = torch.zeros(int(rings.max()) + 1, dtype=power.dtype, device=x.device).index_add(0, rings, power)
    return (total / rings.bincount())[:count]


def lost_energy(x: Real[Tensor, "N C H W"], back: Real[Tensor, "N C H W"], *, above: float = 0.25) -> Float[Tensor, ""]:
    r"""Share of the fine detail of x that is not in what came back: $1 - E(\text{back}) / E(x)$.

    E is the energy of all frequencies of at least ``above`` cycles per pixel (1/2 is the finest: black, white, black).
    0: nothing is lost; 1: all of it, by a blur, say; below 0: what came back has more of it, as noise has.
    NaN where x has none.

    Args:
        x: pictures, in any unit; levels as integers will do.
        back: their reconstructions, or samples beside them.
        above: the lowest frequency that counts as fine.
    """
    if x.shape != back.shape:
        raise Unusable(f"x and back must be alike, got {tuple(x.shape)} and {tuple(back.shape)}; give both in one size")
    fine = _frequency(x) >= above
    return 1 - _power(back)[..., fine].sum() / _power(x)[..., fine].sum()


def _power(x: Tensor) -> Float[Tensor, "N C H W"]:
    return torch.fft.fft2(x.double()).abs().square() / (x.shape[-2] * x.shape[-1])


def _frequency(x: Tensor) -> Float[Tensor, "H W"]:
    """|f| of each coefficient, in cycles per pixel."""
    along = [torch.fft.fftfreq(size, device=x.device, dtype=torch.float64) for size in x.shape[-2:]]
    return torch.hypot(along[0][:, None], along[1][None, :])
