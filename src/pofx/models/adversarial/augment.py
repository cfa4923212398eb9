"""Changes of a picture that gradients go through, made to real and generated ones alike: a critic learns less by heart.

Source: Zhao et al. 2020, arXiv:2006.10738, section 3 (DiffAugment).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import pad

from pofx.randomness import rand

Kind = Literal["colour", "translation", "cutout"]
Pictures = Float[Tensor, "B C H W"]


def augment(y: Pictures, kinds: Iterable[Kind], *, generator: Generator) -> Pictures:
    """Each kind of change in turn, drawn for each picture by itself."""
    for kind in kinds:
        y = CHANGES[kind](y, generator)
    return y


def _colour(y: Pictures, generator: Generator) -> Pictures:
    """Brightness moved by up to 1/2, saturation 0 to 2 times, contrast 1/2 to 3/2 times as large."""
    brightness, saturation, contrast = _uniform(y, 3, generator)
    y = y + (brightness - 0.5).to(y)
    y = torch.lerp(y.mean(1, keepdim=True), y, (2 * saturation).to(y))
    return torch.lerp(y.mean((1, 2, 3), keepdim=True), y, (contrast + 0.5).to(y))


def _translation(y: Pictures, generator: Generator) -> Pictures:
    """Shifted by up to an eighth of its size along each side; what comes in is the picture's darkest, -1."""
    height, width = y.shape[2:]
    most = (round(height / 8), round(width / 8))
    down, right = (((u * (2 * m + 1)).floor().long() - m).view(-1, 1) for u, m in zip(_uniform(y, 2, generator), most))
    padded = pad(y, (most[1], most[1], most[0], most[0]), value=-1.0)
    rows = torch.arange(height, device=y.device) + most[0] + down
    columns = torch.arange(width, device=y.device) + most[1] + right
    each = torch.arange(len(y), device=y.device)[:, None, None]
    return padded.movedim(1, -1)[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _cutout(y: Pictures, generator: Generator) -> Pictures:
    """A box of half the size, its middle anywhere, becomes 0, the middle grey."""
    height, width = y.shape[2:]
    inside = [
        (torch.arange(size, device=y.device) - (u.view(-1, 1) * size)).abs() < size / 4
        for u, size in zip(_uniform(y, 2, generator), (height, width))
    ]
    box = inside[0][:, :, None] & inside[1][:, None, :]
    return y.masked_fill(box[:, None], 0.0)


def _uniform(y: Pictures, n: int, generator: Generator) -> Iterable[Float[Tensor, "B 1 1 1"]]:
    """n numbers in [0, 1) for each picture."""
    u = rand((len(y), n), generator=generator, device=y.device)  # never in half precision, which rounds it up to 1
    return (column.view(-1, 1, 1, 1) for column in u.unbind(1))


CHANGES: Mapping[Kind, Callable[[Pictures, Generator], Pictures]] = {
    "colour": _colour,
    "translation": _translation,
    "cutout": _cutout,
}
