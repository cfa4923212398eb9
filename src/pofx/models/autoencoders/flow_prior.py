"""A prior that is learnt: a normal, bent by affine couplings."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pofx.distributions import standard_normal_log_prob
from pofx.nn.mlp import MLP


class FlowPrior(nn.Module):
    r"""p(u) = N(z; 0, I) |dz/du| with u = T(z): each coupling shifts and scales half of the numbers, given the others.

    Source: Dinh et al. 2017, arXiv:1605.08803, eq. (7)-(8); as the prior of a VAE: Chen et al. 2017, arXiv:1611.02731,
    section 3.2.

    Args:
        dim: K, size of z and of u.
        couplings: how many; the halves take turns.
        width: of each coupling's two hidden layers.
        context: E, size of a context (B, E); 0 for none.
    """

    def __init__(self, dim: int, *, couplings: int, width: int = 128, context: int = 0) -> None:
        super().__init__()
        self.first = (dim + 1) // 2
        self.couplings = nn.ModuleList()
        for i in range(couplings):
            kept = self.first if i % 2 == 0 else dim - self.first
            self.couplings.append(MLP(kept, (width, width), 2 * (dim - kept), context=context))
        with torch.no_grad():
            # Nearly the identity at first: the prior of a plain VAE.
            for coupling in self.couplings:
                coupling.head.weight.mul_(0.01)
                coupling.head.bias.zero_()

    def forward(
        self, z: Float[Tensor, "*B K"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*B K"], Float[Tensor, "*B"]]:
        """u = T(z), and log |du/dz|."""
        log_det = torch.zeros_like(z[..., 0])
        for i in range(len(self.couplings)):
            kept, moved = self._parts(z, i)
            shift, log_scale = self._affine(i, kept, context)
            z = self._whole(kept, moved * log_scale.exp() + shift, i)
            log_det = log_det + log_scale.sum(-1)
        return z, log_det

    def inverse(self, u: Float[Tensor, "*B K"], context: Tensor | None = None) -> Float[Tensor, "*B K"]:
        """z = T^-1(u)."""
        return self._back(u, context)[0]

    def log_prob(self, u: Float[Tensor, "*B K"], context: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(u), nats."""
        z, log_det = self._back(u, context)
        return standard_normal_log_prob(z) + log_det

    def _back(self, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros_like(u[..., 0])
        for i in reversed(range(len(self.couplings))):
            kept, moved = self._parts(u, i)
            shift, log_scale = self._affine(i, kept, context)
            u = self._whole(kept, (moved - shift) * (-log_scale).exp(), i)
            log_det = log_det - log_scale.sum(-1)
        return u, log_det

    def _affine(self, i: int, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and log-scale; a scale stays within a factor of e^2, so that the way back does not overflow."""
        shift, raw = self.couplings[i](kept, context).chunk(2, dim=-1)
        return shift, 2 * torch.tanh(raw / 2)

    def _parts(self, v: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """What coupling i keeps, and what it moves."""
        a, b = v[..., : self.first], v[..., self.first :]
        return (a, b) if i % 2 == 0 else (b, a)

    def _whole(self, kept: Tensor, moved: Tensor, i: int) -> Tensor:
        return torch.cat((kept, moved) if i % 2 == 0 else (moved, kept), dim=-1)
