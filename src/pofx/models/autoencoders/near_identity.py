"""An encoder and a decoder of vectors that begin as each other's inverse."""

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

    def __init__(self, network: MLP, weight: Float[Tensor, "O I"]) -> None:
        super().__init__()
        self.network, self.weight = network, nn.Parameter(weight)

    def forward(self, x: Float[Tensor, "*B I"], context: Tensor | None = None) -> Float[Tensor, "*B O"]:
        """network(x, context) + weight x."""
        return self.network(x, context) + x @ self.weight.T


def near_identity(encoder: MLP, decoder: MLP, dim: int, latent_dim: int) -> tuple[Skip, Skip]:
    """Both networks around an orthogonal map and its transpose.

    So training starts where z tells x and p(x) is about normal, and bends that; from random networks it often ends
    where z tells nothing (posterior collapse).
    """
    there = nn.init.orthogonal_(torch.empty(latent_dim, dim))
    return Skip(encoder, _padded(there, encoder)), Skip(decoder, _padded(there.T, decoder))


def _padded(weight: Float[Tensor, "O I"], network: MLP) -> Float[Tensor, "P I"]:
    """Zeros for what the network puts out beyond the rows of ``weight``."""
    return torch.cat([weight, torch.zeros(network.head.out_features - len(weight), weight.shape[1])])
