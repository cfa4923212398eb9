"""Through a latent and back: what any model that encodes and decodes can do. Functions of (model, x)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.errors import Unusable


@torch.no_grad()
def reconstruct(
    model: Any, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None
) -> Tensor:
    """x through the latent and back: the x expected of the likeliest z, or with a generator a draw of each."""
    p = model.decode(model.encode(x, condition, generator=generator), condition)
    return expected(p) if generator is None else p.sample(generator=generator)


def expected(p: Any) -> Tensor:
    """The x of least squared error under p(x|z): its mean, or where it has none, as symbols have not, the likeliest."""
    return p.mean if hasattr(p, "mean") else p.mode


@torch.no_grad()
def interpolate(model: Any, x_a: Tensor, x_b: Tensor, steps: int = 8, condition: Tensor | None = None) -> Tensor:
    """(steps, B, ...) from the reconstruction of x_a to that of x_b, along the line between their latents.

    Raises:
        Unusable: fewer than two steps, or the latent is of symbols, between which there is no line.
    """
    if steps < 2:
        raise Unusable(f"an interpolation needs at least 2 steps, got {steps}; leave it out for 8")
    z_a, z_b = model.encode(x_a, condition), model.encode(x_b, condition)
    if not z_a.is_floating_point():
        raise Unusable("a walk needs a latent of real numbers, and this one is of symbols; use a model such as vae")
    weights = torch.linspace(0, 1, steps, dtype=z_a.dtype, device=z_a.device)
    walk = [expected(model.decode(torch.lerp(z_a, z_b, weight), condition)) for weight in weights]
    return torch.stack(walk)


@torch.no_grad()
def traverse(
    model: Any, z: Float[Tensor, "1 K"], places: Float[Tensor, "S K"], condition: Tensor | None = None
) -> Tensor:
    """(K, S, ...): the x expected where dimension k of z alone is moved to ``places[s, k]``.

    Args:
        condition: one row, or None.
    """
    steps, dims = places.shape
    moved = z.expand(dims, steps, dims).clone()
    for k in range(dims):
        moved[k, :, k] = places[:, k]
    return torch.stack([expected(model.decode(along, condition)) for along in moved])
