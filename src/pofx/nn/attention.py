"""A transformer's trunk: blocks of attention and MLP, causal or full by one argument.

Shapes: B batch, T positions, E width, N heads, D = E / N, P = D / 2 rotated pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pofx.errors import Unusable, nearest

Pattern = Literal["causal", "full"]
Position = Literal["rotary", "learned"]
Norm = Literal["rms", "layer"]
Activation = Literal["relu2", "gelu", "gelu-tanh", "swiglu"]


@dataclass(frozen=True)
class Architecture:
    """What blocks are made of. The default is the best recipe found here; GPT-2 is the other end of every argument.

    Source: SwiGLU: Shazeer 2020, arXiv:2002.05202, eq. (6); GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415; the
    scale of the first projections: Radford et al. 2019, "Language models are unsupervised multitask learners",
    section 2.3.

    Args:
        position: "rotary": queries and keys turn by their place; "learned": whoever embeds adds a vector per place.
        norm: "rms", without gain; "layer": LayerNorm with a gain, and with a shift where there are biases.
        qk_norm: queries and keys are normalised.
        activation: of the MLP; "swiglu" gates, with hidden layers narrower by a third for as many weights.
        bias: linear layers have one.
        zero_init: the projections back to the states start at zero; else smaller by sqrt(2 layers).

    Raises:
        Unusable: a choice that there is not.
    """

    position: Position = "rotary"
    norm: Norm = "rms"
    qk_norm: bool = True
    activation: Activation = "relu2"
    bias: bool = False
    zero_init: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value, choices = getattr(self, field.name), get_args(field.type)
            if choices and value not in choices:
                raise Unusable(f"{field.name} is one of a few words, got {value!r}{nearest(str(value), choices)}")

    def normaliser(self, width: int) -> nn.Module:
        """(..., E) to (..., E) of unit scale."""
        if self.norm == "rms":
            return nn.RMSNorm(width, elementwise_affine=False)
        return nn.LayerNorm(width, bias=self.bias)

    def linear(self, inputs: int, outputs: int) -> nn.Linear:
        """A layer, with a bias or without."""
        return nn.Linear(inputs, outputs, bias=self.bias)


BEST = Architecture()


def _relu2(x: Tensor) -> Tensor:
    """ReLU^2. Source: So et al. 2021, arXiv:2109.08668, section 3."""
    return F.relu(x).square()


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu2": _relu2,
    "gelu": F.gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),
    "swiglu": F.silu,
}


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


def rotate(x: Float[Tensor, "*B D"], turn: Float[Tensor, "2 *A P"]) -> Float[Tensor, "*B D"]:
    """Turns each pair (x_i, x_{i + P}) by its angle."""
    cos, sin = turn.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def attend(
    q: Float[Tensor, "B N M D"], k: Float[Tensor, "B N T D"], v: Float[Tensor, "B N T D"], *, scale: float | None = None
) -> Float[Tensor, "B N M D"]:
    """Causal attention of the last M of T places: each sees the places up to its own; scale is 1 / sqrt(D)."""
    new, all_ = q.shape[2], k.shape[2]
    if new == 1:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    if new == all_:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    sees = torch.ones(new, all_, dtype=torch.bool, device=q.device).tril(all_ - new)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=sees, scale=scale)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(D)) v in N heads; queries and keys are normalised and turned by their place, if at all.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. (1); normalised queries and keys: Henry et al. 2020,
    arXiv:2010.04245.
    """

    def __init__(self, width: int, heads: int, *, pattern: Pattern, architecture: Architecture = BEST) -> None:
        super().__init__()
        self.heads, self.pattern, self.architecture = heads, pattern, architecture
        self.q, self.k, self.v, self.out = (architecture.linear(width, width) for _ in range(4))

    def forward(self, x: Float[Tensor, "B T E"], turn: Float[Tensor, "2 T P"] | None = None) -> Float[Tensor, "B T E"]:
        """The positions of x attend to each other."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (self._placed(u, turn).to(v.dtype) for u in (q, k))
        attended = attend(q, k, v) if self.pattern == "causal" else F.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _placed(self, u: Tensor, turn: Tensor | None) -> Tensor:
        u = rms_norm(u) if self.architecture.qk_norm else u
        return u if turn is None else rotate(u, turn)


class Block(nn.Module):
    """h + attention(norm(h)), then h + MLP(norm(h)), an MLP four times as wide."""

    def __init__(self, width: int, heads: int, *, pattern: Pattern, architecture: Architecture = BEST) -> None:
        super().__init__()
        gated = architecture.activation == "swiglu"
        hidden = 8 * round(width / 3) if gated else 4 * width
        self.attention = Attention(width, heads, pattern=pattern, architecture=architecture)
        self.up = architecture.linear(width, hidden)
        self.down = architecture.linear(hidden, width)
        self.gate = architecture.linear(width, hidden) if gated else None
        self.first, self.second = (architecture.normaliser(width) for _ in range(2))
        self.activation = _ACTIVATIONS[architecture.activation]

    def forward(self, h: Tensor, turn: Tensor | None = None) -> Float[Tensor, "B T E"]:
        """(B, T, E) to (B, T, E)."""
        h = h + self.attention(self.first(h), turn)
        return h + self.down(self._hidden(self.second(h)))

    @torch.no_grad()
    def scale_projections(self, scale: float) -> None:
        """Of what the block adds to the states."""
        for p in (*self.attention.out.parameters(), *self.down.parameters()):
            p.mul_(scale)

    def _hidden(self, x: Tensor) -> Tensor:
        return self.activation(self.up(x)) if self.gate is None else self.activation(self.gate(x)) * self.up(x)


class Transformer(nn.Module):
    """A stack of blocks; at first the identity, where projections start at zero.

    Args:
        width: E.
        layers: number of blocks.
        heads: N; E / N must be even where positions are rotary.
        pattern: "causal": a position sees itself and those before; "full": all of them, as an encoder does, and a
            masked language model, which hides what is to be predicted in its inputs.
        architecture: of the blocks.

    Raises:
        Unusable: sizes below one, or a width that the heads cannot share.
    """

    def __init__(
        self, width: int, layers: int, heads: int, *, pattern: Pattern, architecture: Architecture = BEST
    ) -> None:
        super().__init__()
        each = "2 * heads" if architecture.position == "rotary" else "heads"
        if min(width, layers, heads) < 1 or width % (heads * (2 if architecture.position == "rotary" else 1)):
            raise Unusable(
                f"a transformer needs layers and heads of at least 1 and a width that is a multiple of {each}, "
                f"got width {width}, layers {layers}, heads {heads}; try width {max(1, heads) * 32}"
            )
        self.width, self.heads = width, heads
        blocks = [Block(width, heads, pattern=pattern, architecture=architecture) for _ in range(layers)]
        for block in blocks:
            block.scale_projections(0.0 if architecture.zero_init else (2 * layers) ** -0.5)
        self.blocks = nn.ModuleList(blocks)

    def depth_of(self, layer: int | None) -> int:
        """How many blocks come before the states asked for: ``layer``, or half of them."""
        count = len(self.blocks)
        if layer is not None and not 0 <= layer <= count:
            raise Unusable(f"layer lies in 0 (before the blocks) to {count} (after the last), got {layer}")
        return (count + 1) // 2 if layer is None else layer

    @property
    def pairs(self) -> int:
        """P, what ``rotation`` asks for."""
        return self.width // self.heads // 2

    def forward(
        self,
        h: Float[Tensor, "B T E"],
        turn: Float[Tensor, "2 T P"] | None = None,
        *,
        depth: int | None = None,
    ) -> Float[Tensor, "B T E"]:
        """Runs the first ``depth`` blocks, all by default."""
        for block in self.blocks[:depth]:
            h = block(h, turn)
        return h
