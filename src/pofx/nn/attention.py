"""A transformer's trunk: blocks of attention and MLP, causal or full by one argument, and a cache for decoding.

Shapes: B batch, T positions, E width, N heads, D = E / N, P = D / 2 rotated pairs.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pofx.errors import Unusable
from pofx.nn.memory import require_memory

Pattern = Literal["causal", "full"]


def rms_norm(x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    """x / sqrt(mean x^2), without gain. Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. (4)."""
    return F.rms_norm(x, x.shape[-1:])


def rotation(places: Int[Tensor, "T A"], pairs: int, *, base: float = 10000.0) -> Float[Tensor, "2 T P"]:
    """Cosine and sine of the angles by which positions turn queries and keys, so that their product knows offsets.

    Pair i turns by place / base^(i/P); with A axes (row and column, say) the pairs are dealt out to them in turn.

    Source: Su et al. 2021, arXiv:2104.09864, eq. (15).
    """
    axes = places.shape[1]
    pair = torch.arange(pairs, device=places.device)
    frequency = base ** -(pair // axes * axes / pairs)
    angle = places[:, pair % axes] * frequency
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Float[Tensor, "B N T D"], turn: Float[Tensor, "2 T P"]) -> Float[Tensor, "B N T D"]:
    """Turns each pair (x_i, x_{i + P}) by its angle."""
    cos, sin = turn.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Cache:
    """Keys and values of the positions read so far, allocated once for the whole batch: (layers, 2, B, N, T, D).

    For use under ``torch.no_grad``: the store is written in place.

    Raises:
        Unusable: it is larger than the memory that is free.
    """

    def __init__(self, trunk: "Transformer", batch: int, length: int) -> None:
        weight = next(trunk.parameters())
        size = len(trunk.blocks), 2, batch, trunk.heads, length, trunk.width // trunk.heads
        what = f"keys and values of {batch} observations of {length} values"
        require_memory(math.prod(size) * weight.element_size(), what, weight.device)
        self.pairs = weight.new_zeros(size)
        self.used = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values of a layer; gives views of all so far."""
        stop = self.used + k.shape[2]
        keys, values = self.pairs[layer]
        keys[:, :, self.used : stop] = k
        values[:, :, self.used : stop] = v
        return keys[:, :, :stop], values[:, :, :stop]


class Attention(nn.Module):
    """softmax(q k^T / sqrt(D)) v in N heads; queries and keys are normalised, then turned by their place.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. (1); normalised queries and keys: Henry et al. 2020,
    arXiv:2010.04245.
    """

    def __init__(self, width: int, heads: int, *, pattern: Pattern) -> None:
        super().__init__()
        self.heads, self.pattern = heads, pattern
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        nn.init.zeros_(self.out.weight)

    def forward(
        self, x: Float[Tensor, "B T E"], turn: Float[Tensor, "2 T P"], cache: Cache | None = None, layer: int = 0
    ) -> Float[Tensor, "B T E"]:
        """The positions of x attend to each other, and to those in the cache."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (rotate(rms_norm(u), turn).to(v.dtype) for u in (q, k))
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        return self.out(self._attend(q, k, v).transpose(1, 2).flatten(2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """A causal query sees the keys up to its own place; the queries are the last of the places."""
        new, all_ = q.shape[2], k.shape[2]
        if self.pattern == "full" or new == 1:
            return F.scaled_dot_product_attention(q, k, v)
        if new == all_:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        sees = torch.ones(new, all_, dtype=torch.bool, device=q.device).tril(all_ - new)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=sees)


class Block(nn.Module):
    """h + attention(norm(h)), then h + MLP(norm(h)), an MLP four times as wide with ReLU^2; at first the identity.

    Source: ReLU^2: So et al. 2021, arXiv:2109.08668, section 3.
    """

    def __init__(self, width: int, heads: int, *, pattern: Pattern) -> None:
        super().__init__()
        self.attention = Attention(width, heads, pattern=pattern)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, h: Tensor, turn: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        h = h + self.attention(rms_norm(h), turn, cache, layer)
        return h + self.down(F.relu(self.up(rms_norm(h))).square())


class Transformer(nn.Module):
    """A stack of blocks without biases or gains.

    Args:
        width: E.
        layers: number of blocks.
        heads: N; E / N must be even.
        pattern: "causal": a position sees itself and those before; "full": all of them.

    Raises:
        Unusable: sizes below one, or a width that the heads cannot share.
    """

    def __init__(self, width: int, layers: int, heads: int, *, pattern: Pattern) -> None:
        super().__init__()
        if min(width, layers, heads) < 1 or width % (2 * heads):
            raise Unusable(
                f"a transformer needs layers and heads of at least 1 and a width that is a multiple of 2 * heads, "
                f"got width {width}, layers {layers}, heads {heads}; try width {max(1, heads) * 32}"
            )
        self.width, self.heads = width, heads
        self.blocks = nn.ModuleList(Block(width, heads, pattern=pattern) for _ in range(layers))

    @property
    def pairs(self) -> int:
        """P, what ``rotation`` asks for."""
        return self.width // self.heads // 2

    def forward(
        self,
        h: Float[Tensor, "B T E"],
        turn: Float[Tensor, "2 T P"],
        *,
        cache: Cache | None = None,
        depth: int | None = None,
    ) -> Float[Tensor, "B T E"]:
        """Runs the first ``depth`` blocks (all by default); with a cache, h holds only the positions not yet in it."""
        for layer, block in enumerate(self.blocks[:depth]):
            h = block(h, turn, cache, layer)
        if cache is not None:
            cache.used += h.shape[1]
        return h
