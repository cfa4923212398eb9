r"""Two-dimensional sets whose density is known, so that a model can be held against the truth.

Each toy is a mixture of K parts, p(x) = (1/K) sum_k p(x|k). It has ``parts`` (K), ``draw``, a point (N, 2) of each
row's part (N,), and ``log_density``, log p(x) (N,) in nats for float64 points (N, 2), exact or by a quadrature whose
error is far below float32's.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor

from pofx.data.dataset import Data
from pofx.data.request import Request
from pofx.data.rows import Labels, Observations, split_rows
from pofx.domains import Vectors
from pofx.errors import Unusable
from pofx.randomness import stream

SIZES = {"train": 10_000, "validation": 2_000, "test": 10_000}
_CHUNK = 2048  # observations whose density is computed at once


@dataclass(frozen=True)
class Normals:
    """Normals of one covariance at each of K centres."""

    centres: tuple[tuple[float, float], ...]
    covariance: tuple[tuple[float, float], ...]

    @property
    def parts(self) -> int:
        """K."""
        return len(self.centres)

    def draw(self, part: Tensor, *, generator: Generator) -> Tensor:
        """mu_k + L eps, with L L' the covariance."""
        root = torch.linalg.cholesky(torch.tensor(self.covariance))
        return torch.tensor(self.centres)[part] + torch.randn(len(part), 2, generator=generator) @ root.T

    def log_density(self, x: Tensor) -> Tensor:
        """log (1/K) sum_k N(x; mu_k, Sigma)."""
        sigma = torch.tensor(self.covariance, dtype=torch.float64)
        root = torch.linalg.cholesky(sigma)
        away = x[:, None] - torch.tensor(self.centres, dtype=torch.float64)
        eps = torch.linalg.solve_triangular(root, away.reshape(-1, 2).T, upper=False)
        log_p = -0.5 * eps.square().sum(0) - math.log(2 * math.pi) - root.diagonal().log().sum()
        return log_p.view(len(x), -1).logsumexp(1) - math.log(self.parts)


