"""Networks between a picture, or a text as a picture of one row, and a grid of vectors."""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from pofx.nn.conv import Finish

Size = tuple[int, int]


class ResidualBlock(nn.Module):
    """h + a 1x1 convolution of a 3x3 one.

    Source: van den Oord et al. 2017, arXiv:1711.00937, section 4.1.
    """

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.before, self.after = Finish(channels, context), Finish(channels, 0, norm="none")
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)])

    def forward(self, h: Float[Tensor, "B C H W"], context: Tensor | None) -> Float[Tensor, "B C H W"]:
        """The same shape; a context (B, E) is added before the first activation."""
        return h + self.convs[1](self.after(self.convs[0](self.before(h, context)), None))


class GridEncoder(nn.Module):
    """(B, C, H, W) to a vector for each place of the last size, flattened: (B, h * w * outputs).

    Args:
        channels: C.
        outputs: numbers of a vector.
        sizes: from (H, W) on, each the half of the one before, rounded up.
        width: channels after the first halving; twice as many after the others.
        blocks: residual blocks at the last size.
        context: E, size of a context (B, E); 0 for none.
    """

    def __init__(
        self, channels: int, outputs: int, sizes: list[Size], *, width: int, blocks: int, context: int
    ) -> None:
        super().__init__()
        widths = _widths(width, sizes)
        first = nn.Conv2d(channels, widths[0], 5, stride=2 if len(sizes) > 1 else 1, padding=2)
        self.convs = nn.ModuleList([first, *(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))])
        self.finishes = nn.ModuleList(Finish(c, context) for c in widths[:-1])
        self.blocks = nn.ModuleList(ResidualBlock(widths[-1], context) for _ in range(blocks))
        self.last = Finish(widths[-1], context)
        self.head = nn.Conv2d(widths[-1], outputs, 1)

    def forward(self, y: Float[Tensor, "B C H W"], context: Tensor | None = None) -> Float[Tensor, "B O"]:
        """By row, column, number."""
        for conv, finish in zip(self.convs, self.finishes):
            y = finish(conv(y), context)
        y = self.convs[-1](y)
        for block in self.blocks:
            y = block(y, context)
        return self.head(self.last(y, context)).movedim(1, -1).flatten(1)


class GridDecoder(nn.Module):
    """The mirror of ``GridEncoder``: (..., h * w * inputs) to (..., channels * H * W).

    Args:
        inputs: numbers of a vector.
        channels: of what comes out.
        sizes, width, blocks, context: the encoder's.
    """

    def __init__(self, inputs: int, channels: int, sizes: list[Size], *, width: int, blocks: int, context: int) -> None:
        super().__init__()
        self.sizes, self.inputs = sizes[::-1], inputs
        widths = _widths(width, sizes)[::-1]
        self.first = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(widths[0], context) for _ in range(blocks))
        self.finishes = nn.ModuleList(Finish(c, context) for c in widths)
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.head = (
            nn.ConvTranspose2d(widths[-1], channels, 6, stride=2, padding=2)
            if len(sizes) > 1
            else nn.Conv2d(widths[-1], channels, 3, padding=1)
        )

    def forward(self, z: Float[Tensor, "..."], context: Tensor | None = None) -> Float[Tensor, "..."]:
        """A context (B, E) serves every leading dimension but the last."""
        rows = z.shape[:-1]
        given = None if context is None else context.expand(*rows, -1).reshape(math.prod(rows), -1)
        h = self.first(z.reshape(-1, *self.sizes[0], self.inputs).movedim(-1, 1))
        for block in self.blocks:
            h = block(h, given)
        h = self.finishes[0](h, given)
        for conv, finish, (height, width) in zip(self.convs, self.finishes[1:], self.sizes[1:]):
            h = finish(conv(h)[:, :, :height, :width], given)
        height, width = self.sizes[-1]
        return self.head(h)[:, :, :height, :width].reshape(*rows, -1)


def _widths(width: int, sizes: list[Size]) -> list[int]:
    """Channels at each halved size."""
    return [width * min(2, 2**i) for i in range(max(1, len(sizes) - 1))]
