"""The cheapest map from one law to another, for squared distances: the gradient of a convex function."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, expand, rows_for
from pofx.domains import Vectors, require
from pofx.errors import Unusable
from pofx.models.transport.conjugate import conjugate_point
from pofx.models.transport.potentials import Free, InputConvex, Potential
from pofx.nn.mlp import MLP, ConditionEmbedding
from pofx.nn.standardise import Standardise
from pofx.protocols import Loss
from pofx.randomness import randn, stream

Network = Literal["free", "convex"]
Units = Literal["columns", "common"]
EMBEDDING = 32
ROWS = 2**14  # of the source, of which mean and scale are taken
WEIGHT = 0.1  # of the guess in the loss; only what both networks read, a condition, is moved by it
EXACT = 60  # steps to an inverse that is asked for; one that is learnt from takes a few


class W2GAN(nn.Module):
    r"""The Monge map between two laws: of all T that carry x of the source to y of the target, that of least
    $E|T(x) - x|^2$. From noise it samples; from another data set it also says where each of its rows goes.

    T is the gradient of a convex potential (Brenier), which is the minimiser of
    $E_x[\phi(x)] + E_y[\phi^*(y)]$, with the conjugate $\phi^*(y) = \max_x \langle x, y\rangle - \phi(x)$. A second
    network guesses the maximiser, the inverse map; some steps of L-BFGS mend the guess, which learns from what they
    find. By the envelope theorem the maximiser is held where $\phi$ learns, so nothing is a minimax.

    Source: Makkuva et al. 2020, arXiv:1908.10962, eq. (5), (7), and Korotin et al. 2021, arXiv:1909.13082, eq. (8), for
    the dual; Amos 2022, arXiv:2210.12153, algorithm 1, with the regression loss of eq. (12), for how it is solved.

    Args:
        source: draws x, vectors of the target's size; none: noise of N(0, I).
        hidden: sizes of the hidden layers of both networks.
        network: of the potential: "free", or "convex" by the signs of its weights, which is convex everywhere, trained
            or not, and takes longer to be as near.
        strong_convexity: alpha, of the quadratic that the potential stands on.
        conjugate_steps: of L-BFGS, for each row and step of training; too few, and the potential learns to cheat them.
        units: that distance is measured in: each of the "columns" in its own standard deviation, that of the target, or
            all in a "common" one, so that the cost is that of the columns as they are.
    """

    def __init__(
        self,
        domain: Vectors,
        *,
        condition: Condition | None = None,
        source: Any = None,  # Samples | None
        hidden: tuple[int, ...] = (128, 128),
        network: Network = "free",
        strong_convexity: float = 0.05,
        conjugate_steps: int = 8,
        units: Units = "columns",
    ) -> None:
        super().__init__()
        require("w2-gan", domain, Vectors)
        _check(hidden, network, strong_convexity, conjugate_steps, units)
        self.domain, self.condition, self.source = domain, condition, source
        self.conjugate_steps, self.units = conjugate_steps, units
        context = 0 if condition is None else EMBEDDING
        self.embedding = None if condition is None else ConditionEmbedding(condition, EMBEDDING)
        deep = (InputConvex if network == "convex" else Free)(domain.dim, hidden, context=context)
        self.potential = Potential(domain.dim, deep, context=context, strong_convexity=strong_convexity)
        self.guess = MLP(domain.dim, hidden, domain.dim, context=context)
        self.target, self.origin = Standardise(domain.dim), Standardise(domain.dim)
        # The weights of a convex network are logarithms, nearly, and want larger steps.
        rate = 3e-2 if network == "convex" else 1e-2
        shared = {"optimiser": "adam", "schedule": "cosine", "clip": 0.0, "ema": 0.1}
        self.recipe: dict[str, Any] = shared | {"batch_size": 512, "learning_rate": rate}
        self.biased_gradient = "the maximiser in the conjugate is held, which is right where it is exact"

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Means and scales of target and source; the ratio of the two scales is one number, which keeps the map that
        of least cost.

        Raises:
            Unusable: the source is of another size than the target.
        """
        self.target.adapt(x)
        if self.units == "common":
            self.target.scale.fill_(self.target.scale.square().mean().sqrt())
        if self.source is None:
            return
        rows = self.source.sample(ROWS, generator=generator)
        if rows.shape[1:] != x.shape[1:]:
            raise Unusable(
                f"w2-gan maps vectors of one size, got a source of {rows.shape[1]} and a target of {x.shape[1]}; "
                "choose the same columns of both"
            )
        self.origin.mean.copy_(rows.mean(0))
        spread = ((rows - self.origin.mean) / self.target.scale).square().mean().sqrt()
        self.origin.scale.copy_(self.target.scale * spread.clamp_min(1e-12))

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """E[phi(x)] + E[<x_hat, y> - phi(x_hat)], its x_hat held, and a share of the squared miss of its guess."""
        y, c = self._inside(x), self._context(condition, len(x))
        x, guess, x_hat = self._moves(y, c, generator)
        here, there = self.potential(torch.cat([x, x_hat]), None if c is None else torch.cat([c, c])).chunk(2)
        dual = here.mean() + ((x_hat * y).sum(1) - there).mean()
        miss = (guess - x_hat).square().sum(1).mean()
        return Loss(dual + WEIGHT * miss, {"dual": dual.detach(), "miss": miss.detach()})

    def transport(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B D"]:
        """T(x), rows of the source to the target, as gradients of the potential.

        Raises:
            Unusable: x is not of the source's size, or not finite; a condition is needed that is not given.
        """
        x = self.origin(self.domain.check(x)).to(self.potential.quadratic)
        return self.target.inverse(self.potential.gradient(x, self._context(condition, len(x))))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B D"]:
        """Rows of the target to the source: the gradient of the conjugate, solved by L-BFGS from the guess."""
        y, c = self._inside(self.domain.check(y)), self._context(condition, len(y))
        return self.origin.inverse(self._maximiser(y, c, self._guess(y, c), steps=EXACT))

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator) -> Float[Tensor, "n D"]:
        """T(x) of n draws x of the source."""
        c = rows_for(self.condition, condition, n, generator=generator)
        x = self._drawn(n, generator).to(self.potential.quadratic)
        return self.target.inverse(self.potential.gradient(x, self._context(c, n)))

    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """The last hidden layer of the guess of the inverse, (B, hidden[-1])."""
        c = None if self.embedding is None else self.embedding.absent().expand(len(x), -1)
        return self.guess.hidden(self._inside(x), c)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """``cycle``: E|T(x_hat(y)) - y|^2 relative to the spread of y, with x_hat as training has it; the total
        standard deviation of samples relative to the data's; of a source that is data, the squared 2-Wasserstein
        distance by the dual, in ``units``.
        """
        y, c = self._inside(x), self._context(condition, len(x))
        x, _, x_hat = self._moves(y, c, stream(0, "meters", device=y.device))
        back, fake = self.potential.gradient(x_hat, c), self.potential.gradient(x, c)
        spread = (y - y.mean(0)).square().sum(1).mean().clamp_min(1e-12)
        meters = {
            "cycle": (back - y).square().sum(1).mean() / spread,
            "sample_spread": ((fake - fake.mean(0)).square().sum(1).mean() / spread).sqrt(),
        }
        if self.source is not None:
            dual = self.potential(x, c).mean() + ((x_hat * y).sum(1) - self.potential(x_hat, c)).mean()
            meters["w2_squared"] = self._squared_distance(x, y, dual)
        return meters

    def _squared_distance(self, x: Tensor, y: Tensor, dual: Tensor) -> Float[Tensor, ""]:
        """E|x|^2 + E|y|^2 - 2 E<x, T(x)>, whose last term is the dual, with x, y as the networks see them."""
        ratio = (self.origin.scale / self.target.scale).mean()
        shift = ((self.origin.mean - self.target.mean) / self.target.scale).square().sum()
        squared = ratio.square() * x.square().sum(1).mean() + y.square().sum(1).mean() - 2 * ratio * dual + shift
        return squared * self.target.scale[0].square() if self.units == "common" else squared

    def _moves(self, y: Tensor, c: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draws x; for each y the guess of its maximiser, and the maximiser, which nothing is learnt through."""
        x, guess = self._drawn(len(y), generator).to(y), self._guess(y, c)
        return x, guess, self._maximiser(y, c, guess.detach(), steps=self.conjugate_steps)

    def _guess(self, y: Tensor, c: Tensor | None) -> Tensor:
        return y + self.guess(y, c)

    def _maximiser(self, y: Tensor, c: Tensor | None, start: Tensor, *, steps: int) -> Tensor:
        return conjugate_point(lambda x: self.potential.gradient(x, c), y, start.detach(), steps=steps)

    def _drawn(self, n: int, generator: Generator) -> Float[Tensor, "n D"]:
        """Draws of the source as the potential sees them."""
        if self.source is None:
            return randn((n, self.domain.dim), generator=generator, device=generator.device)
        return self.origin(self.source.sample(n, generator=generator))

    def _inside(self, y: Tensor) -> Tensor:
        return self.target(y).to(self.potential.quadratic)

    def _context(self, condition: Tensor | None, n: int) -> Tensor | None:
        if self.condition is not None and condition is None:
            raise Unusable("a conditional w2-gan maps given a condition, got none; give one row per observation")
        c = expand(self.condition, condition, n)
        return None if self.embedding is None else self.embedding(c)


def _check(hidden: tuple[int, ...], network: str, strong_convexity: float, conjugate_steps: int, units: str) -> None:
    for name, value, kind in (("network", network, Network), ("units", units, Units)):
        if value not in get_args(kind):
            raise Unusable(f"w2-gan's {name} is one of {', '.join(get_args(kind))}, got {value!r}")
    if not hidden or min(hidden) < 1:
        raise Unusable(f"w2-gan needs one or more hidden sizes of at least 1, got {hidden}; (128, 128) is usual")
    if not 0 < strong_convexity < 1:
        raise Unusable(f"w2-gan needs strong_convexity in (0, 1), got {strong_convexity}; 0.05 is usual")
    if conjugate_steps < 1:
        raise Unusable(f"w2-gan needs conjugate_steps of at least 1, got {conjugate_steps}; 8 is usual")