@dataclass(frozen=True)
class Curves:
    r"""K curves gamma_k(t), t uniform or weighted, with Gaussian noise around them.

    p(x|k) = \int w(t) N(x; gamma_k(t), sigma^2 I) dt, by Gauss-Legendre quadrature with nodes much closer than sigma,
    where its error falls exponentially.
    """

    shape: str  # "moons" or "spirals"
    sigma: float
    nodes: int
    parts: int = 2

    def draw(self, part: Tensor, *, generator: Generator) -> Tensor:
        """A point of the curve, and noise."""
        u = torch.rand(len(part), generator=generator)
        noise = self.sigma * torch.randn(len(part), 2, generator=generator)
        return self._point(self._turn * (u if self.shape == "moons" else u.sqrt()), part) + noise

    def log_density(self, x: Tensor) -> Tensor:
        """log (1/K) sum_k sum_i w_i N(x; gamma_k(t_i), sigma^2 I)."""
        s, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(self.nodes))
        t, weight = self._turn * (s + 1) / 2, weight / 2  # weights of a uniform t; they sum to one
        if self.shape == "spirals":
            weight = weight * 2 * t / self._turn  # t = turn sqrt(u) has the density 2 t / turn^2
        points = torch.cat([self._point(t, torch.full((len(t),), k)) for k in range(self.parts)])
        squared = x.square().sum(1, keepdim=True) + points.square().sum(1) - 2 * x @ points.T
        log_normal = -squared / (2 * self.sigma**2) - math.log(2 * math.pi * self.sigma**2)
        return (log_normal + weight.log().repeat(self.parts)).logsumexp(1) - math.log(self.parts)

    @property
    def _turn(self) -> float:
        return math.pi if self.shape == "moons" else 3 * math.pi

    def _point(self, t: Tensor, part: Tensor) -> Tensor:
        """gamma_k(t): two half circles facing each other, or two arms of a spiral of Archimedes."""
        if self.shape == "moons":
            upper = torch.stack([t.cos(), t.sin()], -1)
            lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], -1)
            return torch.where(part[:, None] == 0, upper, lower)
        arm = torch.stack([-t.cos(), t.sin()], -1) * t[:, None] / 3
        return torch.where(part[:, None] == 0, arm, -arm)


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on the eight dark unit squares of a 4 x 4 board around the origin."""

    parts: int = 8

    def draw(self, part: Tensor, *, generator: Generator) -> Tensor:
        """Corner of the square plus a multiple of 2^-20 and a half: exact in float32, so that no point leaves it."""
        steps = torch.randint(1 << 20, (len(part), 2), generator=generator)
        row = part // 2
        corner = torch.stack([2 * (part % 2) + row % 2 - 2, row - 2], -1)
        return corner + (steps + 0.5) / (1 << 20)

    def log_density(self, x: Tensor) -> Tensor:
        """-log 8 on the dark squares, else minus infinity."""
        square = x.floor()
        dark = (square.sum(-1) % 2 == 0) & (square >= -2).all(-1) & (square <= 1).all(-1)
        return torch.where(dark, -math.log(self.parts), -math.inf)


@dataclass(frozen=True)
class Pinwheel:
    """Five blades, each a normal N((1, 0), diag(0.3^2, 0.1^2)) turned by an angle that grows with the radius.

    x = 2 R(theta_k + 0.25 e^r) v with r = |v|: the turn keeps r and areas, so p(x|k) = N(v) / 4.
    """

    parts: int = 5

    def draw(self, part: Tensor, *, generator: Generator) -> Tensor:
        """A point of the blade."""
        v = torch.randn(len(part), 2, generator=generator) * torch.tensor([0.3, 0.1]) + torch.tensor([1.0, 0.0])
        return 2 * _turned(v, self._angle(v, part))

    def log_density(self, x: Tensor) -> Tensor:
        """log (1/5) sum_k N(v_k) / 4, with v_k the point turned back."""
        terms = []
        for k in range(self.parts):
            v = _turned(x / 2, -self._angle(x / 2, torch.full((len(x),), k)))
            eps = (v - v.new_tensor([1.0, 0.0])) / v.new_tensor([0.3, 0.1])
            terms.append(-0.5 * eps.square().sum(-1))
        log_norm = math.log(2 * math.pi * 0.3 * 0.1) + math.log(4) + math.log(self.parts)
        return torch.stack(terms).logsumexp(0) - log_norm

    def _angle(self, v: Tensor, part: Tensor) -> Tensor:
        return 2 * math.pi * part / self.parts + 0.25 * v.norm(dim=-1).exp()


def _turned(v: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * v[:, 0] - sin * v[:, 1], sin * v[:, 0] + cos * v[:, 1]], -1)


Toy = Normals | Curves | Checkerboard | Pinwheel


@cache
def toys() -> dict[str, Toy]:
    """Every toy by name."""
    return {
        "ring8": Normals(_around(8, radius=2.0), _round(0.1)),
        "grid25": Normals(_square(5), _round(0.1)),
        "moons": Curves("moons", sigma=0.1, nodes=200),
        "spirals": Curves("spirals", sigma=0.1, nodes=400),
        "checkerboard": Checkerboard(),
        "pinwheel": Pinwheel(),
        "gaussian2d": Normals(((0.5, -1.0),), ((1.0, 0.9), (0.9, 1.5))),
    }


def mixture(name: str, modes: int | None = None, sd: float | None = None) -> Normals:
    """The narrow normals on which GANs are seen to lose modes: ``ring``, radius 1, or ``grid``, 2 apart.

    Args:
        name: "ring" or "grid".
        modes: K; left out: 8 of the ring, 25 of the grid.
        sd: of each; left out: 0.01 of the ring, 0.05 of the grid.

    Raises:
        Unusable: a grid of a number that is no square.

    Source: Lin et al. 2018, arXiv:1712.04086, section 4.1.
    """
    if name not in ("ring", "grid"):
        raise Unusable(f"a mixture is ring or grid, got {name!r}; a table of yours is data as well")
    if (modes is not None and modes < 1) or (sd is not None and not 0 < sd < math.inf):
        raise Unusable(f"modes must be at least 1 and sd above 0, got {modes} and {sd}; leave them out for PacGAN's")
    if name == "ring":
        return Normals(_around(modes or 8, radius=1.0), _round(sd or 0.01))
    side = math.isqrt(modes or 25)
    if modes and side**2 != modes:
        raise Unusable(f"a grid has a square number of modes, got {modes}; take {side**2} or {(side + 1) ** 2}")
    return Normals(_square(side), _round(sd or 0.05))


def _around(modes: int, *, radius: float) -> tuple[tuple[float, float], ...]:
    angles = [2 * math.pi * k / modes for k in range(modes)]
    return tuple((radius * math.cos(a), radius * math.sin(a)) for a in angles)


def _square(side: int) -> tuple[tuple[float, float], ...]:
    along = [2.0 * i - (side - 1) for i in range(side)]
    return tuple((a, b) for a in along for b in along)


def _round(sd: float) -> tuple[tuple[float, float], ...]:
    return ((sd**2, 0.0), (0.0, sd**2))


def read_toy(request: Request) -> Data:
    """10,000 training, 2,000 validation and 10,000 test points, drawn independently by the seed."""
    return _read(toys()[request.place], request, SIZES)


def read_mixture(request: Request) -> Data:
    """100,000 training points or as many as ``n`` says, 2,000 validation and 10,000 test points; classes are modes."""
    options = request.options
    return _read(mixture(request.place, options.modes, options.sd), request, SIZES | {"train": options.n or 100_000})


def _read(toy: Toy, request: Request, sizes: dict[str, int]) -> Data:
    part, x = (torch.cat(drawn) for drawn in zip(*(_draw(toy, request, name, n) for name, n in sizes.items())))
    rows = torch.arange(len(x)).split(list(sizes.values()))
    given = {"class": Labels(part, tuple(map(str, range(toy.parts))))} if toy.parts > 1 else {}
    return split_rows(
        Observations(
            Vectors(2),
            x,
            official={name: index.clone() for name, index in zip(sizes, rows)},
            described="drawn by the seed",
            given=given,
            log_prob=KnownDensity(request.place, toy),
        ),
        request,
    )


def _draw(toy: Toy, request: Request, split: str, n: int) -> tuple[Tensor, Tensor]:
    generator = stream(request.seed, f"{request.place}/{split}")
    part = torch.randint(toy.parts, (n,), generator=generator)
    return part, toy.draw(part, generator=generator)


@dataclass(frozen=True)
class KnownDensity:
    """log p(x) of a toy, in nats, marginal over its parts."""

    name: str
    toy: Toy

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 2) to (N,), computed in float64."""
        if x.shape[1:] != (2,):
            raise Unusable(f"{self.name} has points of shape (N, 2), got {tuple(x.shape)}")
        values = [self.toy.log_density(rows.cpu().double()) for rows in x.split(_CHUNK)]
        return torch.cat(values).to(x.device, x.dtype) if values else x.new_zeros(0)
