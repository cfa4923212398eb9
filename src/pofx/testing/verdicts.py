"""How a check decides: by raising ``AssertionError`` with a sentence, also under ``python -O``."""

import torch
from torch import Tensor


def ensure(good: bool, message: str) -> None:
    """Fails with ``message`` unless ``good``."""
    if not good:
        raise AssertionError(message)


def ensure_same_bits(a: Tensor, b: Tensor, message: str) -> None:
    """Equal shape, dtype and bits; NaN equals NaN."""
    same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan())
    ensure(same and torch.equal(a.nan_to_num(), b.nan_to_num()), message)


def ensure_close(a: Tensor, b: Tensor, message: str, *, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    """Close element by element; the message gets the worst pair."""
    a, b = a.detach().double(), b.detach().double()
    ensure(a.shape == b.shape, f"{message}: shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if not torch.allclose(a, b, rtol=rtol, atol=atol):
        worst = int((a - b).abs().nan_to_num(torch.inf).argmax())
        raise AssertionError(f"{message}: {float(a.flatten()[worst]):.6g} against {float(b.flatten()[worst]):.6g}")


def ensure_counts_fit(counts: Tensor, probability: Tensor, message: str) -> None:
    """Pearson's chi-square of counts (M,) against probabilities (M,), at a level of about one in a million."""
    probability = (probability.double() / probability.double().sum()).clamp(min=1e-300)
    expected = probability * counts.sum()
    rare = expected < 5
    if bool(rare.any()):
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
        if float(expected[-1]) < 5:
            surplus = float(counts[-1]) - float(expected[-1])
            ensure(surplus < 25, f"{message}: {int(counts[-1])} draws where {float(expected[-1]):.2g} are expected")
            counts, expected = counts[:-1], expected[:-1]
    statistic = float(((counts - expected) ** 2 / expected).sum())
    limit = chi_square_limit(len(counts) - 1)
    ensure(statistic < limit, f"{message}: chi-square {statistic:.1f} on {len(counts) - 1} degrees, limit {limit:.1f}")


def same_law(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Chi-square of two rows of counts (M,) being draws of one law, and its limit at about one in a million."""
    seen = (a + b) >= 10
    a, b = (torch.cat([t[seen], t[~seen].sum()[None]]).double() for t in (a, b))
    n, m = a.sum(), b.sum()
    terms = ((m / n).sqrt() * a - (n / m).sqrt() * b) ** 2 / (a + b).clamp(min=1)
    return float(terms.sum()), chi_square_limit(max(1, int(seen.sum())))


def chi_square_limit(degrees: int) -> float:
    """Exceeded once in a million (Wilson and Hilferty 1931: the cube root is nearly normal)."""
    k = max(1, degrees)
    return k * (1 - 2 / (9 * k) + 4.75 * (2 / (9 * k)) ** 0.5) ** 3
