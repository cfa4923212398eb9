"""What p(x|c) is given: a class, a vector, a text or a picture, one row per observation or one row for all.

Every condition has a *null* row. A model trained with some conditions dropped to null can be guided (Ho and Salimans
2022, arXiv:2207.12598). The null is for guidance only; p(x) without a condition is the marginal over ``frequencies``.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from pofx.domains import tuples
from pofx.errors import Unusable, nearest
from pofx.randomness import rand


@dataclass(frozen=True)
class Classes:
    """One of K classes. Canonical: int64 (B,), 0 .. K-1; K is the null.

    Args:
        names: of the classes.
        frequencies: of the classes in the training split; they sum to one.
    """

    names: tuple[str, ...]
    frequencies: tuple[float, ...]
    kind: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.frequencies):
            raise Unusable(f"classes need a frequency each, got {len(self.names)} and {len(self.frequencies)}")
        if not all(0 <= f <= 1 for f in self.frequencies) or not any(self.frequencies):
            raise Unusable(f"frequencies of classes lie in 0 to 1, and not all are 0, got {self.frequencies[:5]}")

    @property
    def count(self) -> int:
        """K."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: ()."""
        return ()

    def check(self, c: Tensor) -> Tensor:
        """Returns c, or says in one line what is wrong with it; values on a GPU are not looked at."""
        if c.dtype != torch.int64 or c.ndim != 1:
            raise Unusable(f"classes are int64 of shape (B,), got {c.dtype} of shape {tuple(c.shape)}")
        if _at_hand(c) and c.numel() and not (0 <= int(c.min()) and int(c.max()) <= self.count):
            raise Unusable(
                f"classes lie in 0 to {self.count - 1} ({self.count}: none), got {int(c.min())} to {int(c.max())}"
            )
        return c

    def sample(self, n: int, *, generator: Generator) -> Tensor:
        """n classes by training frequency."""
        p = torch.tensor(self.frequencies, device=generator.device)
        return torch.multinomial(p, n, replacement=True, generator=generator)

    def null(self, n: int) -> Tensor:
        """n rows that say nothing."""
        return torch.full((n,), self.count)

    def is_null(self, c: Tensor) -> Tensor:
        """(B,) which rows say nothing."""
        return c == self.count

    def parse(self, text: str) -> Tensor:
        """One row from a class's name or index."""
        if text in self.names:
            return torch.tensor([self.names.index(text)])
        if text.isdigit() and int(text) < self.count:
            return torch.tensor([int(text)])
        raise Unusable(f"there is no class {text!r}{nearest(text, self.names)}")


@dataclass(frozen=True)
class _Exemplified:
    """A condition that cannot be enumerated: drawn from ``examples``, rows kept from the training split."""

    shape: tuple[int, ...]
    examples: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    kind: ClassVar[str]

    def _rows(self) -> Tensor:
        return torch.tensor(self.examples, dtype=torch.float32).reshape(-1, *self.shape)

    def check(self, c: Tensor) -> Tensor:
        """Returns c, or says in one line what is wrong with it."""
        if tuple(c.shape[1:]) != self.shape or c.dtype != self.null(1).dtype:
            raise Unusable(
                f"a {self.kind} condition has rows of shape {self.shape} and {self.null(1).dtype}, "
                f"got {tuple(c.shape[1:])} and {c.dtype}"
            )
        return c

    def sample(self, n: int, *, generator: Generator) -> Tensor:
        """n rows drawn from those kept of the training split."""
        if not self.examples:
            raise Unusable(f"a {self.kind} condition without examples cannot be drawn; give the condition")
        rows = self._rows().to(self.null(1).dtype).to(generator.device)
        return rows[torch.randint(len(rows), (n,), generator=generator, device=generator.device)]

    def null(self, n: int) -> Tensor:
        """n rows that say nothing: NaN throughout."""
        return torch.full((n, *self.shape), float("nan"))

    def is_null(self, c: Tensor) -> Tensor:
        """(B,) which rows say nothing."""
        return c.flatten(1).isnan().all(1)

    def parse(self, text: str) -> Tensor:
        """One row from numbers separated by commas."""
        try:
            return torch.tensor([float(v) for v in text.split(",")]).reshape(1, *self.shape)
        except (ValueError, RuntimeError):
            raise Unusable(
                f"a {self.kind} condition is {self.shape} numbers separated by commas, got {text!r}"
            ) from None


@dataclass(frozen=True)
class VectorCondition(_Exemplified):
    """A row of real numbers, float32 (B, D); ``names`` are the columns. The null is NaN."""

    kind: ClassVar[str] = "vector"


