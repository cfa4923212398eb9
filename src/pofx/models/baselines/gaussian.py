"""Multivariate normals, one or a mixture, with an exact likelihood for real numbers and for levels."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, marginal, rows_for
from pofx.domains import Images, Vectors, require
from pofx.errors import Unusable
from pofx.models.baselines.classwise import by_fit, fit_count, fit_of, members, only_classes

_LOG_2_PI = math.log(2 * math.pi)
# Rows that expectation-maximisation reads, per fit: more would cost time and change little. One normal reads four times
# as many.
_ROWS = 5_000
# It ends when the mean log-density gains less than this in one iteration, nats.
_ENOUGH = 1e-4


class Gaussian(nn.Module):
    r"""p(x) = sum_k pi_k N(x; mu_k, L_k L_k^T), fitted in closed form or, for K > 1, by expectation-maximisation.

    Levels: the normal is cut into the bins that levels own, one dimension after another in the order of the raster,
    $p(x_d | x_{<d}) = \Phi((x_d + \frac12 - m_d) / l_d) - \Phi((x_d - \frac12 - m_d) / l_d)$ with the conditional mean
    $m_d = \mu_d + \sum_{e<d} L_{de} \epsilon_e$ and $\epsilon = L^{-1} (x - \mu)$; the outermost bins are open, and
    a share 1 / (n + 1) is uniform. So the probabilities sum to one exactly, and correlations count.

    Under classes each has its own fit, and log p(x) without one is the exact marginal.

    Source: Dempster, Laird and Rubin 1977 (EM); the covariance is the mean of its posterior under a prior worth
    ``shrinkage`` observations (Fraley and Raftery 2007, section 3).

    Args:
        components: K.
        covariance: "full", "diagonal", or "auto": diagonal for mixtures of pictures and above 2048 dimensions.
        shrinkage: observations' worth of prior, which draws each covariance to the diagonal of the whole.
        iterations: of expectation-maximisation.
    """

    log_weights: Tensor
    mu: Tensor
    factor: Tensor
    uniform: Tensor

    def __init__(
        self,
        domain: Images | Vectors,
        *,
        condition: Condition | None = None,
        components: int = 1,
        covariance: Literal["auto", "full", "diagonal"] = "auto",
        shrinkage: float = 10.0,
        iterations: int = 50,
    ) -> None:
        super().__init__()
        require("gaussian", domain, Images, Vectors)
        if min(components, iterations) < 1:
            raise Unusable(f"components and iterations must be at least 1, got {components} and {iterations}")
        if covariance not in ("auto", "full", "diagonal"):
            raise Unusable(f"covariance must be auto, full or diagonal, got {covariance!r}; leave it out for auto")
        if shrinkage <= 0:
            raise Unusable(f"shrinkage must be above 0, got {shrinkage}; leave it out for 10")
        self.domain, self.condition = domain, only_classes("gaussian", condition)
        self.levels = domain.levels if isinstance(domain, Images) else None
        many = domain.dims > 2048 or (isinstance(domain, Images) and components > 1)
        self.full = covariance == "full" or (covariance == "auto" and not many)
        self.shrinkage, self.iterations = shrinkage, iterations
        shape = (fit_count(self.condition), components, domain.dims)
        self.register_buffer("log_weights", torch.full(shape[:2], -math.log(components)))
        self.register_buffer("mu", torch.zeros(shape))
        self.register_buffer(
            "factor", torch.eye(domain.dims).expand(*shape, -1).clone() if self.full else torch.ones(shape)
        )
        self.register_buffer("uniform", torch.full(shape[:1], 0.5))

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Fits the mixture: all the learning there is."""
        for g, rows in enumerate(members(self.condition, condition, len(x), x.device)):
            chosen = torch.randperm(len(rows), generator=generator, device=generator.device).to(x.device)
            y = x[rows[chosen[: _ROWS if self.mu.shape[1] > 1 else 4 * _ROWS]]].flatten(1).double()
            log_weights, mu, factor = self._fit(y, generator=generator)
            self.log_weights[g], self.mu[g], self.factor[g] = log_weights, mu, factor
            self.uniform[g] = 1 / (len(rows) + 1)

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B"]:
        """log p(x) or log p(x|c), exact, nats per observation."""
        if self.condition is not None and condition is None:
            return marginal(self.condition, x, lambda c: self.log_prob(x, c))
        fit = fit_of(self.condition, condition, len(x), x.device)
        return by_fit(fit, x.flatten(1).to(self.mu.dtype), self._log_prob)

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator) -> Tensor:
        """n draws."""
        fit = fit_of(self.condition, rows_for(self.condition, condition, n, generator=generator), n, generator.device)
        k = torch.multinomial(self.log_weights[fit].exp(), 1, generator=generator)[:, 0]
        mu, factor = self.mu[fit, k], self.factor[fit, k]
        epsilon = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        if self.levels is not None:
            x = self._draw_levels(mu, factor, epsilon, self.uniform[fit], generator=generator)
        else:
            x = mu + (torch.einsum("nde,ne->nd", factor, epsilon) if self.full else factor * epsilon)
        return x.view(n, *self.domain.shape).to(self.domain.dtype)

    def _log_prob(self, g: int, x: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        terms = [
            log_weight + self._component(x, mu, factor, self.uniform[g])
            for log_weight, mu, factor in zip(self.log_weights[g], self.mu[g], self.factor[g])
        ]
        return torch.stack(terms).logsumexp(0)

    def _component(self, x: Float[Tensor, "B D"], mu: Tensor, factor: Tensor, uniform: Tensor) -> Float[Tensor, "B"]:
        epsilon, scale = _whiten(x - mu, factor), _scale(factor)
        if self.levels is None:
            return (-0.5 * (epsilon.square() + _LOG_2_PI) - scale.log()).sum(1)
        first, last = x == 0, x == self.levels - 1
        below = (epsilon + 0.5 / scale).masked_fill(last, math.inf)
        above = (epsilon - 0.5 / scale).masked_fill(first, -math.inf)
        inside = torch.log1p(-uniform) + _log_normal_between(above, below)
        return torch.logaddexp(inside, (uniform / self.levels).log()).sum(1)

    def _draw_levels(
        self, mu: Tensor, factor: Tensor, epsilon: Tensor, uniform: Tensor, *, generator: Generator
    ) -> Float[Tensor, "N D"]:
        """One dimension after another: each level fixes the epsilon that the later ones depend on."""
        assert self.levels is not None
        x = torch.empty_like(mu)
        lost = torch.rand(mu.shape, generator=generator, device=mu.device) < uniform[:, None]
        stray = torch.randint(self.levels, mu.shape, generator=generator, device=mu.device).to(mu.dtype)
        for d in range(mu.shape[1]):
            mean, scale = mu[:, d], factor[:, d]
            if self.full:
                mean = mean + (factor[:, d, :d] * epsilon[:, :d]).sum(1)
                scale = factor[:, d, d]
            level = (mean + scale * epsilon[:, d] + 0.5).floor().clamp(0, self.levels - 1)
            x[:, d] = torch.where(lost[:, d], stray[:, d], level)
            epsilon[:, d] = (x[:, d] - mean) / scale
        return x

    def _fit(self, x: Float[Tensor, "B D"], *, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """log pi (K), mu (K, D) and factors of the covariances, by EM from the cells around K spread rows."""
        components, prior = self.mu.shape[1], _prior_variance(x, self.levels)
        y = x / prior.sqrt()
        nearest = torch.cdist(y, y[_spread_rows(y, components, generator=generator)]).argmin(1)
        responsibility = (nearest == torch.arange(components, device=x.device)[:, None]).to(x.dtype)
        last = -math.inf
        for _ in range(self.iterations):
            log_weights, mu, factor = self._maximise(x, responsibility, prior)
            joint = log_weights[:, None] + _log_normal(x, mu, factor)
            mean = float(joint.logsumexp(0).mean())
            if components == 1 or mean - last < _ENOUGH:
                break
            last, responsibility = mean, joint.softmax(0)
        return log_weights, mu, factor

    def _maximise(
        self, x: Tensor, responsibility: Float[Tensor, "K B"], prior: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mass = responsibility.sum(1).clamp(min=1e-6)
        mu = responsibility @ x / mass[:, None]
        total = (mass + self.shrinkage).unsqueeze(-1)
        if not self.full:
            scatter = (responsibility @ x.square() - mass[:, None] * mu.square()).clamp(min=0)
            return (mass / mass.sum()).log(), mu, ((scatter + self.shrinkage * prior) / total).sqrt()
        factors = []
        for r, m, t in zip(responsibility, mu, total):
            centred = x - m
            scatter = (centred * r[:, None]).T @ centred
            factors.append(torch.linalg.cholesky((scatter + self.shrinkage * prior.diag()) / t))
        return (mass / mass.sum()).log(), mu, torch.stack(factors)


def _spread_rows(y: Float[Tensor, "B D"], count: int, *, generator: Generator) -> list[int]:
    """Rows far from each other: each drawn by its squared distance to the nearest before it.

    Source: Arthur and Vassilvitskii 2007, section 2.2 (k-means++).
    """
    rows = [int(torch.randint(len(y), (1,), generator=generator, device=generator.device))]
    distance = torch.full((len(y),), math.inf, dtype=y.dtype, device=y.device)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (y - y[rows[-1]]).square().sum(1))
        p = distance if bool(distance.any()) else torch.ones_like(distance)
        rows.append(int(torch.multinomial(p.to(generator.device), 1, generator=generator)))
    return rows


def _prior_variance(x: Float[Tensor, "B D"], levels: int | None) -> Float[Tensor, "D"]:
    """Those of x; a constant dimension has that of a bin, or 1."""
    var = x.var(0, correction=0)
    return var + 1 / 12 if levels is not None else torch.where(var > 0, var, torch.ones_like(var))


def _scale(factor: Tensor) -> Tensor:
    """The standard deviation of each dimension given those before it."""
    return factor if factor.ndim == 1 else factor.diagonal()


def _whiten(centred: Float[Tensor, "B D"], factor: Tensor) -> Float[Tensor, "B D"]:
    if factor.ndim == 1:
        return centred / factor
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


def _log_normal(x: Float[Tensor, "B D"], mu: Float[Tensor, "K D"], factor: Tensor) -> Float[Tensor, "K B"]:
    if factor.ndim == 2:  # diagonal: products of matrices, without a pass over x for each component
        precision = factor.square().reciprocal()
        square = precision @ x.square().T - 2 * (mu * precision) @ x.T + (mu.square() * precision).sum(1, keepdim=True)
        return -0.5 * (square + x.shape[1] * _LOG_2_PI) - factor.log().sum(1, keepdim=True)
    terms = [-0.5 * _whiten(x - m, f).square().sum(1) - _scale(f).log().sum() for m, f in zip(mu, factor)]
    return torch.stack(terms) - 0.5 * x.shape[1] * _LOG_2_PI


def _log_normal_between(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(Phi(b) - Phi(a)) for a < b, computed in the lower tail, where Phi keeps its digits."""
    upper = a + b > 0
    a, b = torch.where(upper, -b, a), torch.where(upper, -a, b)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    return log_b + (-torch.expm1(log_a - log_b)).log()
