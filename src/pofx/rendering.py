"""Samples for people: a sheet of tiles, a text, a scatter; and ``Sampled``, which saves them by suffix."""

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.files import write_whole

if TYPE_CHECKING:
    from PIL import Image

TILE = 48  # pixels a side that small pictures are enlarged to, about
BETWEEN = 128  # grey of the gaps: neither the black nor the white of a picture's edge
HIDDEN = 160  # grey of what is not drawn yet, or not known: neither, and not the gaps'


def sheet(
    x: Tensor,
    domain: Domain,
    *,
    columns: int | None = None,
    gap: int = 2,
    scale: int | None = None,
    hidden: Tensor | None = None,
) -> "Image.Image | None":
    """A picture of many observations: tiles in rows, or a scatter of vectors; None for tokens, see ``text_of``.

    Args:
        x: (N, ...) canonical.
        columns: tiles in a row; about as many as rows where None.
        gap: pixels between tiles.
        scale: pixels per pixel; None enlarges small pictures to about 48 a side.
        hidden: a mask of x's shape: pixels of pictures to show in grey, whatever they hold.
    """
    domain.check(x)
    if isinstance(domain, Tokens):
        return None
    if isinstance(domain, Vectors):
        return _scatter(x, domain)
    from PIL import Image

    scale = scale or max(1, round(TILE / max(domain.height, domain.width)))
    columns = columns or max(1, math.ceil(math.sqrt(len(x))))
    pixels = _visible(x, domain)
    if hidden is not None:
        pixels[hidden.any(1).cpu().numpy()] = HIDDEN
    tiles = np.kron(pixels, np.ones((1, scale, scale, 1), dtype=np.uint8))
    n, height, width, channels = tiles.shape
    rows = max(1, math.ceil(n / columns))
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), BETWEEN, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        page[top : top + height, left : left + width] = tile
    return Image.fromarray(page[:, :, 0] if channels == 1 else page)


