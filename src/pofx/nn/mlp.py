"""The multilayer perceptron, and the two inputs that any network may have beside x: a condition and a time."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from pofx.conditions import Classes, Condition, TextCondition, VectorCondition


def _tanh_(x: Tensor) -> Tensor:
    """tanh(x) = 2 sigmoid(2x) - 1, in place: a fifth of the time of torch's on a CPU."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


_IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.SiLU: partial(silu, inplace=True),
    nn.Tanh: _tanh_,
}


class MLP(nn.Module):
    """Linear layers with an activation between them; ``context`` (B, E) is added to each hidden layer by a projection.

    Without hidden layers it is added to the output.

    Args:
        inputs: size of x.
        hidden: sizes of the hidden layers.
        outputs: size of what comes out.
        context: E, size of the context; 0 for none.
        activation: class of the activation.
        norm: normalise (LayerNorm) before each activation.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        context: int = 0,
        activation: type[nn.Module] = nn.SiLU,
        norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.norms = nn.ModuleList(nn.LayerNorm(b) for b in hidden) if norm else None
        into = hidden or [outputs]
        self.contexts = nn.ModuleList(nn.Linear(context, b, bias=False) for b in into) if context else None
        self.activation = activation()
        self.head = nn.Linear(sizes[-1], outputs)

    def hidden(self, x: Float[Tensor, "*B D"], context: Tensor | None = None) -> Tensor:
        """Activations of the last hidden layer."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.contexts is not None:
                x = x + self.contexts[i](context)
            x = self._activated(x if self.norms is None else self.norms[i](x))
        return x

    def _activated(self, x: Float[Tensor, "*B D"]) -> Tensor:
        """Without gradients nothing else needs x, and the activation takes its place: new memory costs more than it."""
        in_place = None if torch.is_grad_enabled() else _IN_PLACE.get(type(self.activation))
        return self.activation(x) if in_place is None else in_place(x)

    def forward(self, x: Float[Tensor, "*B D"], context: Tensor | None = None) -> Tensor:
        """x (..., inputs) to (..., outputs)."""
        return self.finish(self.hidden(x, context), context)

    def finish(self, h: Float[Tensor, "*B H"], context: Tensor | None = None) -> Tensor:
        """What comes out of the last hidden layer's activations."""
        out = self.head(h)
        return out if self.contexts is None or len(self.layers) else out + self.contexts[0](context)


class ConditionEmbedding(nn.Module):
    """Rows of a condition to vectors (B, width); the null row has a learnt vector of its own.

    Rows of numbers come in units of their own: they are standardised by the rows kept of the training split.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, condition: Condition, width: int) -> None:
        super().__init__()
        self.condition = condition
        if isinstance(condition, Classes):
            self.rows: nn.Module = nn.Embedding(condition.count + 1, width)
        elif isinstance(condition, TextCondition):
            self.rows = _TextRows(len(condition.names) + 1, condition.shape[0], width)
        else:
            self.rows = nn.Sequential(nn.Flatten(), MLP(math.prod(condition.shape), (2 * width,), width))
        seen = torch.tensor(condition.examples) if isinstance(condition, VectorCondition) else torch.empty(0)
        mean, scale = (
            (seen.mean(0), seen.std(0).clamp(min=1e-6)) if len(seen) > 1 else (torch.zeros(()), torch.ones(()))
        )
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.null = None if isinstance(condition, Classes) else nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, c: Tensor) -> Float[Tensor, "B E"]:
        """(B, width)."""
        if self.null is None:
            return self.rows(c)
        gone = self.condition.is_null(c)
        read = c if c.dtype == torch.int64 else ((c.to(self.null) - self.mean) / self.scale).nan_to_num()
        rows = self.rows(read)
        return torch.where(gone[:, None], self.null, rows)

    def absent(self) -> Float[Tensor, "1 E"]:
        """What stands for a condition that is not told, where the null was never learnt: the mean of training rows."""
        condition, device = self.condition, self.mean.device
        if isinstance(condition, Classes):
            each = self.rows(torch.arange(condition.count, device=device))
            return (torch.tensor(condition.frequencies).to(each) @ each)[None]
        examples = torch.tensor(condition.examples[:_SOME]).to(condition.null(1).dtype)
        rows = examples.reshape(-1, *condition.shape) if len(examples) else condition.null(1)
        return self(rows.to(device)).mean(0, keepdim=True)


# Examples whose mean stands for an absent condition.
_SOME = 256


class _TextRows(nn.Module):
    """Characters, with their places, read by a two-way GRU; the last states are the text."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(vocabulary, width)
        self.reader = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, width)

    def forward(self, c: Tensor) -> Tensor:
        used = int((c > 0).sum(1).max().clamp(min=1))
        _, last = self.reader(self.symbols(c[:, :used]))
        return self.head(last.transpose(0, 1).flatten(1))


class TimeEmbedding(nn.Module):
    """Sines and cosines of t in [0, 1], then two layers (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""

    omega: Tensor

    def __init__(self, width: int, *, frequencies: int = 32) -> None:
        super().__init__()
        self.register_buffer("omega", 2 * math.pi * torch.logspace(-2, 2, frequencies, base=4.0), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, "B"]) -> Float[Tensor, "B E"]:
        """(B, width)."""
        angle = t[:, None] * self.omega
        return self.layers(torch.cat([angle.sin(), angle.cos()], dim=1))
