"""Palettes: pictures as one channel of K colours, k-means centres of the training split's pixels.

Colours are sorted by luminance, so that neighbouring levels are near in brightness and a model that takes levels as
ordered stays sensible. Everything is computed in whole numbers: a palette depends on pixels and seed alone, not on the
machine or its number of threads, since a run that loads its source again must find the very same colours.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from pofx.data.maps import Store
from pofx.data.request import Request
from pofx.domains import Domain, Images
from pofx.errors import Unusable
from pofx.randomness import stream

LOOKED_AT = 1024  # training pictures that colours are learnt from, of those that are not held in memory
MOST = 1 << 16  # different colours that k-means sees; of more, as many pixels are drawn
ROUNDS = 20  # of k-means
CHUNK = 1 << 22  # pixels at a time


class Painter:
    """Pictures of a domain (B, C, H, W) to levels (B, 1, H, W) of the nearest colour of a palette.

    Args:
        source: the domain of what is painted: grey or RGB.
        palette: RGB, 0 to 255 each.
    """

    def __init__(self, source: Images, palette: tuple[tuple[int, int, int], ...]) -> None:
        self.source = source
        self.domain = Images(1, source.height, source.width, len(palette), palette)
        self._level = np.full(_codes_of(source), -1, dtype=np.int16)  # of each colour, filled in where one is met

    def __call__(self, x: Tensor) -> Tensor:
        """Canonical levels of the palette."""
        rows = max(1, CHUNK // (self.source.height * self.source.width))
        return torch.cat([self._levels(part) for part in x.split(rows)]) if len(x) else self._levels(x)

    def _levels(self, x: Tensor) -> Tensor:
        codes = _codes(x, self.source)
        levels = self._level[codes]
        if (levels < 0).any():
            new = np.unique(codes[levels < 0])
            self._level[new] = _nearest(_rgb(new, self.source), 4 * np.array(self.domain.palette))
            levels = self._level[codes]
        return torch.from_numpy(levels)[:, None].to(self.domain.dtype)


@dataclass(frozen=True)
class Painted:
    """A store of pictures, painted when they are read."""

    store: Store
    painter: Painter

    def __len__(self) -> int:
        return len(self.store)

    @property
    def digests(self) -> np.ndarray:
        """Of the pictures as they were."""
        return self.store.digests

    @property
    def comparable(self) -> bool:
        """Whether equal digests mean equal observations."""
        return self.store.comparable

    @property
    def most(self) -> int:
        """How many of a part are read at once, to be scored."""
        return self.store.most

    def read(self, rows: Tensor) -> Tensor:
        """Canonical pictures of rows (B,)."""
        return self.painter(self.store.read(rows))


def painted(
    domain: Domain, x: Tensor | Store, train: Tensor, request: Request
) -> tuple[Domain, Tensor | Store]:  # fmt: skip
    """All observations in a palette of the training rows' colours, if the source asks for one; else as they are."""
    if request.options.palette is None:
        return domain, x
    if not isinstance(domain, Images):
        raise Unusable(f"{request.source}: a palette is for pictures, got {domain.kind}; leave palette out")
    if isinstance(x, Tensor):
        painter = learn(domain, _held(x, train, domain), request, "the training pictures")
        return painter.domain, painter(x)
    looked = train[torch.randperm(len(train), generator=stream(request.seed, "palette/rows"))[:LOOKED_AT]].sort().values
    painter = learn(
        domain,
        (x.read(rows) for rows in looked.split(max(1, CHUNK // (domain.height * domain.width)))),
        request,
        f"the {len(looked):,} training pictures that colours are learnt from",
    )
    return painter.domain, Painted(x, painter)


def _held(x: Tensor, train: Tensor, domain: Images) -> Iterator[Tensor]:
    for rows in train.split(max(1, CHUNK // (domain.height * domain.width))):
        yield x[rows]


def learn(domain: Images, pictures: Iterable[Tensor], request: Request, named: str) -> Painter:
    """The painter in as many colours as the source asks for, learnt from pictures.

    Args:
        domain: of the pictures.
        pictures: batches of them, canonical.
        request: with ``palette``, and the seed of where k-means starts.
        named: what they are, for a message.

    Raises:
        Unusable: the pictures have no colours, or fewer than are asked for.
    """
    if domain.channels not in (1, 3) or domain.levels is None:
        what = f"{domain.channels} channels" if domain.levels else "continuous values"
        raise Unusable(f"{request.source}: a palette is for grey or RGB pictures, these have {what}; leave palette out")
    wanted = request.options.palette or 0
    colours, counts = _census(pictures, domain)
    if len(colours) < wanted:
        line = f"{request.source}: {named} have {len(colours):,} different colours, and palette={wanted} asks for more"
        if len(colours) < 2:
            raise Unusable(f"{line}; leave palette out")
        request.findings.stop(f"{line}; give at most palette={len(colours)}")
        wanted = len(colours)
    palette = centres(colours, counts, wanted, generator=stream(request.seed, "palette"))
    if len(palette) < wanted:
        request.findings.note(f"{len(palette)} colours of palette={wanted} are used; the others were equal or empty")
    return Painter(domain, palette)


def centres(
    colours: np.ndarray, counts: np.ndarray, k: int, *, generator: Generator
) -> tuple[tuple[int, int, int], ...]:
    """At most k colours, sorted by luminance (ITU-R BT.601), none equal to another or nearest to no pixel.

    Lloyd's algorithm from k-means++ starts, on a grid of quarters of a level.

    Source: Arthur and Vassilvitskii 2007.

    Args:
        colours: (U, 3) different ones, 0 to 255.
        counts: (U,) int64, pixels of each.
        k: how many are asked for.
        generator: of the starts, and of the pixels drawn from more than ``MOST`` colours.
    """
    colours, counts = _thinned(colours, counts, generator)
    quarters = 4 * _starts(colours, counts, k, generator)
    for _ in range(ROUNDS):
        before = quarters
        label = _nearest(colours, quarters)
        pixels = np.bincount(label, counts, len(quarters))
        sums = np.stack([np.bincount(label, counts * channel, len(quarters)) for channel in colours.T], axis=1)
        means = np.rint(4 * sums / np.maximum(pixels, 1)[:, None]).astype(np.int64)
        quarters = np.where(pixels[:, None] > 0, means, before)
        if (quarters == before).all():
            break
    palette = np.unique((quarters + 2) // 4, axis=0)
    palette = palette[np.unique(_nearest(colours, 4 * palette))]
    order = np.argsort(palette @ np.array([299, 587, 114]), kind="stable")
    return tuple((r, g, b) for r, g, b in palette[order].tolist())


def _codes(x: Tensor, domain: Images) -> np.ndarray:
    """(B, H, W) the 24 bits of each pixel's colour, or the 8 of its grey: level 0 is black and the last white."""
    last = (domain.levels or 0) - 1
    values = x.to(torch.int32)
    values = values if last == 255 else (values * 510 + last) // (2 * last)
    if domain.channels == 1:
        return values[:, 0].numpy()
    r, g, b = values.unbind(1)
    return ((r << 16) | (g << 8) | b).numpy()


def _rgb(codes: np.ndarray, domain: Images) -> np.ndarray:
    grey = domain.channels == 1
    return np.stack([codes if grey else codes >> shift & 255 for shift in (16, 8, 0)], axis=1).astype(np.int64)


def _codes_of(domain: Images) -> int:
    """How many there are."""
    return 1 << 8 * domain.channels


def _census(pictures: Iterable[Tensor], domain: Images) -> tuple[np.ndarray, np.ndarray]:
    """Every colour (U, 3) and how many pixels (U,) have it."""
    counts = np.zeros(_codes_of(domain), dtype=np.int64)
    for x in pictures:
        counts += np.bincount(_codes(x, domain).ravel(), minlength=len(counts))
    codes = np.flatnonzero(counts)
    return _rgb(codes, domain), counts[codes]


def _thinned(colours: np.ndarray, counts: np.ndarray, generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of more than ``MOST`` colours, those of as many pixels drawn with replacement."""
    if len(colours) <= MOST:
        return colours, counts
    chosen, counts = np.unique(_drawn(counts, MOST, generator), return_counts=True)
    return colours[chosen], counts


def _starts(colours: np.ndarray, counts: np.ndarray, k: int, generator: Generator) -> np.ndarray:
    """k-means++: each start is drawn by its pixels' squared distance to those before it."""
    chosen = _drawn(counts, 1, generator)
    distance = np.full(len(colours), np.iinfo(np.int32).max, dtype=np.int64)
    while len(chosen) < k:
        distance = np.minimum(distance, ((colours - colours[chosen[-1]]) ** 2).sum(1))
        if not distance.any():
            break
        chosen = np.append(chosen, _drawn(counts * distance, 1, generator))
    return colours[chosen]


def _drawn(weights: np.ndarray, n: int, generator: Generator) -> np.ndarray:
    """n places, drawn by whole-numbered weights."""
    ends = weights.cumsum()
    return np.searchsorted(ends, torch.randint(int(ends[-1]), (n,), generator=generator).numpy(), side="right")


def _nearest(colours: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    """The nearest of centres (K, 3), given in quarters of a level, for each colour (U, 3); the first of equally near.

    |4 x - c|^2 - |4 x|^2 = |c|^2 - 8 x.c is a whole number below 2^24, so exact in float32 in any order of summation.
    """
    squares = (quarters**2).sum(1).astype(np.float32)
    across = (8 * quarters.T).astype(np.float32)
    label = np.empty(len(colours), dtype=np.int64)
    for start in range(0, len(colours), 4096):
        part = colours[start : start + 4096].astype(np.float32)
        label[start : start + 4096] = (squares - part @ across).argmin(1)
    return label
