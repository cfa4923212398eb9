"""Files of the named sets: where they are published, their checksums, and the cache they are kept in."""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pofx.errors import Unusable
from pofx.files import write_whole

CACHE = "POFX_DATA"


@dataclass(frozen=True)
class Remote:
    """A published file: its address and the sha256 of its bytes."""

    url: str
    sha256: str


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
_AMAT = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"

# Kept in the cache as they are published.
FILES: dict[str, Remote] = {
    "mnist/train-images-idx3-ubyte.gz": Remote(
        f"{_MNIST}/train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "mnist/train-labels-idx1-ubyte.gz": Remote(
        f"{_MNIST}/train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "mnist/t10k-images-idx3-ubyte.gz": Remote(
        f"{_MNIST}/t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "mnist/t10k-labels-idx1-ubyte.gz": Remote(
        f"{_MNIST}/t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
    "fashion-mnist/train-images-idx3-ubyte.gz": Remote(
        f"{_FASHION}/train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "fashion-mnist/train-labels-idx1-ubyte.gz": Remote(
        f"{_FASHION}/train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    "fashion-mnist/t10k-images-idx3-ubyte.gz": Remote(
        f"{_FASHION}/t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": Remote(
        f"{_FASHION}/t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
    "tinyshakespeare/input.txt": Remote(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}

# Published as text of 0s and 1s (110 MB), kept as packed bits (2 MB): the published files, then what is kept.
BINARIZED = "binarized-mnist/binarized_mnist.npz"
AMAT: dict[str, Remote] = {
    "train": Remote(
        f"{_AMAT}/binarized_mnist_train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"
    ),
    "valid": Remote(
        f"{_AMAT}/binarized_mnist_valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"
    ),
    "test": Remote(
        f"{_AMAT}/binarized_mnist_test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"
    ),
}
PACKED: dict[str, str] = {  # sha256 of each array's bytes: how a zip is compressed differs between machines
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}
_ROW = 2 * 784  # bytes of one picture as text: a digit and a space or newline per pixel


def cache_folder() -> Path:
    """``POFX_DATA``, or this system's folder for caches; an empty variable counts as unset."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE]).expanduser()
    import pooch

    return Path(pooch.os_cache("pofx"))


def fetch(name: str) -> Path:
    """The cached file of ``FILES``, downloaded where it is absent or damaged.

    Raises:
        Unusable: it cannot be had whole; nothing is left behind, so the next try starts afresh.
    """
    path = cache_folder() / name
    if not (path.is_file() and _sha256(path.read_bytes()) == FILES[name].sha256):
        _download(FILES[name], path, kept=path)
    return path


def fetch_binarized() -> dict[str, np.ndarray]:
    """Packed bits of the fixed binarised MNIST, (N, 98) uint8 for each of train, valid and test."""
    path = cache_folder() / BINARIZED
    packed = _read_packed(path)
    if packed is None:
        packed = {}
        for split, remote in AMAT.items():
            text = path.with_name(f"{path.stem}_{split}.amat")
            _download(remote, text, kept=path)
            packed[split] = pack_amat(text.read_bytes())
            text.unlink()
        write_whole(path, lambda temporary: _write_npz(temporary, packed))
    return packed


def pack_amat(text: bytes) -> np.ndarray:
    """Rows of "0 1 ... 0" as packed bits (N, 98)."""
    digits = np.frombuffer(text, dtype=np.uint8).reshape(-1, _ROW)[:, ::2]
    return np.packbits(digits - ord("0"), axis=1)


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _read_packed(path: Path) -> dict[str, np.ndarray] | None:
    """The cached arrays, or None if they are absent or not those that are meant."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            packed = {split: np.ascontiguousarray(arrays[split]) for split in PACKED}
    except Exception:  # zip, zlib and numpy each have exceptions of their own for a broken file
        return None
    return packed if all(_sha256(packed[split].tobytes()) == PACKED[split] for split in PACKED) else None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _download(remote: Remote, path: Path, *, kept: Path) -> None:
    """Downloads to a temporary name beside ``path``, checks, renames. ``kept`` is what a user can put there by hand."""
    import pooch
    import requests

    cure = f"try again, or put the file at {kept}, or set {CACHE} to a folder that has {kept.parent.name}/{kept.name}"
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # it announces each download on stderr, where one bar is enough
    bar = _Bar(path.name) if sys.stderr.isatty() else None
    try:
        pooch.retrieve(
            remote.url,
            known_hash=f"sha256:{remote.sha256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=bar or False, timeout=30),
        )
    except requests.RequestException as error:
        raise Unusable(f"{remote.url} cannot be downloaded ({_reason(error)}); {cure}") from None
    except ValueError:
        raise Unusable(f"what {remote.url} sent is not the published file (its sha256 differs); {cure}") from None
    except OSError as error:
        raise Unusable(f"{path} cannot be written ({error.strerror or error}); {cure}") from None
    finally:
        logger.setLevel(level)
        if bar:
            bar.close()


def _reason(error: Exception) -> str:
    """The innermost cause, in a few words."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason}"
    words: list[tuple[str, str]] = [
        ("refused", "connection refused"),
        ("resolve", "no such host: is this machine online?"),
        ("IncompleteRead", "the connection broke before the end"),
        ("timed out", "the server did not answer in time"),
    ]
    return next((plain for sign, plain in words if sign in str(error)), "the connection broke")


class _Bar:
    """A progress bar with the five names that pooch asks for."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(name, total=None)
        self._progress.start()
        self.total = 0

    def update(self, size: int) -> None:
        """So many more bytes."""
        self._progress.update(self._task, total=self.total or None, advance=size)

    def reset(self) -> None:
        """Back to nothing."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Done."""
        self._progress.stop()
