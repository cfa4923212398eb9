"""Potentials, whose gradients are maps: free, or convex by the signs of their weights."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, silu, softplus

from pofx.nn.mlp import MLP


class Potential(nn.Module):
    r"""$\phi(x, c) = \frac{\alpha}{2}|x|^2 + \frac12|Bx|^2 + b(c) \cdot x + f(x, c)$.

    The gradient is near the identity at first. The quadratic is part of the network, B learnt from the identity: a map
    that is linear needs nothing else. Where f is convex in x, phi is strongly so.

    Args:
        dim: D, size of x.
        network: f, (*B, D) and a context to (*B,).
        context: E, size of c; 0 for none.
        strong_convexity: alpha: where f is convex, the gradient has no slope below it.
    """

    def __init__(self, dim: int, network: nn.Module, *, context: int = 0, strong_convexity: float = 0.05) -> None:
        super().__init__()
        self.network, self.strong_convexity = network, strong_convexity
        self.quadratic = nn.Parameter(math.sqrt(1 - strong_convexity) * torch.eye(dim))
        self.slope = nn.Linear(context, dim) if context else None

    def forward(self, x: Float[Tensor, "*B D"], c: Tensor | None = None) -> Float[Tensor, "*B"]:
        """phi(x, c)."""
        squares = linear(x, self.quadratic).square().sum(-1) + self.strong_convexity * x.square().sum(-1)
        phi = self.network(x, c) + squares / 2
        return phi if self.slope is None else phi + (self.slope(c) * x).sum(-1)

    def gradient(self, x: Float[Tensor, "*B D"], c: Tensor | None = None) -> Float[Tensor, "*B D"]:
        """nabla_x phi(x, c), on its own from any graph."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self(x, c).sum(), x)[0]


class Free(nn.Module):
    """f(x, c), a multilayer perceptron."""

    def __init__(self, dim: int, hidden: Sequence[int], *, context: int = 0) -> None:
        super().__init__()
        self.trunk = MLP(dim, hidden[:-1], hidden[-1], context=context)
        self.head = nn.Linear(hidden[-1], 1, bias=False)  # a constant has no gradient

    def forward(self, x: Float[Tensor, "*B D"], c: Tensor | None = None) -> Float[Tensor, "*B"]:
        """f(x, c)."""
        return self.head(silu(self.trunk(x, c))).squeeze(-1)


class InputConvex(nn.Module):
    r"""f(x, c) convex in x for each context c: an input-convex network.

    $f(x) = w \cdot z_L$, where $z_1 = a(A_1 x + u_1(c))$, $z_{k+1} = a(W_k z_k + A_{k+1} x + u_{k+1}(c))$, a is the
    softplus, convex and nowhere falling, and no weight in w and W is negative: each is the softplus of what is learnt.
    So every z is convex in x, and f is.

    Source: Amos et al. 2017, arXiv:1609.07152, eq. (2), (3).

    Args:
        dim: D, size of x.
        hidden: sizes of the z.
        context: E, size of c; 0 for none.
    """

    def __init__(self, dim: int, hidden: Sequence[int], *, context: int = 0) -> None:
        super().__init__()
        inputs = [nn.Linear(dim, n) for n in hidden]
        self.contexts = nn.ModuleList(nn.Linear(context, n, bias=False) for n in hidden) if context else None
        self.raw = nn.ParameterList(nn.Parameter(torch.randn(n, m)) for m, n in zip(hidden, [*hidden[1:], 1]))
        self.inputs = nn.ModuleList(inputs)
        for layer in inputs:  # so wide that softplus is bent within the data
            nn.init.normal_(layer.weight, std=1 / math.sqrt(dim))
            nn.init.normal_(layer.bias)

    def forward(self, x: Float[Tensor, "*B D"], c: Tensor | None = None) -> Float[Tensor, "*B"]:
        """f(x, c)."""
        z = softplus(self._given(0, x, c))
        for k in range(1, len(self.inputs)):
            # The mean over n inputs: sums of weights that are not negative would grow with n.
            z = softplus(linear(z, softplus(self.raw[k - 1])) / z.shape[-1] + self._given(k, x, c))
        return linear(z, softplus(self.raw[-1])).squeeze(-1) / math.sqrt(z.shape[-1])

    def _given(self, k: int, x: Tensor, c: Tensor | None) -> Tensor:
        """A_k x + u_k(c)."""
        put = self.inputs[k](x)
        return put if self.contexts is None else put + self.contexts[k](c)
