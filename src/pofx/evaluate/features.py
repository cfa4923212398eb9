"""Fixed maps from observations to features: nothing learnt, nothing downloaded, versioned by name.

A figure on features is worth as much as its map, so the map's name stands beside each. A change of what a map computes
is a new version.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pofx.data.dataset import Data
from pofx.domains import Domain, Images, Tokens

_ORIENTATIONS = 8
_BINS = 128


@dataclass(frozen=True)
class FeatureMap:
    """A named function of a batch of canonical observations, (B, ...) -> (B, F) float32."""

    name: str
    function: Callable[[Tensor], Tensor]
    batch: int = 512

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Float[Tensor, "N F"]:
        """Features of all rows, in batches."""
        return torch.cat([self.function(part).float() for part in x.cpu().split(self.batch)])


def feature_map(data: Data) -> FeatureMap:
    """What samples and real rows are compared on: scatter-v1, ngram-hash-v1 or standardised-v1, by the domain."""
    domain = data.domain
    if isinstance(domain, Images):
        return FeatureMap("scatter-v1", lambda x: scatter(_unit(domain, x)))
    return _other(data)


def copy_map(data: Data) -> FeatureMap:
    """What copies are looked for on: cheap enough for every training row; pictures as thumbnail-v1."""
    domain = data.domain
    if isinstance(domain, Images):
        return FeatureMap("thumbnail-v1", lambda x: _shrunk(_unit(domain, x), 16).flatten(1), batch=4096)
    return _other(data)


def scatter(y: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
    """scatter-v1: oriented energies of a pyramid, pooled to 4 x 4, and the low-pass picture of at most 8 x 8.

    On each of up to three scales (as long as a side has 8 pixels) first and second derivatives along 8 orientations
    make a quadrature pair; the energy is the root of its squares' sum, averaged over channels. A first-order
    scattering transform with derivatives of binomials for wavelets.

    Source: after Bruna and Mallat 2013, arXiv:1203.1513; steering: Freeman and Adelson 1991.
    """
    parts = [2 * _shrunk(y, 8).flatten(1)]
    for _ in range(3):
        parts.append(8 * _shrunk(_energies(y), 4).flatten(1))
        y = F.avg_pool2d(y, 2) if min(y.shape[-2:]) >= 2 else y
        if min(y.shape[-2:]) < 8:
            break
    return torch.cat(parts, dim=1)


def ngram_hash(x: Int[Tensor, "B T"], *, end: int | None = None) -> Float[Tensor, "B F"]:
    """ngram-hash-v1: root of the frequencies of 1-, 2- and 3-grams, each order hashed into 128 bins of its own.

    What follows the first ``end`` is padding and is left out. The Euclidean distance of roots of frequencies is
    Hellinger's.
    """
    written = torch.ones_like(x, dtype=torch.bool) if end is None else (x == end).cumsum(1) - (x == end).long() == 0
    parts = []
    for order in range(1, 4):
        if x.shape[1] < order:
            break
        code = torch.zeros_like(x[:, order - 1 :])
        for i in range(order):
            code = (code * 1_000_003 + x[:, i : x.shape[1] - order + 1 + i] + 1) % 2_147_483_647
        weight = written[:, order - 1 :].float()
        counts = x.new_zeros((len(x), _BINS), dtype=torch.float32).scatter_add(
            1, code * 40_503 % 65_521 % _BINS, weight
        )
        parts.append((counts / weight.sum(1, keepdim=True).clamp(min=1)).sqrt() * math.sqrt(_BINS))
    return torch.cat(parts, dim=1)


def _other(data: Data) -> FeatureMap:
    domain = data.domain
    if isinstance(domain, Tokens):
        return FeatureMap("ngram-hash-v1", lambda x: ngram_hash(x, end=domain.end))
    train = data.train.rows()[0].cpu()
    mean, scale = train.mean(0), train.std(0, correction=0)
    scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
    return FeatureMap("standardised-v1", lambda x: (x - mean) / scale, batch=65536)


def _unit(domain: Domain, x: Tensor) -> Tensor:
    """Levels or colours to (-1, 1); a continuous picture as it is."""
    assert isinstance(domain, Images)
    return domain.colours(x)


def _shrunk(y: Tensor, size: int) -> Tensor:
    """Averaged over a grid of at most size x size cells."""
    return F.adaptive_avg_pool2d(y, (min(size, y.shape[-2]), min(size, y.shape[-1])))


def _energies(y: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O H W"]:
    """Energy along each orientation, from five steerable derivatives of a binomial."""
    smooth, slope, bend = ([1, 4, 6, 4, 1], 16), ([-1, -2, 0, 2, 1], 8), ([1, 0, -2, 0, 1], 4)
    pairs = [(smooth, slope), (slope, smooth), (smooth, bend), (slope, slope), (bend, smooth)]  # (down, across)
    kernels = torch.stack([torch.outer(_taps(down), _taps(across)) for down, across in pairs]).to(y)
    padded = F.pad(y.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="replicate")
    gx, gy, gxx, gxy, gyy = F.conv2d(padded, kernels[:, None]).unflatten(0, y.shape[:2]).unbind(2)
    energies = []
    for o in range(_ORIENTATIONS):
        c, s = math.cos(math.pi * o / _ORIENTATIONS), math.sin(math.pi * o / _ORIENTATIONS)
        first, second = c * gx + s * gy, c * c * gxx + 2 * c * s * gxy + s * s * gyy
        energies.append((first.square() + second.square()).mean(1).sqrt())
    return torch.stack(energies, dim=1)


def _taps(filter: tuple[list[int], int]) -> Tensor:
    weights, total = filter
    return torch.tensor(weights, dtype=torch.float32) / total