@dataclass(frozen=True)
class ImageCondition(_Exemplified):
    """A picture, float32 (B, C, H, W) in [-1, 1]. The null is NaN."""

    kind: ClassVar[str] = "image"


@dataclass(frozen=True)
class TextCondition(_Exemplified):
    """A text, int64 (B, L) of characters; 0 pads, and an all-padding row is the null.

    Args:
        names: the alphabet; the i-th character is the symbol i + 1.
    """

    kind: ClassVar[str] = "text"

    def null(self, n: int) -> Tensor:
        """n empty texts."""
        return torch.zeros((n, *self.shape), dtype=torch.int64)

    def is_null(self, c: Tensor) -> Tensor:
        """(B,) which texts are empty."""
        return (c == 0).all(1)

    def parse(self, text: str) -> Tensor:
        """One row from a text; characters outside the alphabet are refused."""
        unknown = sorted(set(text) - set(self.names))
        if unknown:
            raise Unusable(
                f"the text has characters never seen in training: {''.join(unknown)!r}; use those of the captions"
            )
        if len(text) > self.shape[0]:
            raise Unusable(f"the text has {len(text)} characters, the model takes at most {self.shape[0]}; shorten it")
        row = self.null(1)
        row[0, : len(text)] = torch.tensor([self.names.index(ch) + 1 for ch in text])
        return row

    def text(self, row: Tensor) -> str:
        """The text of one row."""
        return "".join(self.names[int(i) - 1] for i in row if int(i) > 0)


def _at_hand(c: Tensor) -> bool:
    """Whether values can be read without waiting for a device, which every step of training would do."""
    return c.device.type == "cpu"


Condition = Classes | VectorCondition | TextCondition | ImageCondition


def drop(condition: Condition, c: Tensor, p: float, *, generator: Generator) -> Tensor:
    """Each row replaced by the null with probability p: how a model learns to be guided."""
    gone = rand((len(c),), generator=generator, device=c.device) < p
    return torch.where(gone.view(-1, *[1] * (c.ndim - 1)), condition.null(len(c)).to(c.device), c)


def dropped(condition: Condition | None, c: Tensor | None, n: int, p: float, *, generator: Generator) -> Tensor | None:
    """n checked rows, each hidden with probability p; None where there is no condition, or none is given."""
    rows = expand(condition, c, n)
    return rows if condition is None or rows is None or not p else drop(condition, rows, p, generator=generator)


def rows_for(condition: Condition | None, c: Tensor | None, n: int, *, generator: Generator) -> Tensor | None:
    """What a sampler is given: n checked rows; one row serves all; None draws them by training frequency."""
    if condition is None:
        if c is not None:
            raise Unusable("this model was trained without a condition; fit it with --condition to use one")
        return None
    if c is None:
        return condition.sample(n, generator=generator)
    return expand(condition, c, n)


def expand(condition: Condition | None, c: Tensor | None, n: int) -> Tensor | None:
    """n checked rows of a given condition, or None where none was given."""
    if c is None:
        return None
    if condition is None:
        raise Unusable("this model was trained without a condition; fit it with --condition to use one")
    if len(c) not in (1, n):
        raise Unusable(f"a condition has one row for all or one per observation ({n}), got {len(c)}")
    return condition.check(c).expand(n, *c.shape[1:])


def marginal(
    condition: Condition | None, x: Tensor, log_prob_given: Callable[[Tensor], Tensor], *, what: str = "log p(x)"
) -> Tensor:
    """log sum_c p(c) p(x|c) over a finite condition, from ``log_prob_given(c) -> (B,)``; c by training frequency."""
    if not isinstance(condition, Classes):
        raise Unusable(f"{what} needs the condition: only classes can be summed over")
    terms = [
        log_prob_given(torch.full((len(x),), k, device=x.device)) + torch.tensor(f).log().to(x.device)
        for k, f in enumerate(condition.frequencies)
        if f > 0
    ]
    return torch.stack(terms).logsumexp(0)


def condition_to_config(condition: Condition | None) -> dict[str, Any] | None:
    """Plain values, for JSON."""
    return None if condition is None else {"kind": condition.kind} | asdict(condition)


def condition_from_config(config: dict[str, Any] | None) -> Condition | None:
    """The inverse of ``condition_to_config``."""
    if config is None:
        return None
    kinds = {cls.kind: cls for cls in (Classes, VectorCondition, TextCondition, ImageCondition)}
    if config.get("kind") not in kinds:
        raise Unusable(f"a condition is one of {', '.join(kinds)}, got {config.get('kind')!r}; is this run whole?")
    values = {key: tuples(v) for key, v in config.items() if key != "kind"}
    return kinds[config["kind"]](**values)
