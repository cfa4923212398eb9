"""Residual networks between a picture and a vector, for the two players of a game: h + r(h) at every size.

Without norms: what a critic says of one picture must not depend on another, and a norm would hide from its gradient
penalty how steep it is.

Source: Huang et al. 2024, arXiv:2501.05441, section 3; Zhang et al. 2019, arXiv:1901.09321 (a start near the identity).
"""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from pofx.domains import Images
from pofx.nn.conv import halvings, reader, stage_widths, writer


class Block(nn.Module):
    """h + r(h), r two convolutions with a kink before each; a context (B, E) is added between them.

    Args:
        blocks: of the network: the more there are, the closer to nothing each r begins.
    """

    def __init__(self, channels: int, context: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.context = nn.Linear(context, channels, bias=False) if context else None
        self.bend = nn.LeakyReLU(0.2)
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        # small, not zero: the spectral norm of nothing is no number
        nn.init.normal_(self.last.weight, std=0.1 / math.sqrt(9 * channels * blocks))

    def forward(self, h: Float[Tensor, "B C H W"], context: Tensor | None) -> Float[Tensor, "B C H W"]:
        """h, changed a little."""
        r = self.first(self.bend(h))
        if self.context is not None:
            r = r + self.context(context)[:, :, None, None]
        return h + self.last(self.bend(r))


class ResidualEncoder(nn.Module):
    """A picture to a vector: at each size a change of channels and a block, then half the size.

    Args:
        domain: what a picture is.
        outputs: size of the vector.
        width: channels of the first stage; they double at each, up to four times as many.
        context: E, size of a context (B, E) added in each block; 0 for none.
    """

    def __init__(self, domain: Images, outputs: int, *, width: int = 32, context: int = 0) -> None:
        super().__init__()
        sizes = halvings(domain.height, domain.width)
        widths = stage_widths(width, len(sizes))
        self.read = reader(domain.channels, widths[0], sizes)
        self.widen = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip(widths, widths[1:]))
        self.blocks = nn.ModuleList(Block(channels, context, len(widths)) for channels in widths)
        self.head = nn.Linear(widths[-1] * sizes[-1][0] * sizes[-1][1], outputs)

    def hidden(self, y: Float[Tensor, "B C H W"], context: Tensor | None = None) -> Float[Tensor, "B F"]:
        """The last feature maps, flattened."""
        h = self.blocks[0](self.read(y), context)
        for widen, block in zip(self.widen, self.blocks[1:]):
            h = block(widen(avg_pool2d(h, 2, ceil_mode=True, count_include_pad=False)), context)
        return h.flatten(1)

    def forward(self, y: Float[Tensor, "B C H W"], context: Tensor | None = None) -> Float[Tensor, "B O"]:
        """y (B, C, H, W), in [-1, 1], to (B, outputs)."""
        return self.head(self.hidden(y, context))


class ResidualDecoder(nn.Module):
    """A vector to a picture: the mirror of ``ResidualEncoder``, with nearest neighbours for twice the size.

    Args:
        domain: what a picture is.
        inputs: size of the vector.
        width: channels of the last stage.
        context: E, size of a context (B, E) added in each block; 0 for none.
    """

    def __init__(self, domain: Images, inputs: int, *, width: int = 32, context: int = 0) -> None:
        super().__init__()
        self.sizes = halvings(domain.height, domain.width)[::-1]
        widths = stage_widths(width, len(self.sizes))[::-1]
        self.shape = (widths[0], *self.sizes[0])
        self.first = nn.Linear(inputs, math.prod(self.shape))
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip(widths, widths[1:]))
        self.blocks = nn.ModuleList(Block(channels, context, len(widths)) for channels in widths)
        self.bend = nn.LeakyReLU(0.2)
        self.head = writer(widths[-1], domain.channels, self.sizes)

    def forward(self, z: Float[Tensor, "B K"], context: Tensor | None = None) -> Float[Tensor, "B C H W"]:
        """z (B, inputs) to (B, C, H, W)."""
        h = self.blocks[0](self.first(z).view(-1, *self.shape), context)
        for narrow, block, size in zip(self.narrow, self.blocks[1:], self.sizes[1:]):
            h = block(interpolate(narrow(h), size=size), context)
        height, width = self.sizes[-1]
        return self.head(self.bend(h))[:, :, :height, :width]
