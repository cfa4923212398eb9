"""The exponential moving average of the weights, which is what a run scores and samples from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averages every parameter over a horizon of steps and copies every buffer.

    The decay is 1 - 1 / horizon, warmed up as (1 + t) / (10 + t) so that the random start is soon forgotten. Never
    hidden in ``train()`` or ``eval()``: use it as ``with ema.weights(): ...``.

    Args:
        model: whose weights are followed.
        share: the horizon as a share of the planned steps.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.share = share
        self.live: list[Tensor] = list(model.parameters())
        self.average = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int, planned: int) -> None:
        """Moves the averages towards the weights after optimiser step ``step`` (from 1)."""
        horizon = max(1.0, self.share * planned)
        decay = min(1 - 1 / horizon, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, self.live, 1 - decay)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """The model holds the averages inside the block, and its own weights again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        """The averages, for a checkpoint."""
        return {str(i): tensor for i, tensor in enumerate(self.average)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of ``tensors``."""
        for i, tensor in enumerate(self.average):
            if tensors[str(i)].shape != tensor.shape:
                raise ValueError(f"average {i} has another shape than its weight")
            tensor.copy_(tensors[str(i)])

    @torch.no_grad()
    def _swap(self) -> None:
        # By value: whoever holds a weight's memory (a recorded graph, a sharded group) must go on seeing it.
        for p, average in zip(self.live, self.average):
            own = p.detach().clone()
            p.copy_(average)
            average.copy_(own)
