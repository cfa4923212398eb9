"""``pofx compress`` and ``pofx decompress``: a text or observations, by a run's model, into a file and back."""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.cli.inputs import observations
from pofx.coding import batch_rows, information
from pofx.domains import Tokens
from pofx.errors import Unusable
from pofx.files import write_whole
from pofx.packed import content_of, opened
from pofx.protocols import Chains
from pofx.rendering import Sampled
from pofx.runs import Run
from pofx.train.plan import use_threads

SUFFIX = ".pofx"


def compress_and_tell(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Writes the file; every figure, the bytes beside what the model's likelihood says."""
    path = Path(options.output).expanduser()
    if path.suffix != SUFFIX or path.is_dir():
        raise Unusable(f"compress writes {SUFFIX} files, got {options.output}; name a {SUFFIX} file")
    run.require(Chains, "compress")
    x, c = _content(run, options)
    began = time.perf_counter()
    data = run.compress(x, c)
    seconds = time.perf_counter() - began
    write_whole(path, lambda temporary: temporary.write_bytes(data), cure="free space or choose another -o")
    return _figures(run, x, c, data) | {"seconds": seconds, "output": str(path)}


def decompress_and_tell(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Writes what was compressed; says how much it is, and the classes where there are any."""
    path, out = Path(options.file).expanduser(), Path(options.output).expanduser()
    if path.suffix != SUFFIX or not path.is_file():
        raise Unusable(f"decompress reads a {SUFFIX} file, got {options.file}; give one that 'pofx compress' wrote")
    data = path.read_bytes()
    if opened(data, named=str(path))[0].text:
        if out.suffix in (".png", ".npy", ".csv", ".gif", ".webp"):
            raise Unusable(f"{path} holds a text, which is no {out.suffix}, got {options.output}; name a .txt file")
    else:
        Sampled(torch.empty(0), run.domain).place(out)  # before the work, not after it
    content = run.decompress(data, named=str(path))
    if isinstance(content, bytes):
        write_whole(out, lambda temporary: temporary.write_bytes(content), cure="free space or choose another -o")
        return {"output": str(out), "text_bytes": len(content)}
    content.save(out)
    classes = None if content.condition is None else content.condition.tolist()
    return {"output": str(out), "observations": len(content), "classes": classes}


def _content(run: Run, options: argparse.Namespace) -> tuple[Tensor | bytes, Tensor | None]:
    """A text file for a model of texts, all of it as it is; else rows of a source."""
    path = Path(options.source).expanduser()
    if not (isinstance(run.domain, Tokens) and run.domain.encoding != "none" and path.is_file()):
        options.split = options.split or "test"
        return observations(run, options)
    if options.split is not None:
        raise Unusable(f"{path} is compressed whole, and --split {options.split} was given; leave --split out")
    return path.read_bytes(), None


def _figures(run: Run, x: Tensor | bytes, c: Tensor | None, data: bytes) -> dict[str, Any]:
    """Bytes on disk beside -log2 p, which the model scores apart; the excess is None where p is zero, or one."""
    message = content_of(x, c, run.domain, run.condition).message
    with use_threads(run.threads):
        least = information(run.model, message, batch=batch_rows(run.domain.dims)) / 8
    values = message.values(getattr(run.domain, "end", None))
    known = 0 < least < float("inf")
    return {
        "run": str(run.folder),
        "observations": len(message.x),
        "values": values,
        "bytes": len(data),
        "bits_per_value": 8 * len(data) / max(1, values),
        "unit": run.domain.unit,
        "information_bytes": least if known else None,
        "excess_percent": 100 * (len(data) / least - 1) if known else None,
    }
