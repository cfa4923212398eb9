"""Gated PixelCNN: each pixel from those above and to the left, by convolutions that see no others; exact."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from pofx.conditions import Condition
from pofx.distributions.conditional import Level
from pofx.domains import Domain, Images, require
from pofx.errors import Unusable
from pofx.models.autoregressive.chain import Autoregressive
from pofx.nn.mlp import MLP, ConditionEmbedding
from pofx.nn.sequence import NumberEmbedding, value_embedding
from pofx.samplers.decoding import Outputs


class PixelCNN(Autoregressive):
    r"""$\log p(x|c) = \sum_{ij} \log p(x_{ij} | x_{<ij}, c)$, exact, nats per observation.

    Two stacks of gated convolutions: a vertical one sees the rows above, a horizontal one the pixels to the left and
    the vertical one, so that there is no blind spot. Instead of masks, what they read is shifted by one pixel. The
    channels of one pixel follow each other: each is predicted from the stacks and the channels before it.

    Source: van den Oord et al. 2016, arXiv:1606.05328, eq. (2), (4) and figure 2; shifts, residual connections of both
    stacks and logistic mixtures: Salimans et al. 2017, arXiv:1701.05517, sections 2.1 to 2.4. Here, besides, places
    are embedded.

    Args:
        domain: pictures of integer levels.
        condition: what p(x|c) is given; added before each gate.
        width: E, feature maps of each stack; by default from the domain.
        layers: L; the vertical stack reaches L (kernel - 1) / 2 rows up and as many columns to each side.
        kernel: side of the kernel before half of it is cut away; odd.
        mixtures: M logistics for the levels of a channel, 0 for a probability of its own for each level; by default 0
            up to 32 levels and for colours of a palette, else 10.

    Raises:
        Unusable: a domain it does not take, or sizes that cannot be.
    """

    domain: Images

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        width: int | None = None,
        layers: int | None = None,
        kernel: int = 3,
        mixtures: int | None = None,
    ) -> None:
        require("pixelcnn", domain, Images)
        assert isinstance(domain, Images)
        by_default = 10 if (domain.levels or 0) > 32 and not domain.palette else 0
        super().__init__("pixelcnn", domain, condition, mixtures=(by_default if mixtures is None else mixtures) or None)
        size, self.recipe = _advice(domain)
        self.width, self.layers = (b if a is None else a for a, b in zip((width, layers), size))
        if min(self.width, self.layers) < 1 or kernel < 3 or kernel % 2 == 0:
            raise Unusable(
                f"pixelcnn needs a width and layers of at least 1 and an odd kernel of at least 3, "
                f"got width {self.width}, layers {self.layers}, kernel {kernel}"
            )
        ordered = isinstance(self.conditional, Level)
        self.values = NumberEmbedding(self.width) if ordered else value_embedding(self.sequence, self.width)
        self.pixel = nn.Linear(domain.channels * self.width, self.width)
        self.given = None if condition is None else ConditionEmbedding(condition, self.width)
        self.stacks = _Stacks(domain, self.width, self.layers, kernel // 2, conditional=condition is not None)
        inputs = [(1 + channel) * self.width for channel in range(domain.channels)]
        channels = [MLP(n, (self.width,), self.conditional.outputs) for n in inputs]
        for predict in channels:
            nn.init.zeros_(predict.head.weight)
        self.channels = nn.ModuleList(channels)

    def outputs(self, s: Shaped[Tensor, "B T"], c: Tensor | None) -> Float[Tensor, "B T P"]:
        """What is put out for each value, from those before it."""
        e = self._values(s).unflatten(1, (self.domain.height, self.domain.width, self.domain.channels))
        h = self._hidden(e, c)
        out = [
            predict(torch.cat([h, e[..., :channel, :].flatten(-2)], dim=-1))
            for channel, predict in enumerate(self.channels)
        ]
        return torch.stack(out, dim=3).flatten(1, 3)

    @torch.no_grad()
    def stepper(self, n: int, c: Tensor | None, *, cached: bool) -> Outputs:
        """Place by place, the feature maps of the pixels before kept; without a cache all is computed each time."""
        return _Stepper(self, n, c) if cached else lambda s, t: self.outputs(s, c)[:, t]

    @torch.no_grad()
    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """(B, E) feature maps of the horizontal stack averaged over pixels; given a mean condition."""
        e = self._values(self.read(x)).unflatten(1, (self.domain.height, self.domain.width, self.domain.channels))
        return self._hidden(e, None).mean((1, 2))

    def _hidden(self, e: Float[Tensor, "B H W C E"], c: Tensor | None) -> Float[Tensor, "B H W E"]:
        """What the stacks make of the pixels before each."""
        return self.stacks(self.pixel(e.flatten(3)), self._context(c))

    def _values(self, s: Int[Tensor, "B T"]) -> Float[Tensor, "B T E"]:
        return self.values(self.domain.centre(s).to(self.pixel.weight) if isinstance(self.conditional, Level) else s)

    def _context(self, c: Tensor | None) -> Tensor | None:
        if self.condition is None or self.given is None:
            return None
        return (self.given.absent() if c is None else self.given(c))[:, None, None]


class _Stacks(nn.Module):
    """The vertical and the horizontal stack over whole pictures; what comes out at a pixel saw those before it alone.

    Args:
        domain: what a picture is.
        width: E.
        layers: L.
        reach: R, how far a layer reads up, left and right (the horizontal stack: left alone).
        conditional: whether a condition is added before each gate.
    """

    def __init__(self, domain: Images, width: int, layers: int, reach: int, *, conditional: bool) -> None:
        super().__init__()
        self.reach = reach
        self.rows = nn.Embedding(domain.height, width)
        self.columns = nn.Embedding(domain.width, width)
        gates = [_Gates(width, reach, width if conditional else 0) for _ in range(layers)]
        self.gates = cast(Sequence[_Gates], nn.ModuleList(gates))

    @property
    def places(self) -> Float[Tensor, "H W E"]:
        """Row and column of the pixel that is predicted."""
        return self.rows.weight[:, None] + self.columns.weight

    def forward(
        self, pixels: Float[Tensor, "B H W E"], context: Float[Tensor, "#B 1 1 E"] | None
    ) -> Float[Tensor, "B H W E"]:
        """What the horizontal stack ends with."""
        v = F.pad(pixels, (0, 0, 0, 0, 1, -1)) + self.places  # from here on a pixel's own row is the row above it
        h = F.pad(pixels, (0, 0, 1, -1)) + self.places  # and its own column the one to its left
        for gates in self.gates:
            v, beside = gates.vertical(F.pad(v, (0, 0, self.reach, self.reach, self.reach, 0)), v, context)
            h = gates.horizontal(_windows(F.pad(h, (0, 0, self.reach, 0)), self.reach), h, beside)
        return h


class _Gates(nn.Module):
    """One layer of both stacks; each adds tanh(a) * sigmoid(b) to what it was. ``context``: E, or 0 for none."""

    def __init__(self, width: int, reach: int, context: int) -> None:
        super().__init__()
        self.above = nn.Conv2d(width, 2 * width, (reach + 1, 2 * reach + 1))
        self.left = nn.Linear((reach + 1) * width, 2 * width, bias=False)
        self.beside = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.context = nn.Linear(context, 4 * width, bias=False) if context else None

    def vertical(
        self, around: Float[Tensor, "B RH RWR E"], v: Float[Tensor, "B H W E"], context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """v and what it tells the horizontal stack (B, H, W, 2 E), from v and the places around it."""
        a = self.above(around.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        v_bias, h_bias = (0, 0) if self.context is None else self.context(context).chunk(2, dim=-1)
        v = v + _gate(a + v_bias)
        return v, self.beside(v) + h_bias

    def horizontal(self, window: Float[Tensor, "*B RE"], h: Float[Tensor, "*B E"], beside: Tensor) -> Tensor:
        """h (*B, E), from itself with the R places to its left, and from the vertical stack."""
        return h + self.out(_gate(self.left(window) + beside))


class _Stepper:
    """One pixel after another, for n pictures at once: a row of the vertical stack when it begins, then pixel by pixel.

    Of each layer it keeps what later pixels read: the R + 1 latest rows of the vertical stack, the row so far of the
    horizontal one.
    """

    def __init__(self, model: PixelCNN, n: int, c: Tensor | None) -> None:
        self.model, self.context, self.done = model, model._context(c), 0
        self.gates, self.reach, self.places = model.stacks.gates, model.stacks.reach, model.stacks.places
        new, width = model.pixel.weight.new_zeros, model.domain.width
        self.above = [new(n, self.reach + 1, width + 2 * self.reach, model.width) for _ in self.gates]
        self.row = [new(n, self.reach + width, model.width) for _ in self.gates]
        self.beside = [new(n, width, 2 * model.width) for _ in self.gates]

    @torch.no_grad()
    def __call__(self, s: Tensor, t: int) -> Tensor:
        pixel, channel = divmod(t, self.model.domain.channels)
        for each in range(self.done, pixel + 1):
            self._advance(s, *divmod(each, self.model.domain.width))
        self.done = pixel + 1
        before = self.model._values(s[:, t - channel : t]).flatten(1)
        return self.model.channels[channel](torch.cat([self.h, before], dim=1))

    def _advance(self, s: Tensor, i: int, j: int) -> None:
        """The horizontal stack at pixel (i, j)."""
        if j == 0:
            self._begin_row(s, i)
        h = self.places[i, j].expand(len(s), -1)
        h = h if j == 0 else h + self._pixels(s, i, slice(j - 1, j))[:, 0]
        for gates, row, beside in zip(self.gates, self.row, self.beside):
            row[:, j + self.reach] = h
            h = gates.horizontal(row[:, j : j + self.reach + 1].flatten(1), h, beside[:, j])
        self.h = h

    def _begin_row(self, s: Tensor, i: int) -> None:
        """The vertical stack of row i, which reads row i - 1."""
        v = self.places[i].expand(len(s), -1, -1)
        v = (v if i == 0 else v + self._pixels(s, i - 1, slice(None)))[:, None]
        for layer, gates in enumerate(self.gates):
            above = self.above[layer] = self.above[layer].roll(-1, dims=1)
            above[:, self.reach, self.reach : -self.reach] = v[:, 0]
            v, beside = gates.vertical(above, v, self.context)
            self.beside[layer] = beside[:, 0]

    def _pixels(self, s: Tensor, i: int, columns: slice) -> Float[Tensor, "B W E"]:
        """Some pixels of row i, as they are read."""
        domain = self.model.domain
        levels = s.unflatten(1, (domain.height, domain.width, domain.channels))[:, i, columns]
        return self.model.pixel(self.model._values(levels.flatten(1)).unflatten(1, levels.shape[1:]).flatten(2))


def _windows(h: Float[Tensor, "B H RW E"], reach: int) -> Float[Tensor, "B H W RE"]:
    """Each place with the ``reach`` ones to its left."""
    width = h.shape[2] - reach
    return torch.cat([h[:, :, k : k + width] for k in range(reach + 1)], dim=-1)


def _gate(a: Float[Tensor, "*B EE"]) -> Float[Tensor, "*B E"]:
    a, b = a.chunk(2, dim=-1)
    return a.tanh() * b.sigmoid()


def _advice(domain: Images) -> tuple[tuple[int, int], dict[str, Any]]:
    """(width, layers) and training settings by the domain."""
    recipe = {"optimiser": "adamw", "learning_rate": 4e-3, "schedule": "trapezoid", "warmup": 0.05, "cooldown": 0.5}
    if domain.dims <= 256:
        return (48, 5), recipe | {"batch_size": 32, "ema": 0.1}
    return (32, 7), recipe | {"batch_size": 16, "ema": 0.1}
