"""The values of the game: what the critic f descends, and what the generator g does.

Each is a function of the critic's scores f of real points and of generated ones. Where f is left to find its best
answer, the value is a distance between the law of the data and that of g.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

Name = Literal["saturating", "non-saturating", "least-squares", "hinge", "relativistic", "wasserstein"]
Side = Callable[[Float[Tensor, "B"], Float[Tensor, "B"]], Float[Tensor, ""]]


@dataclass(frozen=True)
class Value:
    """What each player minimises, of (f_real, f_fake).

    Args:
        paired: the generator's side looks at f_real too.
    """

    critic: Side
    generator: Side
    paired: bool = False


def _cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(g(z)))] with D = sigmoid(f); at the best D it is log 4 - 2 JS(p_data, p_g)."""
    return softplus(-real).mean() + softplus(fake).mean()


def _saturating(real: Tensor, fake: Tensor) -> Tensor:
    """E[log(1 - D(g(z)))]: the very value that the critic descends the negative of. Flat where D is sure of itself."""
    return -softplus(fake).mean()


def _non_saturating(real: Tensor, fake: Tensor) -> Tensor:
    """-E[log D(g(z))]: steep just where the other is flat."""
    return softplus(-fake).mean()


def _squares(real: Tensor, fake: Tensor) -> Tensor:
    """(E[(f(x) - 1)^2] + E[f(g(z))^2]) / 2."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def _square(real: Tensor, fake: Tensor) -> Tensor:
    """E[(f(g(z)) - 1)^2] / 2."""
    return (fake - 1).square().mean() / 2


def _margins(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - f(x))] + E[max(0, 1 + f(g(z)))]."""
    return torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()


def _raised(real: Tensor, fake: Tensor) -> Tensor:
    """-E[f(g(z))]."""
    return -fake.mean()


def _pairs(real: Tensor, fake: Tensor) -> Tensor:
    """E[log(1 + exp(f(g(z)) - f(x)))]: one point is judged beside another, never alone."""
    return softplus(fake - real).mean()


def _swapped(real: Tensor, fake: Tensor) -> Tensor:
    """The same with the parts exchanged."""
    return softplus(real - fake).mean()


def _gap(real: Tensor, fake: Tensor) -> Tensor:
    """E[f(g(z))] - E[f(x)]: minus the Wasserstein-1 distance where f is the best of slope one."""
    return fake.mean() - real.mean()


VALUES: Mapping[Name, Value] = {
    "saturating": Value(_cross_entropy, _saturating),  # Goodfellow et al. 2014, arXiv:1406.2661, eq. (1)
    "non-saturating": Value(_cross_entropy, _non_saturating),  # the same, section 3
    "least-squares": Value(_squares, _square),  # Mao et al. 2017, arXiv:1611.04076, eq. (2) with a = 0, b = c = 1
    "hinge": Value(_margins, _raised),  # Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957
    "relativistic": Value(_pairs, _swapped, paired=True),  # Jolicoeur-Martineau 2018, arXiv:1807.00734, section 4.1
    "wasserstein": Value(_gap, _raised),  # Arjovsky et al. 2017, arXiv:1701.07875, eq. (2) and (3)
}
