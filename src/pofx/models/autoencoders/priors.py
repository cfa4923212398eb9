"""What z is before x is seen: laws p(z) with a density, which takes ``wide`` numbers for each z, and a draw."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.distributions import standard_normal_log_prob
from pofx.errors import Unusable
from pofx.models.autoencoders.couplings import Couplings
from pofx.models.autoencoders.posteriors import Diagonal, Full, InverseAutoregressive, Posterior

PriorKind = Literal["normal", "mixture", "vamp", "flow"]

_WIDTH = 128  # of a flow's hidden layers


class StandardNormal(nn.Module):
    """p(z) = N(0, I)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.wide = dim

    def log_prob(self, z: Float[Tensor, "*B K"], context: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z) of each vector, nats."""
        return standard_normal_log_prob(z)

    def sample(
        self, n: int, context: Tensor | None = None, *, generator: Generator, like: Tensor
    ) -> Float[Tensor, "n K"]:
        """n draws, of the device and dtype of ``like``."""
        return torch.randn((n, self.dim), generator=generator, device=like.device, dtype=like.dtype)


class Flow(nn.Module):
    """z = T(u), u ~ N(0, I): p(z) = N(T^-1(z)) |du/dz|, a normal bent by couplings, without the holes of an unbent one.

    Source: Dinh et al. 2017, arXiv:1605.08803; as a prior: Chen et al. 2017, arXiv:1611.02731, section 3.2.

    Args:
        layers: how many couplings.
        context: E, size of a context (B, E); 0 for none.
    """

    def __init__(self, dim: int, *, layers: int, context: int = 0) -> None:
        super().__init__()
        self.base = StandardNormal(dim)
        self.couplings = Couplings(dim, count=layers, width=_WIDTH, context=context)
        self.wide = 2 * _WIDTH

    def log_prob(self, z: Float[Tensor, "*B K"], context: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z) of each vector, nats."""
        u, log_det = self.couplings.inverse(z, context)
        return self.base.log_prob(u) + log_det

    def sample(
        self, n: int, context: Tensor | None = None, *, generator: Generator, like: Tensor
    ) -> Float[Tensor, "n K"]:
        """n draws, one for each row of a context."""
        return self.couplings(self.base.sample(n, generator=generator, like=like), context)[0]


class Mixture(nn.Module):
    r"""$p(z|c) = \sum_k \pi_k(c) r_k(z)$, each r_k a law of the posterior's kind; the weights begin equal.

    Args:
        parts: called for the numbers (C, O) that make the laws.
        law: makes laws from numbers.
        components: C.
        context: E, size of a context (B, E), which moves the weights; 0 for none.
    """

    def __init__(self, parts: nn.Module, law: Diagonal | Full, *, components: int, dim: int, context: int = 0) -> None:
        super().__init__()
        self.parts, self.law = parts, law
        self.logits = nn.Parameter(torch.zeros(components))
        self.told = nn.Linear(context, components, bias=False) if context else None
        self.wide = components * dim

    def log_prob(self, z: Float[Tensor, "*B K"], context: Tensor | None = None) -> Float[Tensor, "*B"]:
        """log p(z) of each vector, nats."""
        return (self._log_weights(context) + self.law(self.parts()).log_prob_by_each(z)).logsumexp(-1)

    def sample(
        self, n: int, context: Tensor | None = None, *, generator: Generator, like: Tensor
    ) -> Float[Tensor, "n K"]:
        """n draws, one for each row of a context."""
        weights = self._log_weights(context).exp().expand(n, -1)
        k = torch.multinomial(weights, 1, generator=generator)[:, 0]
        return self.law(self.parts()[k]).rsample(1, generator=generator)[0]

    def _log_weights(self, context: Tensor | None) -> Float[Tensor, "*B C"]:
        logits = self.logits if self.told is None or context is None else self.logits + self.told(context)
        return logits.log_softmax(-1)


class Learnt(nn.Module):
    """Numbers of C diagonal normals; they begin with means from N(0, I) and a standard deviation of 1."""

    def __init__(self, components: int, dim: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.randn(components, dim))
        self.log_var = nn.Parameter(torch.zeros(components, dim))

    def forward(self) -> Float[Tensor, "C O"]:
        """mu and log sigma^2."""
        return torch.cat([self.mu, self.log_var], dim=1)


class PseudoInputs(nn.Module):
    """What the encoder puts out for C learnt inputs: their posteriors are a VampPrior's parts.

    Source: Tomczak and Welling 2018, arXiv:1705.07120, eq. (9); the weights are equal there.

    Args:
        shape: of one input of the encoder.
        read: the encoder, as a bound method of its owner, whose weights stay the owner's.
    """

    def __init__(self, components: int, shape: tuple[int, ...], read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.randn(components, *shape))
        self.read = read

    @torch.no_grad()
    def start(self, y: Float[Tensor, "B ..."], *, generator: Generator) -> None:
        """Begins at some of these inputs, as often as it takes."""
        rows = torch.randperm(len(y), generator=generator, device=generator.device)[: len(self.inputs)]
        self.inputs.copy_(y[rows.repeat(-(-len(self.inputs) // len(rows)))[: len(self.inputs)].to(y.device)])

    def forward(self) -> Float[Tensor, "C O"]:
        """What the encoder puts out for each."""
        return self.read(self.inputs)


Prior = StandardNormal | Flow | Mixture


def prior_of(
    kind: PriorKind,
    dim: int,
    *,
    layers: int,
    components: int,
    context: int,
    law: Posterior,
    shape: tuple[int, ...],
    read: Callable[[Tensor], Tensor],
) -> Prior:
    """A prior of that kind over vectors of size ``dim``; what the others do not use is ignored.

    Args:
        layers: of a flow.
        components: of a mixture.
        context: E, size of a context (B, E) that a learnt prior is given; 0 for none.
        law: the posterior, of which a VampPrior is made.
        shape: of one input of the encoder.
        read: the encoder.

    Raises:
        Unusable: a flow of one number.
    """
    if kind == "flow" and dim == 1:
        raise Unusable("a flow bends one half of the latent by the other, got latent_dim 1; use the normal prior")
    if kind == "flow":
        return Flow(dim, layers=layers, context=context)
    if kind == "mixture":
        return Mixture(Learnt(components, dim), Diagonal(), components=components, dim=dim, context=context)
    if kind == "vamp" and not isinstance(law, InverseAutoregressive):
        parts = PseudoInputs(components, shape, read)
        return Mixture(parts, law, components=components, dim=dim, context=context)
    return StandardNormal(dim)
