"""MADE: a multilayer perceptron whose weights are masked until no output sees its own value or a later one."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor, nn
from torch.nn.functional import linear, relu

from pofx.conditions import Condition
from pofx.distributions.conditional import Bit, Level
from pofx.domains import Domain, Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoregressive.chain import Autoregressive
from pofx.nn.masked import Masked, Units, degrees
from pofx.nn.mlp import ConditionEmbedding
from pofx.nn.sequence import value_embedding
from pofx.samplers.decoding import Outputs

# Numbers that stand for one symbol of a text, or one number of a table; a pixel is a number already.
_EMBEDDING = 16
_CONTEXT = 64


class MADE(Autoregressive):
    r"""$\log p(x|c) = \sum_{t=1}^{T} \log p(x_t | x_{<t}, c)$ from one pass of an MLP, exact, nats per observation.

    A hidden unit of degree m reads the first m + 1 values alone, and value t is told by the units of degree below t:
    $M_{kj} = 1[m_k \ge m_j]$ between layers, $M_{tk} = 1[t > m_k]$ at the output, which also sees the values before
    it directly. Degrees are spread evenly, in rising order.

    With several orderings each batch is read in one of them, and p(x) is their mean:
    $\log p(x) = \log \frac{1}{K} \sum_o \exp \log p_o(x)$.

    Source: Germain et al. 2015, arXiv:1502.03509, eq. (8) and (9), sections 4.2 and 4.3; order-agnostic training:
    Uria et al. 2014, arXiv:1310.1757, section 3.

    Args:
        domain: pictures of integer levels, tokens, or vectors.
        condition: what p(x|c) is given; added to every layer.
        hidden: sizes of the hidden layers; by default from the domain.
        orderings: K, the orders in which values may be read: the sequence's own, then random ones.
        shuffled: the first ordering is random, too.
        mixtures: components of the mixture that a number, or a picture's level, is drawn from; by default 10 for
            numbers, 5 for pictures of more than 32 levels, and else a probability of its own for each level.

    Raises:
        Unusable: a domain it does not take, or sizes and orderings that cannot be.
    """

    mean: Tensor

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        hidden: tuple[int, ...] | None = None,
        orderings: int = 1,
        shuffled: bool = False,
        mixtures: int | None = None,
    ) -> None:
        _check_arguments(domain, hidden, orderings, shuffled)
        if mixtures is None and isinstance(domain, Images) and (domain.levels or 0) > 32 and not domain.palette:
            mixtures = 5
        orders = _orders(domain.dims, orderings, shuffled) if shuffled or orderings > 1 else None
        super().__init__("made", domain, condition, mixtures=mixtures, orders=orders)
        if isinstance(domain, Images) and domain.levels == 2 and mixtures is None:
            self.conditional = Bit()
        sizes, self.recipe = _advice(domain)
        self.hidden = sizes if hidden is None else hidden
        context = 0 if condition is None else _CONTEXT
        inputs = Units(range(domain.dims), 1 if isinstance(domain, Images) else _EMBEDDING, placed=True)
        outputs = Units(range(domain.dims), self.conditional.outputs, placed=True)
        units = [inputs, *(Units(degrees(size, domain.dims)) for size in self.hidden)]
        self.spread = (domain.levels - 1) / 2 if isinstance(domain, Images) and domain.levels else 1.0
        self.register_buffer("mean", torch.full((domain.dims,), self.spread) if isinstance(domain, Images) else None)
        self.values = None if isinstance(domain, Images) else value_embedding(self.sequence, _EMBEDDING)
        self.given = None if condition is None else ConditionEmbedding(condition, context)
        self.layers = nn.ModuleList(Masked(a, b, context=context) for a, b in pairwise(units))
        self.head = Masked(units[-1], outputs, context=context, strictly=True)
        self.direct = Masked(inputs, outputs, strictly=True) if inputs.size <= units[-1].size else None
        for last in (self.head, self.direct):
            if last is not None:
                nn.init.zeros_(last.weight)

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Pixels are read about the training split's mean and told from its frequencies on; vectors are standardised.

        Most pixels are dark: read about anything else, they would give each unit mostly one and the same constant.
        """
        super().adapt(x, condition, generator=generator)
        if isinstance(self.domain, Images):
            s = self.sequence.arrange(x)
            self.mean.copy_(s.to(self.mean.dtype).mean(0))
            if not isinstance(self.conditional, Level):
                logits = _log_frequencies(s, self.domain.levels or 0)
                bias = logits.diff(dim=1) if isinstance(self.conditional, Bit) else logits
                self.head.bias.copy_(bias.flatten())

    def outputs(self, s: Shaped[Tensor, "B T"], c: Tensor | None) -> Float[Tensor, "B T P"]:
        """What is put out for each value, from those before it."""
        return self.outputs_in(None, s, c)

    def outputs_in(
        self, order: Int[Tensor, "T"] | None, s: Shaped[Tensor, "B T"], c: Tensor | None
    ) -> Float[Tensor, "B T P"]:
        """The same where values, and what is put out for them, stand in ``order``."""
        y, context = self._inputs(s, order), self._context(c)
        out = self.head(self._hidden(order, y, context), order, context)
        if self.direct is not None:
            out = out + self.direct(y, order)
        return out.unflatten(1, (s.shape[1], -1))

    @torch.no_grad()
    def stepper(self, n: int, c: Tensor | None, *, cached: bool) -> Outputs:
        """Place by place; only the units that a new value completes are computed: all places cost one pass."""
        return self._stepper(None, n, c, cached)

    @torch.no_grad()
    def stepper_in(self, order: Int[Tensor, "B T"] | None, n: int, c: Tensor | None, *, cached: bool) -> Outputs:
        """The same where each row has an order of its own: rows of one order go together."""
        if order is None or n == 0:
            return self._stepper(None, n, c, cached)
        orders, index = order.unique(dim=0, return_inverse=True)
        rows = [(index == k).nonzero()[:, 0] for k in range(len(orders))]
        steppers = [self._stepper(o, len(r), None if c is None else c[r], cached) for o, r in zip(orders, rows)]
        back = torch.cat(rows).argsort()
        return lambda s, t: torch.cat([outputs(s[r], t) for outputs, r in zip(steppers, rows)])[back]

    @torch.no_grad()
    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """The last hidden layer, in the first ordering; given a mean condition."""
        order, s = self._each_order()[0], self.read(x)
        return self._hidden(order, self._inputs(s, order), self._context(None))

    def _stepper(self, order: Int[Tensor, "T"] | None, n: int, c: Tensor | None, cached: bool) -> Outputs:
        kept = _Steps(self, order, n, c) if cached else None
        return lambda s, t: (kept or _Steps(self, order, n, c)).outputs(s, t)

    def _hidden(self, order: Int[Tensor, "T"] | None, y: Tensor, context: Tensor | None) -> Float[Tensor, "B F"]:
        for layer in self.layers:
            y = relu(layer(y, order, context))
        return y

    def _inputs(self, s: Shaped[Tensor, "B N"], order: Int[Tensor, "T"] | None, first: int = 0) -> Float[Tensor, "B I"]:
        """The numbers that stand for the values read from step ``first`` on: of a pixel one, about its mean."""
        if self.values is not None:
            return self.values(s).flatten(1)
        mean = (self.mean if order is None else self.mean[order])[first : first + s.shape[1]]
        return (s - mean) / self.spread

    def _context(self, c: Tensor | None) -> Float[Tensor, "#B E"] | None:
        if self.given is None or self.condition is None:
            return None
        return self.given.absent() if c is None else self.given(c)


