"""Observations as they are drawn, for people: text as it comes, pictures row by row.

Both are a sampler's ``watch``: called with the observations so far and how many of their values are chosen, in reading
order. A count that does not grow begins another chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pofx.domains import Domain, Images, Tokens
from pofx.errors import Unusable
from pofx.rendering import Writers, decoder, parting, save_as, sheet, writer_for

if TYPE_CHECKING:
    from PIL import Image

KINDS = ("GIF", "WEBP")
FRAMES = 64  # at most, about: taller pictures grow by several rows at a time
LASTS = 2500  # milliseconds that an animation takes to grow, about
HELD = 1500  # milliseconds that its last frame stays
BROKEN = "\ufffd"


class TextStream:
    """Writes texts as they are drawn, one after another; together, what ``Sampled.save`` writes to a file.

    A character is written once all its bytes are there. Of texts that are drawn together the first one streams, then
    the next one that has not ended.

    Args:
        domain: tokens.
        write: takes each piece.
    """

    def __init__(self, domain: Tokens, write: Callable[[str], object]) -> None:
        self.decode, self.end, self.between, self.write = decoder(domain), domain.end, parting(domain), write
        self.written = 0  # texts that are whole
        self.row = self.values = 0  # of this chunk: the text that is being written, and how far all are drawn
        self.read = 0  # symbols of that text that are written
        self.context: list[int] = []  # those written last: what follows is decoded beside them

    def __call__(self, x: Tensor, values: int) -> None:
        """Of (B, T) tokens, the first ``values`` are chosen."""
        if values <= self.values:
            self._begin()
        self.values = values
        while self.row < len(x) and self._ends(x[self.row], values):
            self.row, self.read, self.context, self.written = self.row + 1, 0, [], self.written + 1

    def finish(self, x: Tensor) -> None:
        """Everything is drawn, (N, T): writes what nobody saw growing, and the last end of line."""
        self._begin()
        rest = x[self.written :]
        if len(rest):
            self(rest, x.shape[1])
        self.write("\n")

    def _begin(self) -> None:
        self.row = self.read = self.values = 0
        self.context = []

    def _ends(self, row: Tensor, values: int) -> bool:
        """Writes the characters that are new in a text; whether it is whole."""
        new = row[self.read : values].tolist()
        ended = self.end in new
        new = new[: new.index(self.end)] if ended else new
        ended = ended or values == len(row)
        text = self.decode(self.context + new)[len(self.decode(self.context)) :]
        if not text.endswith(BROKEN) or ended:
            self.write(text if self.read or not self.written else self.between + text)
            self.read, self.context = values, new or self.context
        return ended


class Growth:
    """Keeps a frame for each row of pixels of the pictures that are drawn, and saves them as an animation.

    What is not drawn yet is grey. The first frame shows what was known beforehand.

    Args:
        domain: pictures.
        columns: tiles in a row of the sheet; about as many as rows where None.
    """

    suffixes = tuple(f".{kind.lower()}" for kind in KINDS)

    def __init__(self, domain: Domain, *, columns: int | None = None) -> None:
        if not isinstance(domain, Images):
            raise Unusable(f"pictures grow row by row, got {domain.kind}; save them as they are")
        self.domain, self.columns = domain, columns
        self.every = domain.width * domain.channels * max(1, domain.height // FRAMES)
        self.chunks: list[list[tuple[Tensor, int]]] = []  # of each, the pictures so far and how many values are drawn
        self.values = 0

    def __call__(self, x: Tensor, values: int) -> None:
        """Of (B, C, H, W) pictures, the first ``values`` are chosen, in reading order."""
        if values <= self.values or not self.chunks:
            self.chunks.append([(_kept(x), values - 1)])
        self.values = values
        if values % self.every == 0 or values == self.domain.dims:
            self.chunks[-1].append((_kept(x), values))

    def frames(self) -> Iterator["Image.Image"]:
        """A sheet of all pictures for each moment; what is drawn in several chunks grows together."""
        for moment in range(max(map(len, self.chunks), default=0)):
            shown = [chunk[min(moment, len(chunk) - 1)] for chunk in self.chunks]
            x = torch.cat([part for part, _ in shown])
            hidden = torch.cat([self._from(values).expand(part.shape) for part, values in shown])
            picture = sheet(x, self.domain, columns=self.columns, hidden=hidden)
            assert picture is not None
            yield picture

    def save(self, path: str | Path) -> Path:
        """Writes a ``.gif`` or a ``.webp``, whole or not at all.

        Raises:
            Unusable: another suffix, a place that cannot be written, or nothing was drawn.
        """
        return save_as(path, self._writers(), "growing pictures")

    def check(self, path: str | Path) -> None:
        """Refuses a name that ``save`` would refuse."""
        writer_for(path, self._writers(), "growing pictures")

    def _from(self, values: int) -> Tensor:
        """(C, H, W): which values come later."""
        channels, height, width = self.domain.shape
        return (torch.arange(self.domain.dims) >= values).view(height, width, channels).permute(2, 0, 1)

    def _writers(self) -> Writers:
        return {suffix: partial(self._write, kind=kind) for suffix, kind in zip(self.suffixes, KINDS)}

    def _write(self, path: Path, kind: str) -> None:
        frames = list(self.frames())
        if not frames:
            raise Unusable("an animation shows what is drawn, and all was known; know less (--keep), or save a .png")
        animate(frames, path, kind)


def animate(frames: Sequence["Image.Image"], path: Path, kind: str) -> None:
    """Frames as a GIF or WEBP that lasts a few seconds, holds its last frame and begins again."""
    moment = min(250, max(40, LASTS // len(frames) // 10 * 10))  # a GIF counts in hundredths of a second
    frames[0].save(
        path, format=kind, save_all=True, append_images=frames[1:], loop=0, lossless=True,
        duration=[*[moment] * (len(frames) - 1), HELD],
    )  # fmt: skip


def _kept(x: Tensor) -> Tensor:
    """As it is now: a sampler may go on in the same place."""
    return x.to("cpu", copy=True)
