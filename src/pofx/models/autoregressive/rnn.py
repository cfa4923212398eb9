"""A recurrent network over symbols, pixels or the numbers of a table: one state carries all that came before."""

from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from pofx.conditions import Condition
from pofx.domains import Domain, Images, Tokens
from pofx.errors import Unusable
from pofx.models.autoregressive.chain import Autoregressive
from pofx.models.autoregressive.embedding import at_places
from pofx.nn.mlp import ConditionEmbedding
from pofx.nn.sequence import value_embedding
from pofx.samplers.decoding import Outputs

State = Tensor | tuple[Tensor, Tensor]


class RNN(Autoregressive):
    r"""$\log p(x|c) = \sum_t \log p(x_t | h_t)$, $h_t = f(h_{t-1}, x_{t-1}, c)$: exact, nats per observation.

    Each step reads the value before, the place of the value predicted (in pictures and tables) and the condition. The
    state has a fixed size, so sampling costs the same at every place; what is far back must have been kept in it.

    Source: Graves 2013, arXiv:1308.0850, eq. (1) to (7); LSTM: Hochreiter and Schmidhuber 1997; GRU: Cho et al. 2014,
    arXiv:1406.1078, eq. (5) to (8).

    Args:
        domain: tokens, pictures of integer levels, or vectors.
        condition: what p(x|c) is given; read at every step.
        cell: "lstm" or "gru".
        width: E, size of the hidden states; by default from the domain.
        layers: cells on top of each other.
        mixtures: components of the mixture that a number, or a picture's level, is drawn from; by default 10 for
            numbers, and a probability of its own for each level.

    Raises:
        Unusable: a domain it does not take, or sizes below one.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        cell: Literal["lstm", "gru"] = "lstm",
        width: int | None = None,
        layers: int = 1,
        mixtures: int | None = None,
    ) -> None:
        super().__init__("rnn", domain, condition, mixtures=mixtures)
        size, self.recipe = _advice(domain)
        self.width = size if width is None else width
        if min(self.width, layers) < 1:
            raise Unusable(f"rnn needs a width and layers of at least 1, got width {width}, layers {layers}")
        if cell not in _CELLS:
            raise Unusable(f"rnn's cell is {' or '.join(_CELLS)}, got {cell!r}")
        self.values = value_embedding(self.sequence, self.width)
        axes = () if isinstance(domain, Tokens) else domain.shape[1:] + domain.shape[:1]
        self.axes = nn.ModuleList(nn.Embedding(extent, self.width) for extent in axes)
        self.start = nn.Parameter(torch.randn(self.width))
        self.given = None if condition is None else ConditionEmbedding(condition, self.width)
        self.cells: nn.LSTM | nn.GRU = _CELLS[cell](self.width, self.width, layers, batch_first=True)
        self.head = nn.Linear(self.width, self.conditional.outputs)
        nn.init.zeros_(self.head.weight)

    def outputs(self, s: Shaped[Tensor, "B T"], c: Tensor | None) -> Float[Tensor, "B T P"]:
        """What the head puts out for each value, from those before it."""
        return self.head(self.cells(self._inputs(s, c, 0, s.shape[1]))[0])

    @torch.no_grad()
    def stepper(self, n: int, c: Tensor | None, *, cached: bool) -> Outputs:
        """Place by place, the state carried on; without a cache all is read anew each time."""
        state: State | None = None
        read = 0

        def outputs(s: Tensor, t: int) -> Tensor:
            nonlocal state, read
            first, before = (read, state) if cached else (0, None)
            h, state = self.cells(self._inputs(s, c, first, t + 1), before)
            read = t + 1
            return self.head(h[:, -1])

        return outputs

    @torch.no_grad()
    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """(B, E) hidden states averaged over places; given a mean condition. The last value is not read."""
        s = self.read(x)
        return self.cells(self._inputs(s, None, 0, self.sequence.length))[0].mean(1)

    def _inputs(self, s: Tensor, c: Tensor | None, first: int, stop: int) -> Float[Tensor, "B T E"]:
        """What steps ``first`` .. ``stop`` - 1 read: the value before, the place predicted and the condition."""
        h = self.values(s[:, max(first - 1, 0) : stop - 1])
        if first == 0:
            h = torch.cat([self.start.expand(len(s), 1, -1), h], dim=1)
        h = at_places(h, self.axes, self.sequence.places[first:stop])
        if self.condition is None or self.given is None:
            return h
        return h + (self.given.absent() if c is None else self.given(c))[:, None]


_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
_RECIPE = {"optimiser": "adamw", "learning_rate": 0.01, "schedule": "trapezoid", "warmup": 0.05, "cooldown": 0.5}


def _advice(domain: Domain) -> tuple[int, dict[str, Any]]:
    """Width and training settings by the domain; for text, batches of about 2560 symbols."""
    if isinstance(domain, Tokens):
        return 256, _RECIPE | {"batch_size": max(8, 2560 // domain.length), "clip": 1.0, "ema": 0.0}
    if isinstance(domain, Images):
        return 128, _RECIPE | {"batch_size": 32, "clip": 1.0, "ema": 0.1}
    return 64, _RECIPE | {"batch_size": 128, "learning_rate": 5e-3, "ema": 0.1}
