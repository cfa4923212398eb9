"""The straight path from noise to data: x_t = t x_1 + (1 - t) x_0, with x_0 ~ N(0, I) at t = 0 and data at t = 1."""

import torch
from jaxtyping import Float
from torch import Tensor

from pofx.randomness import rand, rows_of


def interpolate(
    x_0: Float[Tensor, "B *S"], x_1: Float[Tensor, "B *S"], t: Float[Tensor, "B"]
) -> tuple[Float[Tensor, "B *S"], Float[Tensor, "B *S"]]:
    """The point x_t of the path at time t, and its velocity dx_t/dt = x_1 - x_0.

    Source: Lipman et al. 2023, arXiv:2210.02747, eqs. (20) to (23) with sigma_min = 0; Liu et al. 2022,
    arXiv:2209.03003, eq. (1).
    """
    t = per_row(t, x_1)
    return t * x_1 + (1 - t) * x_0, x_1 - x_0


def precondition(
    t: Float[Tensor, "#B"], x: Float[Tensor, "B *S"]
) -> tuple[Float[Tensor, "#B *O"], Float[Tensor, "#B *O"], Float[Tensor, "#B *O"]]:
    """(c_skip, c_in, c_out) such that v = c_skip x_t + c_out F(c_in x_t, t) asks little of the network F.

    c_skip is the velocity field itself where the data are N(0, I), E[x_1 - x_0 | x_t] = (2t - 1) x_t / (t^2 + (1-t)^2);
    c_in and c_out are 1 / sqrt(t^2 + (1-t)^2), which gives input and target of F unit variance at every t.

    Source: Karras et al. 2022, arXiv:2206.00364, section 5 and appendix B.6, carried over to the straight path.
    """
    t = per_row(t, x)
    power = t**2 + (1 - t) ** 2
    return (2 * t - 1) / power, power.rsqrt(), power.rsqrt()


def stratified(n: int, *, like: Tensor, generator: torch.Generator) -> Float[Tensor, "n"]:
    """n times uniform in [0, 1), one in each of n equal cells: the mean over t with less noise than independent draws.

    In order: row i gets cell i, so the rows themselves must come in random order. Of a batch cut into pieces, each
    piece gets its own cells.
    """
    first, total = rows_of(generator, n)
    u = rand((n,), generator=generator, device=like.device, dtype=like.dtype)
    return (torch.arange(first, first + n, device=like.device) + u) / total


def per_row(t: Float[Tensor, "#B"], x: Float[Tensor, "B *S"]) -> Float[Tensor, "#B *O"]:
    """t (B,) with the trailing axes of x, so that row i of t meets row i of x whatever the shapes are."""
    return t.view(-1, *[1] * (x.ndim - 1))
