"""Lossless coding by a model's own probabilities: observations in about -log2 p(x) bits, and back.

A range coder is told p(x_t | x_<t) of every symbol, place by place, all rows of a batch together and one batch after
another, in one stream of bits. Encoding and decoding take the same ``walk`` in batches of the same size, and so see the
same floating-point numbers, to the last bit: that is all that decoding rests on. Probabilities count in steps of 2^-24,
and every symbol has one step at least, so that anything can be coded.

Source: Martin 1979, "Range encoding: an algorithm for removing redundancy from a digitised message"; the coder is that
of Bamler 2022, arXiv:2201.01741.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.conditions import Classes
from pofx.errors import Unusable

MOST_ROWS, MOST_VALUES = 256, 2**16  # of a batch: enough to keep a processor busy, few enough to be held in memory

Code = Callable[[np.ndarray, Tensor, int], Tensor]
"""(p of every symbol (N, V), the N rows that it is of, place t) to the N symbols, encoded or decoded."""


@dataclass(frozen=True)
class Message:
    """Observations to be coded.

    Args:
        x: (N, ...) canonical.
        classes: (N,) that each is given, themselves coded by training frequency; or None.
        last: how many values of the last row count, in reading order: a text rarely fills its last window.
    """

    x: Tensor
    classes: Tensor | None
    last: int

    def values(self, end: int | None) -> int:
        """How many values are coded: those that count, an end too, but none after it."""
        coded = int(_counted(self, slice(0, len(self.x))).sum())
        if end is None:
            return coded
        ends = self.x == end
        return coded - int((ends.cumsum(1) - ends.long() > 0).sum())


def batch_rows(dims: int) -> int:
    """Rows that are walked together, by the values of one."""
    return max(1, min(MOST_ROWS, MOST_VALUES // dims))


def encode(model: Any, message: Message, *, batch: int) -> bytes:
    """The code of a message, in whole words of 4 bytes: about -log2 p(x|c) - log2 p(c) bits.

    Args:
        model: it ``Chains``; in eval mode.
        message: what is coded.
        batch: rows that are walked together; decoding needs the same.

    Raises:
        Unusable: the model has no probabilities of symbols, or a row goes on after its end.
    """
    coder, family = _library().stream.queue.RangeEncoder(), _family()

    def put(p: np.ndarray, symbols: Tensor) -> Tensor:
        if not np.isfinite(p).all():
            raise Unusable("the model's probabilities are not numbers (NaN), so nothing can be coded; fit it again")
        if len(symbols):
            coder.encode(symbols.numpy().astype(np.int32), family, p)
        return symbols

    if message.classes is not None:
        put(_class_probabilities(model.condition, len(message.x)), message.classes.cpu())
    for rows in _batches(len(message.x), batch):
        s = model.read(message.x[rows].to(_device(model))).cpu()
        c = None if message.classes is None else message.classes[rows]

        def code(p: np.ndarray, of: Tensor, t: int, s: Tensor = s) -> Tensor:
            return put(p, s[of, t])

        walked = _walk(model, len(s), c, _counted(message, rows), code)
        if not bool((walked.cpu() == message.x[rows].cpu()).flatten(1).all()):
            raise Unusable("a record holds nothing but its end symbol after the first one; cut what follows it")
    return coder.get_compressed().astype("<u4").tobytes()


def decode(model: Any, code: bytes, n: int, *, last: int, classes: bool, batch: int) -> Message:
    """The inverse of ``encode``: n rows, of the last of which ``last`` values count.

    Another code, other weights or other floating-point numbers give another message, or any error of the library: see
    ``packed``, whose checksums tell.
    """
    coder, family = _library().stream.queue.RangeDecoder(np.frombuffer(code, dtype="<u4").astype(np.uint32)), _family()

    def take(p: np.ndarray) -> Tensor:
        return torch.from_numpy(coder.decode(family, p)).long() if len(p) else torch.zeros(0, dtype=torch.int64)

    given = take(_class_probabilities(model.condition, n)) if classes else None
    empty = Message(torch.empty(n, *model.domain.shape, dtype=model.domain.dtype), given, last)
    for rows in _batches(n, batch):
        c = None if given is None else given[rows]
        counted = _counted(empty, rows)
        empty.x[rows] = _walk(model, len(counted), c, counted, lambda p, of, t: take(p)).cpu()
    return empty


@torch.no_grad()
def information(model: Any, message: Message, *, batch: int) -> float:
    """-log2 p(x|c) - log2 p(c) in bits, by ``conditionals``: what no code of the model can beat on average."""
    nats = 0.0
    for rows in _batches(len(message.x), batch):
        c = None if message.classes is None else message.classes[rows].to(_device(model))
        log_p = model.conditionals(message.x[rows].to(_device(model)), c).cpu().double()
        past = torch.arange(log_p.shape[1]) >= _counted(message, rows)[:, None]
        nats -= float(log_p.masked_fill(past, 0).sum())
    if message.classes is not None and len(message.x):
        p = torch.from_numpy(_class_probabilities(model.condition, 1)[0])
        nats -= float(p.log()[message.classes.cpu()].sum())
    return nats / math.log(2)


def _walk(model: Any, n: int, classes: Tensor | None, counted: Tensor, code: Code) -> Tensor:
    """Walks n rows; what does not count, and what follows an end, is not coded."""
    end = getattr(model.domain, "end", None)
    going = torch.ones(n, dtype=torch.bool)

    def choose(log_p: Tensor, t: int) -> Tensor:
        nonlocal going
        of = torch.nonzero(going & (t < counted))[:, 0]
        p = log_p.cpu()[of].double().exp().numpy()
        chosen = torch.zeros(n, dtype=torch.int64)
        chosen[of] = code(_at_least_two(p), of, t)
        if end is not None:
            going = going & (chosen != end)
        return chosen.to(log_p.device)

    return model.walk(n, choose, None if classes is None else classes.to(_device(model)))


def _counted(message: Message, rows: slice) -> Tensor:
    """How many values of each row of a batch count."""
    n = len(message.x)
    counted = torch.full((n,), math.prod(message.x.shape[1:]))[rows]
    if rows.stop >= n:
        counted[-1:] = message.last
    return counted


def _class_probabilities(condition: Classes, n: int) -> np.ndarray:
    """(n, K + 1) training frequencies; the null has the smallest there is."""
    p = np.array([*condition.frequencies, 0.0])
    return np.broadcast_to(p / p.sum(), (n, len(p))).copy()


def _at_least_two(p: np.ndarray) -> np.ndarray:
    """The library codes one of two symbols or more; of an alphabet of one, the other never comes."""
    return p if p.shape[1] > 1 else np.pad(p, ((0, 0), (0, 1)))


def _batches(n: int, batch: int) -> Iterator[slice]:
    return (slice(start, start + batch) for start in range(0, n, batch))


def _device(model: Any) -> torch.device:
    return next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))


def _family() -> Any:
    """Of tables of probabilities, rounded quickly; decoding needs the same."""
    return _library().stream.model.Categorical(perfect=False)


def _library() -> Any:
    try:
        import constriction
    except ImportError:
        raise Unusable("compressing needs the constriction library; pip install 'pofx[compress]'") from None
    return constriction
