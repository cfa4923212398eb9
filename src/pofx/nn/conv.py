"""Convolutional stacks between a picture of any size and a vector: halve until at most 4 x 4, and the way back."""

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from pofx.domains import Images

Norm = Literal["layer", "batch", "none"]


def halvings(height: int, width: int, *, smallest: int = 4) -> list[tuple[int, int]]:
    """Sizes from (H, W) down to at most ``smallest`` on each side, each the half of the one before, rounded up.

    >>> halvings(28, 20)
    [(28, 20), (14, 10), (7, 5), (4, 3)]
    """
    sizes = [(height, width)]
    while max(sizes[-1]) > smallest:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


class Finish(nn.Module):
    """What follows a convolution: a norm, the context (B, E) added to every pixel, an activation.

    Args:
        norm: "layer", over (C, H, W) of each picture; "batch", over the batch and (H, W); "none".
    """

    def __init__(
        self, channels: int, context: int, norm: Norm = "layer", activation: type[nn.Module] = nn.SiLU
    ) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        if norm != "none":
            self.norm = nn.GroupNorm(1, channels) if norm == "layer" else nn.BatchNorm2d(channels)
        self.context = nn.Linear(context, channels, bias=False) if context else None
        self.activation = activation()

    def forward(self, h: Float[Tensor, "B C H W"], context: Tensor | None) -> Float[Tensor, "B C H W"]:
        """h, normalised, told of the context and bent."""
        h = self.norm(h)
        if self.context is not None:
            h = h + self.context(context)[:, :, None, None]
        return self.activation(h)


class ConvEncoder(nn.Module):
    """A picture to a vector: strided convolutions, then a linear head.

    Args:
        domain: what a picture is.
        outputs: size of the vector.
        width: channels of the first stage; they double at each, up to four times as many.
        context: E, size of a context (B, E) added at each stage; 0 for none.
        norm: before each activation; "batch" leaves out the first, which reads the picture.
        activation: of each stage.
    """

    def __init__(
        self,
        domain: Images,
        outputs: int,
        *,
        width: int = 32,
        context: int = 0,
        norm: Norm = "layer",
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        sizes = halvings(domain.height, domain.width)
        widths = stage_widths(width, len(sizes))
        self.convs = nn.ModuleList([reader(domain.channels, widths[0], sizes)])
        self.convs.extend(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:]))
        norms: list[Norm] = ["none" if norm == "batch" else norm, *[norm] * (len(widths) - 1)]
        self.finishes = nn.ModuleList(Finish(c, context, norm, activation) for c, norm in zip(widths, norms))
        self.head = nn.Linear(widths[-1] * sizes[-1][0] * sizes[-1][1], outputs)

    def hidden(self, y: Float[Tensor, "B C H W"], context: Tensor | None = None) -> Float[Tensor, "B F"]:
        """The last feature maps, flattened."""
        for conv, finish in zip(self.convs, self.finishes):
            y = finish(conv(y), context)
        return y.flatten(1)

    def forward(self, y: Float[Tensor, "B C H W"], context: Tensor | None = None) -> Float[Tensor, "B O"]:
        """y (B, C, H, W), in [-1, 1], to (B, outputs)."""
        return self.head(self.hidden(y, context))


class ConvDecoder(nn.Module):
    """A vector to a picture: a linear layer, then transposed convolutions, each cropped to its odd or even size.

    Args:
        domain: what a picture is.
        inputs: size of the vector.
        channels: of the output, per pixel; None: the domain's.
        width: channels of the last stage; the mirror of ``ConvEncoder``.
        context: E, size of a context (B, E) added at each stage; 0 for none.
        norm: before each activation.
        activation: of each stage.
    """

    def __init__(
        self,
        domain: Images,
        inputs: int,
        *,
        channels: int | None = None,
        width: int = 32,
        context: int = 0,
        norm: Norm = "layer",
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.sizes = halvings(domain.height, domain.width)[::-1]
        widths = stage_widths(width, len(self.sizes))[::-1]
        self.shape = (widths[0], *self.sizes[0])
        self.first = nn.Linear(inputs, math.prod(self.shape))
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:]))
        self.finishes = nn.ModuleList(Finish(channels, context, norm, activation) for channels in widths)
        self.head = writer(widths[-1], channels or domain.channels, self.sizes)

    def hidden(self, z: Float[Tensor, "B K"], context: Tensor | None = None) -> Float[Tensor, "B F h w"]:
        """The last feature maps, before the picture's own size."""
        h = self.finishes[0](self.first(z).view(-1, *self.shape), context)
        for conv, finish, (height, width) in zip(self.convs, self.finishes[1:], self.sizes[1:]):
            h = finish(conv(h)[:, :, :height, :width], context)
        return h

    def forward(self, z: Float[Tensor, "B K"], context: Tensor | None = None) -> Float[Tensor, "B C H W"]:
        """z (B, inputs) to (B, channels, H, W)."""
        height, width = self.sizes[-1]
        return self.head(self.hidden(z, context))[:, :, :height, :width]


def stage_widths(width: int, sizes: int) -> list[int]:
    """Channels at each halved size, the picture's own size left out."""
    return [width * min(4, 2**i) for i in range(max(1, sizes - 1))]


def reader(channels: int, width: int, sizes: list[tuple[int, int]]) -> nn.Conv2d:
    """The layer that reads the picture: halves it at once, as full-size feature maps would cost most of the time."""
    return nn.Conv2d(channels, width, 5, stride=2 if len(sizes) > 1 else 1, padding=2)


def writer(width: int, channels: int, sizes: list[tuple[int, int]]) -> nn.Module:
    """The layer that writes the picture, from maps of half its size."""
    if len(sizes) == 1:
        return nn.Conv2d(width, channels, 3, padding=1)
    return nn.ConvTranspose2d(width, channels, 6, stride=2, padding=2)
