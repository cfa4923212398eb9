"""The chain rule: what every model can do that gives p(x_t | x_<t, c) for each value of x in turn.

Score, draw, complete and walk along an observation, all exact, for symbols, pixels and real numbers alike. Shapes: B
batch, T values in reading order, P outputs a value.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor, nn

from pofx.conditions import Classes, Condition, expand, marginal, rows_for
from pofx.distributions.conditional import Conditional, Level, Number, Symbol
from pofx.domains import Domain, Images, Vectors
from pofx.errors import Unusable
from pofx.nn.sequence import NumberSequence, SymbolSequence, reading_mask
from pofx.protocols import Loss
from pofx.samplers.decoding import Choose, Outputs, Watch, decode


class Autoregressive(nn.Module, ABC):
    r"""$\log p(x|c) = \sum_{t=1}^{T} \log p(x_t | x_{<t}, c)$, exact, nats per observation.

    A model of the family says what its network puts out for all values at once (``outputs``) and for one after
    another (``stepper``); the rest follows.

    Args:
        name: of the model, for messages.
        domain: tokens, pictures of integer levels, or vectors.
        condition: what p(x|c) is given.
        mixtures: M components, for real numbers and, where given, for the levels of pictures; by default each level
            of a picture has a probability of its own.
    """

    def __init__(self, name: str, domain: Domain, condition: Condition | None, *, mixtures: int | None = None) -> None:
        super().__init__()
        if mixtures is not None and mixtures < 1:
            raise Unusable(f"mixtures must be at least 1, got {mixtures}; leave it out for the default")
        self.name, self.domain, self.condition = name, domain, condition
        self.sequence: SymbolSequence | NumberSequence
        self.conditional: Conditional
        if isinstance(domain, Vectors):
            self.sequence, self.conditional = NumberSequence(domain), Number(mixtures or 10)
            return
        self.sequence = SymbolSequence(name, domain)
        self.conditional = Symbol(self.sequence.vocabulary)
        if mixtures is not None:
            if not isinstance(domain, Images):
                raise Unusable("mixtures are of numbers and of the levels of pictures, not of tokens; leave it out")
            self.conditional = Level(self.sequence.vocabulary, mixtures)

    @abstractmethod
    def outputs(self, s: Shaped[Tensor, "B T"], c: Tensor | None) -> Float[Tensor, "B T P"]:
        """What the network puts out for each value, from those before it; ``c`` None is the condition's null."""

    @abstractmethod
    def stepper(self, n: int, c: Tensor | None, *, cached: bool) -> Outputs:
        """The same for one place after another, n rows at once; ``cached`` keeps what later places read again."""

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Vectors are standardised by the training split."""
        if isinstance(self.sequence, NumberSequence):
            self.sequence.standardise.adapt(x)

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """-log p(x|c) in nats per value; without a condition, given its null. Draws nothing."""
        s = self.sequence.read(x)
        nll = -self._log_p(s, condition).sum(1)
        mean = nll.mean()
        if self.sequence.end is None:
            return Loss(mean / self.sequence.length, {"nll": mean})
        counted = (~self.sequence.ended(s)).sum()
        return Loss(nll.sum() / counted, {"nll": mean}, weight=counted)

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B"]:
        """log p(x|c), or without c the exact marginal over classes; nats per observation."""
        if self.condition is not None and condition is None:
            return marginal(self.condition, x, lambda c: self.log_prob(x, c))
        return self.conditionals(x, condition).sum(1)

    def read(self, x: Tensor) -> Shaped[Tensor, "B T"]:
        """The values of x in reading order, checked; real numbers, which may come in any precision, standardised."""
        return self.sequence.read(x if isinstance(self.domain, Vectors) else self.domain.check(x))

    def conditionals(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B T"]:
        """log p(x_t | x_<t, c) of each value, in reading order, nats; without c, given the null condition."""
        return self._log_p(self.read(x), expand(self.condition, condition, len(x)))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        *,
        generator: Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        cached: bool = True,
        watch: Watch | None = None,
    ) -> Tensor:
        """n observations, value by value; see ``distributions.conditional`` for the settings.

        Args:
            n: how many.
            condition: one row for all or n rows; by default drawn by training frequency.
            generator: its device is where the model is.
            temperature: below 1 sharpens each value's distribution, 0 takes the likeliest.
            top_k: keep the k likeliest symbols.
            top_p: keep the fewest likeliest symbols that hold this much probability.
            cached: keep what later values read again; without, the same samples, slowly.
            watch: sees the observations grow, ``watch(x, values)``.
        """
        c = rows_for(self.condition, condition, n, generator=generator)
        choose = self._draws(generator, temperature=temperature, top_k=top_k, top_p=top_p)
        return self._walk(self.sequence.empty(n, generator.device), None, c, choose, cached=cached, watch=watch)

    def completes(self, known: Tensor) -> bool:
        """Whether what is known comes first: the beginning of a text, the top of a picture (and of its next row)."""
        first = self._mask(known)
        return bool((first[:, 1:] <= first[:, :-1]).all())

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        condition: Tensor | None = None,
        *,
        generator: Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """Draws the rest from p(rest | known, c), exactly; without c, the class from p(c | known) first.

        Raises:
            Unusable: what is known does not come first in the order.
        """
        if not self.completes(known):
            raise Unusable(
                f"{self.name} completes what comes after a known beginning (the top of a picture); mask from there"
            )
        s = self.read(x)
        mask = self._mask(known).to(s.device).expand(len(s), -1)
        c = expand(self.condition, condition, len(x))
        if c is None and self.condition is not None:
            c = self._class_given(s, mask, generator)
        choose = self._draws(generator, temperature=temperature, top_k=top_k, top_p=top_p)
        filled = self._walk(s, mask, c, choose, watch=watch)
        return torch.where(known.to(x.device), x, filled)  # a number keeps its last digit

    @torch.no_grad()
    def walk(self, n: int, choose: Choose, condition: Tensor | None = None) -> Tensor:
        """n observations whose values ``choose`` picks: it is told log p of every symbol (B, V), place by place.

        What draws by a generator samples; what reads a code decompresses. Each row goes on to its last place, after
        an end too.

        Raises:
            Unusable: the values are real numbers, which have no probabilities.
        """
        conditional = self.conditional
        if isinstance(conditional, Number):
            raise Unusable(f"{self.name} gives a density over real numbers, not probabilities; give pictures or tokens")
        device = next(self.parameters()).device

        def told(outputs: Tensor, t: int) -> Tensor:
            return choose(conditional.logits(outputs).log_softmax(-1), t)

        return self._walk(self.sequence.empty(n, device), None, expand(self.condition, condition, n), told)

    def _log_p(self, s: Shaped[Tensor, "B T"], c: Tensor | None) -> Float[Tensor, "B T"]:
        """log p(s_t | s_<t, c)."""
        return self.sequence.given_end(s, self.conditional.log_prob(self.outputs(s, c), s))

    def _draws(self, generator: Generator, **how: Any) -> Choose:
        self.conditional.check(**how)
        return lambda outputs, t: self.conditional.draw(outputs, generator=generator, **how)

    def _walk(
        self,
        s: Shaped[Tensor, "B T"],
        known: Bool[Tensor, "B T"] | None,
        c: Tensor | None,
        choose: Choose,
        *,
        cached: bool = True,
        watch: Watch | None = None,
    ) -> Tensor:
        known = torch.zeros_like(s, dtype=torch.bool) if known is None else known
        grows = None if watch is None else _canonical(watch, self.sequence.write)
        outputs = self.stepper(len(s), c, cached=cached)
        return self.sequence.write(decode(outputs, s, known, choose, end=self.sequence.end, watch=grows))

    def _class_given(self, s: Tensor, known: Tensor, generator: Generator) -> Tensor:
        """Classes (B,) from p(c | known), proportional to p(c) p(known | c)."""
        if not isinstance(self.condition, Classes):
            raise Unusable(
                f"{self.name} completes given a condition; give one: only classes can be inferred from what is known"
            )

        def log_joint(k: int, frequency: float) -> Tensor:
            log_p = self._log_p(s, torch.full((len(s),), k, device=s.device))
            return log_p.masked_fill(~known, 0).sum(1) + torch.tensor(frequency).log().to(s.device)

        terms = [log_joint(k, f) for k, f in enumerate(self.condition.frequencies)]
        return torch.multinomial(torch.stack(terms, 1).softmax(1), 1, generator=generator)[:, 0]

    def _mask(self, known: Tensor) -> Bool[Tensor, "B T"]:
        return reading_mask(self.sequence, self.domain.shape, known)


def _canonical(watch: Watch, write: Callable[[Tensor], Tensor]) -> Watch:
    return lambda s, t: watch(write(s), t)
