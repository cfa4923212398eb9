"""A number says what it is."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pofx.domains import Domain, in_unit

Kind = Literal[
    "exact", "lower bound", "estimate", "estimate of a lower bound", "pseudo-likelihood", "statistic", "none"
]
Better = Literal["higher", "lower", "reference", "near reference"]


@dataclass(frozen=True)
class Score:
    """One figure with all that is needed to read it.

    Args:
        metric: e.g. "log p(x)", "frechet", "coverage".
        value: likelihoods are stored as log p, nats per observation, higher is better.
        kind: what sort of number it is; kinds are never ranked against each other silently.
        unit: of ``value``.
        n: how many observations (and, for two-sample scores, samples) it is from.
        stderr: standard error of ``value``, or None where unknown.
        bias: size of an error that more observations do not average away, or None.
        given: what the model was given: "" or the condition's name.
        split: the held-out split it is from.
        better: which direction is better.
        note: the feature map or another word to the reader.
        floor: the same statistic of real data against real at the same n, or for a likelihood the truth where it is
            known: what a perfect model would get.
        parts: what the figure is one of, where that is a list: the KL of each dimension of a latent, say.
    """

    metric: str
    value: float
    kind: Kind
    unit: str
    n: int
    stderr: float | None = None
    bias: float | None = None
    given: str = ""
    split: str = "test"
    better: Better = "higher"
    note: str = ""
    floor: float | None = None
    parts: Sequence[float] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes None, and ``parts`` are left out where there are none."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}
        parts = plain.pop("parts")
        return plain | ({"parts": list(parts)} if parts else {})

    def comparable(self, other: "Score") -> bool:
        """Whether the two may be ranked: same metric, kind, condition, split and unit, and no bias above the noise."""
        same = all(getattr(self, a) == getattr(other, a) for a in ("metric", "kind", "unit", "given", "split"))
        return same and all(s.bias is None or s.bias <= (s.stderr or 0.0) for s in (self, other))

    def shown(self, domain: Domain) -> str:
        """For people: a likelihood as -log p in the domain's unit, a bound with its sign.

        >>> from pofx.domains import Images
        >>> Score("log p(x)", -64 * math.log(2), "lower bound", "nats", 10, 0.6).shown(Images(1, 8, 8, 17))
        '<= 1.000 +- 0.014 bits/dim'
        """
        if not self.metric.startswith("log p"):
            spread = "" if self.stderr is None else f" +- {self.stderr:.2g}"
            return f"{self.value:.4g}{spread} {self.unit}".rstrip()
        sign = ("~" if "estimate" in self.kind else "") + ("<=" if "bound" in self.kind else "")
        sign = "pseudo" if self.kind == "pseudo-likelihood" else sign
        spread = "" if self.stderr is None else f" +- {abs(in_unit(self.stderr, domain)):.3f}"
        return f"{sign} {in_unit(self.value, domain):.3f}{spread} {domain.unit}".lstrip()
