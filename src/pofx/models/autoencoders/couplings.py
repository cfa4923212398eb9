"""A bijection of the latent, which makes a normal prior anything but normal."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pofx.nn.mlp import MLP


class Couplings(nn.Module):
    """u = T(z): each coupling shifts and scales one half of the numbers, given the other half.

    Source: Dinh et al. 2017, arXiv:1605.08803, eq. (7)-(8).

    Args:
        dim: K, size of z and of u, at least 2.
        count: how many couplings; the halves take turns.
        width: of each coupling's two hidden layers.
        context: E, size of a context (B, E); 0 for none.
    """

    def __init__(self, dim: int, *, count: int, width: int = 128, context: int = 0) -> None:
        super().__init__()
        self.first = dim // 2
        kept = [self.first if i % 2 == 0 else dim - self.first for i in range(count)]
        self.layers = nn.ModuleList(MLP(k, (width, width), 2 * (dim - k), context=context) for k in kept)
        with torch.no_grad():
            for layer in self.layers:  # nearly the identity to begin with
                layer.head.weight.mul_(0.01)  # type: ignore[union-attr, operator]
                layer.head.bias.zero_()  # type: ignore[union-attr, operator]

    def forward(
        self, z: Float[Tensor, "*B K"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*B K"], Float[Tensor, "*B"]]:
        """u = T(z), and log |du/dz|."""
        log_det = torch.zeros_like(z[..., 0])
        for i in range(len(self.layers)):
            kept, moved = self._parts(z, i)
            shift, log_scale = self._affine(i, kept, context)
            z = self._whole(kept, moved * log_scale.exp() + shift, i)
            log_det = log_det + log_scale.sum(-1)
        return z, log_det

    def inverse(
        self, u: Float[Tensor, "*B K"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*B K"], Float[Tensor, "*B"]]:
        """z = T^-1(u), and log |dz/du|."""
        log_det = torch.zeros_like(u[..., 0])
        for i in reversed(range(len(self.layers))):
            kept, moved = self._parts(u, i)
            shift, log_scale = self._affine(i, kept, context)
            u = self._whole(kept, (moved - shift) * (-log_scale).exp(), i)
            log_det = log_det - log_scale.sum(-1)
        return u, log_det

    def _affine(self, i: int, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and log-scale; a scale stays within a factor of e^2, so that the way back does not overflow."""
        shift, raw = self.layers[i](kept, context).chunk(2, dim=-1)
        return shift, 2 * torch.tanh(raw / 2)

    def _parts(self, v: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """What coupling i keeps, and what it moves."""
        a, b = v[..., : self.first], v[..., self.first :]
        return (a, b) if i % 2 == 0 else (b, a)

    def _whole(self, kept: Tensor, moved: Tensor, i: int) -> Tensor:
        return torch.cat((kept, moved) if i % 2 == 0 else (moved, kept), dim=-1)
