"""How evenly samples of stacked digits fall on their modes, counted by a judge of single digits."""

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.evaluate.classifier import Judge
from pofx.evaluate.score import Score


@dataclass(frozen=True)
class Modes:
    """What was counted.

    Args:
        histogram: (M,) share of samples in each mode.
        frequencies: (M,) of the modes in the data.
        n: samples.
        confidence: the judge's probability of the digit that it says, mean over samples and channels: low where what is
            counted are no digits.
    """

    histogram: Float[Tensor, "M"]
    frequencies: Float[Tensor, "M"]
    n: int
    confidence: float

    @property
    def found(self) -> int:
        """Modes with a sample at least."""
        return int((self.histogram > 0).sum())

    @property
    def kl(self) -> float:
        """KL(samples || data), nats."""
        return _kl(self.histogram, self.frequencies)

    @property
    def kl_uniform(self) -> float:
        """KL(samples || uniform), nats, as it is published; digits of the data are not quite uniform either."""
        return _kl(self.histogram, torch.full_like(self.frequencies, 1 / len(self.frequencies)))

    @property
    def floor(self) -> float:
        """The KL that n draws of the data's own law have on average, (M - 1) / (2 n) nats, where n is not small."""
        return (len(self.frequencies) - 1) / (2 * self.n)

    def score(self, split: str) -> Score:
        """The KL to the data's law."""
        note = (
            f"{self.found} of {len(self.histogram)} modes; to uniform {self.kl_uniform:.4f}; the judge's confidence "
            f"{self.confidence:.3f}"
        )
        return Score("kl of modes", self.kl, "statistic", "nats", self.n, split=split, better="lower", note=note,
                     floor=self.floor)  # fmt: skip


def count_modes(x: Tensor, judge: Judge, frequencies: tuple[float, ...]) -> Modes:
    """Modes of stacks (N, k, H, W): each channel is judged as a picture of its own.

    Args:
        judge: of single digits.
        frequencies: of single digits in the training split; channels are drawn without regard to each other, so that
            those of the M = K^k modes are their products.
    """
    k, classes = x.shape[1], len(frequencies)
    number, confidence = torch.zeros(len(x), dtype=torch.int64), 0.0
    for channel in x.split(1, dim=1):
        p = judge.probabilities(channel).cpu()
        number = number * classes + p.argmax(1)
        confidence += p.max(1).values.mean().item() / k
    single = torch.tensor(frequencies, dtype=torch.float64)
    law = reduce(lambda joint, digit: torch.outer(joint, digit).flatten(), [single] * k)
    return Modes(torch.bincount(number, minlength=len(law)).double() / len(x), law, len(x), confidence)


def _kl(q: Tensor, p: Tensor) -> float:
    """Where p holds nothing and q something, it is infinite."""
    return torch.where(q > 0, q * (q / p).log(), torch.zeros_like(q)).sum().item()
