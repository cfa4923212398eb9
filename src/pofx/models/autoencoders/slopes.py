"""The size of a network's Jacobian, by one more gradient whatever its size."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pofx.randomness import rand


def squared_jacobian(
    outputs: Float[Tensor, "B ..."], inputs: Float[Tensor, "B ..."], *, generator: Generator
) -> Float[Tensor, "B"]:
    r"""An unbiased estimate of $|J|_F^2 = \sum_{ij} (\partial f_i / \partial x_j)^2$ of each row, by random signs.

    $|J|_F^2 = E_v |v^T J|^2$, v of independent signs: exact where the rows of J are orthogonal, or f is one number. The
    graph is kept, so that the estimate has a gradient of its own.

    Source: Hutchinson 1990; Hoffman et al. 2019, arXiv:1908.02729, eq. (7).

    Args:
        outputs: f(x), row by row from ``inputs``.
        inputs: x, with a gradient.
    """
    u = rand(tuple(outputs.shape), generator=generator, device=outputs.device, dtype=outputs.dtype)
    signs = torch.where(u < 0.5, -1.0, 1.0).to(outputs.dtype)
    (slope,) = torch.autograd.grad(outputs, inputs, signs, create_graph=True)
    return slope.square().flatten(1).sum(1)
