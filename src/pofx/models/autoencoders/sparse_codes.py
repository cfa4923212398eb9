"""Five ways to let few of many latents fire: what a sparse autoencoder's activation can be.

Each turns pre-activations (B, M) into a code, also as it is in training where that differs, and may ask a price for it.
Shapes: B rows, M latents, D dimensions of what is encoded.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pofx.protocols import Progress

Activation = Literal["topk", "batch-topk", "l1", "gated", "jumprelu"]
MOMENTUM = 0.01  # share of a running mean that one batch is, once a hundred have been seen
THRESHOLD = 0.1  # where JumpReLU's start


@dataclass(frozen=True)
class Code:
    """Latents of B rows: all M of each, or the few that may fire, which are cheaper to decode.

    Args:
        values: (B, M), or (N,) those of ``index``, at least 0.
        size: (B, M).
        index: (N,) which latent each value is of; None: all are there.
        rows: (N,) which row each value is of, in rising order.
    """

    values: Float[Tensor, "..."]
    size: tuple[int, int]
    index: Int[Tensor, "N"] | None = None
    rows: Int[Tensor, "N"] | None = None

    def decoded(self, atoms: Float[Tensor, "M D"]) -> Float[Tensor, "B D"]:
        """f W_d: the sum of the atoms of those that fire. Of a few, their atoms alone are gathered."""
        if self.index is None or self.rows is None:
            return self.values @ atoms
        starts = torch.searchsorted(self.rows, torch.arange(self.size[0], device=self.rows.device))
        weights = self.values.to(atoms.dtype)
        return F.embedding_bag(self.index, atoms, starts, mode="sum", per_sample_weights=weights)

    def dense(self) -> Float[Tensor, "B M"]:
        """All of them."""
        if self.index is None or self.rows is None:
            return self.values
        return self.values.new_zeros(self.size).index_put((self.rows, self.index), self.values)

    def shares(self) -> Float[Tensor, "M"]:
        """Of each latent, the share of rows in which it fires."""
        fires = (self.values.detach() > 0).float()
        if self.index is None:
            return fires.mean(0)
        return fires.new_zeros(self.size[1]).index_add(0, self.index, fires) / self.size[0]


class Sparsity(nn.Module, ABC):
    """From pre-activations to a code. Abstract: an activation says which fire, and what that costs."""

    @abstractmethod
    def forward(self, pre: Float[Tensor, "B M"]) -> Code:
        """The code of each row, whatever the other rows are."""

    def strength(self, pre: Float[Tensor, "B M"]) -> Float[Tensor, "B M"]:
        """How near each is to firing: what a dead latent is revived by."""
        return pre

    def trained(self, pre: Float[Tensor, "B M"]) -> Code:
        """The code that training decodes."""
        return self(pre)

    def penalty(
        self, pre: Float[Tensor, "B M"], code: Code, y: Float[Tensor, "B D"], atoms: Float[Tensor, "M D"]
    ) -> dict[str, Tensor]:
        """What is added to the squared error, by name; nothing where the number of those that fire is given."""
        return {}

    def carry(self, code: Code) -> dict[str, Tensor]:
        """What ``after`` learns from."""
        return {}

    def after(self, carry: dict[str, Tensor], progress: Progress) -> None:
        """Once per optimiser step."""


class TopK(Sparsity):
    """The k largest of each row, as far as they are positive. Source: Gao et al. 2024, arXiv:2406.04093, eq. (3)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Float[Tensor, "B M"]) -> Code:
        """(B, M) to k of each row."""
        values, index = pre.topk(self.k, dim=1, sorted=False)
        rows = torch.arange(len(pre), device=pre.device).repeat_interleave(self.k)
        return Code(values.relu().flatten(), (len(pre), pre.shape[1]), index.flatten(), rows)