class _Steps:
    """A pass that goes on as values come: units of low degree are complete before the others."""

    def __init__(self, model: MADE, order: Int[Tensor, "T"] | None, n: int, c: Tensor | None) -> None:
        context = model._context(c)
        self.model, self.order, self.read = model, order, 0
        self.layers = [_Folded(layer, order, context) for layer in model.layers if isinstance(layer, Masked)]
        self.head = _Folded(model.head, order, context)
        self.direct = None if model.direct is None else _Folded(model.direct, order, None)
        self.units = [model.head.weight.new_zeros(n, f.layer.a.size) for f in (*self.layers, self.head)]

    def outputs(self, s: Shaped[Tensor, "B T"], t: int) -> Float[Tensor, "B P"]:
        """What is put out for the value that is read at step t."""
        new = self.layers[0].layer.a.between(self.read, t)
        self.units[0][:, new] = self.model._inputs(s[:, self.read : t], self.order, self.read)
        for x, folded, y in zip(self.units, self.layers, self.units[1:]):
            y[:, folded.layer.b.between(self.read, t)] = relu(folded(x, self.read, t))
        self.read = t
        out = self.head(self.units[-1], t, t + 1)
        return out if self.direct is None else out + self.direct(self.units[0], t, t + 1)


class _Folded:
    """A masked layer in one order and context, some of its units at a time."""

    def __init__(self, layer: Masked, order: Int[Tensor, "T"] | None, context: Tensor | None) -> None:
        self.layer = layer
        self.weight, self.shift = layer.folded(order, context)

    def __call__(self, x: Float[Tensor, "B A"], first: int, stop: int) -> Float[Tensor, "B N"]:
        """Those of degree ``first`` .. ``stop`` - 1, from what they see of x."""
        rows, seen = self.layer.b.between(first, stop), self.layer.seen(stop - 1)
        return linear(x[:, :seen], self.weight[rows, :seen]) + self.shift[:, rows]


def _log_frequencies(s: Shaped[Tensor, "B T"], levels: int) -> Float[Tensor, "T V"]:
    """Of each level at each place, none of them quite zero."""
    counts = torch.stack([(s == level).sum(0) for level in range(levels)], dim=1)
    return ((counts + 0.5) / (len(s) + levels / 2)).log()


def _orders(places: int, count: int, shuffled: bool) -> Int[Tensor, "K T"]:
    first = torch.randperm(places) if shuffled else torch.arange(places)
    return torch.stack([first, *(torch.randperm(places) for _ in range(count - 1))])


def _check_arguments(domain: Domain, hidden: tuple[int, ...] | None, orderings: int, shuffled: bool) -> None:
    if hidden is not None and min(hidden, default=0) < 1:
        raise Unusable(f"hidden must be positive sizes, got {hidden}; leave it out for the default")
    if orderings < 1:
        raise Unusable(f"orderings must be at least 1, got {orderings}; leave it out for the order of reading")
    if (shuffled or orderings > 1) and isinstance(domain, Tokens) and domain.end is not None:
        raise Unusable("records that end are read from their beginning; leave orderings and shuffled out")


def _advice(domain: Domain) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Hidden sizes and training settings by the domain."""
    if isinstance(domain, Tokens):
        return (512,), {"batch_size": 64, "learning_rate": 2e-3}
    if isinstance(domain, Vectors):
        return (128, 128), {"batch_size": 128, "learning_rate": 5e-3}
    if domain.dims <= 256:
        return (512,), {"batch_size": 64, "learning_rate": 2e-3}
    return (2000,), {"batch_size": 128, "learning_rate": 4e-3, "weight_decay": 0.1}
