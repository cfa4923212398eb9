"""Named sets: scikit-learn's digits, and published ones that are downloaded once."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pofx.data.dataset import Data
from pofx.data.downloads import fetch, fetch_binarized
from pofx.data.pictures import as_pictures
from pofx.data.request import Request
from pofx.data.rows import Labels, Observations, split_rows
from pofx.data.stacks import stacked
from pofx.data.text import read_texts

DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_HELD = 6_000  # of MNIST's 60,000 training pictures, the last ones: the set has no validation split


def read_digits(request: Request) -> Data:
    """1,797 handwritten digits of 8x8 pixels, 17 levels (UCI, in scikit-learn)."""
    rows = _digits()
    domain, x = as_pictures(torch.from_numpy(rows[:, :64]).view(-1, 1, 8, 8), 17, request.options)
    labels = Labels(torch.from_numpy(rows[:, 64]).long(), DIGITS)
    return split_rows(stacked(Observations(domain, x), labels, request), request)


def _digits() -> np.ndarray:
    """scikit-learn's file, read without importing scikit-learn, which takes longer than everything else here."""
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin or "").parent / "datasets/data/digits.csv.gz" if spec else Path()
    if path.is_file():
        return np.loadtxt(path, delimiter=",").astype(np.uint8)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.uint8)


def read_mnist(request: Request) -> Data:
    """70,000 handwritten digits, 28x28, 256 levels."""
    return _read_idx(request, DIGITS)


def read_fashion_mnist(request: Request) -> Data:
    """70,000 garments, 28x28, 256 levels."""
    return _read_idx(request, GARMENTS)


def _read_idx(request: Request, names: tuple[str, ...]) -> Data:
    pictures = [_idx(fetch(f"{request.place}/{part}-images-idx3-ubyte.gz"), 16) for part in ("train", "t10k")]
    labels = [_idx(fetch(f"{request.place}/{part}-labels-idx1-ubyte.gz"), 8) for part in ("train", "t10k")]
    domain, x = as_pictures(torch.cat(pictures).view(-1, 1, 28, 28), 256, request.options)
    official = _spans(len(labels[0]) - _HELD, _HELD, len(labels[1]))
    described = f"official; validation is the last {_HELD:,} of train"
    found = Observations(domain, x, official=official, described=described)
    return split_rows(stacked(found, Labels(torch.cat(labels).long(), names), request), request)


def _idx(path: Path, header: int) -> Tensor:
    """Bytes after the header of an IDX file; its checksum is verified, so its shape is known."""
    return torch.frombuffer(bytearray(gzip.decompress(path.read_bytes())), dtype=torch.uint8, offset=header)


def _spans(train: int, validation: int, test: int) -> dict[str, Tensor]:
    rows = torch.arange(train + validation + test).split([train, validation, test])
    return dict(zip(("train", "validation", "test"), (part.clone() for part in rows)))


def read_binarized_mnist(request: Request) -> Data:
    """The fixed binarisation of MNIST: 50,000, 10,000 and 10,000 pictures of 0s and 1s, without labels.

    Source: Larochelle and Murray 2011 (NADE), after Salakhutdinov and Murray 2008.
    """
    packed = fetch_binarized()
    bits = np.unpackbits(np.concatenate([packed[split] for split in ("train", "valid", "test")]), axis=1)
    domain, x = as_pictures(torch.from_numpy(bits).view(-1, 1, 28, 28), 2, request.options)
    official = _spans(*(len(packed[split]) for split in ("train", "valid", "test")))
    return split_rows(Observations(domain, x, official=official), request)


def read_tinyshakespeare(request: Request) -> Data:
    """1,115,394 characters of Shakespeare's plays, 65 distinct."""
    return read_texts([fetch("tinyshakespeare/input.txt")], request)
