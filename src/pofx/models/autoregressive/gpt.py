"""GPT: a causal transformer over symbols or pixels, with an exact likelihood."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from pofx.conditions import Classes, Condition, expand, marginal, rows_for
from pofx.domains import Domain
from pofx.errors import Unusable
from pofx.models.autoregressive.advice import advice, gram_length
from pofx.models.autoregressive.embedding import at_places, embeddings, shrink, turn
from pofx.models.autoregressive.grams import Grams
from pofx.nn.attention import Activation, Architecture, Cache, Norm, Position, Transformer, rms_norm
from pofx.nn.mlp import ConditionEmbedding
from pofx.nn.sequence import SymbolSequence
from pofx.protocols import Loss
from pofx.samplers.decoding import check_decoding, decode


class GPT(nn.Module):
    r"""Decoder-only transformer: $\log p(x|c) = \sum_{t=1}^{T} \log p(x_t | x_{<t}, c)$, exact, nats per observation.

    Position t reads symbol t - 1 and predicts symbol t; the first position reads the condition, or a learnt start.
    A picture is read by row, column and channel, each of which has learnt embeddings besides the rotary ones.

    Source: Radford et al. 2018, "Improving language understanding by generative pre-training", eq. (2); pictures:
    Chen et al. 2020, "Generative pretraining from pixels", eq. (1).

    Args:
        domain: tokens, or pictures of integer levels.
        condition: what p(x|c) is given; read before the first symbol.
        width: E, size of the hidden states; by default from the domain.
        layers: number of blocks; by default from the domain.
        heads: N, attention heads; the width is a multiple of 2 N; by default from the domain.
        position: "rotary", or "learned": a vector for each place (for each row, column and channel of a picture).
        norm: "rms", without gain, of what is read too; "layer": LayerNorm with gain, of the blocks and the output.
        qk_norm: queries and keys are normalised.
        activation: relu2, gelu, gelu-tanh, or swiglu (gated).
        bias: linear layers, but the last, and LayerNorm have one.
        tie: symbols are read and predicted with the same vectors.
        zero_init: output projections start at zero, and so does the last layer where it is not tied.
        soft_cap: logits stay within it: cap tanh(logits / cap); none by default.
        grams: what is read is besides each symbol the pair, the triple, ... of this many that it ends; 1 for none. By
            default 5 in texts of characters or bytes, none elsewhere.
        gram_rows: vectors of pairs, as many of triples, ...: those whose hashes are equal share one.

    Raises:
        Unusable: a domain it does not take, or sizes that do not fit each other.
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
        tie: bool = False,
        zero_init: bool = True,
        soft_cap: float | None = None,
        grams: int | None = None,
        gram_rows: int = 3072,
    ) -> None:
        super().__init__()
        if soft_cap is not None and not soft_cap > 0:
            raise Unusable(f"soft_cap must be above 0, got {soft_cap}; leave it out for none")
        self.domain, self.condition, self.soft_cap = domain, condition, soft_cap
        self.sequence = SymbolSequence("gpt", domain)
        self.architecture = Architecture(position, norm, qk_norm, activation, bias, zero_init)
        size, self.recipe = advice(self.sequence)
        given = (width, layers, heads)
        self.width, self.layers, self.heads = (b if a is None else a for a, b in zip(given, size))
        self.trunk = Transformer(self.width, self.layers, self.heads, pattern="causal", architecture=self.architecture)
        self.symbols, self.axes = embeddings(self.sequence, self.width, self.architecture)
        longest = gram_length(self.sequence, self.width) if grams is None else grams
        self.grams = None if longest == 1 else Grams(self.sequence.vocabulary, self.width, longest, gram_rows)
        if condition is None:
            self.start = nn.Parameter(torch.randn(self.width))
        else:
            self.given = ConditionEmbedding(condition, self.width)
        self.norm = self.architecture.normaliser(self.width)
        self.head = None if tie else nn.Linear(self.width, self.sequence.vocabulary, bias=False)
        if self.head is None:
            shrink(p for part in (self.symbols, self.axes) for p in part.parameters())
        elif zero_init:
            nn.init.zeros_(self.head.weight)

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """-log p(x|c) in nats per symbol; without a condition, given its null. Draws nothing."""
        s = self.sequence.read(x).long()
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
        c = expand(self.condition, condition, len(x))
        return self._log_p(self.sequence.read(self.domain.check(x)).long(), c).sum(1)

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
    ) -> Tensor:
        """n observations, symbol by symbol; see ``samplers.decoding`` for the settings.

        Args:
            n: how many.
            condition: one row for all or n rows; by default drawn by training frequency.
            generator: its device is where the model is.
            temperature: below 1 sharpens each symbol's distribution, 0 takes the likeliest symbol.
            top_k: keep the k likeliest symbols.
            top_p: keep the fewest likeliest symbols that hold this much probability.
            cached: keep keys and values; without, the same samples, slowly.
        """
        c = rows_for(self.condition, condition, n, generator=generator)
        s = torch.zeros(n, self.sequence.length, dtype=torch.int64, device=generator.device)
        settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "cached": cached}
        return self._decode(s, torch.zeros_like(s, dtype=torch.bool), c, generator, **settings)

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
    ) -> Tensor:
        """Draws the rest from p(rest | known, c), exactly; without c, the class from p(c | known) first.

        Raises:
            Unusable: what is known does not come first in the order.
        """
        if not self.completes(known):
            raise Unusable("gpt completes what comes after a known beginning (the top of a picture); mask from there")
        s = self.sequence.read(self.domain.check(x)).long()
        mask = self._mask(known).to(s.device).expand(len(s), -1)
        c = expand(self.condition, condition, len(x))
        if c is None and self.condition is not None:
            c = self._class_given(s, mask, generator)
        return self._decode(s, mask, c, generator, temperature=temperature, top_k=top_k, top_p=top_p)

    @torch.no_grad()
    def features(self, x: Tensor, layer: int | None = None) -> Float[Tensor, "B F"]:
        """(B, E) hidden states after ``layer`` blocks, averaged over positions; given the null condition.

        The last symbol, from which nothing is predicted, is not read.

        Args:
            x: canonical observations.
            layer: 0 (what the first block reads) to the number of blocks; by default the middle.

        Raises:
            Unusable: there is no such layer.
        """
        s = self.sequence.read(self.domain.check(x)).long()
        stop = self.sequence.length
        depth = self.trunk.depth_of(layer)
        h = self.trunk(self._inputs(s, None, 0, stop), self._turn(0, stop), depth=depth)
        return rms_norm(h).mean(1)

    def _log_p(self, s: Int[Tensor, "B T"], c: Tensor | None) -> Float[Tensor, "B T"]:
        """log p(s_t | s_<t, c)."""
        logits = self._logits(s, c, 0, s.shape[1])
        nll = F.cross_entropy(logits.flatten(0, 1), s.flatten(), reduction="none")
        return self.sequence.given_end(s, -nll.view(s.shape))

    def _logits(self, s: Tensor, c: Tensor | None, first: int, stop: int, cache: Cache | None = None) -> Tensor:
        """(B, stop - first, V) of the symbols at ``first`` .. ``stop`` - 1."""
        h = self.trunk(self._inputs(s, c, first, stop), self._turn(first, stop), cache=cache)
        logits = F.linear(self.norm(h), self.symbols.weight) if self.head is None else self.head(self.norm(h))
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def _inputs(self, s: Tensor, c: Tensor | None, first: int, stop: int) -> Float[Tensor, "B T E"]:
        """What positions ``first`` .. ``stop`` - 1 read: the symbols before, and in pictures the place predicted."""
        h = self.symbols(s[:, max(first - 1, 0) : stop - 1])
        if first == 0:
            h = torch.cat([self._start(c, len(s))[:, None], h], dim=1)
        if self.grams is not None:
            h = h + self.grams(s, first, stop)
        h = at_places(h, self.axes, self.sequence.places[first:stop])
        return rms_norm(h) if self.architecture.norm == "rms" else h

    def _start(self, c: Tensor | None, n: int) -> Float[Tensor, "B E"]:
        if self.condition is None:
            return self.start.expand(n, -1)
        c = self.condition.null(n).to(self.symbols.weight.device) if c is None else c
        return self.given(c).expand(n, -1)

    def _turn(self, first: int, stop: int) -> Tensor | None:
        device = self.symbols.weight.device
        return turn(self.sequence, self.architecture, self.trunk.pairs, slice(first, stop), device)

    def _decode(
        self, s: Tensor, known: Tensor, c: Tensor | None, generator: Generator, *, cached: bool = True, **how: Any
    ) -> Tensor:
        check_decoding(self.sequence.vocabulary, **how)
        cache = Cache(self.trunk, *s.shape) if cached else None

        def logits_at(s: Tensor, t: int) -> Tensor:
            first = cache.used if cache else 0
            return self._logits(s, c, first, t + 1, cache)[:, -1]

        return self.sequence.write(decode(logits_at, s, known, generator=generator, end=self.sequence.end, **how))

    def _class_given(self, s: Tensor, known: Tensor, generator: Generator) -> Tensor:
        """Classes (B,) from p(c | known), proportional to p(c) p(known | c)."""
        if not isinstance(self.condition, Classes):
            raise Unusable("gpt completes given a condition; give one: only classes can be inferred from what is known")

        def log_joint(k: int, frequency: float) -> Tensor:
            log_p = self._log_p(s, torch.full((len(s),), k, device=s.device))
            return log_p.masked_fill(~known, 0).sum(1) + torch.tensor(frequency).log().to(s.device)

        terms = [log_joint(k, f) for k, f in enumerate(self.condition.frequencies)]
        return torch.multinomial(torch.stack(terms, 1).softmax(1), 1, generator=generator)[:, 0]

    def _mask(self, known: Tensor) -> Tensor:
        """A mask of x's shape, or of one observation's, in reading order: (B or 1, T)."""
        whole = known if known.ndim > len(self.domain.shape) else known[None]
        if tuple(whole.shape[1:]) != self.domain.shape or known.dtype != torch.bool:
            raise Unusable(
                f"a mask is boolean and of shape {self.domain.shape}, got {known.dtype} and {tuple(known.shape)}"
            )
        return self.sequence.read(whole)
