"""What is minimised in place of the rate: weighed, spared where it is small, slowly risen, or led to a target."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pofx.errors import Unusable
from pofx.models.autoencoders.vector_latent import check_weights
from pofx.protocols import Progress, Turn


class Weighing(nn.Module):
    r"""$\beta\,w(t) \sum_g \max(\lambda_g, \bar R_g)$ for rates $\bar R_g$ of groups of dimensions, means over a batch.

    With a capacity C, $\beta\,|\bar R - w(t)\,C|$. The weight w rises from 0 to 1 over the first ``warm_up`` of the
    steps. Of a batch in pieces each piece has its own mean, which only free bits and a capacity can tell.

    Source: beta: Higgins et al. 2017; free bits: Kingma et al. 2016, arXiv:1606.04934, eq. (15); warm-up: Bowman et al.
    2016, arXiv:1511.06349, section 3.1; capacity: Burgess et al. 2018, arXiv:1804.03599, eq. (8).

    Args:
        beta: weight of the rate; 1 is the bound's.
        free_bits: nats for each dimension below which the rate costs nothing more.
        warm_up: share of the steps; None: none, but half of them for a capacity.
        capacity: C, nats that the rate is led to; None: no target.

    Raises:
        Unusable: a value that cannot be.
    """

    progress: Tensor

    def __init__(self, *, beta: float, free_bits: float, warm_up: float | None, capacity: float | None) -> None:
        super().__init__()
        _check_arguments(beta, free_bits, warm_up, capacity)
        self.beta, self.free_bits, self.capacity = beta, free_bits, capacity
        self.warm_up = warm_up if warm_up is not None else 0.5 if capacity is not None else 0.0
        self.rises = self.warm_up > 0
        if self.rises:  # a part of the model's state: a resumed run goes on where it stood
            self.register_buffer("progress", torch.zeros(()))

    @property
    def told(self) -> str:
        """What is not as in a bound, with its values; "" where all is."""
        usual = {"beta": 1, "free_bits": 0, "warm_up": 0, "capacity": None}
        return " and ".join(f"{k} {getattr(self, k)}" for k, value in usual.items() if getattr(self, k) != value)

    def forward(self, rate: Float[Tensor, ""], each: Float[Tensor, "B G"], dims: int) -> Float[Tensor, ""]:
        """What is minimised, nats.

        Args:
            rate: the batch's mean, of all dimensions.
            each: of each observation, and of each group of dimensions that has a rate of its own.
            dims: how many there are that have their free bits: dimensions, or levels.
        """
        share = (self.progress / self.warm_up).clamp(max=1) if self.rises else 1.0
        if self.capacity is not None:
            return self.beta * (rate - share * self.capacity).abs()
        if self.free_bits:
            rate = each.mean(0).clamp(min=self.free_bits * dims / each.shape[1]).sum()
        return self.beta * rate if not self.rises else self.beta * share * rate

    def turns(self, model: Any) -> tuple[Turn, ...]:
        """A model's loss, and after each step a note of where training stands: its game where the weight rises."""
        return (Turn("model", tuple(p for p in model.parameters() if p.requires_grad), model.loss, after=self.rise),)

    def rise(self, carry: dict[str, Tensor], progress: Progress) -> None:
        """A turn's ``after``: notes where training stands."""
        self.progress.fill_(progress.fraction)


def _check_arguments(beta: float, free_bits: float, warm_up: float | None, capacity: float | None) -> None:
    check_weights(beta=beta, free_bits=free_bits, capacity=0.0 if capacity is None else capacity)
    if warm_up is not None and not 0 <= warm_up <= 1:
        raise Unusable(f"warm_up is a share of the steps, from 0 to 1, got {warm_up}; leave it out for the default")
    if capacity is not None and free_bits:
        raise Unusable(f"a capacity of {capacity:g} nats leaves none free, got free_bits {free_bits:g}; leave one out")
