"""GPT: a causal transformer over symbols, pixels or the numbers of a table, with an exact likelihood."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from pofx.conditions import Condition
from pofx.distributions.conditional import Symbol
from pofx.domains import Domain
from pofx.errors import Unusable
from pofx.models.autoregressive.advice import advice, gram_length
from pofx.models.autoregressive.chain import Autoregressive
from pofx.models.autoregressive.embedding import at_places, embeddings, shrink, turn
from pofx.models.autoregressive.grams import Grams
from pofx.nn.attention import Activation, Architecture, Norm, Position, Transformer, rms_norm
from pofx.nn.decoder import Decoder, Normed
from pofx.nn.mlp import ConditionEmbedding
from pofx.samplers.decoding import Outputs


class GPT(Autoregressive):
    r"""Decoder-only transformer: $\log p(x|c) = \sum_{t=1}^{T} \log p(x_t | x_{<t}, c)$, exact, nats per observation.

    Position t reads symbol t - 1 and predicts symbol t; the first position reads the condition, or a learnt start.
    A picture is read by row, column and channel, each of which has learnt embeddings besides the rotary ones.

    Source: Radford et al. 2018, "Improving language understanding by generative pre-training", eq. (2); pictures:
    Chen et al. 2020, "Generative pretraining from pixels", eq. (1).

    Args:
        domain: tokens, pictures of integer levels, or vectors.
        condition: what p(x|c) is given; read before the first symbol.
        width: E, size of the hidden states; by default from the domain.
        layers: number of blocks; by default from the domain.
        heads: N, attention heads; the width is a multiple of 2 N; by default from the domain.
        mixtures: components of the mixture that a number, or a picture's level, is drawn from; by default 10 for
            numbers, and a probability of its own for each level.
        position: "rotary", or "learned": a vector for each place (for each row, column and channel of a picture).
        norm: "rms", without gain, of what is read too; "layer": LayerNorm with gain, of the blocks and the output.
        qk_norm: queries and keys are normalised.
        activation: relu2, gelu, gelu-tanh, or swiglu (gated).
        bias: linear layers, but the last, and LayerNorm have one.
        tie: symbols are read and predicted with the same vectors.
        zero_init: output projections start at zero, and so does the last layer where it is not tied.
        soft_cap: what the head puts out stays within it: cap tanh(logits / cap); none by default.
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
        mixtures: int | None = None,
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
        super().__init__("gpt", domain, condition, mixtures=mixtures)
        if tie and type(self.conditional) is not Symbol:
            raise Unusable(
                "tie is of symbols that are read and predicted, and here numbers or mixtures are; leave it out"
            )
        if soft_cap is not None and not soft_cap > 0:
            raise Unusable(f"soft_cap must be above 0, got {soft_cap}; leave it out for none")
        self.soft_cap = soft_cap
        self.architecture = Architecture(position, norm, qk_norm, activation, bias, zero_init)
        grams = gram_length(domain, width) if grams is None else grams
        size, self.recipe = advice(domain, grams=grams != 1)
        given = (width, layers, heads)
        self.width, self.layers, self.heads = (b if a is None else a for a, b in zip(given, size))
        self.trunk = Transformer(self.width, self.layers, self.heads, pattern="causal", architecture=self.architecture)
        self.values, self.axes = embeddings(self.sequence, self.width, self.architecture)
        self.grams = None if grams == 1 else Grams(self.sequence, self.width, grams, gram_rows)
        if condition is None:
            self.start = nn.Parameter(torch.randn(self.width))
        else:
            self.given = ConditionEmbedding(condition, self.width)
        self.norm = self.architecture.normaliser(self.width)
        self.head = None if tie else nn.Linear(self.width, self.conditional.outputs, bias=False)
        if self.head is None:
            shrink(p for part in (self.values, self.axes) for p in part.parameters())
        elif zero_init:
            nn.init.zeros_(self.head.weight)

    def outputs(self, s: Shaped[Tensor, "B T"], c: Tensor | None) -> Float[Tensor, "B T P"]:
        """What the head puts out for each value, from those before it."""
        return self._outputs(s, c, s.shape[1])

    @torch.no_grad()
    def stepper(self, n: int, c: Tensor | None, *, cached: bool) -> Outputs:
        """Place by place, keys and values of the places before kept; without a cache all is read anew each time."""
        if not cached:
            return lambda s, t: self._outputs(s, c, t + 1)[:, -1]
        length = self.sequence.length
        decoder = Decoder(self.trunk, n, length, self._turn(0, length))
        read, read_out = self._reader(), Normed(self.norm, self._head)

        def outputs(s: Tensor, t: int) -> Tensor:
            first = decoder.used
            h = read(s, t) if 0 < first == t else self._inputs(s, c, first, t + 1)
            return self._capped(read_out(decoder(h)[:, -1]))

        return outputs

    @torch.no_grad()
    def features(self, x: Tensor, layer: int | None = None) -> Float[Tensor, "B F"]:
        """(B, E) hidden states after ``layer`` blocks, averaged over positions; given a mean condition.

        The last symbol, from which nothing is predicted, is not read.

        Args:
            x: canonical observations.
            layer: 0 (what the first block reads) to the number of blocks; by default the middle.

        Raises:
            Unusable: there is no such layer.
        """
        s = self.read(x)
        stop = self.sequence.length
        depth = self.trunk.depth_of(layer)
        h = self.trunk(self._inputs(s, None, 0, stop), self._turn(0, stop), depth=depth)
        return rms_norm(h).mean(1)

    def _outputs(self, s: Tensor, c: Tensor | None, stop: int) -> Float[Tensor, "B T P"]:
        """Of the first ``stop`` places, all read at once."""
        h = self.norm(self.trunk(self._inputs(s, c, 0, stop), self._turn(0, stop)))
        return self._capped(F.linear(h, self._head) if self.head is None else self.head(h))

    @property
    def _head(self) -> Float[Tensor, "P E"]:
        return cast(nn.Embedding, self.values).weight if self.head is None else self.head.weight

    def _capped(self, outputs: Float[Tensor, "*B P"]) -> Float[Tensor, "*B P"]:
        return outputs if self.soft_cap is None else self.soft_cap * torch.tanh(outputs / self.soft_cap)

    def _inputs(self, s: Tensor, c: Tensor | None, first: int, stop: int) -> Float[Tensor, "B T E"]:
        """What positions ``first`` .. ``stop`` - 1 read: the symbols before, and in pictures the place predicted."""
        h = self.values(s[:, max(first - 1, 0) : stop - 1])
        if first == 0:
            h = torch.cat([self._start(c, len(s))[:, None], h], dim=1)
        if self.grams is not None:
            h = h + self.grams(s, first, stop)
        return self._scaled(at_places(h, self.axes, self.sequence.places[first:stop]))

    def _reader(self) -> Callable[[Tensor, int], Tensor]:
        """(s, t) to what position t > 0 reads (B, 1, E): what does not change from step to step is made once."""
        if self.grams is not None:
            return lambda s, t: self._inputs(s, None, t, t + 1)
        if isinstance(self.values, nn.Embedding) and not self.axes:
            symbols = self._scaled(self.values.weight)
            return lambda s, t: F.embedding(s[:, t - 1 : t], symbols)
        places = self.sequence.places
        at = at_places(self._head.new_zeros(1, len(places), self.width), self.axes, places)
        return lambda s, t: self._scaled(self.values(s[:, t - 1 : t]) + at[:, t : t + 1])

    def _scaled(self, h: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        return rms_norm(h) if self.architecture.norm == "rms" else h

    def _start(self, c: Tensor | None, n: int) -> Float[Tensor, "B E"]:
        if self.condition is None:
            return self.start.expand(n, -1)
        return (self.given.absent() if c is None else self.given(c)).expand(n, -1)

    def _turn(self, first: int, stop: int) -> Tensor | None:
        device = next(self.parameters()).device
        return turn(self.sequence, self.architecture, self.trunk.pairs, slice(first, stop), device)
