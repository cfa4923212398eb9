"""The networks of a ladder: a stream from x up, a stream from the top's z down, and what each level reads of both."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pofx.distributions import DiagonalNormal, in_full
from pofx.domains import Images
from pofx.nn.conv import Finish, halvings, reader, stage_widths, writer
from pofx.nn.mlp import MLP

Net = Callable[[int, int], nn.Module]
"""Sizes of input and output at each place to a network, called with h and a context."""


@dataclass(frozen=True)
class Rung:
    """One level.

    Args:
        size: numbers of z at each place.
        width: numbers of the streams at each place.
        place: (h, w) of the level's map; () where there is none.
    """

    size: int
    width: int
    place: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the level's z as a map."""
        return self.size, *self.place

    @property
    def dim(self) -> int:
        """Numbers of the level's z in all."""
        return math.prod(self.shape)


def flat_rungs(dims: int, levels: int, sizes: Sequence[int] | None, hidden: Sequence[int]) -> tuple[Rung, ...]:
    """The levels of x of so many values, top first: as many numbers as x has, from 2 up to 16, half of it above."""
    each = sizes or _halving(min(16, max(2, dims)), levels)
    width = hidden[-1] if hidden else max(dims, *each)
    return tuple(Rung(size, width) for size in each)


def map_rungs(domain: Images, levels: int, sizes: Sequence[int] | None, width: int) -> tuple[Rung, ...]:
    """The levels of a picture, top first, spread over the smallest maps: 16 numbers at each place of the smallest,
    half of it where the map is twice as large.
    """
    maps = picture_maps(domain, width)[::-1][:levels]
    each = [len(maps) * level // levels for level in range(levels)]
    sizes = sizes or [max(2, 16 >> i) for i in each]
    return tuple(Rung(size, maps[i][0], maps[i][1:]) for size, i in zip(sizes, each))


def _halving(bottom: int, levels: int) -> list[int]:
    return [max(2, bottom >> level) for level in reversed(range(levels))]


class Ascent(nn.Module):
    """x up to features at every level, and the law of z there, given x and the levels above.

    Args:
        reader: of x.
        moves: to each level's map from the one below, top first.
        blocks: of each level, top first.
        heads: of each level, from both streams to two numbers for each of z.
    """

    def __init__(
        self, reader: nn.Module, moves: Sequence["Chain"], blocks: Sequence["Chain"], heads: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.reader, self.moves = reader, nn.ModuleList(moves)
        self.blocks, self.heads = nn.ModuleList(blocks), nn.ModuleList(heads)

    def forward(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """The features of each level, top first."""
        d, features = self.reader(y), []
        for move, block in zip(reversed(self.moves), reversed(self.blocks)):
            d = block(move(d, context), context)
            features.append(d)
        return tuple(features[::-1])

    def posterior(self, level: int, d: Tensor, p: DiagonalNormal, s: Tensor, context: Tensor | None) -> DiagonalNormal:
        """q(z_l | z_>l, x), relative to p(z_l | z_>l): from the features and the stream from above."""
        shift, log_ratio = _halves(self.heads[level](torch.cat([d, s], dim=1), context))
        return DiagonalNormal(p.mu + shift, p.log_var + _bent(log_ratio))


class Descent(nn.Module):
    """z of every level, top first, down to what p(x|z) is made of, and the law of each given those above.

    Args:
        rungs: the levels, top first.
        laws: of each level but the top, from the stream to two numbers for each of z.
        puts: of each level, z to what is added to the stream.
        blocks: of each level.
        moves: to the next level's map, the last to the writer.
        writer: of what p(x|z) is made of.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        *,
        laws: Sequence[nn.Module],
        puts: Sequence[nn.Module],
        blocks: Sequence["Chain"],
        moves: Sequence["Chain"],
        writer: nn.Module,
    ) -> None:
        super().__init__()
        self.rungs, self.writer = tuple(rungs), writer
        self.start = nn.Parameter(torch.zeros(rungs[0].width, *rungs[0].place))
        self.laws, self.puts = nn.ModuleList(laws), nn.ModuleList(puts)
        self.blocks, self.moves = nn.ModuleList(blocks), nn.ModuleList(moves)

    def walk(
        self, n: int, choose: Callable[[int, Tensor], Float[Tensor, "n K"]], context: Tensor | None
    ) -> Float[Tensor, "n O"]:
        """The way down for n observations, where ``choose(level, s)`` picks z; what p(x|z) is made of."""
        s = self.start.expand(n, *self.start.shape)
        for level, rung in enumerate(self.rungs):
            z = choose(level, s)
            s = s + self.puts[level](z.reshape(n, *rung.shape))
            s = self.moves[level](self.blocks[level](s, context), context)
        return self.writer(s, context).flatten(1)

    def prior(self, level: int, s: Tensor, context: Tensor | None) -> DiagonalNormal:
        """p(z_l | z_>l), by the stream from above; N(0, I) at the top."""
        if level == 0:
            zeros = s.new_zeros(len(s), self.rungs[0].dim)
            return DiagonalNormal(zeros, zeros)
        mu, log_var = _halves(self.laws[level - 1](s, context))
        return DiagonalNormal(mu, _bent(log_var))

    def split(self, z: Float[Tensor, "*B D"]) -> tuple[Tensor, ...]:
        """z of each level."""
        return z.split([rung.dim for rung in self.rungs], dim=-1)

    def forward(self, z: Float[Tensor, "*B D"], context: Tensor | None) -> Float[Tensor, "*B O"]:
        """What p(x|z) is made of, along a given z."""
        each = self.split(z.flatten(0, -2))
        flat = None if context is None else context.expand(*z.shape[:-1], -1).flatten(0, -2)
        return self.walk(len(each[0]), lambda level, s: each[level], flat).view(*z.shape[:-1], -1)


class Chain(nn.Module):
    """Networks one after the other, each called with a context.

    Args:
        residual: each adds to what it is given.
    """

    def __init__(self, nets: Iterable[nn.Module] = (), *, residual: bool = False) -> None:
        super().__init__()
        self.nets, self.residual = nn.ModuleList(nets), residual

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        """h, after all of them."""
        for net in self.nets:
            h = h + net(h, context) if self.residual else net(h, context)
        return h


class Conv(nn.Module):
    """A convolution of what was normalised, told of the context, and bent."""

    def __init__(self, channels: int, conv: nn.Module, context: int, *, crop: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.finish, self.conv, self.crop = Finish(channels, context), conv, crop

    def forward(self, h: Float[Tensor, "B C H W"], context: Tensor | None) -> Float[Tensor, "B O h w"]:
        """The map, cut to the size ``crop`` where that is given."""
        out = self.conv(self.finish(h, context))
        return out[:, :, : self.crop[0], : self.crop[1]] if self.crop else out


def vector_ladder(
    rungs: Sequence[Rung],
    *,
    inputs: int,
    written: int,
    hidden: Sequence[int],
    blocks: int,
    context: int,
    activation: type[nn.Module],
) -> tuple[Ascent, Descent]:
    """Both ways between a vector of ``inputs`` and one of ``written`` numbers, of MLPs."""

    def net(a: int, b: int) -> MLP:
        return MLP(a, hidden, b, context=context, activation=activation, norm=True)

    width, still = rungs[-1].width, [Chain() for _ in rungs]
    return _assembled(rungs, nn.Linear(inputs, width), net(width, written), net, nn.Linear, blocks, still, still)


def picture_ladder(
    rungs: Sequence[Rung], domain: Images, *, written: int, width: int, blocks: int, context: int
) -> tuple[Ascent, Descent]:
    """Both ways between a picture and ``written`` numbers for each of its values, of convolutions."""
    sizes = halvings(domain.height, domain.width)
    maps = picture_maps(domain, width)
    places = [maps.index((rung.width, *rung.place)) for rung in rungs]

    def net(a: int, b: int) -> Conv:
        return Conv(a, nn.Conv2d(a, b, 3, padding=1), context)

    def halve(a: tuple[int, ...], b: tuple[int, ...]) -> Conv:
        return Conv(a[0], nn.Conv2d(a[0], b[0], 3, stride=2, padding=1), context)

    def double(a: tuple[int, ...], b: tuple[int, ...]) -> Conv:
        return Conv(a[0], nn.ConvTranspose2d(a[0], b[0], 4, stride=2, padding=1), context, crop=b[1:])

    ways = [maps[low : high + 1] for high, low in zip(places, [*places[1:], 0])]
    ups = [Chain(halve(a, b) for a, b in zip(way, way[1:])) for way in ways]
    downs = [Chain(double(a, b) for a, b in zip(way[::-1], way[-2::-1])) for way in ways]
    write = Conv(maps[0][0], writer(maps[0][0], written * domain.channels, sizes), context, crop=domain.shape[1:])
    return _assembled(rungs, reader(domain.channels, maps[0][0], sizes), write, net, _pointwise, blocks, ups, downs)


def picture_maps(domain: Images, width: int) -> list[tuple[int, ...]]:
    """(C, h, w) of the streams' maps, each half as large as the one before."""
    sizes = halvings(domain.height, domain.width)
    return [(c, *place) for c, place in zip(stage_widths(width, len(sizes)), sizes[1:] or sizes)]


def _assembled(
    rungs: Sequence[Rung],
    read: nn.Module,
    write: nn.Module,
    net: Net,
    linear: Callable[[int, int], nn.Module],
    blocks: int,
    ups: Sequence[Chain],
    downs: Sequence[Chain],
) -> tuple[Ascent, Descent]:
    def chains() -> list[Chain]:
        return [Chain((net(rung.width, rung.width) for _ in range(blocks)), residual=True) for rung in rungs]

    heads = [_quiet(net(2 * rung.width, 2 * rung.size)) for rung in rungs]
    laws = [_quiet(net(rung.width, 2 * rung.size)) for rung in rungs[1:]]
    puts = [linear(rung.size, rung.width) for rung in rungs]
    return (
        Ascent(read, ups, chains(), heads),
        Descent(rungs, laws=laws, puts=puts, blocks=chains(), moves=downs, writer=write),
    )


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


@torch.no_grad()
def _quiet(net: nn.Module) -> nn.Module:
    """The network with an output near zero, to begin with."""
    last = net.get_submodule("head" if isinstance(net, MLP) else "conv")
    last.get_parameter("weight").mul_(0.1)
    last.get_parameter("bias").zero_()
    return net


def _bent(log_var: Tensor) -> Tensor:
    """Within e^-8 to e^8: a hierarchy multiplies its levels' variances, which would otherwise run away."""
    return 8 * torch.tanh(log_var / 8)


def _halves(told: Tensor) -> tuple[Tensor, Tensor]:
    a, b = in_full(told).chunk(2, dim=1)
    return a.flatten(1), b.flatten(1)