class BatchTopK(Sparsity):
    """The B k largest of a whole batch; afterwards whatever exceeds the threshold that did so on average.

    The threshold is a running mean of the smallest value that fired in a batch.

    Source: Bussmann et al. 2024, arXiv:2412.06410, eq. (4) to (6).
    """

    threshold: Tensor

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, pre: Float[Tensor, "B M"]) -> Code:
        """Those above the threshold."""
        f = pre.relu()
        return Code(f * (f > self.threshold), (len(pre), pre.shape[1]))

    def trained(self, pre: Float[Tensor, "B M"]) -> Code:
        """The largest of the batch."""
        latents = pre.shape[1]
        place = pre.detach().flatten().topk(len(pre) * self.k, sorted=False).indices.sort().values
        return Code(pre.flatten()[place].relu(), (len(pre), latents), place % latents, place // latents)

    def carry(self, code: Code) -> dict[str, Tensor]:
        """The smallest value that fired; 0 where none did."""
        fired = torch.where(code.values > 0, code.values, torch.inf).min()
        return {"threshold": torch.where(fired.isfinite(), fired, 0.0)}

    @torch.no_grad()
    def after(self, carry: dict[str, Tensor], progress: Progress) -> None:
        """The threshold follows."""
        self.threshold.lerp_(carry["threshold"].to(self.threshold), max(MOMENTUM, 1 / (1 + progress.step)))


class L1(Sparsity):
    """ReLU, at a price for the sum of the code, each latent weighed by the norm of its atom, which is 1 here.

    Source: Bricken et al. 2023, "Towards monosemanticity"; the weights: Conerly et al. 2024, "Update on how we train
    SAEs".
    """

    def __init__(self, sparsity: float) -> None:
        super().__init__()
        self.sparsity = sparsity

    def forward(self, pre: Float[Tensor, "B M"]) -> Code:
        """Those that are positive."""
        return Code(pre.relu(), (len(pre), pre.shape[1]))

    def penalty(
        self, pre: Float[Tensor, "B M"], code: Code, y: Float[Tensor, "B D"], atoms: Float[Tensor, "M D"]
    ) -> dict[str, Tensor]:
        """sparsity |f|_1 / sqrt(D): D numbers of unit variance have norm sqrt(D), and so has the code."""
        return {"sparsity": self.sparsity * _length(code.values, y)}


class Gated(Sparsity):
    """H(pi + b) ReLU(exp(r) pi + m): one part of the encoder says which fire, another, on the same weights, how much.

    pi is W_e (x - b) without a bias: gates and magnitudes have a bias each, b and m.

    Only the gates pay for firing, so that magnitudes do not shrink; they learn from a reconstruction of their own,
    ReLU(pi + b) by a decoder that is held still.

    Source: Rajamanoharan et al. 2024, arXiv:2404.16014, eq. (6) to (8).
    """

    def __init__(self, latents: int, sparsity: float) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.log_gain = nn.Parameter(torch.zeros(latents))
        self.gate = nn.Parameter(torch.zeros(latents))
        self.magnitude = nn.Parameter(torch.zeros(latents))

    def forward(self, pre: Float[Tensor, "B M"]) -> Code:
        """Magnitudes where the gate is open."""
        magnitudes = (self.log_gain.exp() * pre + self.magnitude).relu()
        return Code(magnitudes * (self.strength(pre) > 0), (len(pre), pre.shape[1]))

    def strength(self, pre: Float[Tensor, "B M"]) -> Float[Tensor, "B M"]:
        """What the gate reads."""
        return pre + self.gate

    def penalty(
        self, pre: Float[Tensor, "B M"], code: Code, y: Float[Tensor, "B D"], atoms: Float[Tensor, "M D"]
    ) -> dict[str, Tensor]:
        """sparsity |ReLU(pi + b)|_1 / sqrt(D), and the squared error of the gates' own reconstruction."""
        gates = self.strength(pre).relu()
        error = (gates @ atoms.detach() - y.detach()).square().mean()
        return {"sparsity": self.sparsity * _length(gates, y), "gates": error}


class JumpReLU(Sparsity):
    """pi H(pi - theta), at a price for the number that fire; the thresholds learn by a straight-through estimate.

    Where a threshold stands, both jump; their derivative in theta is taken by a rectangle of width ``bandwidth``.

    Source: Rajamanoharan et al. 2024, arXiv:2407.14435, eq. (9) to (12).
    """

    def __init__(self, latents: int, sparsity: float, bandwidth: float) -> None:
        super().__init__()
        self.sparsity, self.bandwidth = sparsity, bandwidth
        self.log_threshold = nn.Parameter(torch.full((latents,), THRESHOLD).log())

    def forward(self, pre: Float[Tensor, "B M"]) -> Code:
        """Those above their threshold."""
        values = _Jump.apply(pre, self.log_threshold.exp(), self.bandwidth)
        return Code(values, (len(pre), pre.shape[1]))

    def penalty(
        self, pre: Float[Tensor, "B M"], code: Code, y: Float[Tensor, "B D"], atoms: Float[Tensor, "M D"]
    ) -> dict[str, Tensor]:
        """sparsity |f|_0."""
        fires = _Step.apply(pre, self.log_threshold.exp(), self.bandwidth)
        return {"sparsity": self.sparsity * fires.sum(1).mean()}


def _length(f: Float[Tensor, "B M"], y: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Mean over the rows of |f|_1 / sqrt(D), for f of at least 0."""
    return f.sum(1).mean() / y.shape[1] ** 0.5


def _rectangle(u: Tensor) -> Tensor:
    return (u.abs() < 0.5).to(u.dtype)


class _Jump(torch.autograd.Function):
    """z H(z - theta); its derivative in theta is - theta / eps K((z - theta) / eps)."""

    @staticmethod
    def forward(context: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        context.save_for_backward(z, theta)
        context.bandwidth = bandwidth
        return z * (z > theta)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (z, theta), eps = context.saved_tensors, context.bandwidth
        slope = -theta / eps * _rectangle((z - theta) / eps)
        return gradients[0] * (z > theta), (gradients[0] * slope).sum(0), None


class _Step(torch.autograd.Function):
    """H(z - theta); its derivative in theta is - 1 / eps K((z - theta) / eps), and in z none."""

    @staticmethod
    def forward(context: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        context.save_for_backward(z, theta)
        context.bandwidth = bandwidth
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (z, theta), eps = context.saved_tensors, context.bandwidth
        return None, (gradients[0] * (-1 / eps) * _rectangle((z - theta) / eps)).sum(0), None


def sparsity_of(kind: Activation, latents: int, *, k: int, price: float, bandwidth: float) -> Sparsity:
    """The activation of that name."""
    made: dict[Activation, Callable[[], Sparsity]] = {
        "topk": lambda: TopK(k),
        "batch-topk": lambda: BatchTopK(k),
        "l1": lambda: L1(price),
        "gated": lambda: Gated(latents, price),
        "jumprelu": lambda: JumpReLU(latents, price, bandwidth),
    }
    return made[kind]()
