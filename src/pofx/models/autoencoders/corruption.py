"""Ways of spoiling x, for an autoencoder that is to mend it."""

from typing import Literal

import torch
from torch import Generator, Tensor

from pofx.domains import Domain, Images, are_symbols
from pofx.errors import Unusable
from pofx.models.autoencoders.vector_latent import one_of
from pofx.randomness import rand, randn

Corruption = Literal["none", "gaussian", "masking", "salt-and-pepper"]
KINDS: tuple[Corruption, ...] = ("none", "gaussian", "masking", "salt-and-pepper")


def check_corruption(domain: Domain, kind: Corruption, rate: float) -> None:
    """Refuses what makes no sense for a domain, in one line."""
    one_of("corruption", kind, KINDS)
    if kind in ("gaussian", "salt-and-pepper") and are_symbols(domain):
        raise Unusable(f"symbols, and colours of a palette, have no size to corrupt by {kind!r}; use masking")
    if kind == "salt-and-pepper" and not (isinstance(domain, Images) and domain.levels):
        raise Unusable(
            "corruption by 'salt-and-pepper' needs a least and a most level, and these data have none; "
            "use masking or gaussian"
        )
    if kind == "none":
        return
    if not 0 < rate < (float("inf") if kind == "gaussian" else 1):
        limit = "above 0" if kind == "gaussian" else "a share above 0 and below 1"
        raise Unusable(f"corruption_rate must be {limit}, got {rate}; leave it out for the default")


def corrupted_symbols(x: Tensor, symbols: int, rate: float, *, generator: Generator) -> Tensor:
    """x with each symbol replaced, with probability ``rate``, by any of them."""
    hit, other = rand((2, *x.shape), generator=generator, rows=1, device=x.device)
    return torch.where(hit < rate, (other * symbols).long().clamp(max=symbols - 1).to(x.dtype), x)


def corrupted(y: Tensor, domain: Domain, kind: Corruption, rate: float, *, generator: Generator) -> Tensor:
    """What the networks read of x, spoilt: pictures in [-1, 1], vectors standardised.

    Source: Vincent et al. 2010, JMLR 11, section 3.3.

    Args:
        kind: "gaussian" adds noise of standard deviation ``rate``; "masking" makes a share ``rate`` of the values
            black, or the mean; "salt-and-pepper" makes it black or white.
    """
    if kind == "gaussian":
        return y + rate * randn(tuple(y.shape), generator=generator, device=y.device, dtype=y.dtype)
    hit, coin = rand((2, *y.shape), generator=generator, rows=1, device=y.device, dtype=y.dtype)
    levels = domain.levels if isinstance(domain, Images) else None
    black = torch.full_like(y, 1 / levels - 1 if levels else 0.0)
    spoilt = torch.where(coin < 0.5, -black, black) if kind == "salt-and-pepper" else black
    return torch.where(hit < rate, spoilt, y)
