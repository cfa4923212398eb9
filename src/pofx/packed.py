"""What ``pofx compress`` writes: the code of a text or of rows, and what it takes to decode it and know it was right.

==========  ===========================================================================================================
magic       ``pofx`` and the format, a byte
kind        a byte: 1 for a text, kept byte for byte, else rows; and 2 where classes are coded before the rows
run         8 bytes: digest of the weights and of what the model is
content     8 bytes: digest of what was coded, so that a wrong decoding is never taken for a right one
rows        8 bytes: how many; and ``last``, 4 bytes: how many values of the last one count
batch       4 bytes: rows that are walked together; and ``threads``, 2 bytes: that torch computes with
machine     a byte for the length of the words that say what computed the probabilities, and these words
code        the bits of ``coding.encode``
checksum    4 bytes: CRC-32 of all before
==========  ===========================================================================================================
"""

import hashlib
import json
import platform
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from pofx.coding import Message, batch_rows, decode, encode
from pofx.conditions import Classes, Condition, expand
from pofx.domains import Domain, Tokens
from pofx.errors import Unusable, in_brief
from pofx.rendering import decoder, tokens_of
from pofx.train.plan import use_threads

MAGIC, FORMAT = b"pofx", 1
TEXT, CLASSES = 1, 2  # bits of the kind
MOST_THREADS = 1024
_FIXED = struct.Struct("<4sBB8s8sQIIHB")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class Content:
    """What a file holds: a message, and whether it spells a text."""

    message: Message
    text: bool


@dataclass(frozen=True)
class Header:
    """What stands before the code; see the layout above."""

    kind: int
    run: bytes
    content: bytes
    rows: int
    last: int
    batch: int
    threads: int
    machine: str

    @property
    def text(self) -> bool:
        """Whether it is a text, kept byte for byte."""
        return bool(self.kind & TEXT)

    def to_bytes(self) -> bytes:
        """As it is written."""
        words = self.machine.encode()[:255]
        numbers = (self.kind, self.run, self.content, self.rows, self.last, self.batch, self.threads, len(words))
        return _FIXED.pack(MAGIC, FORMAT, *numbers) + words


