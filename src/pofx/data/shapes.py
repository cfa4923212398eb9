"""Drawn coloured shapes, one or two to a picture, with a caption that says exactly what is there.

The caption can be read off the picture: of two shapes the one on the left is named first, or, where they are further
apart in height than in width, the upper one. The shape named first is the picture's class.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from pofx.data.dataset import Data
from pofx.data.pictures import as_pictures
from pofx.data.request import Request
from pofx.data.rows import Captions, Labels, Observations, split_rows
from pofx.errors import Unusable
from pofx.randomness import derive

SIZES = {"train": 10_000, "validation": 1_000, "test": 1_000}
SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 70), "blue": (60, 90, 230), "yellow": (240, 210, 50)}
RADII = {"small": 0.14, "large": 0.21}  # of the picture's side
BACKGROUND = 16
_SMALLEST = 16
_JITTER = 12  # levels by which an object's brightness varies


@dataclass(frozen=True)
class Objects:
    """One object in each of N pictures: indices into the tables above, and its centre in pixels, (N,) each."""

    shape: np.ndarray
    colour: np.ndarray
    radius: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def named(self) -> list[str]:
        """ "a large red circle", ..."""
        radii, colours = list(RADII), list(COLOURS)
        return [
            f"a {radii[r]} {colours[c]} {SHAPES[s]}" for r, c, s in zip(self.radius, self.colour, self.shape)
        ]  # fmt: skip

    def where(self, mask: np.ndarray, other: "Objects") -> "Objects":
        """These where the mask says so, else the others."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Objects(*(np.where(mask, mine, theirs) for mine, theirs in pairs))


def read_shapes(request: Request) -> Data:
    """12,000 pictures of 32x32 RGB, or another size, drawn by the seed."""
    size = request.options.size or 32
    if size < _SMALLEST:
        raise Unusable(f"shapes need a size of at least {_SMALLEST} to be told apart, got {size}; give a larger --size")
    drawn = [draw(n, size, request.seed, split) for split, n in SIZES.items()]
    pictures, captions, classes = zip(*drawn)
    domain, x = as_pictures(torch.from_numpy(np.concatenate(pictures)), 256, request.options)
    rows = torch.arange(len(x)).split(list(SIZES.values()))
    labels = Labels(torch.from_numpy(np.concatenate(classes)).long(), SHAPES)
    texts = Captions(tuple(text for part in captions for text in part))
    return split_rows(
        Observations(
            domain,
            x,
            official={name: index.clone() for name, index in zip(SIZES, rows)},
            described="drawn by the seed",
            given={"class": labels, "text": texts},
        ),
        request,
    )


def draw(n: int, size: int, seed: int, split: str) -> tuple[np.ndarray, list[str], np.ndarray]:
    """n pictures (n, 3, size, size) uint8, their captions, and the class of each."""
    rng = np.random.default_rng(derive(seed, f"shapes/{split}"))
    halves = rng.integers(3, size=n)  # one object; one in the left and one in the right half; upper and lower half
    one = _objects(rng, size, right=np.where(halves == 1, 0.5, 1.0), bottom=np.where(halves == 2, 0.5, 1.0))
    two = _objects(rng, size, left=np.where(halves == 1, 0.5, 0.0), top=np.where(halves == 2, 0.5, 0.0))
    beside = abs(two.x - one.x) >= abs(two.y - one.y)
    swapped = (halves > 0) & np.where(beside, two.x < one.x, two.y < one.y)
    first, second = two.where(swapped, one), one.where(swapped, two)

    pictures = np.full((n, 3, size, size), BACKGROUND, dtype=np.uint8)
    _paint(pictures, first, np.ones(n, dtype=bool), rng)
    _paint(pictures, second, halves > 0, rng)
    captions = [
        f"{a} {'left of' if by else 'above'} {b}" if pair else a
        for pair, by, a, b in zip(halves > 0, beside, first.named(), second.named())
    ]
    return pictures, captions, first.shape


def _objects(
    rng: np.random.Generator,
    size: int,
    *,
    left: np.ndarray | float = 0.0,
    right: np.ndarray | float = 1.0,
    top: np.ndarray | float = 0.0,
    bottom: np.ndarray | float = 1.0,
) -> Objects:
    """Objects that lie whole within their part of the picture, whose edges are shares of its side."""
    left, right, top, bottom = np.broadcast_arrays(left, right, top, bottom)
    n = len(left)
    shape, colour = rng.integers(len(SHAPES), size=n), rng.integers(len(COLOURS), size=n)
    radius = rng.integers(len(RADII), size=n)
    margin = np.array(list(RADII.values()))[radius] + 0.5 / size
    x = rng.uniform(left + margin, right - margin) * size
    y = rng.uniform(top + margin, bottom - margin) * size
    return Objects(shape, colour, radius, x, y)


def _paint(pictures: np.ndarray, objects: Objects, where: np.ndarray, rng: np.random.Generator) -> None:
    """Colours the pixels whose middle lies inside the object."""
    n, _, size, _ = pictures.shape
    radius = (np.array(list(RADII.values())) * size)[objects.radius][:, None, None]
    middle = np.arange(size) + 0.5
    dx = (middle[None, :] - objects.x[:, None])[:, None, :]
    dy = (middle[None, :] - objects.y[:, None])[:, :, None]
    inside = np.select(
        [(objects.shape == k)[:, None, None] for k in range(len(SHAPES))],
        [
            dx**2 + dy**2 <= radius**2,
            np.maximum(abs(dx), abs(dy)) <= 0.85 * radius,
            (abs(dx) <= (dy + radius) / 2) & (dy <= radius),
        ],
        default=False,
    ) & where[:, None, None]  # fmt: skip
    colour = np.array(list(COLOURS.values()))[objects.colour] + rng.integers(-_JITTER, _JITTER + 1, size=(n, 1))
    np.copyto(pictures, colour.clip(0, 255).astype(np.uint8)[:, :, None, None], where=inside[:, None])
