"""A text larger than memory: encoded once, piece by piece, into mapped files of the cache; and a user's own tokens.

The tokens, the alphabet and the splits are those of the text read whole.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pofx.data import maps
from pofx.data.dataset import Data
from pofx.data.maps import CURE, PIECE, MappedWindows, blocks, keep, kept, key_of
from pofx.data.request import Request
from pofx.data.text import Coder, as_windows, learn_coder, spans_of
from pofx.errors import Unusable
from pofx.files import cache_folder, write_json
from pofx.progress import bar, say

VERSION = 1  # of how a text is encoded
_WORD_END = re.compile(r"\S(?=[ \n])")

Spans = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class _Text:
    """Files as one text, a newline between two, of which any bytes can be read.

    Args:
        paths: of the files.
        size: bytes of them all.
        as_bytes: whether it is read as bytes, not as characters of UTF-8.
        tick: hears how many bytes were read.
    """

    paths: Sequence[Path]
    size: int
    as_bytes: bool
    tick: Callable[[int], None]

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes from start to end, in pieces."""
        at = 0
        for i, path in enumerate(self.paths):
            if i:
                if start <= at < end:
                    yield b"\n"
                at += 1
            size = path.stat().st_size
            if at < end and start < at + size:
                yield from self._blocks(path, max(0, start - at), min(size, end - at))
            at += size

    def _blocks(self, path: Path, start: int, end: int) -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            while start < end and (block := file.read(min(PIECE, end - start))):
                yield block
                start += len(block)
                self.tick(len(block))

    def pieces(self, span: tuple[int, int]) -> Iterator[str | bytes]:
        """The text between two bytes."""
        if self.as_bytes:
            return self.blocks(*span)
        return (piece for _, piece in self.decoded(span))

    def decoded(self, span: tuple[int, int]) -> Iterator[tuple[int, str]]:
        """Characters, each piece with the byte where it begins."""
        decoder, at = codecs.getincrementaldecoder("utf-8")(), span[0]
        for block in self.blocks(*span):
            pending = len(decoder.getstate()[0])
            yield at - pending, self._decode(decoder, block, at - pending)
            at += len(block)
        self._decode(decoder, b"", at - len(decoder.getstate()[0]), final=True)

    def _decode(self, decoder: codecs.IncrementalDecoder, block: bytes, at: int, *, final: bool = False) -> str:
        try:
            return decoder.decode(block, final)
        except UnicodeDecodeError as error:
            raise Unusable(
                f"{self.paths[0]} is not UTF-8 text (byte {at + error.start:,} of the whole); convert it, "
                "or use the option encoding=bytes"
            ) from None

    @property
    def begins(self) -> int:
        """Where the text begins: after a mark of UTF-8, if it has one."""
        mark = codecs.BOM_UTF8
        return 0 if self.as_bytes or b"".join(self.blocks(0, len(mark))) != mark else len(mark)


def read_stream(paths: Sequence[Path], size: int, request: Request) -> Data:
    """Files as one text of ``size`` bytes, through maps of the cache."""
    coder, streams, spans, digest = _from_cache(paths, size, request) or _encoded(paths, size, request)
    return as_windows(streams, partial(_windows, digest=digest), coder, spans, request)


def _windows(tokens: np.ndarray, length: int, *, digest: str) -> MappedWindows:
    return MappedWindows(tokens, length, digest)


Encoded = tuple[Coder, dict[str, np.ndarray], Spans, str]


def _folder(paths: Sequence[Path], request: Request) -> Path:
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    options = request.options
    return cache_folder() / "texts" / key_of(VERSION, files, options.encoding, options.vocabulary)


def _from_cache(paths: Sequence[Path], size: int, request: Request) -> Encoded | None:
    """What an earlier reading left, if it is whole."""
    folder = _folder(paths, request)
    path = folder / "text.json"
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        spans = spans_of(told["symbols"], request)
        layouts = {name: [(told["dtype"], (count,))] for name, count in told["counts"].items()}
        alphabet, tokenizer = tuple(told["alphabet"]), told["tokenizer"]
        coder = Coder(told["vocabulary"], _no_more, request.options.encoding, alphabet, tokenizer)
        problems, digest = list(map(str, told["problems"])), str(told["digest"])
    except Unusable:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        say(f"{path} is damaged; it is made again")
        return None
    found = {name: kept(folder / f"{name}.bin", layout, check=size < maps.CHECKED) for name, layout in layouts.items()}
    streams = {name: arrays[0] for name, arrays in found.items() if arrays}
    if streams.keys() != spans.keys():
        return None
    request.findings.problems.extend(problems)
    return coder, streams, spans, digest


def _no_more(span: str | bytes) -> Any:
    raise AssertionError("the text is encoded")


