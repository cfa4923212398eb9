"""An autoencoder with codes of a few symbols, so small that everything can be summed over them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pofx.conditions import Condition
from pofx.distributions import likelihood
from pofx.domains import Images, Tokens


@dataclass(frozen=True)
class Symbols:
    """q(z|x): each symbol by its logits (B, T, V), or the likeliest for certain."""

    logits: Tensor
    certain: bool

    def rsample(self, samples: int, *, generator: torch.Generator) -> Tensor:
        if self.certain:
            return self.logits.argmax(-1).expand(samples, -1, -1)
        p = self.logits.softmax(-1).expand(samples, *self.logits.shape)
        return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])

    def log_prob(self, z: Tensor) -> Tensor:
        if self.certain:
            return torch.where((z == self.logits.argmax(-1)).all(-1), 0.0, -torch.inf).to(self.logits.dtype)
        log_q = self.logits.log_softmax(-1).expand(*z.shape, -1)
        return log_q.gather(-1, z[..., None])[..., 0].sum(-1)


class TinyCodes(nn.Module):
    """A picture of a few pixels to two symbols of three, and back; all in random weights."""

    def __init__(self, domain: Images, *, certain: bool = False, condition: Condition | None = None) -> None:
        super().__init__()
        self.domain, self.certain, self.condition = domain, certain, condition
        self.latent_domain = Tokens(3, 2)
        self.read = nn.Linear(domain.dims, 6)
        self.p = likelihood(domain)
        self.written = nn.Parameter(2 * torch.randn(2, 3, self.p.outputs * domain.dims))
        nn.init.normal_(self.read.weight)
        self.decoded = 0

    def posterior(self, x: Tensor, condition: Tensor | None = None) -> Symbols:
        return self._symbols(x)

    def log_prior(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.full(z.shape[:-1], -2 * torch.tensor(3.0).log().item())

    def encode(self, x: Tensor, condition: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        q = self._symbols(x)
        return q.logits.argmax(-1) if generator is None else q.rsample(1, generator=generator)[0]

    def decode(self, z: Tensor, condition: Tensor | None = None):
        self.decoded = len(z)
        out = sum(self.written[t][z[:, t]] for t in range(2))
        return self.p(out.view(len(z), -1, *self.domain.shape))

    def _symbols(self, x: Tensor) -> Symbols:
        y = self.domain.centre(x).flatten(1).to(self.read.weight.dtype)
        return Symbols(self.read(y).view(-1, 2, 3), self.certain)
