"""The table of sources, and the two ways into it: ``load`` for a fit, ``inspect`` for a look."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from pofx.data.dataset import Data
from pofx.data.request import Findings, Request, merge, parse
from pofx.domains import Domain, Images
from pofx.errors import Unusable, nearest

_PICTURES = ("size", "levels", "palette", "binary", "limit")
_DIGITS = (*_PICTURES, "stack")
_TEXT = ("length", "encoding", "vocabulary", "records", "limit", "mapped")
_TABLE = ("drop", "limit")
_MODES = ("modes", "sd", "n", "limit")
FORCE, STREAM = "name:", "hf:"


@dataclass(frozen=True)
class _Source:
    """One line of the table: what it is, "module:function" that reads it, and the options it takes."""

    summary: str
    reader: str
    options: tuple[str, ...]

    def read(self, request: Request) -> Data:
        """Reads, splits and checks it."""
        module, _, name = self.reader.partition(":")
        read: Callable[[Request], Data] = getattr(import_module(f"pofx.data.{module}"), name)
        return read(request)


_NAMED: dict[str, _Source] = {
    "digits": _Source("1,797 handwritten digits, 8x8, 17 levels; no download", "named:read_digits", _DIGITS),
    "mnist": _Source("70,000 handwritten digits, 28x28, 256 levels", "named:read_mnist", _DIGITS),
    "fashion-mnist": _Source("70,000 garments, 28x28, 256 levels", "named:read_fashion_mnist", _PICTURES),
    "binarized-mnist": _Source("MNIST, fixed binarisation, 28x28", "named:read_binarized_mnist", ("limit",)),
    "tinyshakespeare": _Source("1.1 million characters of plays", "named:read_tinyshakespeare", _TEXT),
    "shapes": _Source("12,000 drawn shapes with a caption each, RGB", "shapes:read_shapes", _PICTURES),
    "ring8": _Source("eight normals on a ring; density known", "toys:read_toy", ("limit",)),
    "grid25": _Source("5 x 5 normals; density known", "toys:read_toy", ("limit",)),
    "ring": _Source("8 narrow normals on a ring; density known", "toys:read_mixture", _MODES),
    "grid": _Source("5 x 5 narrow normals; density known", "toys:read_mixture", _MODES),
    "moons": _Source("two half circles with noise; density known", "toys:read_toy", ("limit",)),
    "spirals": _Source("two arms of a spiral with noise; density known", "toys:read_toy", ("limit",)),
    "checkerboard": _Source("uniform on eight squares; density known", "toys:read_toy", ("limit",)),
    "pinwheel": _Source("five curved blades; density known", "toys:read_toy", ("limit",)),
    "gaussian2d": _Source("one correlated normal; density known", "toys:read_toy", ("limit",)),
}

_PICTURE_FOLDER = _Source("a folder of pictures", "pictures:read_folder", (*_PICTURES, "skip_unreadable", "mapped"))
_TEXT_FOLDER = _Source("a folder of texts", "text:read_text_folder", _TEXT)
_TEXT_FILE = _Source("a text", "text:read_text", _TEXT)
_SHARDS = _Source("tar shards of pictures", "shards:read_shards", ("size", "levels", "palette", "limit"))
_STREAMED = _Source(
    "a streamed set",
    "hub:read_hub",
    ("size", "levels", "palette", "length", "encoding", "vocabulary", "drop", "column", "config", "revision"),
)
_BY_SUFFIX: dict[str, _Source] = {
    ".npy": _Source("an array", "arrays:read_arrays", (*_PICTURES, "length")),
    ".npz": _Source("arrays", "arrays:read_arrays", _PICTURES),
    ".csv": _Source("a table", "tables:read_csv", _TABLE),
    ".tsv": _Source("a table", "tables:read_csv", _TABLE),
    ".tar": _SHARDS,
    ".parquet": _Source("a table", "tables:read_parquet", _TABLE),
}


@dataclass(frozen=True)
class Report:
    """A look at a source.

    Args:
        source: as it is written.
        domain: what one observation is; None if nothing could be read.
        counts: observations of each split.
        classes: training observations of each class, where there are classes.
        levels: of pictures.
        problems: one line each.
        fatal: nothing can be learnt from it.
        data: what was read, mended where a fit would have stopped; None if fatal.
    """

    source: str
    domain: Domain | None = None
    counts: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    levels: int | None = None
    problems: list[str] = field(default_factory=list)
    fatal: bool = False
    data: Data | None = None


def sources() -> dict[str, str]:
    """Every named set with one line about it."""
    return {name: source.summary for name, source in _NAMED.items()}


def load(
    source: str,
    *,
    seed: int = 0,
    condition: str = "none",
    size: int | None = None,
    skip_unreadable: bool = False,
    length: int | None = None,
    encoding: str = "characters",
    vocabulary: int | None = None,
    limit: int | None = None,
) -> Data:
    """A source as three splits of canonical tensors on the CPU.

    >>> data = load("digits", condition="class")
    >>> len(data.train), data.domain.shape, data.condition.count
    (1437, (1, 8, 8), 10)

    Args:
        source: ``NAME-or-PATH[:option[,option=value]...]``, e.g. ``mnist:binary`` or ``photos/:size=32``; an existing
            path wins over a named set, and ``name:NAME`` forces the named one. ``hf:NAME`` streams a set of the Hugging
            Face hub, ``hf:PATH`` a folder, file or pattern that the library ``datasets`` reads.
        seed: of the split, where the source has none, and of what is drawn.
        condition: "none", "class", "text", or a column of a table.
        size: pixels a side, after a crop to the centre square.
        skip_unreadable: leave unreadable pictures out.
        length: tokens per observation.
        encoding: of texts: "characters", "bytes" or "bpe".
        vocabulary: symbols of "bpe".
        limit: keep only this many training observations, the first after the split.

    Raises:
        Unusable: there is no such source, it does not take an option, or it needs mending before a fit.
    """
    keywords = {
        "size": size, "skip_unreadable": skip_unreadable, "length": length, "encoding": encoding,
        "vocabulary": vocabulary, "limit": limit,
    }  # fmt: skip
    kind, request = _resolve(source, keywords, seed, condition, Findings())
    with _plainly(source):
        return kind.read(request)


def inspect(source: str, *, seed: int = 0, condition: str = "none", **options: Any) -> Report:
    """A look at a source that finds every problem at once, where ``load`` stops at the first. Takes its arguments.

    Raises:
        Unusable: there is no such source, or it does not take an option.
    """
    findings = Findings(lenient=True)
    kind, request = _resolve(source, options, seed, condition, findings)
    try:
        with _plainly(source):
            data = kind.read(request)
    except Unusable as error:
        return Report(request.source, problems=[*findings.problems, str(error)], fatal=True)
    return Report(
        request.source,
        data.domain,
        counts={name: data.part(name).observations for name in ("train", "validation", "test")},
        classes=findings.classes,
        levels=data.domain.levels if isinstance(data.domain, Images) else None,
        problems=list(data.problems),
        data=data,
    )


@contextmanager
def _plainly(source: str) -> Iterator[None]:
    """What the machine refuses, in one line."""
    try:
        yield
    except OSError as error:
        raise Unusable(f"{source} cannot be read ({error.strerror or error}); check path and permissions") from None
    except MemoryError:
        raise Unusable(f"{source} does not fit in memory; take fewer observations or a smaller --size") from None


def _resolve(
    source: str, keywords: dict[str, Any], seed: int, condition: str, findings: Findings
) -> tuple[_Source, Request]:
    """Which line of the table a source is, and its options from the text and from beside it."""
    with _plainly(source):
        kind, place, written = _find(source)
    options = merge(parse(written), keywords)
    for name in options.given():
        if name not in kind.options:
            raise Unusable(
                f"{place} is {kind.summary} and takes no {name.replace('_', '-')}; it takes {', '.join(kind.options)}"
            )
    base = source.removesuffix(written).removesuffix(":")
    canonical = f"{base}:{options.written()}" if options.given() else base
    return kind, Request(canonical, place, options, seed, condition, findings)


def _find(source: str) -> tuple[_Source, str, str]:
    """The source, its name or path, and the text of its options."""
    if source.startswith(FORCE):
        name, _, written = source.removeprefix(FORCE).partition(":")
        if name not in _NAMED:
            raise Unusable(f"there is no named set {name!r}{nearest(name, _NAMED)}")
        return _NAMED[name], name, written
    if source.startswith(STREAM):
        place, _, written = source.removeprefix(STREAM).partition(":")
        return _STREAMED, place, written
    for end in (len(source), *(i for i in range(len(source) - 1, 0, -1) if source[i] == ":")):
        if source[:end] and Path(source[:end]).expanduser().exists():
            return _of_path(Path(source[:end]).expanduser()), source[:end], source[end + 1 :]
    name, _, written = source.partition(":")
    if name in _NAMED:
        return _NAMED[name], name, written
    if "/" in name or Path(name).suffix:
        raise Unusable(f"there is no file or folder {name!r}; check the path")
    raise Unusable(f"there is no named set and no path {name!r}{nearest(name, _NAMED)}")


def _of_path(path: Path) -> _Source:
    """What a file or folder holds, by suffix; any other file that is plain text is a text."""
    from pofx.data import pictures, shards, text

    if path.is_dir():
        if next((p for p in path.rglob("*") if p.suffix.lower() in pictures.SUFFIXES), None):
            return _PICTURE_FOLDER
        if text.text_files(path):
            return _TEXT_FOLDER
        if shards.shard_files(path):
            return _SHARDS
        raise Unusable(
            f"the folder {path} holds no pictures, shards or .txt files; give one that does, or a table or array"
        )
    suffix = path.suffix.lower()
    if suffix in pictures.SUFFIXES:
        raise Unusable(f"{path} is one picture; give the folder that holds many")
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix in text.SUFFIXES or _looks_like_text(path):
        return _TEXT_FILE
    kinds = ", ".join((*_BY_SUFFIX, *sorted(text.SUFFIXES)))
    raise Unusable(f"{path} is of a kind that is not read here; it takes folders of pictures and {kinds}")


def _looks_like_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(4096)
