"""The sparse autoencoder: x as a sum of few atoms out of a large dictionary."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.conditions import Classes, Condition, dropped, expand
from pofx.distributions import Independent, likelihood
from pofx.domains import Domain, Images, Vectors, require
from pofx.errors import Unusable
from pofx.models.autoencoders.sparse_codes import Activation, sparsity_of
from pofx.models.autoencoders.vector_latent import check_weights, one_of
from pofx.nn.mlp import ConditionEmbedding
from pofx.nn.standardise import Standardise
from pofx.protocols import Loss, Progress, Turn
from pofx.randomness import rows_of

MOST = 8192  # latents, unless told
DROP = 0.1  # share of the conditions hidden in training, so that x can be encoded without its condition
_ROWS = 1024  # measured at once

_COUNTED: tuple[Activation, ...] = ("topk", "batch-topk")  # told how many fire; the others pay a price
_PRICES: dict[Activation, float] = {"l1": 0.05, "gated": 0.05, "jumprelu": 3e-3}


class SparseAutoencoder(nn.Module):
    r"""$\hat x = b + W_d f(W_e (x - b) + b_e)$ with more latents than dimensions, of which few fire; atoms have norm 1.

    x is centred and measured in one unit, in which its dimensions have variance 1 on average. Minimised is the squared
    error per dimension, the price of the activation, and 1/32 of the error with which the largest of those latents that
    no longer fire explain what the others leave: a dead latent has no gradient but this.

    "batch-topk" chooses from all rows at hand: in pieces (several processes, ``--accumulate``) each piece from its own,
    and the threshold follows the mean of theirs.

    Source: Gao et al. 2024, arXiv:2406.04093, sections 2.3 (top-k) and A.2 (dead latents, tied start); the other
    activations: ``sparse_codes.py``.

    Args:
        dictionary: M, latents; None: 16 for each dimension, at most 8192 or as many as there are dimensions.
        k: of "topk" and "batch-topk": how many fire (on average, of a batch); None: one for four dimensions, up to 32.
        activation: "topk", "batch-topk", "l1", "gated" or "jumprelu".
        sparsity: of the other three: price of the code's length or, of "jumprelu", of each that fires; None: 0.05, and
            0.003 of "jumprelu".
        bandwidth: of "jumprelu": how near a threshold gradients see it.
        auxiliary: weight of the error that dead latents are to explain; 0 for none.
        dead_after: observations without firing after which a latent is dead.
    """

    silent: Tensor

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        dictionary: int | None = None,
        k: int | None = None,
        activation: Activation = "topk",
        sparsity: float | None = None,
        bandwidth: float = 0.1,
        auxiliary: float = 1 / 32,
        dead_after: int = 50_000,
    ) -> None:
        super().__init__()
        require("sparse-autoencoder", domain, Images, Vectors)
        _check_arguments(activation, dictionary, k, sparsity, bandwidth, auxiliary, dead_after)
        dim = domain.dims
        self.domain, self.condition = domain, condition
        self.dictionary = dictionary or max(dim, min(16 * dim, MOST))
        k = min(32, max(1, dim // 4), self.dictionary) if k is None else k
        if k > self.dictionary:
            raise Unusable(f"k must be at most the {self.dictionary} latents, got {k}; take fewer, or more latents")
        self.auxiliary, self.dead_after = auxiliary, dead_after
        self.standardise = Standardise(dim)
        self.p = likelihood(domain, "normal", standardise=self.standardise if isinstance(domain, Vectors) else None)
        self.encoder = nn.Linear(dim, self.dictionary, bias=activation != "gated")  # whose parts have one each
        self.atoms = nn.Parameter(F.normalize(torch.randn(self.dictionary, dim), dim=1))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.given = None if condition is None else ConditionEmbedding(condition, dim)
        price = _PRICES.get(activation, 0.0) if sparsity is None else sparsity
        self.activation = sparsity_of(activation, self.dictionary, k=k, price=price, bandwidth=bandwidth)
        self.register_buffer("silent", torch.zeros(self.dictionary, dtype=torch.int64))  # observations since it fired
        self._begin(counted=activation in _COUNTED)
        if activation == "batch-topk":
            self.whole_batch = "those that fire are chosen from a whole batch, so pieces choose their own"
        if activation in ("gated", "jumprelu"):
            self.biased_gradient = (
                "steps have no gradient: thresholds learn by an estimate, gates from a loss of their own"
            )
        self.recipe = {"batch_size": 512, "learning_rate": 2e-3, "ema": 0.0}

    @torch.no_grad()
    def _begin(self, *, counted: bool) -> None:
        """The encoder starts as the decoder's transpose; where half of all fire, in a size that then adds up to x."""
        self.encoder.weight.copy_(self.atoms)
        if self.encoder.bias is not None:
            nn.init.zeros_(self.encoder.bias)
        if not counted:
            self.encoder.weight.mul_(min(1.0, 2 * self.domain.dims / self.dictionary))
        if self.given is not None and isinstance(self.condition, Classes):
            nn.init.zeros_(cast(nn.Embedding, self.given.rows).weight)

    @property
    def latent_domain(self) -> Vectors:
        """What a prior of the code models."""
        return Vectors(self.dictionary)

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Takes the mean, and one unit for all dimensions, from the training split."""
        self.standardise.adapt(self._flat(x))
        self.standardise.scale.fill_(self._flat(x).var(0, correction=0).mean().sqrt().clamp(min=1e-6))

    def turns(self) -> tuple[Turn, ...]:
        """One player; after a step it is counted who fired."""
        parameters = tuple(p for p in self.parameters() if p.requires_grad)
        return (Turn("autoencoder", parameters, self.loss, after=self._count),)

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """Squared error per dimension, as a share of the variance, and what the activation and dead latents add."""
        c = dropped(self.condition, condition, len(x), DROP, generator=generator)
        y, atoms = self._centred(x, c), self.directions
        pre = self.encoder(y)
        code = self.activation.trained(pre)
        error = y - code.decoded(atoms)
        parts = {"reconstruction": error.square().mean(), **self.activation.penalty(pre, code, y, atoms)}
        if (dead := self._dead()) is not None:
            parts["dead"] = self.auxiliary * self._unexplained(pre, error.detach(), atoms, dead)
        total = torch.stack(list(parts.values())).sum()
        shares = code.shares()
        rows = torch.tensor(float(rows_of(generator, len(x))[1]), device=x.device)  # of the whole batch
        return Loss(total, parts | {"l0": shares.sum()}, self.activation.carry(code) | {"fired": shares, "rows": rows})

    def _dead(self) -> Tensor | None:
        """Latents that are dead, or None: a value is waited for, as ``after`` does anyway."""
        if not self.auxiliary:
            return None
        dead = (self.silent >= self.dead_after).nonzero()[:, 0]
        return dead if len(dead) else None

    def _unexplained(self, pre: Tensor, error: Tensor, atoms: Tensor, dead: Tensor) -> Float[Tensor, ""]:
        """|e - W_d z|^2 / D with z the largest of the dead latents, half as many as there are dimensions.

        Source: Gao et al. 2024, arXiv:2406.04093, section A.2.
        """
        few = min(len(dead), max(1, error.shape[1] // 2))
        values, chosen = self.activation.strength(pre)[:, dead].topk(few, dim=1, sorted=False)
        explained = F.embedding_bag(dead[chosen], atoms, mode="sum", per_sample_weights=values.relu().to(atoms.dtype))
        return (error - explained).square().mean()

    @torch.no_grad()
    def _count(self, carry: dict[str, Tensor], progress: Progress) -> None:
        waited = self.silent + carry["rows"].long()
        self.silent.copy_(torch.where(carry["fired"] > 0, 0, waited))
        self.activation.after(carry, progress)

    def encode(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "B M"]:
        """The code, mostly zeros; there is nothing to draw. A condition that is not given is the null."""
        return self.activation(self.encoder(self._centred(x, condition))).dense()

    def decode(self, z: Float[Tensor, "*B M"], condition: Tensor | None = None) -> Independent:
        """p(x|z): a normal of unit spread, in the unit that x is measured in, around b + W_d z."""
        y = z @ self.directions + self._offset(condition, z.shape[-2])
        if isinstance(self.domain, Vectors):
            return self.p(torch.stack([y, torch.zeros_like(y)], dim=-2))
        mu = self.standardise.inverse(y)
        log_var = 2 * self.standardise.scale.log().expand_as(mu)
        return self.p(torch.stack([mu, log_var], dim=-2).unflatten(-1, self.domain.shape))

    def features(self, x: Tensor) -> Float[Tensor, "B M"]:
        """The code, without a condition."""
        return self.encode(x)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """How many fire for an observation, what share of the variance they explain, and what share never fires:
        neither in the last ``dead_after`` training observations (dead), nor for any of x (silent).
        """
        c = expand(self.condition, condition, len(x))
        mean = self.standardise(self._flat(x).double()).mean(0)
        count, error, total = (torch.zeros((), dtype=torch.float64, device=x.device) for _ in range(3))
        fired = torch.zeros(self.dictionary, dtype=torch.bool, device=x.device)
        for start in range(0, len(x), _ROWS):
            rows = x[start : start + _ROWS]
            y = self._centred(rows, None if c is None else c[start : start + _ROWS])
            code = self.activation(self.encoder(y))
            count += code.shares().sum() * len(rows)
            fired |= code.shares() > 0
            error += (y - code.decoded(self.directions)).square().sum()
            total += (self.standardise(self._flat(rows)) - mean).square().sum()
        return {
            "l0": count / len(x),
            "variance_explained": 1 - error / total.clamp(min=1e-12),
            "dead_share": (self.silent >= self.dead_after).double().mean(),
            "silent_share": (~fired).double().mean(),
        }

    @property
    def directions(self) -> Float[Tensor, "M D"]:
        """W_d: the atoms, of norm 1."""
        return F.normalize(self.atoms, dim=1)

    def _centred(self, x: Tensor, condition: Tensor | None) -> Float[Tensor, "B D"]:
        """x - b, in units."""
        return self.standardise(self._flat(x)) - self._offset(condition, len(x))

    def _offset(self, condition: Tensor | None, n: int) -> Float[Tensor, "N D"]:
        """b, and what a condition adds to it; the null's where none is given."""
        c = expand(self.condition, condition, n)
        if self.condition is None or self.given is None:
            return self.bias[None]
        c = self.condition.null(n).to(self.bias.device) if c is None else c
        return self.bias + self.given(c)

    def _flat(self, x: Tensor) -> Float[Tensor, "B D"]:
        """Vectors as they are, pictures in [-1, 1] as one row of numbers."""
        return self.domain.centre(x).to(self.bias.dtype).flatten(1) if isinstance(self.domain, Images) else x


def _check_arguments(
    activation: str,
    dictionary: int | None,
    k: int | None,
    price: float | None,
    bandwidth: float,
    auxiliary: float,
    dead_after: int,
) -> None:
    one_of("activation", activation, (*_COUNTED, *_PRICES))
    for name, size in {"dictionary": dictionary, "k": k, "dead_after": dead_after}.items():
        if size is not None and size < 1:
            raise Unusable(f"{name} must be at least 1, got {size}; leave it out for the default")
    if k is not None and activation not in _COUNTED:
        raise Unusable(f"k says how many fire of {' and '.join(_COUNTED)}, and {activation} learns it; give sparsity")
    if price is not None and activation not in _PRICES:
        raise Unusable(f"sparsity is a price, and {activation} is told how many fire; give k, or another activation")
    check_weights(sparsity=0.0 if price is None else price, auxiliary=auxiliary)
    if not 0 < bandwidth < float("inf"):
        raise Unusable(f"bandwidth must be above 0, got {bandwidth}; leave it out for 0.1")
