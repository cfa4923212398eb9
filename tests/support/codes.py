"""An autoencoder with codes of a few symbols, so small that everything can be summed over them."""

import torch
from torch import Tensor, nn

from pofx.conditions import Condition
from pofx.distributions import PointMass, Symbols, likelihood
from pofx.domains import Images, Tokens


class TinyCodes(nn.Module):
    """A picture of a few pixels to two symbols of three, and back; all in random weights."""

    def __init__(self, domain: Images, *, certain: bool = False, condition: Condition | None = None) -> None:
        super().__init__()
        self.domain, self.certain, self.condition = domain, certain, condition
        self.latent_domain = Tokens(3, 2)
        self.read = nn.Linear(domain.dims, 6)
        self.p = likelihood(domain)
        self.written = nn.Parameter(2 * torch.randn(2, 3, self.p.outputs * domain.dims))
        nn.init.normal_(self.read.weight, std=0.3)  # q(z|x) leaves no code out, so that a few hundred draws tell all
        self.decoded = 0

    def posterior(self, x: Tensor, condition: Tensor | None = None) -> PointMass | Symbols:
        return self._symbols(x)

    def log_prior(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.full(z.shape[:-1], -2 * torch.tensor(3.0).log().item())

    def encode(self, x: Tensor, condition: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        q = self._symbols(x)
        return q.mode if generator is None else q.rsample(1, generator=generator)[0]

    def decode(self, z: Tensor, condition: Tensor | None = None):
        self.decoded = len(z)
        out = sum(self.written[t][z[:, t]] for t in range(2))
        return self.p(out.view(len(z), -1, *self.domain.shape))

    def _symbols(self, x: Tensor) -> PointMass | Symbols:
        y = self.domain.centre(x).flatten(1).to(self.read.weight.dtype)
        q = Symbols(self.read(y).view(-1, 2, 3))
        return PointMass(q.mode) if self.certain else q
