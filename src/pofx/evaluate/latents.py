"""What becomes of held-out data in a latent: how much comes back, what z costs, how much of z is used.

For any model that encodes and decodes; where its latent also has laws of its own, q(z|x) and p(z), rate and distortion
too, and what the rate is spent on: E KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)), with q(z) = E_x q(z|x).
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pofx.conditions import Classes
from pofx.data.dataset import Batch, Data
from pofx.distributions import DiagonalNormal, standard_normal_log_prob
from pofx.domains import Domain, Images, Tokens, are_symbols
from pofx.evaluate.likelihood import shuffled
from pofx.evaluate.pace import Clock, Watch, timed
from pofx.evaluate.score import Score
from pofx.nn.modes import evaluating
from pofx.protocols import Decodes, Encodes, Infers, capabilities
from pofx.randomness import stream
from pofx.samplers.latents import reconstruct

MOST = 2048  # observations where time is plentiful: each z meets the posterior of every other
FEWEST = 8
LEAST = 64  # where there are as many, whatever the time: in one call they cost little more than one
ACTIVE = 0.01  # variance of a unit's posterior mean
_REFERENCE = 8192  # training rows that the constant beside a reconstruction is from
_AT_ONCE = 2**22  # numbers of z in one call, where each meets many posteriors
_PROBED = 64  # rows that the time of such a meeting is measured on


@dataclass(frozen=True)
class Coded:
    """One z_i ~ q(z|x_i) of each of n observations, with the posteriors it was drawn from, a batch at a time.

    Args:
        z: (n, K) or (n, T).
        posteriors: q(z|x) of consecutive batches, each with the number of its rows.
        log_likelihood: (n,) log p(x_i|z_i), nats.
        log_posterior: (n,) log q(z_i|x_i).
        log_prior: (n,) log p(z_i), or given the condition.
    """

    z: Tensor
    posteriors: tuple[tuple[Any, int], ...]
    log_likelihood: Float[Tensor, "n"]
    log_posterior: Float[Tensor, "n"]
    log_prior: Float[Tensor, "n"]

    @property
    def distortion(self) -> Float[Tensor, "n"]:
        """-log p(x|z), nats."""
        return -self.log_likelihood

    @property
    def rate(self) -> Float[Tensor, "n"]:
        """log q(z|x) - log p(z), nats: in expectation KL(q(z|x) || p(z))."""
        return self.log_posterior - self.log_prior


def latent_scores(
    model: Any, data: Data, *, split: str, clock: Clock, seed: int, device: str | torch.device, watch: Watch
) -> list[Score]:
    """Reconstruction, and where they are defined rate, distortion, information, units in use.

    Empty where the model does not encode and decode. All are from the same rows, a seeded subset of the split.
    """
    able = capabilities(model)
    rows = _rows(model, data, split, seed)
    if not {Encodes, Decodes} <= able or len(rows[0]) < FEWEST:
        return []
    n, seconds = _affordable(model, rows, clock, seed, device)
    watch(f"latent: {n} of {split} there and back, about {seconds:.1f} s")
    x, c = rows[0][:n].to(device), None if rows[1] is None else rows[1][:n].to(device)
    scores = reconstruction_scores(model, x, c, data, seed=seed)
    if Infers in able:
        z = torch.cat([model.encode(*batch) for batch in _batches(model.domain, x, c)])
        coded = code(model, x, c, seed=seed)
        scores += [*_rate_and_distortion(coded), *_information(coded, c, model)]
        scores += [*_units(z), *_dimensions(coded)] if z.is_floating_point() else []
    given = "" if c is None else model.condition.kind
    return [replace(score, given=given, split=split) for score in scores]


@torch.no_grad()
def rate_distortion(
    model: Any, data: Data, *, split: str = "test", n: int = MOST, seed: int = 0, device: str | torch.device = "cpu"
) -> tuple[Score, Score]:
    """The model's place in the rate-distortion plane: E KL(q(z|x) || p(z)) and E_q[-log p(x|z)], nats.

    Their sum is the negative bound of one sample.

    Source: Alemi et al. 2018, arXiv:1711.00464.

    Args:
        model: one whose latent has laws of its own, on ``device``.
        n: rows of the split, at most.
    """
    x, c = _rows(model, data, split, seed)
    with evaluating(model):
        coded = code(model, x[:n].to(device), None if c is None else c[:n].to(device), seed=seed)
    given = "" if c is None else model.condition.kind
    rate, distortion = (replace(score, given=given, split=split) for score in _rate_and_distortion(coded))
    return rate, distortion


@torch.no_grad()
def code(model: Any, x: Tensor, condition: Tensor | None = None, *, seed: int = 0) -> Coded:
    """A draw of each observation's posterior, and its densities. The model is in evaluation mode."""
    parts, posteriors = [], []
    for i, (batch, c) in enumerate(_batches(model.domain, x, condition)):
        q = model.posterior(batch, c)
        z = q.rsample(1, generator=stream(seed, "evaluate/latent", i, device=x.device))
        log_p = model.decode(z, c).log_prob(batch)
        parts.append((z[0], log_p[0].double(), q.log_prob(z)[0].double(), model.log_prior(z, c)[0].double()))
        posteriors.append((q, len(batch)))
    z, *densities = (torch.cat(part) for part in zip(*parts))
    return Coded(z, tuple(posteriors), *densities)


