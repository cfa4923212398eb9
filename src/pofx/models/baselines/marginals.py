"""Every dimension on its own: what is known before any dependence is learnt."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, marginal, rows_for
from pofx.distributions.conditional import cumulated
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.models.baselines.classwise import by_fit, fit_count, fit_of, members, only_classes
from pofx.nn.sequence import SymbolSequence
from pofx.samplers.decoding import Choose, decode

_LOG_2_PI = math.log(2 * math.pi)
# Numbers held at once while densities are summed over kernels.
_CHUNK = 2**22


class Marginals(nn.Module):
    r"""p(x) = prod_d p_d(x_d), each p_d counted or, for real numbers, a kernel density.

    Symbols and levels: $p_d(k) = (n_{dk} + \alpha / V) / (n_d + \alpha)$; of records that end, $n_d$ counts those that
    have not ended before d, and after the end comes only the end. Real numbers: normals around quantiles of the
    training split, with Silverman's width, and one wide normal for the tails, so that p integrates to one.

    Under classes each has its own fit, and log p(x) without one is the exact marginal.

    Source: Silverman 1986, Density Estimation, eq. (3.31).

    Args:
        smoothing: alpha, how many uniform observations the counts begin with.
        quantiles: how many kernels stand for a dimension of real numbers.
    """

    log_p: Tensor
    centres: Tensor
    widths: Tensor

    def __init__(
        self, domain: Domain, *, condition: Condition | None = None, smoothing: float = 1.0, quantiles: int = 256
    ) -> None:
        super().__init__()
        require("marginals", domain, Images, Vectors, Tokens)
        if smoothing <= 0:
            raise Unusable(f"smoothing must be above 0, got {smoothing}; leave it out for 1")
        if quantiles < 1:
            raise Unusable(f"quantiles must be at least 1, got {quantiles}; leave it out for 256")
        self.domain, self.condition = domain, only_classes("marginals", condition)
        self.smoothing, self.quantiles = smoothing, quantiles
        self.symbols = domain.vocabulary if isinstance(domain, Tokens) else getattr(domain, "levels", None)
        fits = fit_count(self.condition)
        if self.symbols is not None:
            self.sequence = SymbolSequence("marginals", domain)
            uniform = torch.full((fits, domain.dims, self.symbols), -math.log(self.symbols))
            self.register_buffer("log_p", uniform)
        else:
            self.register_buffer("centres", torch.zeros(fits, domain.dims, quantiles + 1))
            self.register_buffer("widths", torch.ones(fits, domain.dims, quantiles + 1))

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Counts, or places the kernels: all the learning there is."""
        for g, rows in enumerate(members(self.condition, condition, len(x), x.device)):
            if self.symbols is not None:
                self.log_p[g] = self._counted(x[rows].flatten(1))
            else:
                self.centres[g], self.widths[g] = self._kernels(x[rows].flatten(1))

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B"]:
        """log p(x) or log p(x|c), exact, nats per observation."""
        if self.condition is not None and condition is None:
            return marginal(self.condition, x, lambda c: self.log_prob(x, c))
        return self.conditionals(x, condition).sum(1)

    def read(self, x: Tensor) -> Shaped[Tensor, "B D"]:
        """The dimensions of x in the order of the canonical tensor."""
        return x.flatten(1) if self.symbols is None else x.flatten(1).long()

    def conditionals(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B D"]:
        """log p_d(x_d|c) of each dimension, nats; without c, by all classes together."""
        fit = fit_of(self.condition, condition, len(x), x.device)
        return by_fit(fit, self.read(x), self._log_p)

    @torch.no_grad()
    def walk(self, n: int, choose: Choose, condition: Tensor | None = None) -> Tensor:
        """n observations whose values ``choose`` picks: it is told log p of every symbol (n, V), place by place.

        Raises:
            Unusable: the values are real numbers, which have no probabilities.
        """
        if self.symbols is None:
            raise Unusable("marginals gives a density over real numbers, not probabilities; give pictures or tokens")
        fit = fit_of(self.condition, condition, n, self.log_p.device)
        s = torch.zeros((n, self.domain.dims), dtype=torch.int64, device=self.log_p.device)
        known = torch.zeros_like(s, dtype=torch.bool)
        s = decode(lambda s, t: self.log_p[fit, t], s, known, choose, end=self.sequence.end)
        return s.view(n, *self.domain.shape).to(self.domain.dtype)

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator) -> Tensor:
        """n draws, each dimension from its own distribution."""
        fit = fit_of(self.condition, rows_for(self.condition, condition, n, generator=generator), n, generator.device)
        if self.symbols is not None:
            x = self._draw_symbols(fit, generator=generator)
            x = x.masked_fill(self.sequence.ended(x), self.sequence.end or 0)
        else:
            centres, widths = self.centres[fit].flatten(0, 1), self.widths[fit].flatten(0, 1)
            k = torch.randint(self.quantiles + 1, (len(centres), 1), generator=generator, device=centres.device)
            epsilon = torch.randn(k.shape, generator=generator, device=k.device, dtype=centres.dtype)
            x = centres.gather(1, k) + widths.gather(1, k) * epsilon
        return x.view(n, *self.domain.shape).to(self.domain.dtype)

    def _draw_symbols(self, fit: Tensor, *, generator: Generator) -> Tensor:
        """(N, D) by inverting each cumulative table: no table is copied for each draw."""
        dims, symbols = self.log_p.shape[1:]
        u = torch.rand((len(fit), dims), generator=generator, device=fit.device, dtype=self.log_p.dtype)
        x = torch.empty(u.shape, dtype=torch.int64, device=u.device)
        for g in fit.unique().tolist():
            cumulative = cumulated(self.log_p[g].exp())
            x[fit == g] = torch.searchsorted(cumulative, u[fit == g].T.contiguous(), right=True).T
        return x.clamp(max=symbols - 1)

    def _counted(self, x: Tensor) -> Float[Tensor, "D V"]:
        """Log-frequencies, counted some rows at a time."""
        dims, symbols = self.log_p.shape[1:]
        offsets = torch.arange(dims, device=x.device) * symbols
        counts = torch.zeros(dims * symbols, dtype=torch.float64, device=x.device)
        for rows in x.split(4096):
            s = rows.long()
            counts += torch.bincount((s + offsets)[~self.sequence.ended(s)], minlength=dims * symbols)
        smoothed = counts.view(dims, symbols) + self.smoothing / symbols
        return (smoothed / smoothed.sum(1, keepdim=True)).log().to(self.log_p.dtype)

    def _kernels(self, x: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "D Q"], Float[Tensor, "D Q"]]:
        """Quantiles and Silverman's width; the last kernel lies over all of them, twice as wide as the data."""
        at = (torch.arange(self.quantiles, device=x.device) + 0.5) / self.quantiles
        ordered = x.sort(0).values
        quantiles = ordered[(at * len(x)).long()].T
        std = x.std(0, correction=0)
        std = torch.where(std > 1e-6 * (1 + x.abs().amax(0)), std, torch.ones_like(std))
        spread = (ordered[(3 * len(x)) // 4] - ordered[len(x) // 4]) / 1.34
        spread = torch.where(spread > 0, torch.minimum(spread, std), std)
        width = 0.9 * spread * len(x) ** -0.2
        centres = torch.cat([quantiles, x.mean(0)[:, None]], dim=1)
        return centres, torch.cat([width[:, None].expand_as(quantiles), 2 * std[:, None]], dim=1)

    def _log_p(self, g: int, x: Tensor) -> Float[Tensor, "B D"]:
        if self.symbols is not None:
            log_p = self.log_p[g].expand(len(x), -1, -1).gather(2, x[:, :, None])[:, :, 0]
            return self.sequence.given_end(x, log_p)
        return torch.cat([self._log_density(g, some) for some in x.split(max(1, _CHUNK // self.centres[g].numel()))])

    def _log_density(self, g: int, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        centres, widths = self.centres[g], self.widths[g]
        kernel = -0.5 * (((x[:, :, None] - centres) / widths).square() + _LOG_2_PI) - widths.log()
        return kernel.logsumexp(2) - math.log(self.quantiles + 1)
