"""What z is before x is seen: laws p(z) with a density and a draw."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.distributions import standard_normal_log_prob
from pofx.models.autoencoders.couplings import Couplings


class StandardNormal(nn.Module):
    """p(z) = N(0, I)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def log_prob(self, z: Float[Tensor, "*B K"], context: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z) of each vector, nats."""
        return standard_normal_log_prob(z)

    def sample(
        self, n: int, context: Tensor | None = None, *, generator: Generator, like: Tensor
    ) -> Float[Tensor, "n K"]:
        """n draws, of the device and dtype of ``like``."""
        return torch.randn((n, self.dim), generator=generator, device=like.device, dtype=like.dtype)


class Flow(nn.Module):
    """z = T(u), u ~ N(0, I): p(z) = N(T^-1(z)) |du/dz|, a normal bent by couplings, without the holes of an unbent one.

    Source: Dinh et al. 2017, arXiv:1605.08803; as a prior: Chen et al. 2017, arXiv:1611.02731, section 3.2.

    Args:
        layers: how many couplings.
        context: E, size of a context (B, E); 0 for none.
    """

    def __init__(self, dim: int, *, layers: int, context: int = 0) -> None:
        super().__init__()
        self.base = StandardNormal(dim)
        self.couplings = Couplings(dim, count=layers, context=context)

    def log_prob(self, z: Float[Tensor, "*B K"], context: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z) of each vector, nats."""
        u, log_det = self.couplings.inverse(z, context)
        return self.base.log_prob(u) + log_det

    def sample(
        self, n: int, context: Tensor | None = None, *, generator: Generator, like: Tensor
    ) -> Float[Tensor, "n K"]:
        """n draws, one for each row of a context."""
        return self.couplings(self.base.sample(n, generator=generator, like=like), context)[0]
