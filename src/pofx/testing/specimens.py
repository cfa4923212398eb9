"""What the checks are run on: observations few enough to sum over, data to learn them from, a loop to learn with."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor, nn

from pofx.conditions import Classes, Condition
from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.protocols import Adapts, Learns, Plays, Progress, Turn, capabilities
from pofx.randomness import seeded_init, stream

Build = Callable[[], Any]
"""An untrained model of one domain and condition; it is called inside ``seeded_init``."""

STEPS = 30
"""Rounds of training after which a model counts as trained: enough to leave the symmetries of its first weights."""

TINY: dict[str, tuple[Domain, ...]] = {
    "images": (Images(1, 2, 2, levels=2), Images(1, 1, 2, levels=3)),
    "tokens": (Tokens(3, 4), Tokens(3, 3, end=2)),
    "vectors": (Vectors(2),),
}
"""Per kind, domains of at most 81 observations, or of two real numbers."""

TWO_CLASSES = Classes(("rare", "common"), (0.3, 0.7))
"""Unequal, so that a marginal over equal classes is seen."""


def tiny_data(domain: Domain, condition: Condition | None, n: int = 200) -> tuple[Tensor, Tensor | None]:
    """n observations whose law depends on the condition, with dependent dimensions; always the same ones."""
    g = stream(0, "tiny data")
    c = (condition or TWO_CLASSES).sample(n, generator=g)
    label = c if c.ndim == 1 else (c.flatten(1).double().mean(1) > c.double().mean()).long()
    x = _vectors(domain, label, g) if isinstance(domain, Vectors) else _levels(domain, label, g)
    return x, None if condition is None else c


def _levels(domain: Images | Tokens, label: Tensor, g: Generator) -> Tensor:
    """Each value repeats the one before with probability 0.4, else favours the level that the label names."""
    size = symbols(domain)
    p = torch.full((len(label), size), 1.0)
    p[torch.arange(len(label)), label % size] += 2.0
    fresh = torch.multinomial(p, domain.dims, replacement=True, generator=g)
    repeats = torch.rand(fresh.shape, generator=g) < 0.4
    for d in range(1, domain.dims):
        fresh[:, d] = torch.where(repeats[:, d], fresh[:, d - 1], fresh[:, d])
    if isinstance(domain, Tokens) and domain.end is not None:
        fresh = padded(fresh, domain.end)
    return fresh.view(-1, *domain.shape).to(domain.dtype)


def _vectors(domain: Vectors, label: Tensor, g: Generator) -> Tensor:
    """A blob per label, correlated, in units far from the standard ones."""
    d = torch.arange(domain.dim)
    noise = torch.randn(len(label), domain.dim, generator=g)
    noise = 0.8 * noise + 0.6 * noise.roll(1, dims=1) * (d > 0)
    return (noise + 1.5 * label[:, None] * (-1.0) ** d) * 2.0 ** (1 - 2 * d) + 3.0 - d


def symbols(domain: Images | Tokens) -> int:
    """How many values one dimension can take."""
    size = domain.vocabulary if isinstance(domain, Tokens) else domain.levels
    if size is None:
        raise ValueError("pictures without levels cannot be enumerated; give a domain with levels")
    return size


def padded(x: Tensor, end: int) -> Tensor:
    """The same records with everything after the first ``end`` replaced by it."""
    ended = (x == end).cumsum(1) > 0
    return torch.where(ended, end, x)


@dataclass(frozen=True)
class Lattice:
    """Points at which a density is summed: every observation, or the middles of small equal cells.

    Args:
        points: (N, ...) canonical, but vectors in double precision.
        log_volume: of the cell around each point; 0 where observations are counted.
        block: (N,) coarser cells, for comparing counts.
        low, high: corners of the box that the cells fill; what lies outside is in a block of its own.
    """

    points: Tensor
    log_volume: float
    block: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    blocks_per_dim: int = 0

    @property
    def blocks(self) -> int:
        """How many blocks there are, the outside not counted."""
        return int(self.block.max()) + 1

    def probabilities(self, log_p: Tensor) -> Tensor:
        """(blocks + 1,) mass of each block, then what is left for the outside, from log p at the points."""
        mass = torch.zeros(self.blocks, dtype=log_p.dtype).index_add_(0, self.block, (log_p + self.log_volume).exp())
        return torch.cat([mass, (1 - mass.sum()).clamp(min=0)[None]])

    def counts(self, x: Tensor) -> Tensor:
        """(blocks + 1,) how many of x lie in each block, and outside."""
        return torch.bincount(self._block_of(x), minlength=self.blocks + 1)

    def _block_of(self, x: Tensor) -> Tensor:
        if self.low is None or self.high is None:
            same = (x.flatten(1)[:, None].long() == self.points.flatten(1)[None].long()).all(2)
            return torch.where(same.any(1), same.int().argmax(1), self.blocks)
        free = self.high > self.low
        place = ((x.double() - self.low) / (self.high - self.low))[:, free]
        index = (place * self.blocks_per_dim).floor().long()
        inside = ((index >= 0) & (index < self.blocks_per_dim)).all(1)
        weights = self.blocks_per_dim ** torch.arange(index.shape[1]).flip(0)
        return torch.where(inside, (index * weights).sum(1), self.blocks)


def every_observation(domain: Images | Tokens) -> Tensor:
    """All of them, canonical; a record of tokens that goes on after its end is none."""
    values = torch.arange(symbols(domain))
    x = torch.cartesian_prod(*[values] * domain.dims).reshape(-1, domain.dims)
    if isinstance(domain, Tokens) and domain.end is not None:
        x = x[(padded(x, domain.end) == x).all(1)]
    return x.view(-1, *domain.shape).to(domain.dtype)


def lattice(
    domain: Domain, *, fine: int = 12, reach: float = 5.0, given: Tensor | None = None, known: Tensor | None = None
) -> Lattice:
    """Where to sum a density of ``domain``: all of it, or what agrees with the ``known`` values of one x ``given``.

    Args:
        fine: points per block and dimension, for vectors; there are 8 blocks per dimension, or 40 on a line.
        reach: from the data's mean to the edges of the box, in standard deviations.
    """
    if not isinstance(domain, Vectors):
        x = every_observation(domain)
        if given is not None and known is not None:
            x = x[((x == given) | ~known).flatten(1).all(1)]
        return Lattice(x, 0.0, torch.arange(len(x)))
    data = tiny_data(domain, None)[0].double()
    low, high = data.mean(0) - reach * data.std(0), data.mean(0) + reach * data.std(0)
    free = torch.ones(domain.dim, dtype=torch.bool) if known is None else ~known
    blocks = 8 if int(free.sum()) > 1 else 40
    cells = blocks * fine
    middle = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    unit = torch.cartesian_prod(*[middle] * int(free.sum())).view(-1, int(free.sum()))
    points = torch.zeros(len(unit), domain.dim, dtype=torch.float64)
    points[:, free] = low[free] + unit * (high - low)[free]
    if given is not None:
        points[:, ~free] = given.double()[~free]
        low, high = torch.where(free, low, given.double()), torch.where(free, high, given.double())
    index = (unit * blocks).floor().long()
    block = (index * blocks ** torch.arange(index.shape[1]).flip(0)).sum(1)
    return Lattice(points, float(((high - low)[free] / cells).log().sum()), block, low, high, blocks)


def given_rows(condition: Condition | None) -> list[tuple[str, Tensor | None]]:
    """What p may be asked given: nothing, where that is a marginal, and each class or an example."""
    if condition is None:
        return [("", None)]
    if isinstance(condition, Classes):
        return [("", None), *((f" given {name}", torch.tensor([k])) for k, name in enumerate(condition.names))]
    return [(" given an example", condition.sample(1, generator=stream(0, "given")))]


def turns_of(model: Any) -> tuple[Turn, ...]:
    """The game that learning is; one of a single player where the model has a loss alone."""
    able = capabilities(model)
    if Plays in able:
        return tuple(model.turns())
    if Learns in able:
        return (Turn("model", tuple(p for p in model.parameters() if p.requires_grad), model.loss),)
    return ()


def rounds(
    model: Any, x: Tensor, c: Tensor | None, *, steps: int, generator: Generator, batch: int = 50, rate: float = 0.01
) -> Iterator[Turn]:
    """Plays the game for ``steps`` rounds with Adam, yielding each turn after its optimiser step."""
    turns = turns_of(model)
    optimisers = [torch.optim.Adam(turn.parameters, lr=rate) for turn in turns]
    done, planned = 0, steps * sum(turn.repeats for turn in turns)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=generator)
        for turn, optimiser in zip(turns, optimisers):
            for _ in range(turn.repeats):
                if turn.fresh:
                    rows = torch.randint(len(x), (batch,), generator=generator)
                loss = turn.loss(x[rows], None if c is None else c[rows], generator=generator)
                optimiser.zero_grad()
                loss.total.backward(inputs=list(turn.parameters))
                optimiser.step()
                done += 1
                if turn.after is not None:
                    turn.after({k: v.detach() for k, v in loss.carry.items()}, Progress(done, planned))
                yield turn


def specimen(build: Build, domain: Domain, condition: Condition | None, steps: int = 0, *, double: bool = False) -> Any:
    """A model built from a fixed seed, adapted to ``tiny_data`` and trained for ``steps`` rounds, in ``eval`` mode."""
    model = copy.deepcopy(_trained(build, domain, condition, steps))
    return model.double() if double else model


@torch.no_grad()
def shaken(model: Any) -> Any:
    """The model itself with noise on every weight: little training leaves parts unused, where much is forgiven."""
    g = stream(0, "shaken")
    for p in model.parameters():
        p.add_(0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model


@lru_cache(maxsize=4)
def _trained(build: Build, domain: Domain, condition: Condition | None, steps: int) -> nn.Module:
    x, c = tiny_data(domain, condition)
    with seeded_init(0):
        model = build()
    if Adapts in capabilities(model):
        model.adapt(x, c, generator=stream(0, "adapt"))
    model.train()
    for _ in rounds(model, x, c, steps=steps, generator=stream(0, "train")):
        pass
    return model.eval()
