"""What general compressors make of the data: their bits stand beside the models' bits.

A code of L bits implies a probability of at least 2^-L, so -L log 2 is a lower bound of a log-probability in nats,
comparable with a model's.
"""

import io
import lzma
import math
import struct

import numpy as np
import torch
from torch import Tensor

from pofx.data.dataset import Data
from pofx.domains import Images, Vectors
from pofx.evaluate.likelihood import shuffled
from pofx.evaluate.score import Score

_PRIMING = 2**22  # bytes of training data before the split


def codec_scores(data: Data, split: str = "test", *, rows: int = 2000, seed: int = 0) -> dict[str, list[Score]]:
    """Figures of "png" (pictures) and "xz" (also tokens), in nats; none for vectors and continuous pictures.

    Pictures are a seeded subset of at most ``rows``; of a text the first ones, which follow each other.
    """
    domain = data.domain
    if isinstance(domain, Vectors) or (isinstance(domain, Images) and domain.levels is None):
        return {}
    if not isinstance(domain, Images):
        return {"xz": _xz(data.part(split).rows()[0][:rows], data, split)}
    x = shuffled(data, split, seed)[0][:rows].cpu()
    return {"png": [_png(x, domain, split)], "xz": _xz(x, data, split)}


def _png(x: Tensor, domain: Images, split: str) -> Score:
    """Each picture on its own; what is counted is the compressed stream, without the file's 57 or more other bytes."""
    bits = torch.tensor([8.0 * _png_bytes(picture, domain) for picture in x], dtype=torch.float64)
    stderr = bits.std().item() * math.log(2) / math.sqrt(len(x)) if len(x) > 1 else None
    return _score(bits.sum().item(), len(x), split, "PNG, each picture on its own, headers not counted", stderr)


def _xz(x: Tensor, data: Data, split: str) -> list[Score]:
    """LZMA2, preset 9 extreme, no container: all rows in one stream, after training rows (not counted) and alone."""
    train = data.train.rows()[0]
    enough = max(1, _PRIMING // max(1, len(_bytes(train[:1], data))))
    before, rows = _bytes(train[:enough], data), _bytes(x, data)
    alone = 8.0 * len(_lzma(rows))
    primed = 8.0 * (len(_lzma(before + rows)) - len(_lzma(before)))
    named = "LZMA2 preset 9e of all rows in one stream"
    return [
        _score(primed, len(x), split, f"{named}, primed with {min(enough, len(train))} training rows"),
        _score(alone, len(x), split, f"{named}, not primed"),
    ]


def _score(bits: float, n: int, split: str, note: str, stderr: float | None = None) -> Score:
    return Score("log p(x)", -bits * math.log(2) / n, "lower bound", "nats", n, stderr, split=split, note=note)


def _bytes(x: Tensor, data: Data) -> bytes:
    """Symbols or levels, in 1, 2 or 4 bytes each."""
    domain = data.domain
    count = domain.levels or 0 if isinstance(domain, Images) else getattr(domain, "vocabulary", 0)
    kind = np.uint8 if count <= 2**8 else np.dtype("<u2") if count <= 2**16 else np.dtype("<u4")
    return x.cpu().numpy().astype(kind).tobytes()


def _lzma(content: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    return lzma.compress(content, format=lzma.FORMAT_RAW, filters=filters)


def _png_bytes(picture: Tensor, domain: Images) -> int:
    """Bytes in the IDAT chunks of a (C, H, W) picture: RGB for 3 channels, else the channels one below another."""
    from PIL import Image

    levels = domain.levels or 0
    kind = np.uint8 if levels <= 256 else np.uint16
    channels = picture.numpy().astype(kind)
    settings = {"bits": 1 if levels <= 2 else 2 if levels <= 4 else 4 if levels <= 16 else 8}
    if len(channels) == 3 and levels <= 256:
        image, settings = Image.fromarray(channels.transpose(1, 2, 0)), {}
    else:
        image = Image.fromarray(channels.reshape(-1, channels.shape[-1]))
        if settings["bits"] < 8:
            image = image.convert("P")
        else:
            settings = {}
    file = io.BytesIO()
    image.save(file, "png", optimize=True, **settings)
    return _idat(file.getvalue())


def _idat(content: bytes) -> int:
    total, place = 0, 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        total += length if content[place + 4 : place + 8] == b"IDAT" else 0
        place += 12 + length
    return total
