"""GPT: a causal transformer over symbols, pixels or the numbers of a table, with an exact likelihood."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from pofx.conditions import Condition
from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.models.autoregressive.chain import Autoregressive
from pofx.nn.attention import Transformer, rms_norm, rotation
from pofx.nn.decoder import Decoder, Normed
from pofx.nn.mlp import ConditionEmbedding
from pofx.nn.sequence import value_embedding
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
    ) -> None:
        super().__init__("gpt", domain, condition, mixtures=mixtures)
        size, self.recipe = _advice(domain)
        given = (width, layers, heads)
        self.width, self.layers, self.heads = (b if a is None else a for a, b in zip(given, size))
        self.trunk = Transformer(self.width, self.layers, self.heads, pattern="causal")
        self.values = value_embedding(self.sequence, self.width)
        axes = domain.shape[1:] + domain.shape[:1]  # H, W, C of a picture; the columns of a table
        self.axes = nn.ModuleList(nn.Embedding(extent, self.width) for extent in axes if not isinstance(domain, Tokens))
        for embedding in (self.values, *self.axes) if isinstance(domain, Images) else ():
            _smooth(embedding.weight)
        if condition is None:
            self.start = nn.Parameter(torch.randn(self.width))
        else:
            self.given = ConditionEmbedding(condition, self.width)
        self.norm = nn.RMSNorm(self.width, elementwise_affine=False)
        self.head = nn.Linear(self.width, self.conditional.outputs, bias=False)
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
        read_out = Normed(self.norm, self.head.weight)
        # What a place reads is one of a few vectors where it is a symbol alone.
        symbols = rms_norm(self.values.weight) if isinstance(self.values, nn.Embedding) and not self.axes else None

        def outputs(s: Tensor, t: int) -> Tensor:
            if symbols is not None and 0 < t == decoder.used:
                h = F.embedding(s[:, t - 1 : t], symbols)
            else:
                h = self._inputs(s, c, decoder.used, t + 1)
            return read_out(decoder(h)[:, -1])

        return outputs

    @torch.no_grad()
    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """(B, E) hidden states after the middle block, averaged over positions; given the null condition.

        The last symbol, from which nothing is predicted, is not read.
        """
        s = self._read(x)
        stop = self.sequence.length
        h = self.trunk(self._inputs(s, None, 0, stop), self._turn(0, stop), depth=(self.layers + 1) // 2)
        return rms_norm(h).mean(1)

    def _outputs(self, s: Tensor, c: Tensor | None, stop: int) -> Float[Tensor, "B T P"]:
        """Of the first ``stop`` places, all read at once."""
        return self.head(self.norm(self.trunk(self._inputs(s, c, 0, stop), self._turn(0, stop))))

    def _inputs(self, s: Tensor, c: Tensor | None, first: int, stop: int) -> Float[Tensor, "B T E"]:
        """What positions ``first`` .. ``stop`` - 1 read: the symbol before, and in pictures the place predicted."""
        h = self.values(s[:, max(first - 1, 0) : stop - 1])
        if first == 0:
            h = torch.cat([self._start(c, len(s))[:, None], h], dim=1)
        if self.axes:
            places = self.sequence.places[first:stop].to(s.device)
            for axis, embedding in enumerate(self.axes):
                h = h + embedding(places[:, axis])
        return rms_norm(h)

    def _start(self, c: Tensor | None, n: int) -> Float[Tensor, "B E"]:
        if self.condition is None:
            return self.start.expand(n, -1)
        c = self.condition.null(n).to(self.head.weight.device) if c is None else c
        return self.given(c).expand(n, -1)

    def _turn(self, first: int, stop: int) -> Tensor:
        """Rotary angles: of t in tokens, of row and column in pictures."""
        places = self.sequence.places[first:stop, :2].to(self.head.weight.device)
        base = 10000.0 if isinstance(self.domain, Tokens) else 100.0
        return rotation(places, self.trunk.pairs, base=base)


@torch.no_grad()
def _smooth(weight: Float[Tensor, "V E"], scale: float = 0.2) -> None:
    """Levels, or places, near each other start near each other: sqrt(2) cos(omega u / scale + phi), u in [0, 1].

    Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines", algorithm 1.
    """
    levels, width = weight.shape
    u = torch.linspace(0, 1, levels)[:, None]
    weight.copy_(math.sqrt(2) * torch.cos(u / scale * torch.randn(width) + 2 * math.pi * torch.rand(width)))


_TEXT = {
    "optimiser": "muon",
    "learning_rate": 6e-3,
    "muon_learning_rate": 0.02,
    "beta1": 0.8,
    "beta2": 0.95,
    "schedule": "trapezoid",
    "warmup": 1 / 6,
    "cooldown": 0.5,
    "ema": 0.0,
}
_PICTURES = {
    "optimiser": "muon",
    "learning_rate": 4e-3,
    "muon_learning_rate": 0.03,
    "weight_decay": 0.3,
    "schedule": "trapezoid",
    "warmup": 0.05,
    "cooldown": 0.5,
    "ema": 0.1,
}


def _advice(domain: Domain) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """(width, layers, heads) and training settings by the domain; for text, batches of about 1280 symbols."""
    if isinstance(domain, Tokens):
        return (128, 4, 4), _TEXT | {"batch_size": max(8, 1280 // domain.length)}
    if isinstance(domain, Vectors):
        return (64, 2, 2), _PICTURES | {"batch_size": 128, "weight_decay": 0.0}
    if domain.dims <= 256:
        return (64, 2, 2), _PICTURES | {"batch_size": 32}
    return (64, 3, 2), _PICTURES | {"batch_size": 8}
