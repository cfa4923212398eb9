"""A U-Net for small machines: most of its work is done at low resolution."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """Pictures (B, C, H, W) to pictures of the same shape, told a context (B, E), or (1, E) for all.

    Pixels are first folded into channels until about 14 rows are left, so that a 28x28 picture costs what a 14x14 one
    does; one level at that resolution, one at half of it with attention over all its places.

    Args:
        shape: (C, H, W).
        width: channels at the upper level; the lower has twice as many.
        context: E, size of the context; it scales and shifts every block.

    Source: Ronneberger et al. 2015, arXiv:1505.04597; Ho et al. 2020, arXiv:2006.11239, appendix B; the fold:
    Shi et al. 2016, arXiv:1609.05158.
    """

    def __init__(self, shape: tuple[int, ...], *, width: int, context: int) -> None:
        super().__init__()
        channels, height, rest = shape
        self.fold = 2 ** max(0, round(math.log2(min(height, rest) / 14)))
        folded = channels * self.fold**2
        self.stem = nn.Conv2d(folded, width, 3, padding=1)
        self.before = Block(width, width, context)
        self.down = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * width, 2 * width, 1))
        self.middle = nn.ModuleList(
            [Block(2 * width, 2 * width, context), Attention(2 * width), Block(2 * width, 2 * width, context)]
        )
        self.up = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2))
        self.after = Block(2 * width, width, context)
        self.norm = _norm(width)
        self.head = nn.Conv2d(width, folded, 3, padding=1)

    def hidden(self, x: Float[Tensor, "B C H W"], context: Float[Tensor, "#B E"]) -> Float[Tensor, "B F h w"]:
        """Activations at the lowest resolution."""
        return self._descend(self._folded(x), context)[1]

    def forward(self, x: Float[Tensor, "B C H W"], context: Float[Tensor, "#B E"]) -> Float[Tensor, "B C H W"]:
        """A picture of the same shape."""
        height, width = x.shape[2:]
        upper, lower = self._descend(self._folded(x), context)
        h = self.after(torch.cat([self.up(lower), upper], dim=1), context)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.fold)[:, :, :height, :width]

    def _descend(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        upper = self.before(self.stem(x), context)
        lower = self.down(upper)
        for layer in self.middle:
            lower = layer(lower, context)
        return upper, lower

    def _folded(self, x: Tensor) -> Tensor:
        """Rows and columns added until both levels have whole sizes, then pixels folded into channels."""
        whole = 2 * self.fold
        height, width = x.shape[2:]
        return F.pixel_unshuffle(F.pad(x, (0, -width % whole, 0, -height % whole)), self.fold)


class Block(nn.Module):
    """Residual block of two convolutions, its second norm scaled and shifted by the context."""

    def __init__(self, inputs: int, outputs: int, context: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_norm(inputs), _norm(outputs)])
        self.convs = nn.ModuleList(nn.Conv2d(c, outputs, 3, padding=1) for c in (inputs, outputs))
        self.film = nn.Linear(context, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "B I H W"], context: Float[Tensor, "#B E"]) -> Float[Tensor, "B O H W"]:
        """(B, outputs, H, W)."""
        scale, shift = self.film(F.silu(context))[:, :, None, None].chunk(2, dim=1)
        h = self.convs[0](F.silu(self.norms[0](x)))
        h = self.convs[1](F.silu(torch.addcmul(shift, self.norms[1](h), 1 + scale)))
        return self.skip(x) + h


class Attention(nn.Module):
    """Every place of a picture looks at every other: one residual layer of self-attention."""

    def __init__(self, width: int, *, head: int = 32) -> None:
        super().__init__()
        self.heads = max(1, width // head) if width % head == 0 else 1
        self.norm = _norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "B F H W"], context: Tensor | None = None) -> Float[Tensor, "B F H W"]:
        """(B, F, H, W); the context is not used."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H W, F / heads)
        return x + self.out(mixed.transpose(-1, -2).reshape(x.shape))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)
