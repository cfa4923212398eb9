"""The two players of the game as networks: a generator from noise to points, and a critic of points."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pofx.conditions import Condition
from pofx.domains import Images, Vectors
from pofx.models.adversarial.residual import ResidualDecoder, ResidualEncoder
from pofx.nn.conv import ConvDecoder, ConvEncoder, Norm
from pofx.nn.mlp import MLP, ConditionEmbedding

Network = Literal["mlp", "conv", "residual"]
Conditioning = Literal["projection", "concatenation"]
EMBEDDING = 32  # numbers that a condition is embedded in
GROUP = 4  # points of a batch whose spread a critic sees


class Generator(nn.Module):
    """g: noise z and a condition to a point; pictures in (-1, 1) by tanh, what is continuous without bounds."""

    def __init__(
        self,
        domain: Images | Vectors,
        condition: Condition | None,
        latent_dim: int,
        *,
        network: Network,
        hidden: tuple[int, ...],
        width: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.shape = domain.shape
        self.bounded = isinstance(domain, Images) and domain.levels is not None
        self.embedding = None if condition is None else ConditionEmbedding(condition, EMBEDDING)
        context = 0 if condition is None else EMBEDDING
        self.network: nn.Module
        if network == "mlp" or isinstance(domain, Vectors):
            self.network = MLP(latent_dim, hidden, domain.dims, context=context, activation=_bend(domain))
        elif network == "conv":
            bend = nn.ReLU if norm == "batch" else nn.SiLU
            self.network = ConvDecoder(domain, latent_dim, width=width, context=context, norm=norm, activation=bend)
        else:
            self.network = ResidualDecoder(domain, latent_dim, width=width, context=context)

    def forward(self, z: Float[Tensor, "B K"], c: Tensor | None) -> Float[Tensor, "B ..."]:
        """g(z, c)."""
        context = None if self.embedding is None else self.embedding(c)
        y = self.network(z, context).view(-1, *self.shape)
        return y.tanh() if self.bounded else y


class Critic(nn.Module):
    """f(x, c) = w . h(x) + e(c) . h(x), h ends in an activation, which makes the constant; or w . h(x, c).

    Source: projection: Miyato and Koyama 2018, arXiv:1802.05637, eq. (3). Packing: Lin et al. 2018, arXiv:1712.04086.
    Minibatch standard deviation: Karras et al. 2018, arXiv:1710.10196, section 3. Spectral norm: Miyato et al. 2018,
    arXiv:1802.05957.

    Args:
        packing: m; consecutive points are judged together, in packs of m, side by side as one point of m times as many
            channels.
        minibatch_std: h also sees how far the points of a group of 4 lie apart.
        spectral: every weight is divided by its largest singular value.
        octaves: of a perceptron, how many sines and cosines of each coordinate h reads beside it.
    """

    def __init__(
        self,
        domain: Images | Vectors,
        condition: Condition | None,
        *,
        network: Network,
        hidden: tuple[int, ...],
        width: int,
        norm: Norm,
        conditioning: Conditioning = "projection",
        packing: int = 1,
        minibatch_std: bool = False,
        spectral: bool = False,
        octaves: int = 0,
    ) -> None:
        super().__init__()
        self.packing, self.minibatch_std, self.octaves = packing, minibatch_std, octaves
        self.concatenates = condition is not None and conditioning == "concatenation"
        context = packing * EMBEDDING if self.concatenates else 0
        self.trunk: MLP | ConvEncoder | ResidualEncoder
        if isinstance(domain, Vectors) or network == "mlp":
            inputs = packing * domain.dims * (1 + 2 * octaves)
            self.trunk = MLP(inputs, hidden[:-1], hidden[-1], context=context, activation=_bend(domain))
        else:
            pack = replace(domain, channels=packing * domain.channels, palette=())
            if network == "conv":
                bend = nn.LeakyReLU if norm == "batch" else nn.SiLU
                self.trunk = ConvEncoder(pack, hidden[-1], width=width, context=context, norm=norm, activation=bend)
            else:
                self.trunk = ResidualEncoder(pack, hidden[-1], width=width, context=context)
        if minibatch_std:
            self.trunk.head = nn.Linear(self.trunk.head.in_features + 1, hidden[-1])
        self.activation = _bend(domain)()
        self.head = nn.Linear(hidden[-1], 1, bias=False)
        self.embedding = None if condition is None else ConditionEmbedding(condition, EMBEDDING)
        self.project = None
        if condition is not None and not self.concatenates:
            self.project = nn.Linear(packing * EMBEDDING, hidden[-1], bias=False)
        if spectral:
            for module in [m for m in self.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))]:
                spectral_norm(module)

    @property
    def alone(self) -> bool:
        """Whether each point is judged by itself."""
        normed = any(isinstance(module, nn.BatchNorm2d) for module in self.modules())
        return self.packing == 1 and not self.minibatch_std and not normed

    @property
    def lot(self) -> int:
        """How many consecutive points have a say in each other's scores, batch norm aside."""
        return self.packing * (GROUP if self.minibatch_std else 1)

    def hidden(self, y: Tensor, c: Tensor | None, *, group: int = GROUP) -> Float[Tensor, "P F"]:
        """h of each pack of points; the spread is that of ``group`` packs."""
        told = None
        if self.concatenates and self.embedding is not None:
            told = (self.embedding.absent().expand(len(y), -1) if c is None else self.embedding(c)).flatten()
            told = told.view(len(y) // self.packing, -1)
        y = packed(y, self.packing)
        if isinstance(self.trunk, MLP):
            y = in_octaves(y.flatten(1), self.octaves)
        h = self.trunk.hidden(y, told).flatten(1)
        if self.minibatch_std:
            h = torch.cat([h, _spread(h, group)], dim=1)
        return self.activation(self.trunk.finish(h, told) if isinstance(self.trunk, MLP) else self.trunk.head(h))

    def forward(self, y: Float[Tensor, "B ..."], c: Tensor | None) -> Float[Tensor, "P"]:
        """f(x, c) of each pack."""
        h = self.hidden(y, c)
        f = self.head(h).squeeze(1)
        if self.embedding is not None and self.project is not None:
            f = f + (self.project(self.embedding(c).reshape(len(h), -1)) * h).sum(1)
        return f.to(torch.promote_types(f.dtype, torch.float32))  # values of half precision would be too coarse a game


def packed(y: Float[Tensor, "B C ..."], m: int) -> Float[Tensor, "P mC ..."]:
    """Consecutive points side by side, m at a time."""
    return y if m == 1 else y.reshape(len(y) // m, m * y.shape[1], *y.shape[2:])


def in_octaves(y: Float[Tensor, "P D"], octaves: int) -> Float[Tensor, "P F"]:
    """y beside sin(2^k y) / 2^k and cos(2^k y) / 2^k, k below ``octaves``.

    A perceptron learns what varies slowly long before what varies fast. Divided by 2^k none of them is steeper than y
    (all together they are sqrt(1 + octaves) times as steep), so that a bound on slopes still leaves the slow ones
    first.

    Source: Tancik et al. 2020, arXiv:2006.10739, section 6.1, positional encoding, there not divided.
    """
    if not octaves:
        return y
    omega = 2.0 ** torch.arange(octaves, dtype=y.dtype, device=y.device)
    angle = y[:, :, None] * omega
    return torch.cat([y, (angle.sin() / omega).flatten(1), (angle.cos() / omega).flatten(1)], dim=1)


def _spread(h: Float[Tensor, "P F"], group: int) -> Float[Tensor, "P 1"]:
    """Standard deviation in groups of consecutive rows, as large as divides them, at most ``group``; mean over F."""
    size = next(g for g in range(min(group, len(h)), 0, -1) if len(h) % g == 0)
    groups = h.view(-1, size, h.shape[1])
    # the small term keeps the root differentiable where all are alike
    return (groups.var(1, correction=0) + 1e-8).sqrt().mean(1).repeat_interleave(size)[:, None]


def _bend(domain: Images | Vectors) -> type[nn.Module]:
    """Few dimensions with separate clusters need sharp turns, which kinks give sooner; pictures do not."""
    return nn.LeakyReLU if isinstance(domain, Vectors) else nn.SiLU