def opened(data: bytes, *, named: str = "the code") -> tuple[Header, bytes]:
    """Header and code of a file.

    Raises:
        Unusable: it is none of ours, of another format, or not whole.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise Unusable(f"{named} was not written by 'pofx compress' (it begins with {data[:4]!r}); give one that was")
    written = data[len(MAGIC)] if len(data) > len(MAGIC) else None
    if written != FORMAT:
        raise Unusable(f"{named} is of format {written}, this pofx reads {FORMAT}; use the version that wrote it")
    body, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    if len(data) < _FIXED.size + _CHECKSUM.size or _CHECKSUM.pack(zlib.crc32(body)) != checksum:
        raise Unusable(f"{named} is not whole ({len(data):,} bytes, and another checksum); copy or compress it again")
    _, _, kind, run, content, rows, last, batch, threads, words = _FIXED.unpack_from(body)
    start = _FIXED.size + words
    machine = body[_FIXED.size : start].decode(errors="replace")
    header = Header(kind, run, content, rows, last, batch, threads, machine)
    if not (0 < header.batch and 0 < header.threads <= MOST_THREADS):
        raise Unusable(f"{named} has no usable header ({header}); compress it again")
    return header, body[start:]


def pack(model: Any, content: Content, *, run: bytes, threads: int) -> bytes:
    """A whole file.

    Args:
        model: it ``Chains``; in eval mode.
        content: of ``content_of``.
        run: what ``identity`` says of the model.
        threads: that torch computes with.
    """
    message = content.message
    kind = TEXT * content.text + CLASSES * (message.classes is not None)
    batch = batch_rows(model.domain.dims)
    header = Header(kind, run, _digest(message), len(message.x), message.last, batch, threads, _machine(model))
    with use_threads(threads):
        body = header.to_bytes() + encode(model, message, batch=batch)
    return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack(model: Any, data: bytes, *, run: bytes, named: str = "the code") -> Content:
    """The inverse of ``pack``.

    Raises:
        Unusable: the file is spoilt, of another run, or its probabilities come out otherwise on this machine.
    """
    header, code = opened(data, named=named)
    if header.run != run:
        raise Unusable(
            f"{named} was compressed by the weights {header.run.hex()}, the run has {run.hex()}; "
            "give the run that compressed it, not trained further since"
        )
    theirs, ours = header.machine, _machine(model)
    device = theirs.partition(" ")[0]
    if device != ours.partition(" ")[0]:
        raise Unusable(f"{named} was compressed on {theirs}, this is {ours}; use --device {device}")
    with use_threads(header.threads):
        try:
            message = decode(
                model, code, header.rows, last=header.last, classes=bool(header.kind & CLASSES), batch=header.batch
            )
            failed = "" if _digest(message) == header.content else "the content has another checksum"
        except Unusable:
            raise
        except Exception as error:  # of many kinds: what is read from the wrong place in the code has no law
            failed = in_brief(error)
    if failed:
        raise Unusable(
            f"{named} does not decode to what was compressed ({failed}): it was written with {theirs}, this is {ours}; "
            "decompress on a machine like that one"
        )
    return Content(message, header.text)


def content_of(x: Tensor | bytes, c: Tensor | None, domain: Domain, condition: Condition | None) -> Content:
    """A text's bytes, or canonical rows, with the classes where the model is given them.

    Raises:
        Unusable: a text is not of the model's symbols, or the condition not of its classes.
    """
    text = isinstance(x, bytes)
    message = _text_message(x, domain) if isinstance(x, bytes) else Message(domain.check(x), None, domain.dims)
    if condition is not None and not isinstance(condition, Classes):
        raise Unusable(
            f"only classes are stored, and the model is given a {condition.kind}; fit it without, or by class"
        )
    if condition is not None and c is None:
        raise Unusable("the model is given classes, and here are none; give the class of each observation")
    return Content(replace(message, classes=expand(condition, c, len(message.x))), text)


def _text_message(data: bytes, domain: Domain) -> Message:
    """A text as windows, the last one partly used; where records end, a line per record, a long one in several rows."""
    if not isinstance(domain, Tokens) or domain.encoding == "none":
        raise Unusable(f"the model was fitted on {domain.kind} that are no text; give a source of its own kind")
    length = domain.length
    if domain.end is None:
        s = _symbols(data, domain)
        rows, last = -(-len(s) // length), (len(s) - 1) % length + 1 if len(s) else length
        x = torch.zeros(rows * length, dtype=torch.int64)
        x[: len(s)] = s
        message = Message(x.view(rows, length), None, last)
    else:
        parts = [part for line in data.split(b"\n") for part in _pieces(_symbols(line, domain), length, domain.end)]
        message = Message(torch.stack(parts), None, length)
    if text_of_message(message, domain) != data:
        raise Unusable("the model's symbols do not give this text back byte for byte; fit with encoding=bytes")
    return message


def text_of_message(message: Message, domain: Tokens) -> bytes:
    """The bytes of a text."""
    x, last = message.x, message.last
    spelt = _spelling(domain)
    if domain.end is None:
        return spelt(x.flatten()[: x.numel() - (domain.length - last if len(x) else 0)].tolist())
    records: list[list[int]] = [[]]
    for row in x.tolist():
        whole = domain.end in row
        records[-1] += row[: row.index(domain.end)] if whole else row
        if whole:
            records.append([])
    return b"\n".join(spelt(record) for record in records[:-1])


def identity(weights: Mapping[str, Tensor], config: Any) -> bytes:
    """8 bytes that two models share only if they give the same probabilities: of weights and plain values."""
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=8)
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_raw(tensor))
    return digest.digest()


def _digest(message: Message) -> bytes:
    digest = hashlib.blake2b(f"{message.last} {tuple(message.x.shape)}".encode(), digest_size=8)
    for tensor in (message.x, message.classes):
        if tensor is not None:
            digest.update(_raw(tensor))
    return digest.digest()


def _raw(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _machine(model: Any) -> str:
    """What computes the probabilities, the kind of device first."""
    device = next((tensor.device.type for tensor in model.state_dict().values()), "cpu")
    try:
        library = version("constriction")
    except PackageNotFoundError:
        library = "none"
    kind = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{device} {kind} {platform.machine()} torch {torch.__version__} constriction {library}"


def _symbols(data: bytes, domain: Tokens) -> Tensor:
    if domain.encoding == "bytes":
        return torch.tensor(list(data), dtype=torch.int64)
    try:
        return tokens_of(data.decode(), domain)
    except UnicodeDecodeError as error:
        raise Unusable(
            f"the text is not UTF-8 (byte {error.start:,}); convert it, or fit a run with encoding=bytes"
        ) from None


def _spelling(domain: Tokens) -> Any:
    if domain.encoding == "bytes":
        return bytes
    as_text = decoder(domain)
    return lambda symbols: as_text(symbols).encode()


def _pieces(symbols: Tensor, length: int, end: int) -> list[Tensor]:
    """A record as rows: one without an end goes on in the next."""
    rows = torch.full((len(symbols) // length + 1, length), end)
    rows.view(-1)[: len(symbols)] = symbols
    return list(rows)
