"""From a point back to the noise that makes it: a game has no encoder, so z is searched for."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

STARTS, STEPS = 64, 100
AT_ONCE = 64  # conditions, and rows, whose starts are compared
RATE = 0.3  # of the first step; z is of the order of 1
BETA_1, BETA_2 = 0.8, 0.95  # of Adam: with shorter memories than usual it needs half the steps
VARIANCE = 1e-2  # of the noise around g(z) in each value: a point of the data is never quite g(z)


def inverted(
    g: nn.Module, y: Float[Tensor, "B ..."], c: Tensor | None, starts: Float[Tensor, "S K"], *, held: int = 0
) -> Float[Tensor, "B K"]:
    r"""$\arg\min_z |g(z, c) - y|^2 + \sigma^2 |z|^2$: the likeliest z, if y is g(z) with a little normal noise.

    Adam from the best of 64 draws, the same for every y, its rate falling to nothing over 100 steps. So it is the same
    at every call, and of each y by itself; a local minimum where g bends. It costs 100 passes there and back through
    g, and 64 there for each condition; g is to be in evaluation mode.

    Source: Zhu et al. 2016, arXiv:1609.03552, section 3.1; Lipton and Tripathi 2017, arXiv:1702.04782.

    Args:
        starts: draws of z.
        held: how many of its first coordinates stay what they are in the best draw, as signs do.
    """
    y = y.flatten(1)
    z = _begun(g, y, c, starts.to(y))
    m, v = torch.zeros_like(z), torch.zeros_like(z)
    for step in range(STEPS):
        with torch.enable_grad():
            z.requires_grad_()
            (slope,) = torch.autograd.grad(_far(g(z, c).flatten(1), y, z).sum(), z)
        slope[:, :held] = 0
        # Adam by hand: the library's takes seconds to import, once, and would be most of what a few rows cost
        m, v = torch.lerp(m, slope, 1 - BETA_1), torch.lerp(v, slope.square(), 1 - BETA_2)
        m_hat, v_hat = m / (1 - BETA_1 ** (step + 1)), v / (1 - BETA_2 ** (step + 1))
        rate = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        z = z.detach() - rate * m_hat / (v_hat.sqrt() + 1e-8)
    return z


@torch.no_grad()
def _begun(
    g: nn.Module, y: Float[Tensor, "B D"], c: Tensor | None, draws: Float[Tensor, "S K"]
) -> Float[Tensor, "B K"]:
    """The best of the draws for each y, made with its own condition."""
    begun = y.new_empty(len(y), draws.shape[1])
    each = torch.arange(len(y), device=y.device)
    told, which = (None, torch.zeros_like(each)) if c is None else torch.unique(c, dim=0, return_inverse=True)
    for some in torch.arange(1 if told is None else len(told), device=y.device).split(AT_ONCE):
        rows = None if told is None else told[some].repeat_interleave(len(draws), dim=0)
        made = g(draws.repeat(len(some), 1), rows).flatten(1).view(len(some), len(draws), -1)
        for mine in each[(which >= some[0]) & (which <= some[-1])].split(AT_ONCE):
            near = _far(made[which[mine] - some[0]], y[mine, None], draws).argmin(1)
            begun[mine] = draws[near]
    return begun


def _far(made: Tensor, y: Tensor, z: Float[Tensor, "N K"]) -> Float[Tensor, "... N"]:
    """|g(z) - y|^2 + sigma^2 |z|^2 of each."""
    return (made - y).square().sum(-1) + VARIANCE * z.square().sum(-1)
