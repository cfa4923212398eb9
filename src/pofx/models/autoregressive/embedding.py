"""Values and their places as vectors: what the transformers of the family read.

Shapes: B batch, T positions, E width, A coordinates of a place, V symbols.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pofx.domains import Images, Tokens
from pofx.nn.attention import Architecture, rotation
from pofx.nn.sequence import NumberEmbedding, NumberSequence, SymbolSequence, value_embedding


def embeddings(
    sequence: SymbolSequence | NumberSequence, width: int, architecture: Architecture
) -> tuple[nn.Embedding | NumberEmbedding, nn.ModuleList]:
    """Vectors of the values, and of each coordinate of a place: of text only where its places are learned."""
    values = value_embedding(sequence, width)
    text = isinstance(sequence, SymbolSequence) and isinstance(sequence.domain, Tokens)
    extents = sequence.extents if not text or architecture.position == "learned" else ()
    axes = nn.ModuleList(nn.Embedding(extent, width) for extent in extents)
    if isinstance(sequence, SymbolSequence) and isinstance(sequence.domain, Images):
        for part in (values, *axes):
            _smooth(part.weight)
    return values, axes


def at_places(
    h: Float[Tensor, "B T E"], axes: Iterable[nn.Module], places: Int[Tensor, "T A"]
) -> Float[Tensor, "B T E"]:
    """h and the vectors of its places."""
    for axis, embedding in enumerate(axes):
        h = h + embedding(places[:, axis].to(h.device))
    return h


def turn(
    sequence: SymbolSequence | NumberSequence, architecture: Architecture, pairs: int, at: slice, device: torch.device
) -> Tensor | None:
    """Rotary angles of some places: t of text, row and column of pictures, columns; None where places are learned."""
    if architecture.position == "learned":
        return None
    text = isinstance(sequence, SymbolSequence) and isinstance(sequence.domain, Tokens)
    base = 10000.0 if text else 100.0
    return rotation(sequence.places[at, :2].to(device), pairs, base=base)


@torch.no_grad()
def shrink(vectors: Iterable[Tensor], scale: float = 0.02) -> None:
    """As small as logits want the vectors that they are made with; Radford et al. 2018, section 4.1."""
    for vector in vectors:
        vector.mul_(scale)


@torch.no_grad()
def _smooth(weight: Float[Tensor, "V E"], scale: float = 0.2) -> None:
    """Levels, or places, near each other start near each other: sqrt(2) cos(omega u / scale + phi), u in [0, 1].

    Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines", algorithm 1.
    """
    levels, width = weight.shape
    u = torch.linspace(0, 1, levels)[:, None]
    weight.copy_(math.sqrt(2) * torch.cos(u / scale * torch.randn(width) + 2 * math.pi * torch.rand(width)))