def _encoded(paths: Sequence[Path], size: int, request: Request) -> Encoded:
    """Encodes the text into the cache: its splits, then what is told of them, which makes it whole."""
    before = len(request.findings.problems)
    as_bytes = request.options.encoding == "bytes"
    with bar(f"encoding {request.place}", size * (1 if as_bytes else 3)) as tick:
        text = _Text(paths, size, as_bytes, tick)
        symbols, spans, places = _places(text, request)
        train, *held_out = (text.pieces(span) for span in places.values())
        pieces = _whole_words(train) if request.options.encoding == "bpe" else train
        coder = learn_coder(pieces, (piece for part in held_out for piece in part), request)
        folder, dtype = _folder(paths, request), _smallest(coder.vocabulary)
        digest, counts = hashlib.sha256(), {}
        for name, span in places.items():
            counts[name] = _write(folder / f"{name}.bin", text.pieces(span), coder, dtype, digest, request)
    told = {
        "symbols": symbols, "vocabulary": coder.vocabulary, "dtype": dtype, "counts": counts,
        "digest": digest.hexdigest(), "problems": request.findings.problems[before:],
        "alphabet": list(coder.symbols), "tokenizer": coder.tokenizer,
    }  # fmt: skip
    write_json(folder / "text.json", told, cure=CURE)
    streams = {}
    for name, count in counts.items():
        arrays = kept(folder / f"{name}.bin", [(dtype, (count,))], check=False)
        if arrays is None:
            raise Unusable(f"{folder} was changed while it was written; try again")
        streams[name] = arrays[0]
    return coder, streams, spans, digest.hexdigest()


def _places(text: _Text, request: Request) -> tuple[int, Spans, Spans]:
    """Number of symbols, and each split in symbols and in bytes."""
    begins = text.begins
    if text.as_bytes:
        spans = spans_of(text.size, request)
        return text.size, spans, spans
    marks, symbols = [], 0  # byte and character where each piece begins
    for at, piece in text.decoded((begins, text.size)):
        marks.append((at, symbols))
        symbols += len(piece)
    spans = spans_of(symbols, request)
    byte = {0: begins, symbols: text.size}
    for wanted in (spans["validation"][0], spans["test"][0]):
        at, character = max(mark for mark in marks if mark[1] <= wanted)
        byte[wanted] = at + _bytes_of(text, at, wanted - character)
    return symbols, spans, {name: (byte[start], byte[end]) for name, (start, end) in spans.items()}


def _bytes_of(text: _Text, at: int, characters: int) -> int:
    """Bytes of so many characters from a byte on."""
    size = 0
    for _, piece in text.decoded((at, text.size)) if characters else ():
        size += len(piece[:characters].encode())
        characters -= len(piece[:characters])
        if not characters:
            break
    return size


def _whole_words(pieces: Iterable[str | bytes]) -> Iterator[str]:
    """The same text, cut only where a word ends before a space or a newline, where byte-pair encoding cuts as well."""
    rest = ""
    for piece in pieces:
        rest += str(piece)
        ends = [match.end() for match in _WORD_END.finditer(rest)]
        if ends:
            yield rest[: ends[-1]]
            rest = rest[ends[-1] :]
    yield rest


def _write(
    path: Path, pieces: Iterable[str | bytes], coder: Coder, dtype: str, digest: "hashlib._Hash", request: Request
) -> int:
    """Encodes a split into a file; gives the number of its tokens."""
    count = 0

    def encoded() -> Iterator[np.ndarray]:
        nonlocal count
        for piece in _whole_words(pieces) if request.options.encoding == "bpe" else pieces:
            tokens = coder.encode(piece).numpy().astype(dtype)
            count += len(tokens)
            digest.update(tokens.tobytes())
            yield tokens

    keep(path, encoded())
    digest.update(f"/{count}".encode())
    return count


def _smallest(vocabulary: int) -> str:
    """The smallest unsigned dtype that holds the symbols."""
    return next(name for name in ("<u1", "<u2", "<u4") if vocabulary <= 256 ** int(name[2:]))


def read_tokens(tokens: np.ndarray, request: Request) -> Data:
    """A user's own tokens (L,), mapped as they are: the last tenth is test, the tenth before it validation."""
    if tokens.ndim != 1 or tokens.dtype.kind not in "ui":
        raise Unusable(
            f"{request.place} must hold integers (L,) to be read as tokens, got {tokens.dtype} {tokens.shape}; "
            "leave --length out"
        )
    spans = spans_of(len(tokens), request)
    digest, low, high = hashlib.sha256(tokens.dtype.str.encode()), 0, 0
    for block in blocks(tokens):
        low, high = min(low, int(block.min())), max(high, int(block.max()))
        digest.update(block.tobytes())
    if low < 0:
        raise Unusable(f"{request.place}: tokens are 0 or more, got {low}; shift them")
    streams = {name: tokens[start:end] for name, (start, end) in spans.items()}
    coder = Coder(high + 1, _no_more, "none")
    return as_windows(streams, partial(_windows, digest=digest.hexdigest()), coder, spans, request)
