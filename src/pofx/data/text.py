"""Texts: one long stream read through windows, or a record per line. The alphabet is learnt from the training part."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pofx.data.dataset import Data, Part, Windows
from pofx.data.maps import goes_on_disk, partly_read
from pofx.data.request import Request
from pofx.data.rows import SPLITS, Observations, seeded_split, split_rows
from pofx.domains import Tokens
from pofx.errors import Unusable

SUFFIXES = frozenset({".txt", ".text", ".md"})
LENGTH, LONGEST_RECORD, VOCABULARY = 64, 256, 1024
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
CODE_POINTS = 0x110000  # of Unicode
FEWEST_WINDOWS = 10  # of the whole text: one for each held-out tenth


Stream = TypeVar("Stream", Tensor, np.ndarray)


@dataclass(frozen=True)
class Coder:
    """How text becomes symbols 0 .. vocabulary-1."""

    vocabulary: int
    encode: Callable[[str | bytes], Tensor]
    encoding: str
    symbols: tuple[str, ...] = ()
    tokenizer: str = ""

    def domain(self, length: int, *, end: bool) -> Tokens:
        """Of windows, or of records that a symbol more ends."""
        symbols = (*self.symbols, "") if end and self.symbols else self.symbols
        last = self.vocabulary if end else None
        return Tokens(self.vocabulary + end, length, last, self.encoding, symbols, self.tokenizer)


def read_text(request: Request) -> Data:
    """One text file."""
    return read_texts([request.path], request)


def text_files(folder: Path) -> list[Path]:
    """Every text file below a folder, in the order of its path."""
    found = (Path(here) / name for here, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def read_text_folder(request: Request) -> Data:
    """The text files of a folder, in the order of their paths, as one text."""
    return read_texts(text_files(request.path), request)


def read_texts(paths: Sequence[Path], request: Request) -> Data:
    """Files as one text, a newline between two; through a map where it does not fit in memory."""
    size = sum(path.stat().st_size for path in paths) + len(paths) - 1
    if request.options.records:
        if request.options.mapped:
            raise Unusable(f"{request.source}: records are held in memory; leave 'mapped' or 'records' out")
    elif goes_on_disk(request, 8 * size):
        from pofx.data.streams import read_stream

        return read_stream(paths, size, request)
    return split_text(b"\n".join(path.read_bytes() for path in paths), request)


def split_text(content: bytes, request: Request) -> Data:
    """A text as data: the last tenth is the test, the tenth before it validation, the rest training."""
    text = content if request.options.encoding == "bytes" else _decoded(content, request)
    return _split_records(text, request) if request.options.records else _split_stream(text, request)


def _decoded(content: bytes, request: Request) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(
            f"{request.place} is not UTF-8 text (byte {error.start:,}); convert it, or use the option encoding=bytes"
        ) from None


def _split_stream(text: str | bytes, request: Request) -> Data:
    spans = spans_of(len(text), request)
    texts = {name: text[start:end] for name, (start, end) in spans.items()}
    coder = learn_coder([texts["train"]], [texts["validation"], texts["test"]], request)
    streams = {name: coder.encode(part) for name, part in texts.items()}
    return as_windows(streams, Windows, coder, spans, request)


def spans_of(symbols: int, request: Request) -> dict[str, tuple[int, int]]:
    """Where each split of a stream of so many symbols starts and ends.

    Raises:
        Unusable: it is too short, or a condition is asked for.
    """
    if request.condition != "none":
        raise Unusable(f"a text has no condition {request.condition!r}; leave --condition out")
    length = request.options.length or LENGTH
    if symbols < FEWEST_WINDOWS * length:
        raise Unusable(
            f"{request.source}: a text needs at least {FEWEST_WINDOWS} windows of {length} symbols "
            f"({FEWEST_WINDOWS * length}), got {symbols}; give more text or a smaller --length"
        )
    first_test = symbols * 9 // 10
    ends = (2 * first_test - symbols, first_test, symbols)
    return dict(zip(SPLITS, zip((0, *ends), ends)))


def as_windows(
    streams: dict[str, Stream],
    windows: Callable[[Stream, int], Part],
    coder: Coder,
    spans: dict[str, tuple[int, int]],
    request: Request,
) -> Data:
    """Data from the encoded splits; ``windows`` makes a part of one of them."""
    options = request.options
    length = options.length or LENGTH
    shortest = min(map(len, streams.values()))
    if shortest < length:
        raise Unusable(
            f"{request.source}: a held-out tenth has {shortest} symbols, fewer than a window of {length}; "
            "give more text, a smaller --length or a smaller vocabulary"
        )
    if options.limit is not None:
        streams["train"] = streams["train"][: options.limit + length - 1]
    parts = {name: windows(stream, length) for name, stream in streams.items()}
    request.findings.problems.extend(partly_read(parts))
    return Data(
        request.source,
        coder.domain(length, end=False),
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        problems=tuple(request.findings.problems),
        split="contiguous: the last tenth is test, the tenth before it validation",
        indices={name: torch.tensor(span) for name, span in spans.items()},
    )


def _split_records(text: str | bytes, request: Request) -> Data:
    options = request.options
    records = [line for line in text.splitlines() if line]
    index = seeded_split(len(records), request.seed)
    texts = {name: _joined([records[i] for i in rows.tolist()]) for name, rows in index.items()}
    coder = learn_coder([texts["train"]], [texts["validation"], texts["test"]], request)
    rows = [coder.encode(record) for record in records]
    length = min(1 + max(map(len, rows), default=0), options.length or LONGEST_RECORD)
    cut = sum(len(row) > length for row in rows)
    if cut:
        request.findings.note(f"{cut:,} of {len(rows):,} records are longer than {length} symbols and were cut")
    domain = coder.domain(length, end=True)
    x = torch.full((len(rows), length), coder.vocabulary)
    for place, row in zip(x, rows):
        place[: len(row)] = row[:length]
    return split_rows(Observations(domain, x, official=index, described="seeded 80/10/10 of the lines"), request)


def _joined(parts: Sequence[str | bytes]) -> str | bytes:
    as_bytes = [part for part in parts if isinstance(part, bytes)]
    return b"".join(as_bytes) if as_bytes else "".join(map(str, parts))


def learn_coder(train: Iterable[str | bytes], held_out: Iterable[str | bytes], request: Request) -> Coder:
    """The alphabet of the training part, in pieces; an unknown symbol only where a held-out part needs one."""
    options = request.options
    if options.encoding == "bytes":
        return Coder(256, _encode_bytes, "bytes")
    if options.encoding == "bpe":
        return _learn_bpe(map(str, train), options.vocabulary or VOCABULARY)
    known, count, unseen = np.zeros(CODE_POINTS, dtype=bool), 0, np.zeros(CODE_POINTS, dtype=bool)
    for piece in train:
        known[_code_points(str(piece))] = True
    for piece in held_out:
        codes = _code_points(str(piece))
        others = codes[~known[codes]]
        count += len(others)
        unseen[others] = True
    symbols = tuple(map(chr, np.flatnonzero(known).tolist()))
    if count:
        shown = "".join(map(chr, np.flatnonzero(unseen)[:20].tolist()))
        request.findings.note(
            f"{count:,} held-out characters never stand in training ({shown!r}); they count as one unknown symbol"
        )
        if UNKNOWN not in symbols:
            symbols += (UNKNOWN,)
    return Coder(len(symbols), partial(_encode_characters, _places(symbols)), "characters", symbols)


def _places(symbols: tuple[str, ...]) -> np.ndarray:
    """The symbol of every code point."""
    places = np.full(CODE_POINTS, symbols.index(UNKNOWN) if UNKNOWN in symbols else 0, dtype=np.int32)
    places[_code_points("".join(symbols))] = np.arange(len(symbols))
    return places


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _encode_bytes(span: str | bytes) -> Tensor:
    content = span if isinstance(span, bytes) else span.encode()
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).astype(np.int64))


def _encode_characters(places: np.ndarray, span: str | bytes) -> Tensor:
    return torch.from_numpy(places[_code_points(str(span))].astype(np.int64))


def _learn_bpe(train: Iterable[str], vocabulary: int) -> Coder:
    """Byte-pair encoding over bytes, so that nothing is ever unknown."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise Unusable("encoding=bpe needs the tokenizers library; pip install 'pofx[text]'") from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bytes_first = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=bytes_first, show_progress=False)
    tokenizer.train_from_iterator(train, trainer)
    return Coder(
        tokenizer.get_vocab_size(),
        lambda span: torch.tensor(tokenizer.encode(str(span)).ids, dtype=torch.int64),
        "bpe",
        tokenizer=tokenizer.to_str(),
    )
