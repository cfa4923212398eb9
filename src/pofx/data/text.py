"""Texts: one long stream read through windows, or a record per line. The alphabet is learnt from the training part."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pofx.data.dataset import Data, Windows
from pofx.data.request import Request
from pofx.data.rows import SPLITS, Observations, seeded_split, split_rows
from pofx.domains import Tokens
from pofx.errors import Unusable

SUFFIXES = frozenset({".txt", ".text", ".md"})
LENGTH, LONGEST_RECORD, VOCABULARY = 64, 256, 1024
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
FEWEST_WINDOWS = 10  # of the whole text: one for each held-out tenth


@dataclass(frozen=True)
class _Coder:
    """How text becomes symbols 0 .. vocabulary-1."""

    vocabulary: int
    encode: Callable[[str | bytes], Tensor]
    symbols: tuple[str, ...] = ()
    tokenizer: str = ""

    def domain(self, length: int, encoding: str, *, end: bool) -> Tokens:
        """Of windows, or of records that a symbol more ends."""
        symbols = (*self.symbols, "") if end and self.symbols else self.symbols
        last = self.vocabulary if end else None
        return Tokens(self.vocabulary + end, length, last, encoding, symbols, self.tokenizer)


def read_text(request: Request) -> Data:
    """One text file."""
    return split_text(request.path.read_bytes(), request)


def text_files(folder: Path) -> list[Path]:
    """Every text file below a folder, in the order of its path."""
    found = (Path(here) / name for here, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def read_text_folder(request: Request) -> Data:
    """The text files of a folder, in the order of their paths, as one text."""
    return split_text(b"\n".join(path.read_bytes() for path in text_files(request.path)), request)


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
    options, findings = request.options, request.findings
    if request.condition != "none":
        raise Unusable(f"a text has no condition {request.condition!r}; leave --condition out")
    length = options.length or LENGTH
    if len(text) < FEWEST_WINDOWS * length:
        raise Unusable(
            f"{request.source}: a text needs at least {FEWEST_WINDOWS} windows of {length} symbols "
            f"({FEWEST_WINDOWS * length}), got {len(text)}; give more text or a smaller --length"
        )
    first_test = len(text) * 9 // 10
    ends = (2 * first_test - len(text), first_test, len(text))
    spans = dict(zip(SPLITS, zip((0, *ends), ends)))
    texts = {name: text[start:end] for name, (start, end) in spans.items()}
    coder = _learn_coder(texts["train"], (texts["validation"], texts["test"]), request)
    streams = {name: coder.encode(part) for name, part in texts.items()}
    shortest = min(map(len, streams.values()))
    if shortest < length:
        raise Unusable(
            f"{request.source}: a held-out tenth has {shortest} symbols, fewer than a window of {length}; "
            "give more text, a smaller --length or a smaller vocabulary"
        )
    if options.limit is not None:
        streams["train"] = streams["train"][: options.limit + length - 1]
    windows = {name: Windows(stream, length) for name, stream in streams.items()}
    return Data(
        request.source,
        coder.domain(length, options.encoding, end=False),
        train=windows["train"],
        validation=windows["validation"],
        test=windows["test"],
        problems=tuple(findings.problems),
        split="contiguous: the last tenth is test, the tenth before it validation",
        indices={name: torch.tensor(span) for name, span in spans.items()},
    )


def _split_records(text: str | bytes, request: Request) -> Data:
    options = request.options
    records = [line for line in text.splitlines() if line]
    index = seeded_split(len(records), request.seed)
    texts = {name: _joined([records[i] for i in rows.tolist()]) for name, rows in index.items()}
    coder = _learn_coder(texts["train"], (texts["validation"], texts["test"]), request)
    rows = [coder.encode(record) for record in records]
    length = min(1 + max(map(len, rows), default=0), options.length or LONGEST_RECORD)
    cut = sum(len(row) > length for row in rows)
    if cut:
        request.findings.note(f"{cut:,} of {len(rows):,} records are longer than {length} symbols and were cut")
    domain = coder.domain(length, options.encoding, end=True)
    x = torch.full((len(rows), length), coder.vocabulary)
    for place, row in zip(x, rows):
        place[: len(row)] = row[:length]
    return split_rows(Observations(domain, x, official=index, described="seeded 80/10/10 of the lines"), request)


def _joined(parts: Sequence[str | bytes]) -> str | bytes:
    as_bytes = [part for part in parts if isinstance(part, bytes)]
    return b"".join(as_bytes) if as_bytes else "".join(map(str, parts))


def _learn_coder(train: str | bytes, held_out: Sequence[str | bytes], request: Request) -> _Coder:
    """The alphabet of the training part; an unknown symbol only where a held-out part needs one."""
    if isinstance(train, bytes):
        return _Coder(256, _encode_bytes)
    if request.options.encoding == "bpe":
        return _learn_bpe(train, request.options.vocabulary or VOCABULARY)
    alphabet = np.unique(_code_points(train))
    symbols = tuple(map(chr, alphabet.tolist()))
    others = _code_points(str(_joined(held_out)))
    unseen = others[~np.isin(others, alphabet)]
    if len(unseen):
        shown = "".join(map(chr, np.unique(unseen)[:20].tolist()))
        request.findings.note(
            f"{len(unseen):,} held-out characters never stand in training ({shown!r}); they count as one unknown symbol"
        )
        if UNKNOWN not in symbols:
            symbols += (UNKNOWN,)
    return _Coder(len(symbols), lambda span: _encode_characters(str(span), alphabet, symbols), symbols)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _encode_bytes(span: str | bytes) -> Tensor:
    content = span if isinstance(span, bytes) else span.encode()
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).astype(np.int64))


def _encode_characters(span: str, alphabet: np.ndarray, symbols: tuple[str, ...]) -> Tensor:
    codes = _code_points(span)
    index = np.searchsorted(alphabet, codes).clip(max=max(0, len(alphabet) - 1))
    if UNKNOWN in symbols and len(alphabet):
        index = np.where(alphabet[index] == codes, index, symbols.index(UNKNOWN))
    return torch.from_numpy(index.astype(np.int64))


def _learn_bpe(train: str, vocabulary: int) -> _Coder:
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
    tokenizer.train_from_iterator([train], trainer)
    return _Coder(
        tokenizer.get_vocab_size(),
        lambda span: torch.tensor(tokenizer.encode(str(span)).ids, dtype=torch.int64),
        tokenizer=tokenizer.to_str(),
    )
