"""A causal transformer a few places at a time, as decoding runs it: what earlier places left is kept, not read again.

Shapes: B batch, M new places, T places in all, R = B * M rows, E width, N heads, D = E / N, P = D / 2 rotated pairs,
H hidden, O outputs.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from pofx.nn.attention import Block, Transformer, attend, rotate
from pofx.nn.memory import require_memory


class Decoder:
    """The states of a transformer at the next places, from those places alone; equal to its own up to rounding.

    A step is a few operators: layers that read the same states are one matrix, into which the gain of their norm is
    folded; what comes between is written where there is room already, and so are keys and values, for the whole batch.
    Weights are read when it is made. For use where no gradient is wanted.

    Args:
        trunk: causal.
        batch: B.
        length: T.
        turn: angles of all T places, or None where queries and keys are not turned.

    Raises:
        Unusable: what is kept is larger than the memory that is free.
    """

    def __init__(self, trunk: Transformer, batch: int, length: int, turn: Float[Tensor, "2 T P"] | None = None) -> None:
        weight = next(trunk.parameters())
        self.turn = None if turn is None else _by_place(turn.to(weight.dtype))
        adjoin = self.turn is not None and self.turn.is_complex()
        self.layers = [_Layer(cast(Block, block), adjoin=adjoin) for block in trunk.blocks]
        self.shape = batch, trunk.heads, trunk.width // trunk.heads
        size = len(self.layers), 2, batch, trunk.heads, length, self.shape[2]
        what = f"keys and values of {batch} observations of {length} values"
        require_memory(math.prod(size) * weight.element_size(), what, weight.device)
        self.kept = weight.new_empty(size)
        self.used = 0
        self.room = _Room(self.layers[0], *self.shape, 1)

    def __call__(self, h: Float[Tensor, "B M E"]) -> Float[Tensor, "B M E"]:
        """States of the next M places after all blocks."""
        new = h.shape[1]
        if self.room.new != new:
            self.room = _Room(self.layers[0], *self.shape, new)
        stop, states = self.used + new, h.flatten(0, 1).clone()
        turn = None if self.turn is None else self.turn[self.used : stop]
        fresh = self.kept.narrow(4, self.used, new).unbind(0)
        pairs = self.kept.narrow(4, 0, stop).flatten(0, 1).unbind(0)
        for layer, place, k, v in zip(self.layers, fresh, pairs[::2], pairs[1::2]):
            layer.add(states, self.room, turn, place, k, v)
        self.used = stop
        return states.view(h.shape)


class Normed:
    """A linear layer of a normalised input: gain and shift of the norm are folded into it.

    Args:
        norm: nn.RMSNorm or nn.LayerNorm.
        weight: (O, E).
        bias: (O,), or None.
    """

    def __init__(self, norm: nn.Module, weight: Float[Tensor, "O E"], bias: Tensor | None = None) -> None:
        assert isinstance(norm, nn.RMSNorm | nn.LayerNorm)
        self.width, self.eps = weight.shape[1], norm.eps
        self.least = _least(weight, self.width, norm.eps) if isinstance(norm, nn.RMSNorm) else None
        gain = 1.0 if self.least is None else math.sqrt(self.width)
        shift = getattr(norm, "bias", None)
        if shift is not None:
            bias = weight @ shift if bias is None else weight @ shift + bias
        self.bias, self.matrix = bias, (weight * (gain if norm.weight is None else gain * norm.weight)).t()

    def __call__(self, h: Float[Tensor, "R E"], out: Float[Tensor, "R O"] | None = None) -> Float[Tensor, "R O"]:
        """What the layer puts out for the normalised h."""
        if self.least is None:
            x = F.layer_norm(h, (self.width,), eps=self.eps or 0.0)
        else:
            x = h / torch.linalg.vector_norm(h, dim=-1, keepdim=True).hypot_(self.least)
        if self.bias is None:
            return torch.mm(x, self.matrix, out=out)
        return torch.addmm(self.bias, x, self.matrix, out=out)


class _Layer:
    """A block's weights as decoding wants them.

    Args:
        block: of the trunk.
        adjoin: the two numbers of a rotated pair are to stand side by side, as those of a complex number do.
    """

    def __init__(self, block: Block, *, adjoin: bool) -> None:
        attention, size = block.attention, block.attention.q.out_features // block.attention.heads
        projections = attention.q, attention.k, attention.v
        weights: list[Tensor] = [f.weight for f in projections]
        biases: list[Tensor] = [f.bias for f in projections if f.bias is not None]
        if adjoin:
            for parts in (weights, biases):
                parts[:2] = [_adjoined(p, size) for p in parts[:2]]
        self.project = Normed(block.first, torch.cat(weights), _joined(biases))
        self.least = _least(weights[0], size) if attention.architecture.qk_norm else None
        self.scale = None if self.least is None else math.sqrt(size)  # what two RMS norms would have multiplied by
        inner = [f for f in (block.gate, block.up) if f is not None]
        biases = [f.bias for f in inner if f.bias is not None]
        self.inner = Normed(block.second, torch.cat([f.weight for f in inner]), _joined(biases))
        self.gated = block.gate is not None
        self.activation = _relu2_ if block.attention.architecture.activation == "relu2" else block.activation
        self.out, self.down = ((f.weight.t(), f.bias) for f in (attention.out, block.down))

    def add(self, h: Tensor, room: "_Room", turn: Tensor | None, place: Tensor, k: Tensor, v: Tensor) -> None:
        """To h (R, E) what the block adds to it; ``place`` is where, in k and v, the new ones go."""
        self.project(h, out=room.qkv)
        if self.least is not None:
            room.qk.div_(torch.linalg.vector_norm(room.qk, dim=-1, keepdim=True).hypot_(self.least))
        if turn is not None:
            room.turn(turn)
        place.copy_(room.kv)
        attended = attend(room.q, k, v, scale=self.scale)
        _add(h, (attended if room.new == 1 else attended.transpose(1, 2)).reshape(room.rows), *self.out)
        _add(h, self._hidden(self.inner(h, out=room.inner)), *self.down)

    def _hidden(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.activation(x)
        gate, up = x.chunk(2, dim=-1)
        return self.activation(gate) * up


class _Room:
    """Room for what a layer computes at M places, and the views by which it is read."""

    def __init__(self, layer: _Layer, batch: int, heads: int, size: int, new: int) -> None:
        self.new, self.rows = new, (batch * new, heads * size)
        matrices = layer.project.matrix, layer.inner.matrix
        self.qkv, self.inner = (matrix.new_empty(batch * new, matrix.shape[1]) for matrix in matrices)
        parts = self.qkv.view(batch, new, 3, heads, size)
        parts = parts.squeeze(1) if new == 1 else parts  # fewer axes are faster
        self.qk = parts.narrow(-3, 0, 2)
        self.q = parts.select(-3, 0).view(batch, new, heads, size).transpose(1, 2)
        self.kv = parts.narrow(-3, 1, 2).view(batch, new, 2, heads, size).permute(2, 0, 3, 1, 4)
        if size % 2 == 0 and matrices[0].dtype in _COMPLEX:
            self.turned = torch.view_as_complex(self.qk.unflatten(-1, (-1, 2)))

    def turn(self, turn: Shaped[Tensor, "M ..."]) -> None:
        """Turns queries and keys where they are."""
        if turn.is_complex():
            self.turned.mul_(turn)
        else:
            self.qk.copy_(rotate(self.qk, turn.movedim(1, 0)))


# Complex numbers turn in one product; reduced precisions have none.
_COMPLEX = torch.float32, torch.float64


def _by_place(turn: Float[Tensor, "2 T P"]) -> Shaped[Tensor, "T ..."]:
    """(T, 1, 1, P) complex numbers, or (T, 2, 1, 1, P) cosines and sines: for (B, M, 2, N, P) queries and keys."""
    if turn.dtype in _COMPLEX:
        return torch.complex(*turn)[:, None, None]
    return turn.movedim(0, 1)[:, :, None, None]


def _adjoined(p: Tensor, size: int) -> Tensor:
    """Rows (i, i + P) of each head's D one after another."""
    return p.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).reshape(p.shape)


def _joined(biases: list[Tensor]) -> Tensor | None:
    return torch.cat(biases) if biases else None


def _least(like: Tensor, width: int, eps: float | None = None) -> Tensor:
    """sqrt(E eps): RMS norm is sqrt(E) x / sqrt(|x|^2 + E eps)."""
    return like.new_tensor(math.sqrt(width * (torch.finfo(like.dtype).eps if eps is None else eps)))


def _relu2_(x: Tensor) -> Tensor:
    """ReLU^2, in place."""
    x.relu_()
    return x.mul_(x)


def _add(h: Float[Tensor, "R E"], x: Float[Tensor, "R I"], matrix: Float[Tensor, "I E"], bias: Tensor | None) -> None:
    h.addmm_(x, matrix)
    if bias is not None:
        h.add_(bias)
