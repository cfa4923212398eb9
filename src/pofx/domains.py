"""What one observation is, and in which units its likelihood is counted.

The data stay what they are. A domain fixes the canonical tensor that every model takes and returns, so that every
likelihood is over the same measure:

===========  =========================================  ===========================================
domain       canonical tensor                           log p(x) is
===========  =========================================  ===========================================
``Images``   uint8 [B, C, H, W], levels 0 .. levels-1   a probability; a density over [k, k+1) in
             (int32 above 256; float32 if continuous)   each dimension counts as that probability
``Tokens``   int64 [B, T]                               a probability
``Vectors``  float32 [B, D], in the data's own units    a density in those units
===========  =========================================  ===========================================
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.errors import Unusable
from pofx.randomness import rand


class _Described:
    """JSON in and out, shared by the three domains: a domain is plain values and nothing else."""

    kind: ClassVar[str]

    def to_config(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"kind": self.kind} | asdict(self)  # type: ignore[call-overload]

    @classmethod
    def _from_config(cls, values: dict[str, Any]) -> Any:
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        return cls(**{k: tuples(v) for k, v in values.items() if k in known})


@dataclass(frozen=True)
class Images(_Described):
    """Pictures: C x H x W integer levels, or a continuous latent picture when ``levels`` is None.

    >>> Images(1, 8, 8, levels=17).unit
    'bits/dim'

    Args:
        channels, height, width: of one picture.
        levels: of each value.
        palette: the colour of each level, RGB from 0 to 255, darkest first; none where levels are brightness.
    """

    channels: int
    height: int
    width: int
    levels: int | None = 256
    palette: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)
    kind: ClassVar[str] = "images"
    unit: ClassVar[str] = "bits/dim"

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise Unusable(f"a picture needs positive channels, height and width, got {self.shape}")
        if self.levels is not None and not 2 <= self.levels <= 65536:
            raise Unusable(f"a picture needs 2 to 65536 levels, got {self.levels}")
        if self.palette and (self.channels, self.levels) != (1, len(self.palette)):
            raise Unusable(
                f"a palette needs one channel and a level for each of its {len(self.palette)} colours, got "
                f"{self.channels} and {self.levels}"
            )
        if not all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in self.palette):
            raise Unusable(f"colours of a palette are three numbers of 0 to 255, got {self.palette[:3]}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation: (C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def dims(self) -> int:
        """D = C * H * W, the number of values in one observation."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The canonical dtype."""
        if self.levels is None:
            return torch.float32
        return torch.uint8 if self.levels <= 256 else torch.int32

    def check(self, x: Tensor) -> Tensor:
        """Returns x, or says in one line what is wrong with it."""
        x = _check_shape(self, x)
        if self.levels is not None and x.numel() and not (0 <= int(x.min()) and int(x.max()) < self.levels):
            raise Unusable(f"pictures have levels 0 to {self.levels - 1}, got {int(x.min())} to {int(x.max())}")
        return x

    def centre(self, x: Tensor) -> Float[Tensor, "..."]:
        """Levels to (-1, 1), each at the middle of the bin it owns: y = (2 x + 1) / levels - 1."""
        return x.float() if self.levels is None else (x * (2 / self.levels)).add_(1 / self.levels - 1)

    def colours(self, x: Tensor) -> Float[Tensor, "..."]:
        """What a person sees, in (-1, 1): ``centre``, or the palette's colours in 3 channels, in 1 if they are grey."""
        if not self.palette:
            return self.centre(x)
        table = Images(3, 1, 1).centre(torch.tensor(self.palette, device=x.device))
        if all(r == g == b for r, g, b in self.palette):
            table = table[:, :1]
        return table[x[..., 0, :, :].long()].movedim(-1, -3)

    def quantise(self, y: Tensor) -> Tensor:
        """The level whose bin holds y: the inverse of ``centre``, and of ``dequantise``."""
        if self.levels is None:
            return y.float()
        return ((y + 1) * (self.levels / 2)).floor().clamp(0, self.levels - 1).to(self.dtype)

    def dequantise(self, x: Tensor, *, generator: Generator) -> Float[Tensor, "..."]:
        """y uniform in the bin that level x owns, in [-1, 1).

        E_u[log p(y)] + log_volume is a lower bound of the log-probability of the level (Theis et al. 2016,
        arXiv:1511.01844, eq. 3).
        """
        if self.levels is None:
            return x.float()
        u = rand(x.shape, generator=generator, device=x.device)
        return 2 * (x.float() + u) / self.levels - 1

    @property
    def log_volume(self) -> float:
        """Add to a log-density over y in [-1, 1]^D to count in levels: D log(2 / levels), nats."""
        return 0.0 if self.levels is None else self.dims * math.log(2 / self.levels)


