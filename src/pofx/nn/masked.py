"""Linear layers masked so that what comes out for a place depends on what stands before it alone."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

# From this many weights on, a masked layer is computed in blocks of rows.
_LARGE = 2**18
_BLOCKS = 8


class Units:
    """A layer: its units' degrees, in rising order, and how many numbers each of them is."""

    def __init__(self, degrees: Sequence[int], width: int = 1, *, placed: bool = False) -> None:
        self.degrees, self.width, self.placed = degrees, width, placed
        self.size = len(degrees) * width

    def below(self, degree: int) -> int:
        """Numbers of the units of a degree below that."""
        return bisect_left(self.degrees, degree) * self.width

    def between(self, first: int, stop: int) -> slice:
        """The numbers of degree ``first`` .. ``stop`` - 1."""
        return slice(self.below(first), self.below(stop))

    def highest(self, pieces: Sequence[int]) -> list[int]:
        """The highest degree in each piece, the layer's numbers cut into pieces of these sizes."""
        return [self.degrees[(stop - 1) // self.width] for stop in accumulate(pieces)]

    def arranged(self, x: Float[Tensor, "*B N"], order: Int[Tensor, "T"]) -> Float[Tensor, "*B N"]:
        """What stands at the places, in the order of reading."""
        return x.unflatten(-1, (-1, self.width)).index_select(-2, order).flatten(-2)

    def of_each(self) -> Int[Tensor, "N"]:
        """The degree of each number."""
        return torch.tensor(self.degrees).repeat_interleave(self.width)


class Masked(nn.Module):
    """Linear, but no unit b sees a unit a of a higher degree, or ``strictly`` of the same.

    Both layers stand in the order of reading; weights of units that are ``placed`` are kept by their place.
    """

    mask: Tensor

    def __init__(self, a: Units, b: Units, *, context: int = 0, strictly: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.strictly = a, b, strictly
        self.weight = nn.Parameter(torch.empty(b.size, a.size))
        self.bias = nn.Parameter(torch.zeros(b.size))
        self.context = nn.Linear(context, b.size, bias=False) if context else None
        seen = a.of_each() < b.of_each()[:, None] + (not strictly)
        self.register_buffer("mask", seen.to(self.weight.dtype), persistent=False)
        with torch.no_grad():  # He et al. 2015, with the inputs that are seen
            self.weight.normal_().mul_((2 / seen.sum(1, keepdim=True).clamp(min=1)).sqrt())
        self.rows = _even(b.size, _BLOCKS if self.weight.numel() >= _LARGE else 1)

    def forward(
        self, x: Float[Tensor, "*B A"], order: Int[Tensor, "T"] | None = None, context: Tensor | None = None
    ) -> Float[Tensor, "*B N"]:
        """Some rows of weights at a time: a whole product would multiply by as many zeros as weights."""
        weight, shift = self.folded(order, context)
        seen = [self.seen(degree) for degree in self.b.highest(self.rows)]
        return torch.cat([linear(x[..., :n], w[:, :n]) for w, n in zip(weight.split(self.rows), seen)], dim=-1) + shift

    def folded(self, order: Int[Tensor, "T"] | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Masked weight (N, A) and shift (B or 1, N), in the order of reading."""
        weight: Tensor = self.weight
        shift = self.bias[None]
        if self.context is not None and context is not None:
            shift = shift + self.context(context)
        if order is not None and self.a.placed:
            weight = self.a.arranged(weight, order)
        if order is not None and self.b.placed:
            weight, shift = self.b.arranged(weight.T, order).T, self.b.arranged(shift, order)
        return weight * self.mask, shift

    def seen(self, degree: int) -> int:
        """How many numbers of a those of this degree see; they come first."""
        return self.a.below(degree if self.strictly else degree + 1)


def degrees(size: int, places: int) -> list[int]:
    """Of ``size`` hidden units: spread evenly over 0 .. T - 2; a unit that read the last value would tell none."""
    return [k * (places - 1) // size for k in range(size)]


def _even(size: int, pieces: int) -> list[int]:
    """Sizes of about equal pieces."""
    cuts = [i * size // pieces for i in range(pieces + 1)]
    return [b - a for a, b in pairwise(cuts)]
