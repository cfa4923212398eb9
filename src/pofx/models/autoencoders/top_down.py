"""A posterior over several levels, each inferred given those above: drawn, and asked, on the way down."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.distributions import DiagonalNormal
from pofx.models.autoencoders.ladder import Ascent, Descent
from pofx.randomness import randn


@dataclass(frozen=True)
class Path:
    """A way down for N x B rows: at each level, top first, what was drawn and both laws that it was drawn among.

    Args:
        z: (N * B, K_l) each.
        q, p: of z given the levels above, with x and without.
        out: what p(x|z) is made of.
    """

    z: tuple[Tensor, ...]
    q: tuple[DiagonalNormal, ...]
    p: tuple[DiagonalNormal, ...]
    out: Tensor

    @property
    def kls(self) -> list[Tensor]:
        """KL(q || p) of each number of each level, given the levels above, nats: (N * B, K_l) each."""
        return [q.kl_to(p) for q, p in zip(self.q, self.p)]

    @property
    def log_ratio(self) -> Tensor:
        """log p(z) - log q(z|x), nats: (N * B,)."""
        return torch.stack([p.log_prob(z) - q.log_prob(z) for z, q, p in zip(self.z, self.q, self.p)]).sum(0)


@dataclass(frozen=True)
class Posterior:
    """q(z|x) = q(z_L|x) prod_l q(z_l | z_>l, x), for B rows of x, whose features are at hand."""

    up: Ascent
    down: Descent
    features: tuple[Tensor, ...]
    context: Tensor | None

    def rsample(self, samples: int, *, generator: Generator) -> Float[Tensor, "N B K"]:
        """Draws, N times; gradients reach the networks."""
        z = torch.cat(self.path(samples, generator=generator).z, dim=1)
        return z.view(samples, -1, z.shape[1])

    def log_prob(self, z: Float[Tensor, "*N B K"]) -> Float[Tensor, "*N B"]:
        """Log-density of a given z, along which the way down leads, nats."""
        each = self.down.split(z.flatten(0, -2))
        path = self._walk(math.prod(z.shape[:-2]), lambda level, q: each[level])
        return torch.stack([q.log_prob(part) for q, part in zip(path.q, each)]).sum(0).view(z.shape[:-1])

    @property
    def mode(self) -> Float[Tensor, "B K"]:
        """Each level's mean, given the means above it."""
        return torch.cat(self._walk(1, lambda level, q: q.mu).z, dim=1)

    def path(self, samples: int, *, generator: Generator) -> Path:
        """N ways down for each row, drawn."""

        def draw(level: int, q: DiagonalNormal) -> Tensor:
            shape = (samples, len(q.mu) // samples, q.mu.shape[1])
            epsilon = randn(shape, generator=generator, rows=1, device=q.mu.device, dtype=q.mu.dtype)
            return q.mu + (0.5 * q.log_var).exp() * epsilon.flatten(0, 1)

        return self._walk(samples, draw)

    def _walk(self, samples: int, pick: Callable[[int, DiagonalNormal], Tensor]) -> Path:
        n = samples * len(self.features[0])
        features = [repeated(d, samples) for d in self.features]
        context = None if self.context is None else repeated(self.context, samples)
        zs, qs, ps = [], [], []

        def choose(level: int, s: Tensor) -> Tensor:
            p = self.down.prior(level, s, context)
            q = self.up.posterior(level, features[level], p, s, context)
            zs.append(pick(level, q))
            qs.append(q)
            ps.append(p)
            return zs[-1]

        out = self.down.walk(n, choose, context)
        return Path(tuple(zs), tuple(qs), tuple(ps), out)


def repeated(t: Tensor, times: int) -> Tensor:
    """(B, ...) to (times * B, ...), whole batches one after the other."""
    return t if times == 1 else t.expand(times, *t.shape).flatten(0, 1)
