"""The n-gram baseline: each symbol or pixel from the few before it, by counting."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from pofx.conditions import Classes, Condition, expand, marginal, rows_for
from pofx.domains import Domain, Images, Tokens
from pofx.errors import Unusable
from pofx.nn.sequence import SymbolSequence
from pofx.samplers.decoding import Choose, decode

MOST_SYMBOLS = 2**23  # counted in ``adapt``: more are a random part of the observations, so that memory stays modest
MOST_ORDER = 32

# Neighbours of a pixel that are read before it, nearest first: (rows up, columns left, channels back).
NEIGHBOURS = ((0, 1, 0), (1, 0, 0), (1, 1, 0), (1, -1, 0), (0, 2, 0), (2, 0, 0), (1, 2, 0), (1, -2, 0), (2, 1, 0))


class NGram(nn.Module):
    r"""Witten-Bell smoothing: a context h of k symbols is interpolated with h', which lacks the farthest of them,

    $p(x|h) = (n(h, x) + b u(h) p(x|h')) / (n(h) + b u(h))$, and below all $p(x) = 1/V$,

    where n counts and u(h) is how many different symbols have followed h. It sums to one for every context. In a
    picture the context is the place, then the pixels above and to the left. A class is one more symbol, the farthest
    of all: what a class has not shown is taken from all classes together.

    Source: Witten and Bell 1991, doi:10.1109/18.87000, method C (b = 1); as an interpolation: Chen and Goodman 1998,
    "An empirical study of smoothing techniques for language modeling", section 2.4.

    Args:
        domain: tokens, or pictures of integer levels.
        condition: classes, or none.
        order: n, the symbol and the n - 1 neighbours it is drawn from; by default 6 in texts, 3 in pictures.
        backoff: b, how readily a context hands down to the shorter one.

    Raises:
        Unusable: a domain or a condition it does not take, or a setting out of range.
    """

    levels: Sequence["_Counts"]

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        order: int | None = None,
        backoff: float = 5.0,
    ) -> None:
        super().__init__()
        if condition is not None and not isinstance(condition, Classes):
            raise Unusable(f"n-gram counts per class, got a {condition.kind} condition; fit it with --condition none")
        self.domain, self.condition = domain, condition
        self.sequence = SymbolSequence("n-gram", domain)
        pictures = isinstance(domain, Images)
        self.order = (3 if pictures else 6) if order is None else order
        self.backoff = backoff
        most = len(NEIGHBOURS) + 1 if pictures else MOST_ORDER
        if not 1 <= self.order <= most:
            raise Unusable(f"n-gram needs an order of 1 to {most} for {domain.kind}, got {self.order}")
        if not self.backoff > 0:
            raise Unusable(f"n-gram needs a backoff above 0, got {self.backoff}")
        # A context grows by a symbol, by V for one outside, by a place, or by a class (K for none).
        kinds = max(self.sequence.vocabulary, self.sequence.length, condition.count if condition else 0) + 1
        depth = self.order + pictures + (condition is not None)
        self.levels = nn.ModuleList(  # type: ignore[assignment]
            _Counts(self.sequence.vocabulary, kinds) for _ in range(depth)
        )

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Counts every symbol with its contexts; a class-conditional model needs the classes."""
        kept = self._some(len(x), generator)
        s = self.sequence.read(x[kept.to(x.device)])
        c = expand(self.condition, condition, len(x))
        counted = ~self.sequence.ended(s)
        ids = torch.zeros_like(s)[counted]
        self.levels[0].count(ids, s[counted])
        for level, symbol in zip(self.levels[1:], self._context(s, None if c is None else c[kept.to(c.device)])):
            ids = level.learn(ids, symbol[counted])
            level.count(ids, s[counted])

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B"]:
        """log p(x|c), or without c the exact marginal over classes; nats per observation."""
        if self.condition is not None and condition is None:
            return marginal(self.condition, x, lambda c: self.log_prob(x, c))
        return self.conditionals(x, condition).sum(1).float()

    def read(self, x: Tensor) -> Int[Tensor, "B T"]:
        """The symbols of x in reading order, checked."""
        return self.sequence.read(self.domain.check(x))

    def conditionals(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B T"]:
        """log p of each symbol given those before it and c, in reading order, nats, float64; without c, given none."""
        s = self.read(x)
        p = self._p(s, self._ids(s, expand(self.condition, condition, len(x))))
        return self.sequence.given_end(s, p.log())

    @torch.no_grad()
    def walk(self, n: int, choose: Choose, condition: Tensor | None = None) -> Tensor:
        """n observations whose symbols ``choose`` picks: it is told log p of every one (n, V), place by place."""
        c = expand(self.condition, condition, n)
        every = torch.arange(self.sequence.vocabulary, device=self.levels[0].first.device).expand(n, -1)

        def log_p(s: Tensor, t: int) -> Tensor:
            return self._p(every, self._ids(s, c, slice(t, t + 1))).log()

        s = self.sequence.empty(n, every.device)
        s = decode(log_p, s, torch.zeros_like(s, dtype=torch.bool), choose, end=self.sequence.end)
        return self.sequence.write(s)

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator) -> Tensor:
        """n observations, symbol by symbol: the longest context draws from its counts or hands down to the next."""
        c = rows_for(self.condition, condition, n, generator=generator)
        s = torch.zeros(n, self.sequence.length, dtype=torch.int64, device=generator.device)
        for t in range(s.shape[1]):
            new = self._draw(s, c, t, generator)
            s[:, t] = new
            if self.sequence.end is not None and t:
                s[:, t] = new.masked_fill(s[:, t - 1] == self.sequence.end, self.sequence.end)
        return self.sequence.write(s)

    def _p(self, s: Int[Tensor, "B T"], ids: list[Tensor]) -> Float[Tensor, "B T"]:
        """p of each symbol given its context, whose numbers ``ids`` has per level, (B, T) or (B, 1), in float64."""
        p = torch.full(s.shape, 1 / self.sequence.vocabulary, dtype=torch.float64, device=s.device)
        for level, context in zip(self.levels, ids):
            n, (total, kinds) = level.follows(context, s), level.totals(context)
            weight = self.backoff * kinds.double()
            p = torch.where(total > 0, (n + weight * p) / (total + weight).clamp(min=1e-9), p)
        return p

    def _draw(self, s: Tensor, c: Tensor | None, t: int, generator: Generator) -> Int[Tensor, "B"]:
        """One symbol per row at place t: level k keeps the draw with probability n(h) / (n(h) + b u(h))."""

        def uniform() -> Tensor:
            return torch.rand(len(s), generator=generator, device=generator.device, dtype=torch.float64)

        new = (uniform() * self.sequence.vocabulary).long().clamp(max=self.sequence.vocabulary - 1)
        for level, ids in zip(self.levels, self._ids(s, c, slice(t, t + 1))):
            total, kinds = level.totals(ids[:, 0])
            place = uniform() * (total + self.backoff * kinds)
            new = torch.where(place < total, level.symbol_at(ids[:, 0], place.long()), new)
        return new

    def _ids(self, s: Tensor, c: Tensor | None, at: slice = slice(None)) -> list[Tensor]:
        """Per level, the number of each place's context, or -1 where it was never seen."""
        ids = [torch.zeros_like(s[:, at])]
        for level, symbol in zip(self.levels[1:], self._context(s, c, at)):
            ids.append(level.find(ids[-1], symbol))
        return ids

    def _context(self, s: Tensor, c: Tensor | None, at: slice = slice(None)) -> list[Tensor]:
        """Per level but the first, the symbol a context grows by, (B, places): V outside, and last the class."""
        padded = torch.cat([s, torch.full_like(s[:, :1], self.sequence.vocabulary)], dim=1)
        symbols = [padded[:, index[at].to(s.device)] for index in self._neighbours()]
        if isinstance(self.domain, Images):
            symbols.insert(0, torch.arange(s.shape[1], device=s.device)[at].expand(len(s), -1))
        if self.condition is not None:
            c = self.condition.null(len(s)).to(s.device) if c is None else c
            symbols.append(c[:, None].expand_as(symbols[0] if symbols else s[:, at]))
        return symbols

    def _neighbours(self) -> list[Tensor]:
        """Per neighbour, which symbol it is for each place: (T,) indices, T for one outside."""
        places, length = self.sequence.places, self.sequence.length
        if isinstance(self.domain, Tokens):
            indices = [places[:, 0] - back for back in range(1, self.order)]
            return [torch.where(index >= 0, index, length) for index in indices]
        row, column, channel = places.unbind(1)
        channels, _, width = self.domain.shape
        offsets = NEIGHBOURS if channels == 1 else ((0, 0, 1), *NEIGHBOURS)
        indices = []
        for up, left, back in offsets[: self.order - 1]:
            inside = (row >= up) & (column >= left) & (column - left < width) & (channel >= back)
            index = ((row - up) * width + column - left) * channels + channel - back
            indices.append(torch.where(inside, index, length))
        return indices

    def _some(self, n: int, generator: Generator) -> Tensor:
        """Which observations are counted: all, or as many as hold ``MOST_SYMBOLS``."""
        most = max(1, MOST_SYMBOLS // self.sequence.length)
        order = torch.arange(n) if n <= most else torch.randperm(n, generator=generator, device=generator.device)
        return order[:most]


class _Counts(nn.Module):
    """The contexts of one length, numbered, and what followed them: sorted keys, found by bisection.

    Buffers, whose sizes come with the data: ``contexts`` (H,), the number of the shorter context and the symbol it
    grows by, as one key, whose place is the context's number; ``grams`` (G,), a context's number and a symbol that
    followed it, as one key; ``first`` (H + 1,), where the grams of each context begin; ``before`` (G + 1,), how often
    all grams before each were seen.
    """

    contexts: Tensor
    grams: Tensor
    first: Tensor
    before: Tensor

    def __init__(self, vocabulary: int, symbols: int) -> None:
        super().__init__()
        self.vocabulary, self.symbols = vocabulary, symbols
        for name, size in (("contexts", 0), ("grams", 0), ("first", 2), ("before", 1)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.int64))

    def learn(self, parents: Int[Tensor, "M"], symbol: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """Numbers the contexts that occur; gives the number of each."""
        self.contexts, ids = (parents * self.symbols + symbol).unique(return_inverse=True)
        return ids

    def count(self, ids: Int[Tensor, "M"], s: Int[Tensor, "M"]) -> None:
        """Counts the symbols that follow each context."""
        self.grams, counts = (ids * self.vocabulary + s).unique(return_counts=True)
        self.before = F.pad(counts.cumsum(0), (1, 0))
        numbers = torch.arange(max(1, len(self.contexts)) + 1, device=ids.device)
        self.first = torch.searchsorted(self.grams, numbers * self.vocabulary)

    def find(self, parents: Int[Tensor, "*B"], symbol: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        """The number of a context, -1 for one that was never seen."""
        place, seen = _bisect(self.contexts, parents * self.symbols + symbol)
        return torch.where(seen & (parents >= 0), place, -1)

    def totals(self, ids: Int[Tensor, "*B"]) -> tuple[Tensor, Tensor]:
        """n(h), how often a context was seen, and u(h), how many symbols followed it; 0 and 0 for one never seen."""
        start, stop = self.first[ids.clamp(min=0)], self.first[ids.clamp(min=0) + 1]
        seen = ids >= 0
        return (self.before[stop] - self.before[start]) * seen, (stop - start) * seen

    def follows(self, ids: Int[Tensor, "*#B"], s: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        """n(h, x), how often a symbol followed a context."""
        place, seen = _bisect(self.grams, ids * self.vocabulary + s)
        return torch.where(seen & (ids >= 0), self.before[place + seen.long()] - self.before[place], 0)

    def symbol_at(self, ids: Int[Tensor, "*B"], place: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        """The symbol that followed a context for the ``place``-th time, symbols in order."""
        if not len(self.grams):
            return torch.zeros_like(place)
        gram = torch.searchsorted(self.before, self.before[self.first[ids.clamp(min=0)]] + place, right=True) - 1
        return self.grams[gram.clamp(max=len(self.grams) - 1)] % self.vocabulary

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes the sizes of what is loaded: an unfitted model has empty tables."""
        for name in self._buffers:
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name], device=self.first.device))
        super()._load_from_state_dict(state, prefix, *rest)


def _bisect(keys: Int[Tensor, "H"], wanted: Int[Tensor, "*B"]) -> tuple[Tensor, Tensor]:
    """Where each wanted key stands among the sorted ones, and whether it does."""
    place = torch.searchsorted(keys, wanted.contiguous())
    if not len(keys):
        return place, torch.zeros_like(place, dtype=torch.bool)
    place = place.clamp(max=len(keys) - 1)
    return place, keys[place] == wanted
