"""What an example of a stream becomes: a picture, a vector of its numeric columns, or windows of its text."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.data.dataset import Batch, Rows
from pofx.data.decoded import pixels_of
from pofx.data.palettes import LOOKED_AT, Painter, learn
from pofx.data.pictures import as_pictures
from pofx.data.request import Request
from pofx.data.streamed import Example, Examples
from pofx.data.text import LENGTH, UNKNOWN, Coder, learn_coder
from pofx.domains import Domain, Images, Vectors
from pofx.errors import Unusable


@dataclass(frozen=True)
class Pictures:
    """A picture per example, decoded when its batch is taken."""

    column: str
    request: Request
    channels: int = 3
    painter: Painter | None = None

    @property
    def _side(self) -> int:
        size = self.request.options.size
        if size is None:
            raise Unusable(f"{self.request.source}: streamed pictures need one size; give it with --size 64")
        return size

    def weigh(self, example: Example) -> int:
        """Bytes that it takes, as it is stored or as an observation."""
        return max(3 * self._side**2, len(example[self.column].get("bytes") or b""))

    def usable(self, example: Example) -> bool:
        """Whether it has a picture."""
        return example[self.column] is not None

    def learnt(self, head: Sequence[Example]) -> "Pictures":
        """Grey, if every picture of the head is; and the palette, where one is asked for, of its first pictures."""
        grey = all((rgb == rgb[..., :1]).all() for rgb in map(self._pixels, head))
        plain = replace(self, channels=1 if grey else 3)
        if self.request.options.palette is None or not head:
            return plain
        domain, first = plain._canonical(head[:LOOKED_AT])
        return replace(plain, painter=learn(domain, [first], self.request, f"the first {len(first):,} pictures"))

    def domain(self) -> Domain:
        """Of the observations."""
        return self._canonical([])[0] if self.painter is None else self.painter.domain

    def rows(self, examples: Examples, n: int, rest: Tensor) -> tuple[list[Example], Tensor]:
        """The next n examples."""
        return [examples.next() for _ in range(n)], rest

    def x(self, rows: Sequence[Example]) -> Tensor:
        """Canonical pictures."""
        x = self._canonical(rows)[1]
        return x if self.painter is None else self.painter(x)

    def _canonical(self, rows: Sequence[Example]) -> tuple[Images, Tensor]:
        """Before they are painted."""
        pixels = np.empty((len(rows), self.channels, self._side, self._side), dtype=np.uint8)
        for place, row in zip(pixels, rows):
            place[:] = self._coloured(self._pixels(row)).transpose(2, 0, 1)
        return as_pictures(torch.from_numpy(pixels), 256, self.request.options)

    def _coloured(self, rgb: np.ndarray) -> np.ndarray:
        from PIL import Image

        return rgb if self.channels == 3 else np.asarray(Image.fromarray(rgb).convert("L"))[..., None]

    def _pixels(self, example: Example) -> np.ndarray:
        from datasets import Image as Decoder
        from PIL import Image

        held = example[self.column]
        try:
            if held.get("bytes") is None:
                return pixels_of(Decoder().decode_example(held), (self._side, self._side))
            with Image.open(io.BytesIO(held["bytes"])) as picture:
                return pixels_of(picture, (self._side, self._side))
        except Exception:  # Pillow answers broken files with many kinds of exception
            name = held.get("path") or "without a name"
            raise Unusable(
                f"{self.request.place}: the picture {name} is unreadable; write the set without it"
            ) from None


@dataclass(frozen=True)
class Columns:
    """The numeric columns of an example as a vector."""

    columns: tuple[str, ...]

    def weigh(self, example: Example) -> int:
        """Bytes of its observation."""
        return 8 * len(self.columns)

    def usable(self, example: Example) -> bool:
        """Whether every number is there and finite."""
        return all(example[name] is not None and abs(example[name]) < np.inf for name in self.columns)

    def learnt(self, head: Sequence[Example]) -> "Columns":
        """Nothing to learn."""
        return self

    def domain(self) -> Domain:
        """Of the observations."""
        return Vectors(len(self.columns), self.columns)

    def rows(self, examples: Examples, n: int, rest: Tensor) -> tuple[list[Example], Tensor]:
        """The next n examples."""
        return [examples.next() for _ in range(n)], rest

    def x(self, rows: Sequence[Example]) -> Tensor:
        """Vectors in the columns' own units."""
        values = [[float(row[name]) for name in self.columns] for row in rows]
        return torch.tensor(values, dtype=torch.float32).reshape(len(rows), len(self.columns))