def _visible(x: Tensor, domain: Images) -> np.ndarray:
    """Grey or RGB (N, H, W, 1 or 3), uint8: in the palette's colours, else level 0 is black and the last white.

    A continuous picture is shown by its range; of channels that are no colours, the first three as red, green, blue.
    """
    if domain.palette:
        return ((domain.colours(x.cpu()) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    x = x.cpu().double()
    low, high = (0.0, domain.levels - 1.0) if domain.levels else (float(x.min()), float(x.max())) if len(x) else (0, 1)
    shown = x[:, :3]
    grey = ((shown - low) * (255 / max(high - low, 1e-12))).round().clamp(0, 255).to(torch.uint8)
    if domain.channels == 2:
        grey = pad(grey, (0, 0, 0, 0, 0, 1))  # no blue
    return grey.permute(0, 2, 3, 1).numpy()


def _scatter(x: Tensor, domain: Vectors) -> "Image.Image":
    """The first two columns against each other, or a histogram of the only one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = x.cpu().numpy()
    names = columns_of(domain)
    axes.set_xlabel(names[0])
    if domain.dim == 1:
        axes.hist(values[:, 0], bins=max(10, min(100, math.isqrt(len(values)))), color="#33558b")
    else:
        axes.scatter(values[:, 0], values[:, 1], s=max(0.5, min(12, 4000 / max(1, len(values)))), lw=0, c="#33558b")
        axes.set_ylabel(names[1])
        if domain.dim == 2:
            axes.set_aspect("equal", "datalim")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


def columns_of(domain: Vectors) -> tuple[str, ...]:
    """Names of the columns, x1, x2, ... where they have none."""
    return domain.columns or tuple(f"x{i + 1}" for i in range(domain.dim))


def text_of(x: Tensor, domain: Tokens) -> list[str]:
    """The text of each row of tokens (N, L), of any length, up to its end token."""
    replace(domain, length=x.shape[1]).check(x)
    decode = decoder(domain)
    return [decode(_until(row, domain.end)) for row in x.tolist()]


def parting(domain: Tokens) -> str:
    """What stands between two texts: records are lines."""
    return "\n" if domain.end is not None else "\n---\n"


def _until(row: list[int], end: int | None) -> list[int]:
    return row[: row.index(end)] if end in row else row


def decoder(domain: Tokens) -> Callable[[list[int]], str]:
    """Symbols to text; where they break off inside a character, it ends in U+FFFD."""
    if domain.encoding == "bytes":
        return lambda row: bytes(row).decode("utf-8", errors="replace")
    if domain.encoding == "bpe":
        tokenizer = _tokenizer(domain)
        return lambda row: tokenizer.decode(row, skip_special_tokens=False)
    if domain.symbols:
        return lambda row: "".join(domain.symbols[token] for token in row)
    return lambda row: " ".join(map(str, row))


def tokens_of(text: str, domain: Tokens) -> Tensor:
    """The symbols (T,) of a text: the inverse of ``text_of``.

    Raises:
        Unusable: characters that are not in the vocabulary.
    """
    if domain.encoding == "bytes":
        return torch.tensor(list(text.encode(errors="surrogateescape")), dtype=torch.int64)
    if domain.encoding == "bpe":
        return torch.tensor(_tokenizer(domain).encode(text).ids, dtype=torch.int64)
    unknown = sorted(set(text) - set(domain.symbols))
    if unknown:
        raise Unusable(
            f"the vocabulary has no {''.join(unknown)!r}; leave such characters out, or fit with encoding=bytes"
        )
    places = {symbol: place for place, symbol in enumerate(domain.symbols)}
    return torch.tensor([places[symbol] for symbol in text], dtype=torch.int64)


def _tokenizer(domain: Tokens) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise Unusable("tokens of bpe need the tokenizers library; pip install 'pofx[text]'") from None
    return Tokenizer.from_str(domain.tokenizer)


def natural_suffix(domain: Domain) -> str:
    """Of the file in which a person sees observations best."""
    if isinstance(domain, Tokens):
        return ".txt"
    return ".csv" if isinstance(domain, Vectors) and domain.dim > 2 else ".png"


Writers = Mapping[str, Callable[[Path], None]]
"""Suffix to what writes such a file."""


def save_as(path: str | Path, writers: Writers, what: str) -> Path:
    """Writes a file, whole or not at all, by its suffix.

    Raises:
        Unusable: a suffix that is not there, or a place that cannot be written.
    """
    path = Path(path).expanduser()
    write_whole(path, writer_for(path, writers, what))
    return path


def writer_for(path: str | Path, writers: Writers, what: str) -> Callable[[Path], None]:
    """What writes a file of this name; a name that is no file's, or of another kind, is refused in one line."""
    path = Path(path).expanduser()
    if path.suffix.lower() not in writers:
        raise Unusable(f"{what} are saved as {' or '.join(writers)}, got {path.name!r}; use such a suffix")
    if path.is_dir():
        raise Unusable(f"{path} is a folder; give the name of a file")
    return writers[path.suffix.lower()]


@dataclass(frozen=True)
class Sampled:
    """Observations with their meaning: canonical ``x`` (N, ...), its domain, and the condition's rows or None.

    ``columns`` is the number of tiles in a row of a sheet, about as many as rows where None; ``hidden`` is a mask of
    pixels that the sheet shows in grey.
    """

    x: Tensor
    domain: Domain
    condition: Tensor | None = None
    columns: int | None = None
    hidden: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self.x.cpu().numpy()
        return values.astype(dtype) if dtype is not None else values.copy() if copy else values

    def save(self, path: str | Path) -> Path:
        """Writes a file, whole or not at all, by its suffix.

        ``.npy``: the canonical array. Pictures: ``.png``, a sheet. Tokens: ``.txt``, a record per line, or texts with
        a line ``---`` between them. Vectors: ``.csv`` with a header, ``.png``, a scatter.

        Raises:
            Unusable: a suffix that does not suit the domain, or a place that cannot be written.
        """
        return save_as(path, self._writers(), self.domain.kind)

    def place(self, path: str | Path) -> Path:
        """Where ``save`` would write; a suffix that does not suit the domain, or a folder, is refused."""
        writer_for(path, self._writers(), self.domain.kind)
        return Path(path).expanduser()

    def _writers(self) -> Writers:
        own: dict[str, dict[str, Callable[[Path], None]]] = {
            "images": {".png": self._write_png},
            "tokens": {".txt": self._write_text},
            "vectors": {".csv": self._write_csv, ".png": self._write_png},
        }
        return own[self.domain.kind] | {".npy": self._write_array}

    def _write_png(self, path: Path) -> None:
        picture = sheet(self.x, self.domain, columns=self.columns, hidden=self.hidden)
        if picture is not None:
            picture.save(path, format="PNG")

    def _write_array(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.asarray(self), allow_pickle=False)

    def _write_text(self, path: Path) -> None:
        if isinstance(self.domain, Tokens):
            path.write_text(parting(self.domain).join(text_of(self.x, self.domain)) + "\n", encoding="utf-8")

    def _write_csv(self, path: Path) -> None:
        """Nine digits: what a float32 needs to be read back exactly."""
        if isinstance(self.domain, Vectors):
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(columns_of(self.domain))
                np.savetxt(file, np.asarray(self), fmt="%.9g", delimiter=",")
