"""The chain rule: what every model can do that gives p(x_t | x_<t, c) for each value of x in turn.

Score, draw, complete and walk along an observation, all exact, for symbols, pixels and real numbers alike. Shapes: B
batch, T values in reading order, P outputs a value, K orders.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor, nn

from pofx.conditions import Classes, Condition, expand, marginal, rows_for
from pofx.distributions.conditional import Conditional, Level, Number, Symbol
from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.nn.memory import require_memory
from pofx.nn.sequence import NumberSequence, SymbolSequence, reading_mask
from pofx.protocols import Loss
from pofx.samplers.decoding import Choose, Outputs, Watch, decode, decode_on

MOST_LENGTH = 10**9  # symbols of a text that is drawn past the context


class Autoregressive(nn.Module, ABC):
    r"""$\log p(x|c) = \sum_{t=1}^{T} \log p(x_t | x_{<t}, c)$, exact, nats per observation.

    A model of the family says what its network puts out for all values at once (``outputs``) and for one after
    another (``stepper``); the rest follows. One that reads in any of K orders $o$ says so for each (``outputs_in``,
    ``stepper_in``), and is their mixture, $p(x|c) = \frac{1}{K} \sum_o p_o(x|c)$: a mean of joint probabilities.

    Args:
        name: of the model, for messages.
        domain: tokens, pictures of integer levels, or vectors.
        condition: what p(x|c) is given.
        mixtures: M components, for real numbers and, where given, for the levels of pictures; by default each level
            of a picture has a probability of its own.
        orders: the place that is read at each step, for each of K orders; by default one, the sequence's own.
    """

    orders: Int[Tensor, "K T"] | None

    def __init__(
        self,
        name: str,
        domain: Domain,
        condition: Condition | None,
        *,
        mixtures: int | None = None,
        orders: Int[Tensor, "K T"] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("orders", orders)
        if orders is not None and len(orders) > 1:
            self.surrogate = "the mean of -log p_o(x) over the orders, an upper bound of -log p(x)"
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
        """What the network puts out for each value, from those before it; ``c`` None is a mean condition."""

    @abstractmethod
    def stepper(self, n: int, c: Tensor | None, *, cached: bool) -> Outputs:
        """The same for one place after another, n rows at once; ``cached`` keeps what later places read again."""

    def outputs_in(
        self, order: Int[Tensor, "T"] | None, s: Shaped[Tensor, "B T"], c: Tensor | None
    ) -> Float[Tensor, "B T P"]:
        """``outputs`` where values, and what is put out for them, stand in ``order``: here there is one alone."""
        return self.outputs(s, c)

    def stepper_in(self, order: Int[Tensor, "B T"] | None, n: int, c: Tensor | None, *, cached: bool) -> Outputs:
        """``stepper`` where each row has an order of its own: here there is one alone."""
        return self.stepper(n, c, cached=cached)

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Vectors are standardised by the training split."""
        if isinstance(self.sequence, NumberSequence):
            self.sequence.standardise.adapt(x)

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """-log p(x|c) in nats per value; without a condition, given a mean one. Of several orders it draws one a batch.

        In expectation that is then an upper bound, the mean of -log p_o(x|c) over the orders.
        Source: Uria et al. 2014, arXiv:1310.1757, section 3.
        """
        s = self.sequence.read(x)
        nll = -self._log_p(s, condition, self._some_order(generator)).sum(1)
        mean = nll.mean()
        if self.sequence.end is None:
            return Loss(mean / self.sequence.length, {"nll": mean})
        counted = (~self.sequence.ended(s)).sum()
        return Loss(nll.sum() / counted, {"nll": mean}, weight=counted)

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B"]:
        """log p(x|c), or without c the exact marginal over classes; nats per observation."""
        if self.condition is not None and condition is None:
            return marginal(self.condition, x, lambda c: self.log_prob(x, c))
        return _log_mean_exp(self._log_p_of_each(self._at_places(x), expand(self.condition, condition, len(x))))

    def read(self, x: Tensor) -> Shaped[Tensor, "B T"]:
        """The values of x in reading order, that of the first of several orders; real numbers standardised."""
        return _arranged(self._at_places(x), self._each_order()[0])

    def conditionals(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B T"]:
        """log p(x_t | x_<t, c) of each value, in reading order, nats.

        Of several orders, those of the first: their sum is log p_1(x|c), a distribution of its own.
        """
        if self.condition is not None and condition is None:
            raise Unusable(f"{self.name} has terms for a condition alone, their marginal has none; give the condition")
        order = self._each_order()[0]
        return _arranged(self._log_p(self._at_places(x), expand(self.condition, condition, len(x)), order), order)

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
        length: int | None = None,
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
            length: symbols of a text that has no end of its own, however long; see ``samplers.decoding.decode_on``.
            cached: keep what later values read again; without, the same samples, slowly.
            watch: sees the observations grow, ``watch(x, values)``.

        Raises:
            Unusable: settings that name no distribution, or a length of what has one.
        """
        c = rows_for(self.condition, condition, n, generator=generator)
        choose = self._draws(generator, temperature=temperature, top_k=top_k, top_p=top_p)
        order = None if self.orders is None else self._orders_drawn(torch.ones(len(self.orders), n), generator)
        s = self._of_length(length, self.sequence.empty(n, generator.device))
        return self._walk(s, None, c, choose, order, cached=cached, watch=watch)

    def completes(self, known: Tensor) -> bool:
        """Whether what is known comes first: the beginning of a text, the top of a picture (and of its next row).

        Of several orders, in each.
        """
        mask = self._mask(known).to(next(self.parameters()).device)
        read = [_arranged(mask, order) for order in self._each_order()]
        return all(bool((first[:, 1:] <= first[:, :-1]).all()) for first in read)

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
        length: int | None = None,
        cached: bool = True,
        watch: Watch | None = None,
    ) -> Tensor:
        """Draws the rest from p(rest | known, c), exactly; without c, the class from p(c | known) first.

        The settings are those of ``sample``; with a ``length``, x goes on to it, or ends there.

        Raises:
            Unusable: what is known does not come first in the order.
        """
        if not self.completes(known):
            orders = "" if self.orders is None else f", in each of its {len(self.orders)} orders"
            raise Unusable(
                f"{self.name} completes what comes after a known beginning{orders} (the top of a picture); mask from "
                "there, or take masked-lm, which completes any mask"
            )
        if length is not None and isinstance(self.domain, Tokens) and bool(known[..., max(0, length) :].any()):
            raise Unusable(f"length counts what is known too, which goes on after {length}; give a larger one")
        s = self._at_places(x)
        mask = self._mask(known).to(s.device).expand(len(s), -1)
        s = s.masked_fill(~mask, 0)  # a table's gaps may be NaN
        c = expand(self.condition, condition, len(x))
        if c is None and self.condition is not None:
            c = self._class_given(s, mask, generator)
        choose = self._draws(generator, temperature=temperature, top_k=top_k, top_p=top_p)
        order = None
        if self.orders is not None:
            order = self._orders_drawn(self._log_p_of_each(s, c, mask).softmax(0), generator)
        s, mask = self._of_length(length, s), self._of_length(length, mask)
        filled = self._walk(s, mask, c, choose, order, cached=cached, watch=watch)
        return filled if length is not None else torch.where(known.to(x.device), x, filled)  # numbers keep every digit

    @torch.no_grad()
    def walk(self, n: int, choose: Choose, condition: Tensor | None = None) -> Tensor:
        """n observations whose values ``choose`` picks: it is told log p of every symbol (B, V), place by place.

        What draws by a generator samples; what reads a code decompresses. Rows go on, after an end too, to their last
        place or until all have ended. Of several orders it goes by the first.

        Raises:
            Unusable: the values are real numbers, which have no probabilities.
        """
        conditional = self.conditional
        if isinstance(conditional, Number):
            raise Unusable(f"{self.name} gives a density over real numbers, not probabilities; give pictures or tokens")
        device = next(self.parameters()).device

        def told(outputs: Tensor, t: int) -> Tensor:
            return choose(conditional.logits(outputs).log_softmax(-1), t)

        order = None if self.orders is None else self.orders[:1].expand(n, -1)
        return self._walk(self.sequence.empty(n, device), None, expand(self.condition, condition, n), told, order)

    def _at_places(self, x: Tensor) -> Shaped[Tensor, "B T"]:
        """The values of x where the sequence has them, checked; real numbers may come in any precision."""
        return self.sequence.read(x if isinstance(self.domain, Vectors) else self.domain.check(x))

    def _log_p(
        self, s: Shaped[Tensor, "B T"], c: Tensor | None, order: Int[Tensor, "T"] | None = None
    ) -> Float[Tensor, "B T"]:
        """log p(s_t | those before it in the order, c), at the place of each."""
        read = _arranged(s, order)
        log_p = self.conditional.log_prob(self.outputs_in(order, read, c), read)
        return self.sequence.given_end(s, _put_back(log_p, order))

    def _log_p_of_each(
        self, s: Shaped[Tensor, "B T"], c: Tensor | None, known: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "K B"]:
        """log p_o(s | c) of each order o, or of the known values alone, which come first."""
        terms = (self._log_p(s, c, order) for order in self._each_order())
        return torch.stack([(t if known is None else t.masked_fill(~known, 0)).sum(1) for t in terms])

    def _each_order(self) -> list[Int[Tensor, "T"] | None]:
        return [None] if self.orders is None else list(self.orders)

    def _some_order(self, generator: Generator) -> Int[Tensor, "T"] | None:
        if self.orders is None:
            return None
        k = torch.randint(len(self.orders), (1,), generator=generator, device=generator.device)
        return self.orders[k][0]

    def _orders_drawn(self, weights: Float[Tensor, "K B"], generator: Generator) -> Int[Tensor, "B T"]:
        """An order for each row, by its weights."""
        assert self.orders is not None
        weights = weights.T.to(generator.device)
        return self.orders[torch.multinomial(weights, 1, generator=generator)[:, 0]]

    def _draws(self, generator: Generator, **how: Any) -> Choose:
        self.conditional.check(**how)
        return lambda outputs, t: self.conditional.draw(outputs, generator=generator, **how)

    def _walk(
        self,
        s: Shaped[Tensor, "B L"],
        known: Bool[Tensor, "B L"] | None,
        c: Tensor | None,
        choose: Choose,
        order: Int[Tensor, "B T"] | None,
        *,
        cached: bool = True,
        watch: Watch | None = None,
    ) -> Tensor:
        known = torch.zeros_like(s, dtype=torch.bool) if known is None else known

        def stepper() -> Outputs:
            return self.stepper_in(order, len(s), c, cached=cached)

        def write(read: Tensor) -> Tensor:
            return self.sequence.write(_put_back(read, order))

        grows, length = None if watch is None else _canonical(watch, write), self.sequence.length
        read, seen = _arranged(s, order), _arranged(known, order)
        with torch.inference_mode():
            if s.shape[1] > length:
                filled = decode_on(stepper, read, seen, choose, length=length, watch=grows)
            else:
                filled = decode(stepper(), read, seen, choose, end=self.sequence.end, watch=grows)
        return write(filled.clone())  # outside, so that a gradient may be taken given it

    def _of_length(self, length: int | None, s: Shaped[Tensor, "B T"]) -> Shaped[Tensor, "B L"]:
        """Cut, or with room for more."""
        if length is None:
            return s
        if not isinstance(self.domain, Tokens) or self.domain.end is not None or self.orders is not None:
            raise Unusable(
                "a length is of text that goes on, read from left to right; records, pictures, tables and other orders "
                "have their own: leave it out"
            )
        if not 1 <= length <= MOST_LENGTH:
            raise Unusable(f"length must lie in 1 to {MOST_LENGTH:,}, got {length}")
        # The text, what is known of it, and a copy of each while they are filled in.
        require_memory(4 * len(s) * length * s.element_size(), f"{len(s)} texts of {length:,} symbols", s.device)
        return F.pad(s, (0, length - s.shape[1]))

    def _class_given(self, s: Tensor, known: Tensor, generator: Generator) -> Tensor:
        """Classes (B,) from p(c | known), proportional to p(c) p(known | c)."""
        if not isinstance(self.condition, Classes):
            raise Unusable(
                f"{self.name} completes given a condition; give one: only classes can be inferred from what is known"
            )

        def log_joint(k: int, frequency: float) -> Tensor:
            log_p = self._log_p_of_each(s, torch.full((len(s),), k, device=s.device), known)
            return _log_mean_exp(log_p) + torch.tensor(frequency).log().to(s.device)

        terms = [log_joint(k, f) for k, f in enumerate(self.condition.frequencies)]
        return torch.multinomial(torch.stack(terms, 1).softmax(1), 1, generator=generator)[:, 0]

    def _mask(self, known: Tensor) -> Bool[Tensor, "B T"]:
        return reading_mask(self.sequence, self.domain.shape, known)


def _canonical(watch: Watch, write: Callable[[Tensor], Tensor]) -> Watch:
    """Told of observations, and of tensors that may be kept and learnt from."""

    def grown(s: Tensor, t: int) -> None:
        with torch.inference_mode(False):
            watch(write(s.clone()), t)

    return grown


def _arranged(s: Shaped[Tensor, "B T"], order: Int[Tensor, "*B T"] | None) -> Shaped[Tensor, "B T"]:
    """What stands at its places, in the order of reading: one for all rows or one for each."""
    return s if order is None else s.gather(1, order.expand(len(s), -1))


def _put_back(read: Shaped[Tensor, "B T"], order: Int[Tensor, "*B T"] | None) -> Shaped[Tensor, "B T"]:
    """The inverse of ``_arranged``."""
    return read if order is None else torch.empty_like(read).scatter(1, order.expand(len(read), -1), read)


def _log_mean_exp(log_p: Float[Tensor, "K B"]) -> Float[Tensor, "B"]:
    return log_p.logsumexp(0) - math.log(len(log_p))
