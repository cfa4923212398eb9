"""Vectors in their own units outside, standardised inside, with the Jacobian accounted for."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Standardise(nn.Module):
    """y = (x - mean) / scale, with the training split's mean and standard deviation; the identity until adapted."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def adapt(self, x: Float[Tensor, "B D"]) -> None:
        """Takes mean and scale from x; a constant column keeps the scale 1."""
        self.mean.copy_(x.mean(0))
        scale = x.std(0, correction=0) if len(x) > 1 else torch.ones_like(self.scale)
        self.scale.copy_(torch.where(scale > 1e-12, scale, torch.ones_like(scale)))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """x in its own units to y."""
        return (x - self.mean) / self.scale

    def inverse(self, y: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """y back to x."""
        return y * self.scale + self.mean

    @property
    def log_volume(self) -> Float[Tensor, ""]:
        """Add to a log-density over y to get the one over x: -sum log scale, nats."""
        return -self.scale.log().sum()