@dataclass(frozen=True)
class Texts:
    """Texts one after the other, a newline after each, cut into windows that see every symbol once."""

    column: str
    request: Request
    coder: Coder | None = None

    @property
    def length(self) -> int:
        """Symbols of a window."""
        return self.request.options.length or LENGTH

    def weigh(self, example: Example) -> int:
        """Bytes of its observations."""
        return 8 * (len(example[self.column]) + 1)

    def usable(self, example: Example) -> bool:
        """Whether it has a text."""
        return bool(example[self.column])

    def learnt(self, head: Sequence[Example]) -> "Texts":
        """The alphabet of the head, and one symbol for all that it does not hold."""
        pieces = [self._piece(example) for example in head]
        extra = [UNKNOWN] if self.request.options.encoding == "characters" else []
        return replace(self, coder=learn_coder([*pieces, *extra], [], self.request))

    def domain(self) -> Domain:
        """Of the observations."""
        assert self.coder is not None  # learnt before the domain is asked for
        return self.coder.domain(self.length, end=False)

    def rows(self, examples: Examples, n: int, rest: Tensor) -> tuple[list[Tensor], Tensor]:
        """The next n windows; the symbols after them are left over."""
        pieces, count = [rest], len(rest)
        while count < n * self.length:
            pieces.append(self._encoded(examples.next()))
            count += len(pieces[-1])
        symbols = torch.cat(pieces)
        return list(symbols[: n * self.length].split(self.length)), symbols[n * self.length :].clone()

    def windows(self, examples: Iterable[Example]) -> Tensor:
        """Every whole window of some examples."""
        symbols = torch.cat([torch.empty(0, dtype=torch.int64), *map(self._encoded, examples)])
        return symbols[: len(symbols) // self.length * self.length].view(-1, self.length)

    def x(self, rows: Sequence[Tensor]) -> Tensor:
        """Canonical tokens."""
        return torch.stack(list(rows))

    def _piece(self, example: Example) -> str:
        return f"{example[self.column]}\n"

    def _encoded(self, example: Example) -> Tensor:
        assert self.coder is not None
        return self.coder.encode(self._piece(example))


Kind = Pictures | Columns | Texts


@dataclass(frozen=True)
class ClassColumn:
    """The column that a row is conditioned on.

    Args:
        column: its name.
        names: of the classes.
        codes: value -> class; an example of any other value is passed over.
    """

    column: str
    names: tuple[str, ...]
    codes: Mapping[Any, int]

    def code(self, example: Example) -> int | None:
        """The class of an example; None where it has none that is known."""
        return self.codes.get(example[self.column])


@dataclass(frozen=True)
class Labelled:
    """The layout of a part: observations of one kind, and their classes."""

    kind: Kind
    labels: ClassColumn | None

    def usable(self, example: Example) -> bool:
        """Whether it is read at all."""
        return self.kind.usable(example) and (self.labels is None or self.labels.code(example) is not None)

    def weigh(self, rows: Sequence[Any]) -> int:
        """See ``Layout``."""
        if isinstance(self.kind, Texts):
            return 8 * self.kind.length * len(rows)
        return sum(map(self.kind.weigh, rows))

    def rows(self, examples: Examples, n: int, rest: Tensor) -> tuple[list[Any], Tensor]:
        """See ``Layout``."""
        return self.kind.rows(examples, n, rest)

    def batch(self, rows: Sequence[Any]) -> Batch:
        """See ``Layout``."""
        x = self.kind.x(rows)
        return x, None if self.labels is None else torch.tensor([self.labels.code(row) for row in rows])

    def part(self, examples: Sequence[Example]) -> Rows:
        """Some examples as a part that is held in memory."""
        examples = [example for example in examples if self.usable(example)]
        return Rows(self.kind.windows(examples)) if isinstance(self.kind, Texts) else Rows(*self.batch(examples))