@dataclass(frozen=True)
class Tokens(_Described):
    """Sequences of T symbols from a vocabulary.

    Args:
        vocabulary: V, number of symbols; canonical values are 0 .. V-1.
        length: T.
        end: the symbol that ends a record of variable length, and pads it; None for one long stream.
        encoding: how symbols become text: "characters" or "bytes" (``symbols`` lists them), "bpe"
            (``tokenizer`` holds the JSON of the ``tokenizers`` library), or "none".
        symbols: the text of each symbol, for "characters".
        tokenizer: its JSON, for "bpe".
    """

    vocabulary: int
    length: int
    end: int | None = None
    encoding: str = "none"
    symbols: tuple[str, ...] = ()
    tokenizer: str = ""
    kind: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        if self.vocabulary < 1 or self.length < 1:
            raise Unusable(f"tokens need a positive vocabulary and length, got {self.vocabulary} and {self.length}")
        if self.symbols and len(self.symbols) != self.vocabulary:
            raise Unusable(
                f"tokens need one text per symbol, got {len(self.symbols)} for a vocabulary of {self.vocabulary}"
            )

    @property
    def unit(self) -> str:
        """bits/char where a symbol is a character, bits/byte for bytes, else bits/token."""
        return {"characters": "bits/char", "bytes": "bits/byte"}.get(self.encoding, "bits/token")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation: (T,)."""
        return (self.length,)

    @property
    def dims(self) -> int:
        """T."""
        return self.length

    @property
    def dtype(self) -> torch.dtype:
        """The canonical dtype."""
        return torch.int64

    def check(self, x: Tensor) -> Tensor:
        """Returns x, or says in one line what is wrong with it."""
        x = _check_shape(self, x)
        if x.numel() and not (0 <= int(x.min()) and int(x.max()) < self.vocabulary):
            raise Unusable(f"tokens lie in 0 to {self.vocabulary - 1}, got {int(x.min())} to {int(x.max())}")
        return x


@dataclass(frozen=True)
class Vectors(_Described):
    """D real numbers, in their own units. ``columns`` names them where the source does."""

    dim: int
    columns: tuple[str, ...] = ()
    kind: ClassVar[str] = "vectors"
    unit: ClassVar[str] = "nats"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise Unusable(f"vectors need a positive dimension, got {self.dim}")
        if self.columns and len(self.columns) != self.dim:
            raise Unusable(f"vectors of dimension {self.dim} need as many column names, got {len(self.columns)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation: (D,)."""
        return (self.dim,)

    @property
    def dims(self) -> int:
        """D."""
        return self.dim

    @property
    def dtype(self) -> torch.dtype:
        """The canonical dtype."""
        return torch.float32

    def check(self, x: Tensor) -> Tensor:
        """Returns x, or says in one line what is wrong with it."""
        x = _check_shape(self, x)
        if not bool(torch.isfinite(x).all()):
            raise Unusable("vectors must be finite, got NaN or infinity; see 'pofx data SOURCE' for where")
        return x


Domain = Images | Tokens | Vectors


def domain_from_config(config: dict[str, Any]) -> Domain:
    """The inverse of ``to_config``."""
    for cls in (Images, Tokens, Vectors):
        if cls.kind == config.get("kind"):
            return cls._from_config(config)
    raise Unusable(f"a domain is 'images', 'tokens' or 'vectors', got {config.get('kind')!r}; is this run whole?")


def in_words(domain: Domain) -> str:
    """What observations are, for a message."""
    if isinstance(domain, Images):
        values = f"{domain.levels} colours of its own palette" if domain.palette else f"{domain.levels} levels"
        return f"pictures of {domain.channels} x {domain.height} x {domain.width}, {values}"
    if isinstance(domain, Tokens):
        return f"texts of {domain.length} symbols from {domain.vocabulary}"
    return f"vectors of {domain.dim} numbers"


def in_unit(log_p: float, domain: Domain) -> float:
    """-log p from nats per observation to the domain's unit: bits per dimension or symbol; nats for vectors."""
    return -log_p if isinstance(domain, Vectors) else -log_p / (domain.dims * math.log(2))


def require(name: str, domain: Domain, *allowed: type) -> None:
    """Refuses a domain that a model does not take, in one line."""
    if not isinstance(domain, allowed):
        takes = " or ".join(kind.kind for kind in allowed)  # type: ignore[attr-defined]
        raise Unusable(f"{name} takes {takes}, got {domain.kind}; 'pofx models' lists the models for each")


def are_symbols(domain: Domain) -> bool:
    """Whether values have names and no size: symbols of a text, colours of a palette."""
    return isinstance(domain, Tokens) or (isinstance(domain, Images) and bool(domain.palette))


def tuples(value: Any) -> Any:
    """Lists of JSON as the tuples they were."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def _check_shape(domain: Domain, x: Tensor) -> Tensor:
    if tuple(x.shape[1:]) != domain.shape:
        raise Unusable(f"{domain.kind} here have shape {domain.shape} per observation, got {tuple(x.shape[1:])}")
    if x.dtype != domain.dtype:
        raise Unusable(f"{domain.kind} here are {domain.dtype}, got {x.dtype}")
    return x
