"""Masked language model: a transformer that sees both sides of what is hidden; it fills in any mask."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, expand, rows_for
from pofx.distributions.conditional import Symbol
from pofx.domains import Domain
from pofx.errors import Unusable
from pofx.models.autoregressive.advice import advice
from pofx.models.autoregressive.embedding import at_places, embeddings, turn
from pofx.nn.attention import Activation, Architecture, Norm, Position, Transformer, rms_norm
from pofx.nn.mlp import ConditionEmbedding
from pofx.nn.sequence import SymbolSequence, reading_mask
from pofx.protocols import Loss
from pofx.randomness import rand

EXACT, ROUNDS = 64, 32


class MaskedLM(nn.Module):
    r"""Learns $p(x_t | x_S, c)$ of each symbol t from any set S of the others, by hiding those that are not in S.

    In training a row has k of its T symbols hidden, k uniform in 1 .. T, because every mask is asked of the model
    later: all but one symbol shown for the pseudo-likelihood, none for a sample. (BERT hides 15%, and so learns only
    about masks like that; its swaps for random symbols fit a model that is later shown no masks at all, as this one
    never is.) A mean over the hidden symbols of the row, times T, is then the expected -log p of a random order.

    Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1; any rate: Uria, Murray and Larochelle 2014,
    arXiv:1310.1757, eq. (9).

    Args:
        domain: tokens, or pictures of integer levels.
        condition: what is given; read at every position.
        width: E, size of the hidden states; by default from the domain.
        layers: number of blocks; by default from the domain.
        heads: N, attention heads; by default from the domain.
        position: "rotary", or "learned": a vector for each place.
        norm: "rms", without gain, of what is read too; "layer": LayerNorm with gain, of the blocks and the output.
        qk_norm: queries and keys are normalised.
        activation: relu2, gelu, gelu-tanh, or swiglu (gated).
        bias: linear layers, but the last, and LayerNorm have one.
        zero_init: output projections and the last layer start at zero.
        mask_rate: share of the symbols that is hidden in training; by default any.

    Raises:
        Unusable: a domain it does not take, sizes that do not fit each other, or a rate outside of 0 to 1.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        width: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        position: Position = "rotary",
        norm: Norm = "rms",
        qk_norm: bool = True,
        activation: Activation = "relu2",
        bias: bool = False,
        zero_init: bool = True,
        mask_rate: float | None = None,
    ) -> None:
        super().__init__()
        if mask_rate is not None and not 0 < mask_rate <= 1:
            raise Unusable(f"mask_rate must lie above 0 and be at most 1, got {mask_rate}; leave it out for any rate")
        self.domain, self.condition, self.mask_rate = domain, condition, mask_rate
        self.sequence = SymbolSequence("masked-lm", domain)
        self.architecture = Architecture(position, norm, qk_norm, activation, bias, zero_init)
        size, self.recipe = advice(domain)
        given = (width, layers, heads)
        self.width, self.layers, self.heads = (b if a is None else a for a, b in zip(given, size))
        self.trunk = Transformer(self.width, self.layers, self.heads, pattern="full", architecture=self.architecture)
        self.symbols, self.axes = embeddings(self.sequence, self.width, self.architecture)
        self.hidden = nn.Parameter(torch.randn(self.width))
        self.given = None if condition is None else ConditionEmbedding(condition, self.width)
        self.norm = self.architecture.normaliser(self.width)
        self.head = nn.Linear(self.width, self.sequence.vocabulary, bias=False)
        if zero_init:
            nn.init.zeros_(self.head.weight)

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """Mean over rows of the mean of -log p(x_t | shown, c) over the hidden t: nats per symbol.

        ``masked_nll`` is T times as much: nats per observation, as if all were predicted like those hidden.
        """
        s = self.sequence.read(x)
        shown = ~self._hides(s, generator)
        log_p = self._log_p(s, shown, condition, torch.arange(s.shape[1], device=s.device).expand_as(s))
        nll = -log_p.masked_fill(shown, 0).sum(1) / (~shown).sum(1)
        return Loss(nll.mean(), {"masked_nll": nll.mean() * self.sequence.length})

    def pseudo_log_prob(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B"]:
        """sum_t log p(x_t | x without x_t, c), nats per observation: T passes. A pseudo-likelihood, which no law has.

        Raises:
            Unusable: no condition is given to a model that has one: it does not know p(c | x without x_t).
        """
        return self.conditionals(x, condition).sum(1)

    def conditionals(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B T"]:
        """log p(x_t | x without x_t, c) of each symbol, in reading order, nats."""
        s = self.sequence.read(self.domain.check(x))
        c = self._told(condition, len(s))
        terms = []
        for t in range(s.shape[1]):
            shown = torch.ones_like(s, dtype=torch.bool)
            shown[:, t] = False
            terms.append(self._log_p(s, shown, c, torch.full_like(s[:, :1], t)))
        return torch.cat(terms, dim=1)

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
        steps: int | None = None,
    ) -> Tensor:
        """n observations: all is hidden, then filled in as ``complete`` does.

        Their law is the mean over all orders of prod_i p(x_t(i) | x_t(1), ..., x_t(i-1), c): a law of its own, which
        the pseudo-likelihood says nothing about.

        Args:
            n: how many.
            condition: one row for all or n rows; by default drawn by training frequency.
            generator: its device is where the model is.
            temperature: below 1 sharpens each symbol's distribution, 0 takes the likeliest symbol.
            top_k: keep the k likeliest symbols.
            top_p: keep the fewest likeliest symbols that hold this much probability.
            steps: rounds in which symbols are filled in, see ``complete``.
        """
        c = rows_for(self.condition, condition, n, generator=generator)
        s = self.sequence.empty(n, generator.device)
        how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return self._fill(s, torch.zeros_like(s, dtype=torch.bool), c, generator, steps, **how)

    def completes(self, known: Tensor) -> bool:
        """Any mask."""
        reading_mask(self.sequence, self.domain.shape, known)
        return True

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
        steps: int | None = None,
    ) -> Tensor:
        """Fills in what is not known, each row in a random order of its own: from p(x_t | what is there by then, c).

        With ``steps`` fewer than T, the symbols of a round are drawn at once, and so independently: faster, and worse
        where they depend on each other. By default there is a round for each symbol, but 32 where T is above 64;
        records that end always have a round for each.

        Raises:
            Unusable: no condition is given to a model that has one.
        """
        s = self.sequence.read(self.domain.check(x))
        mask = reading_mask(self.sequence, self.domain.shape, known).to(s.device).expand(len(s), -1)
        how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return self._fill(s, mask, self._told(condition, len(s)), generator, steps, **how)

    @torch.no_grad()
    def features(self, x: Tensor, layer: int | None = None) -> Float[Tensor, "B F"]:
        """(B, E) hidden states after ``layer`` blocks, averaged over positions; all is shown, given a mean condition.

        Args:
            x: canonical observations.
            layer: 0 (what the first block reads) to the number of blocks; by default the middle.

        Raises:
            Unusable: there is no such layer.
        """
        s = self.sequence.read(self.domain.check(x))
        shown = torch.ones_like(s, dtype=torch.bool)
        return rms_norm(self._states(s, shown, None, depth=self.trunk.depth_of(layer))).mean(1)

    def _hides(self, s: Int[Tensor, "B T"], generator: Generator) -> Bool[Tensor, "B T"]:
        """At least one of each row: as many as a uniform draw says, or each by the rate."""
        n, length = s.shape
        u = rand((n, length + 1), generator=generator, device=s.device)
        u, rate = u[:, 1:], u[:, :1]
        if self.mask_rate is not None:
            return (u < self.mask_rate) | (u == u.amin(1, keepdim=True))
        return u.argsort(1).argsort(1) <= (rate * length).floor()

    def _states(
        self, s: Tensor, shown: Bool[Tensor, "B T"], c: Tensor | None, *, depth: int | None = None
    ) -> Float[Tensor, "B T E"]:
        """Hidden states after ``depth`` blocks (all by default); the symbols that are not shown are not read."""
        h = torch.where(shown[..., None], self.symbols(s), self.hidden)
        h = at_places(h, self.axes, self.sequence.places)
        if self.condition is not None and self.given is not None:
            h = h + (self.given.absent() if c is None else self.given(c))[:, None]
        h = rms_norm(h) if self.architecture.norm == "rms" else h
        angles = turn(self.sequence, self.architecture, self.trunk.pairs, slice(None), s.device)
        return self.trunk(h, angles, depth=depth)

    def _log_p(self, s: Tensor, shown: Tensor, c: Tensor | None, at: Int[Tensor, "B M"]) -> Float[Tensor, "B M"]:
        """log p(s_t | shown, c) of M symbols a row."""
        return Symbol(self.sequence.vocabulary).log_prob(self._logits(s, shown, c, at), s.gather(1, at))

    def _logits(self, s: Tensor, shown: Tensor, c: Tensor | None, at: Int[Tensor, "B M"]) -> Float[Tensor, "B M V"]:
        h = self._states(s, shown, c).gather(1, at[..., None].expand(-1, -1, self.width))
        return self.sequence.possible(self.head(self.norm(h)), s, shown, at)

    def _fill(
        self, s: Tensor, known: Tensor, c: Tensor | None, generator: Generator, steps: int | None, **how: Any
    ) -> Tensor:
        symbol = Symbol(self.sequence.vocabulary)
        symbol.check(**how)
        shown, length, row = known.clone(), s.shape[1], torch.arange(len(s), device=s.device)[:, None]
        order = torch.rand(s.shape, generator=generator, device=s.device).masked_fill(known, 2.0).argsort(1)
        size = -(-length // self._rounds(steps))
        s = s.masked_fill(~known, 0)
        for first in range(0, int((~known).sum(1).max()) if len(s) else 0, size):
            at = order[:, first : first + size]
            logits = self._logits(s, shown, c, at)
            drawn = symbol.draw(logits.flatten(0, 1), generator=generator, **how).view(at.shape)
            s[row, at] = torch.where(shown[row, at], s[row, at], drawn)
            shown[row, at] = True
        return self.sequence.write(s)

    def _rounds(self, steps: int | None) -> int:
        length = self.sequence.length
        if steps is None:
            return ROUNDS if length > EXACT and self.sequence.end is None else length
        if not 1 <= steps <= length or (self.sequence.end is not None and steps < length):
            least = length if self.sequence.end is not None else 1
            raise Unusable(f"masked-lm fills in {length} symbols in {least} to {length} steps, got {steps}")
        return steps

    def _told(self, condition: Tensor | None, n: int) -> Tensor | None:
        if condition is None and self.condition is not None:
            raise Unusable(
                "masked-lm was fitted with a condition and cannot infer it from a part of x; give the condition"
            )
        return expand(self.condition, condition, n)
