"""An encoder and a decoder of vectors that begin as each other's inverse."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pofx.nn.mlp import MLP


class Skip(nn.Module):
    """A network beside a linear map of its input.

    Args:
        network: called with the input and a context.
        weight: of the linear map, to begin with.
    """

    def __init__(self, network: nn.Module, weight: Float[Tensor, "O I"]) -> None:
        super().__init__()
        self.network, self.weight = network, nn.Parameter(weight)

    def forward(self, x: Float[Tensor, "*B I"], context: Tensor | None = None) -> Float[Tensor, "*B O"]:
        """network(x, context) + weight x."""
        return self.network(x, context) + x @ self.weight.T


def near_identity(encoder: MLP, decoder: MLP, dim: int, latent_dim: int) -> tuple[Skip, Skip]:
    """Both networks around an orthogonal map and its transpose, with a narrow posterior to begin with.

    So training starts where z tells x and p(x) is about normal, and bends that; from random networks it often ends
    where z tells nothing (posterior collapse).
    """
    there = nn.init.orthogonal_(torch.empty(latent_dim, dim))
    with torch.no_grad():
        encoder.head.bias[latent_dim:] += 2 * math.log(1 / 4)
    zeros = torch.zeros(decoder.head.out_features - dim, latent_dim)
    return Skip(encoder, torch.cat([there, torch.zeros(latent_dim, dim)])), Skip(decoder, torch.cat([there.T, zeros]))