@torch.no_grad()
def cross_log_prob(coded: Coded) -> Float[Tensor, "n n"]:
    """log q(z_i|x_j) of every z under every posterior, nats."""
    columns = []
    for q, rows in coded.posteriors:
        some = max(1, _AT_ONCE // (rows * coded.z[0].numel()))
        each = [q.log_prob(z[:, None].expand(-1, rows, *z.shape[1:])).double() for z in coded.z.split(some)]
        columns.append(torch.cat(each))
    return torch.cat(columns, dim=1)


def log_aggregated(crossed: Float[Tensor, "n n"], alike: Bool[Tensor, "n n"] | None = None) -> Float[Tensor, "n"]:
    r"""$\log q(z_i) = \log \frac1n \sum_j q(z_i|x_j)$, nats: the aggregated posterior of these n observations.

    Args:
        crossed: log q(z_i|x_j).
        alike: which pairs are of one class, to aggregate within each; None: all.

    Source: Hoffman and Johnson 2016, "ELBO surgery".
    """
    if alike is None:
        return crossed.logsumexp(1) - math.log(crossed.shape[1])
    return crossed.masked_fill(~alike, -math.inf).logsumexp(1) - alike.sum(1).log()


def reconstruction_scores(model: Any, x: Tensor, c: Tensor | None, data: Data, *, seed: int) -> list[Score]:
    """What comes back, beside what a constant would give: the mean of the training split, or its likeliest symbols.

    Mean squared error of a value, in canonical units; of symbols and of colours of a palette the share that is right.
    """
    back = torch.cat([reconstruct(model, *batch) for batch in _batches(data.domain, x, c)])
    train = shuffled(data, "train", seed)[0][:_REFERENCE].to(x.device)
    if are_symbols(data.domain):
        constant = train.mode(0).values.expand_as(x)
        return [
            _mean("symbols right", _right(x, back, data.domain), ""),
            _mean("symbols right, constant", _right(x, constant, data.domain), "", better="reference",
                  note="the most frequent symbol of the training split at each place"),
        ]  # fmt: skip
    unit = "levels^2" if isinstance(data.domain, Images) and data.domain.levels else "units^2"
    constant, how = train.double().mean(0), "mean square of a value's error, by the mean of p(x|z)"
    return [
        _mean("reconstruction error", _squared(x, back), unit, better="lower", note=how),
        _mean("reconstruction error, constant", _squared(x, constant), unit, better="reference",
              note="the mean of the training split"),
    ]  # fmt: skip


def _rate_and_distortion(coded: Coded) -> tuple[Score, Score]:
    return (
        _mean("rate", coded.rate, "nats", better="reference", note="KL(q(z|x) || p(z)), one z of each"),
        _mean("distortion", coded.distortion, "nats", better="lower",
              note="-log p(x|z); with the rate, the negative bound of one sample"),
    )  # fmt: skip


def _information(coded: Coded, c: Tensor | None, model: Any) -> list[Score]:
    """What the rate is spent on. Where observations are told a class each, within the classes."""
    if c is not None and not isinstance(model.condition, Classes):
        return []  # every observation has a condition of its own: no law to aggregate
    alike = None if c is None else c[:, None] == c
    crossed = cross_log_prob(coded)
    aggregated = log_aggregated(crossed, alike)
    information, gap = coded.log_posterior - aggregated, aggregated - coded.log_prior
    bias = abs(information.mean().item() - _of_halves(crossed, alike, coded.log_posterior))
    each = math.log(len(aggregated)) if alike is None else alike.sum(1).double().log().mean().item()
    source = f"q(z) of {len(aggregated)} posteriors{'' if alike is None else ', within classes'}"
    return [
        _mean("mutual information", information, "nats", "estimate", bias=bias, better="reference",
              note=f"of x and z, by {source}: too low on average, and at most log n = {each:.2f}"),
        _mean("aggregated gap", gap, "nats", "estimate", bias=bias, better="lower",
              note=f"KL(q(z) || p(z)), {source}: too high on average; the rate less the information"),
    ]  # fmt: skip


def _of_halves(crossed: Tensor, alike: Tensor | None, log_posterior: Tensor) -> float:
    """The information of half as many observations: how far it still depends on their number."""
    halves = [
        log_posterior[h::2] - log_aggregated(crossed[h::2, h::2], None if alike is None else alike[h::2, h::2])
        for h in (0, 1)
    ]
    return torch.cat(halves).mean().item()


def _units(z: Float[Tensor, "n K"]) -> list[Score]:
    """Source: Burda et al. 2016, arXiv:1509.00519, section 5.2."""
    active = int((z.double().var(0, correction=0) > ACTIVE).sum())
    note = f"of {z.shape[1]}, whose posterior mean has a variance above {ACTIVE}"
    return [Score("active units", float(active), "statistic", "", len(z), better="reference", note=note)]


def _dimensions(coded: Coded) -> list[Score]:
    """KL of each dimension, the fullest first: where posteriors are diagonal normals and the prior is N(0, I)."""
    if not all(isinstance(q, DiagonalNormal) for q, _ in coded.posteriors):
        return []
    if not torch.allclose(coded.log_prior, standard_normal_log_prob(coded.z).double(), rtol=1e-4, atol=1e-3):
        return []
    each = torch.cat([q.kl_to_standard_normal() for q, _ in coded.posteriors]).double()
    kl, order = each.mean(0).sort(descending=True)
    above = int((kl > ACTIVE).sum())
    note = f"KL of one of {len(kl)} dimensions, of which {above} have over {ACTIVE} nats"
    fullest = _mean("rate of the fullest dimension", each[:, order[0]], "nats", better="reference", note=note)
    return [replace(fullest, parts=tuple(kl.tolist()))]


def _mean(
    metric: str,
    values: Float[Tensor, "n"],
    unit: str,
    kind: Literal["statistic", "estimate"] = "statistic",
    *,
    better: Literal["higher", "lower", "reference"] = "higher",
    note: str = "",
    bias: float | None = None,
) -> Score:
    n = len(values)
    stderr = (values.std() / math.sqrt(n)).item()
    return Score(metric, values.mean().item(), kind, unit, n, stderr=stderr, bias=bias, better=better, note=note)


def _squared(x: Tensor, back: Tensor) -> Float[Tensor, "n"]:
    return (x.double() - back.double()).square().flatten(1).mean(1)


def _right(x: Tensor, back: Tensor, domain: Domain) -> Float[Tensor, "n"]:
    """Share of each observation's symbols that come back; what follows a record's end is padding."""
    right = (x == back).double().flatten(1)
    if not isinstance(domain, Tokens) or domain.end is None:
        return right.mean(1)
    ends = (x == domain.end).long()
    read = (ends.cumsum(1) <= ends).double()
    return (right * read).sum(1) / read.sum(1)


def _rows(model: Any, data: Data, split: str, seed: int) -> Batch:
    """A seeded order of the split, with conditions if the model takes them."""
    x, c = shuffled(data, split, seed)
    return x, None if getattr(model, "condition", None) is None else c


def _batches(domain: Domain, x: Tensor, c: Tensor | None) -> Iterator[Batch]:
    size = _per_call(domain)
    for start in range(0, len(x), size):
        yield x[start : start + size], None if c is None else c[start : start + size]


def _per_call(domain: Domain) -> int:
    return min(256, max(16, 2**16 // domain.dims))


def _affordable(model: Any, rows: Batch, clock: Clock, seed: int, device: str | torch.device) -> tuple[int, float]:
    """As many rows as the time allows, and the seconds they take: a n + b n^2, each z meets each posterior."""
    most = min(len(rows[0]), MOST)
    infers = Infers in capabilities(model)

    def first(n: int) -> Batch:
        return rows[0][:n].to(device), None if rows[1] is None else rows[1][:n].to(device)

    def there_and_back(n: int) -> Coded | Tensor:
        back = reconstruct(model, *first(n))
        return code(model, *first(n), seed=seed) if infers else back

    a = timed(there_and_back, clock, largest=min(most, _per_call(model.domain)))
    a, b = 1.2 * a, 0.0
    if infers:
        coded, begun = code(model, *first(min(most, _PROBED)), seed=seed), time.perf_counter()
        cross_log_prob(coded)
        b = (time.perf_counter() - begun) / len(coded.z) ** 2
    seconds = clock.left
    n = 2 * seconds / (a + math.sqrt(a * a + 4 * b * seconds))
    n = min(most, max(LEAST, int(n)))
    return n, a * n + b * n * n
