"""An observation as one sequence of values, and back: what a model that goes value by value reads."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.nn.standardise import Standardise


class SymbolSequence:
    """T symbols out of V. Tokens are one already; a picture is read by row, column, channel: T = H * W * C.

    Args:
        name: of the model that asks, for the message.
        domain: tokens, or pictures of integer levels.

    Raises:
        Unusable: vectors, or pictures without levels.
    """

    def __init__(self, name: str, domain: Domain) -> None:
        require(name, domain, Tokens, Images)
        assert isinstance(domain, Tokens | Images)
        self.domain = domain
        self.length = domain.dims
        self.end = domain.end if isinstance(domain, Tokens) else None
        vocabulary = domain.vocabulary if isinstance(domain, Tokens) else domain.levels
        if vocabulary is None:
            raise Unusable(f"{name} takes pictures of integer levels, got continuous ones; give the picture levels")
        self.vocabulary = vocabulary

    @property
    def places(self) -> Int[Tensor, "T A"]:
        """Where each symbol stands: (t,) in tokens; (row, column, channel) in a picture."""
        t = torch.arange(self.length)
        if isinstance(self.domain, Tokens):
            return t[:, None]
        width, channels = self.domain.width, self.domain.channels
        return torch.stack([t // (width * channels), t // channels % width, t % channels], dim=1)

    @property
    def extents(self) -> tuple[int, ...]:
        """How many values each coordinate of a place has: (T,), or (H, W, C)."""
        if isinstance(self.domain, Tokens):
            return (self.length,)
        return self.domain.height, self.domain.width, self.domain.channels

    def arrange(self, x: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "B T"]:
        """What is laid out as observations are (a mask, say) in reading order."""
        return x if isinstance(self.domain, Tokens) else x.permute(0, 2, 3, 1).flatten(1)

    def read(self, x: Tensor) -> Int[Tensor, "B T"]:
        """Observations (B, ...) to sequences."""
        return self.arrange(x).long()

    def write(self, s: Int[Tensor, "B T"]) -> Tensor:
        """Sequences (B, T) to canonical observations (B, ...)."""
        if isinstance(self.domain, Tokens):
            return s
        rows = s.unflatten(1, (self.domain.height, self.domain.width, self.domain.channels))
        return rows.permute(0, 3, 1, 2).to(self.domain.dtype).contiguous()

    def empty(self, n: int, device: torch.device) -> Int[Tensor, "N T"]:
        """Room for n sequences."""
        return torch.zeros(n, self.length, dtype=torch.int64, device=device)

    def ended(self, s: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Whether the end has come before each symbol: from there on all is padding."""
        if self.end is None:
            return torch.zeros_like(s, dtype=torch.bool)
        ends = s == self.end
        return ends.cumsum(1) - ends.to(torch.int64) > 0

    def possible(
        self, logits: Float[Tensor, "B M V"], s: Int[Tensor, "B T"], shown: Bool[Tensor, "B T"], at: Int[Tensor, "B M"]
    ) -> Float[Tensor, "B M V"]:
        """Logits at some places, given those ``shown`` around: after the end only the end, before another never."""
        if self.end is None:
            return logits
        over = self.ended(torch.where(shown, s, -1))
        others = (shown & (s != self.end)).long()
        goes_on = others.flip(1).cumsum(1).flip(1) > others
        ends = torch.arange(self.vocabulary, device=s.device) == self.end
        never = (over.gather(1, at)[..., None] & ~ends) | (goes_on.gather(1, at)[..., None] & ends)
        return logits.masked_fill(never, -torch.inf)

    def given_end(self, s: Int[Tensor, "B T"], log_p: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """``log_p`` of each symbol, but after the end only the end follows, with probability one."""
        if self.end is None:
            return log_p
        padding = torch.zeros_like(log_p).masked_fill(s != self.end, -torch.inf)
        return torch.where(self.ended(s), padding, log_p)


class NumberSequence(nn.Module):
    """T real numbers, one a column, standardised by the training split."""

    end = None

    def __init__(self, domain: Vectors) -> None:
        super().__init__()
        self.length = domain.dim
        self.standardise = Standardise(domain.dim)

    @property
    def places(self) -> Int[Tensor, "T 1"]:
        """The column."""
        return torch.arange(self.length)[:, None]

    @property
    def extents(self) -> tuple[int]:
        """How many columns there are."""
        return (self.length,)

    def arrange(self, x: Shaped[Tensor, "B T"]) -> Shaped[Tensor, "B T"]:
        """Columns are read from the first to the last."""
        return x

    def read(self, x: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Observations to standardised numbers."""
        return self.standardise(x)

    def write(self, s: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The inverse of ``read``."""
        return self.standardise.inverse(s)

    def empty(self, n: int, device: torch.device) -> Float[Tensor, "N T"]:
        """Room for n sequences."""
        return torch.zeros(n, self.length, dtype=self.standardise.scale.dtype, device=device)

    def ended(self, s: Float[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Nothing ends."""
        return torch.zeros_like(s, dtype=torch.bool)

    def given_end(self, s: Float[Tensor, "B T"], log_p: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """log p of each number in the data's own units, from that of the standardised one."""
        return log_p - self.standardise.scale.log()


def reading_mask(
    sequence: SymbolSequence | NumberSequence, shape: tuple[int, ...], known: Tensor
) -> Bool[Tensor, "B T"]:
    """A mask of x's shape, or of one observation's, in reading order: (B or 1, T).

    Raises:
        Unusable: it is of another shape, or not boolean.
    """
    return sequence.arrange(row_mask(shape, known))


def row_mask(shape: tuple[int, ...], known: Tensor) -> Bool[Tensor, "B ..."]:
    """A mask of x's shape, or of one observation's, as (B or 1, *shape).

    Raises:
        Unusable: it is of another shape, or not boolean.
    """
    whole = known if known.ndim > len(shape) else known[None]
    if tuple(whole.shape[1:]) != shape or known.dtype != torch.bool:
        raise Unusable(f"a mask is boolean and of shape {shape}, got {known.dtype} and {tuple(known.shape)}")
    return whole


class NumberEmbedding(nn.Module):
    """Real numbers to vectors: a linear map of y and of its sines and cosines at eight frequencies."""

    omega: Tensor

    def __init__(self, width: int, *, frequencies: int = 8) -> None:
        super().__init__()
        self.register_buffer("omega", torch.pi * 2.0 ** torch.arange(-3, frequencies - 3), persistent=False)
        self.linear = nn.Linear(1 + 2 * frequencies, width)

    def forward(self, y: Float[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
        """(..., width)."""
        y = y[..., None].to(self.omega)
        angle = y * self.omega
        return self.linear(torch.cat([y, angle.sin(), angle.cos()], dim=-1))


def value_embedding(sequence: SymbolSequence | NumberSequence, width: int) -> nn.Embedding | NumberEmbedding:
    """What turns the values of a sequence into vectors: a table for symbols, features for numbers."""
    if isinstance(sequence, SymbolSequence):
        return nn.Embedding(sequence.vocabulary, width)
    return NumberEmbedding(width)
