"""What the user asks of a source: ``NAME-or-PATH[:option[,option=value]...]`` and keywords beside it, checked."""

import glob
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pofx.errors import Unusable, nearest

ENCODINGS = ("characters", "bytes", "bpe")


@dataclass(frozen=True)
class Options:
    """Options that follow a source; each source takes some of them.

    Args:
        size: pictures are cropped to the centre square and resized to this many pixels a side.
        levels: grey levels are merged into this many equal bins.
        palette: pictures become one channel of this many colours, k-means centres of the training pixels.
        stack: this many pictures of a split become the channels of one.
        binary: each pixel is drawn with its grey value as the probability of ink.
        skip_unreadable: leave unreadable pictures out.
        length: tokens per observation.
        encoding: "characters", "bytes" or "bpe".
        vocabulary: symbols of "bpe".
        records: each line of a text is an observation.
        drop: columns of a table to leave out.
        limit: keep this many training observations.
        mapped: read through a map of the cache, however small the source is; a large one is without being asked.
        column: of a streamed set, the pictures or texts.
        config: of a streamed set, which of its subsets.
        revision: of a streamed set on the hub, a branch, tag or commit.
        modes: of a mixture of normals, how many.
        sd: of a mixture of normals, the standard deviation of each.
        n: of a mixture of normals, training points that are drawn.
    """

    size: int | None = None
    levels: int | None = None
    palette: int | None = None
    stack: int | None = None
    binary: bool = False
    skip_unreadable: bool = False
    length: int | None = None
    encoding: str = "characters"
    vocabulary: int | None = None
    records: bool = False
    drop: tuple[str, ...] = ()
    limit: int | None = None
    mapped: bool = False
    column: str | None = None
    config: str | None = None
    revision: str | None = None
    modes: int | None = None
    sd: float | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("size", 1, 4096), ("levels", 2, 65536), ("palette", 2, 1024), ("stack", 2, 3), ("length", 1, 1 << 20),
            ("vocabulary", 257, 1 << 20), ("limit", 1, 1 << 62), ("modes", 1, 10_000), ("n", 1, 1 << 26),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise Unusable(f"{name} must be {least} to {most}, got {value}; leave it out for the default")
        if self.sd is not None and not 0 < self.sd < math.inf:
            raise Unusable(f"sd must be above 0, and finite, got {self.sd}; leave it out for the default")
        if self.encoding not in ENCODINGS:
            raise Unusable(f"there is no encoding {self.encoding!r}{nearest(self.encoding, ENCODINGS)}")
        if self.vocabulary is not None and self.encoding != "bpe":
            raise Unusable(f"vocabulary is for encoding=bpe, got encoding={self.encoding}; leave one of the two out")
        if self.palette is not None and self.stack is not None:
            raise Unusable(
                f"a palette makes one channel, a stack several, got palette={self.palette} and stack={self.stack}; "
                "leave one of the two out"
            )
        if self.palette is not None and (self.binary or self.levels is not None):
            other = "binary" if self.binary else f"levels={self.levels}"
            raise Unusable(
                f"a palette keeps colours, {other} grey levels, got palette={self.palette} and {other}; leave one of "
                "the two out"
            )

    def given(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def written(self) -> str:
        """As they follow a source: parsing it gives the same options.

        >>> Options(size=32, binary=True, drop=("a", "b")).written()
        'size=32,binary,drop=a+b'
        """
        return ",".join(
            name if value is True else f"{name}={'+'.join(value) if isinstance(value, tuple) else value}"
            for name, value in self.given().items()
        )


@dataclass
class Findings:
    """What is wrong with a source.

    A fit stops at the first thing that a person has to decide; ``lenient``, it is noted and mended, so that a look at
    the source can show every problem at once.
    """

    lenient: bool = False
    problems: list[str] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)

    def note(self, line: str) -> None:
        """Something to know of."""
        self.problems.append(line)

    def stop(self, line: str) -> None:
        """Something to mend before a fit.

        Raises:
            Unusable: unless lenient.
        """
        if not self.lenient:
            raise Unusable(line)
        self.note(line)


@dataclass(frozen=True)
class Request:
    """One source with all that was asked of it.

    Args:
        source: how it is written, options included.
        place: the name of a named set, or a path.
        options: see ``Options``.
        seed: of the split and of what is drawn.
        condition: "none", "class", "text" or a column.
        findings: where problems go.
    """

    source: str
    place: str
    options: Options
    seed: int = 0
    condition: str = "none"
    findings: Findings = field(default_factory=Findings)

    @property
    def path(self) -> Path:
        """The place as a path."""
        return Path(self.place).expanduser()


def is_local(place: str) -> bool:
    """Whether the place of a streamed set is a path or a pattern here, rather than a name of the hub."""
    return bool(glob.glob(str(Path(place).expanduser())))


def parse(text: str) -> dict[str, Any]:
    """``binary,levels=2`` to ``{"binary": True, "levels": 2}``.

    Raises:
        Unusable: an unknown option, or a value it does not take.
    """
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, given, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if name not in _PARSERS:
            raise Unusable(f"a source has no option {name!r}{nearest(name, _PARSERS)}")
        values[name] = _PARSERS[name](name, value if given else None)
    return values


def merge(written: Mapping[str, Any], keywords: Mapping[str, Any]) -> Options:
    """Options of the source's text and those given beside it; they must not contradict each other."""
    beside = Options(**keywords).given()
    for name in beside.keys() & written.keys():
        if beside[name] != written[name]:
            raise Unusable(f"{name} is given twice, as {written[name]} and as {beside[name]}; leave one out")
    return replace(Options(), **written, **{k: v for k, v in beside.items() if k not in written})


def _whole(name: str, value: str | None) -> int:
    try:
        return int(value or "")
    except ValueError:
        raise Unusable(f"the option {name} takes a whole number, as in {name}=32; got {value!r}") from None


def _number(name: str, value: str | None) -> float:
    try:
        return float(value or "")
    except ValueError:
        raise Unusable(f"the option {name} takes a number, as in {name}=0.05; got {value!r}") from None


def _flag(name: str, value: str | None) -> bool:
    if value not in (None, "true", "false"):
        raise Unusable(f"the option {name} is true or false, got {value!r}; write just {name}")
    return value != "false"


def _word(name: str, value: str | None) -> str:
    if not value:
        raise Unusable(f"the option {name} takes a value; write {name}=VALUE")
    return value


def _words(name: str, value: str | None) -> tuple[str, ...]:
    return tuple(_word(name, value).split("+"))


_PARSERS: dict[str, Callable[[str, str | None], Any]] = {
    "size": _whole,
    "levels": _whole,
    "palette": _whole,
    "stack": _whole,
    "binary": _flag,
    "skip_unreadable": _flag,
    "length": _whole,
    "encoding": _word,
    "vocabulary": _whole,
    "records": _flag,
    "drop": _words,
    "limit": _whole,
    "mapped": _flag,
    "column": _word,
    "config": _word,
    "revision": _word,
    "modes": _whole,
    "sd": _number,
    "n": _whole,
}
