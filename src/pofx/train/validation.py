"""The weights that do best on the validation split are the ones that are kept, scored and sampled."""

import torch
from torch import Tensor, nn

from pofx.data.dataset import Batch
from pofx.nn.modes import evaluating
from pofx.protocols import Bounds, Learns, Plays, Scores, capabilities
from pofx.randomness import Shared, stream
from pofx.world import ALONE, World


class Validation:
    """Measures a model on fixed rows of the validation split; higher is better.

    The measure is the exact log-likelihood, else the bound, else (for a model that only estimates its likelihood, at a
    cost) minus the loss under fixed noise. A game of several without a likelihood has none, and keeps its last weights.

    Args:
        rows: observations and their condition rows.
        batch_size: how many at a time.
        seed: of the fixed noise.
        world: the processes that share the rows.
    """

    def __init__(self, rows: Batch, *, batch_size: int, seed: int, world: World = ALONE) -> None:
        self.x, self.c = rows
        self.world = world
        self.batch_size, self.seed = batch_size, seed
        self.best: dict[str, Tensor] | None = None
        self.best_value = float("-inf")
        self.best_step = 0

    @staticmethod
    def name_for(model: nn.Module) -> str | None:
        """What is measured: "log_prob", "elbo", "minus_loss", or None."""
        able = capabilities(model)
        names = {Scores: "log_prob", Bounds: "elbo"}
        for protocol, name in names.items():
            if protocol in able:
                return name
        alone = Plays not in able or len(model.turns()) == 1  # type: ignore[operator]
        return "minus_loss" if Learns in able and alone else None

    @torch.no_grad()
    def measure(self, model: nn.Module) -> float:
        """Mean over the rows, in nats per observation (the loss: in its own scale)."""
        name = self.name_for(model)
        generator = stream(self.seed, "validation", device=self.x.device)
        total = torch.zeros((), dtype=torch.float64, device=self.x.device)
        with evaluating(model):
            for start in range(0, len(self.x), self.batch_size):
                x = self.x[start : start + self.batch_size]
                c = None if self.c is None else self.c[start : start + self.batch_size]
                total += self._mean_over(model, name, x, c, generator) * len(x)
        return float(self.world.mean(total)) / len(self.x)

    def _mean_over(
        self, model: nn.Module, name: str | None, x: Tensor, c: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """The mean over a batch; of several processes, over this one's rows of it, if they can share it evenly."""
        rank, size = self.world.rank, self.world.size
        if size == 1 or len(x) % size:
            return _measured(model, name, x, c, generator)
        share = Shared.of(generator, rank, size)
        c = None if c is None else c.chunk(size)[rank]
        value = _measured(model, name, x.chunk(size)[rank], c, share)
        generator.set_state(share.get_state())
        return value

    def consider(self, model: nn.Module, step: int) -> float:
        """Measures the model and keeps its weights if they are the best so far."""
        value = self.measure(model)
        if value > self.best_value:
            self.best_value, self.best_step = value, step
            self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return value


def _measured(model: nn.Module, name: str | None, x: Tensor, c: Tensor | None, generator: torch.Generator) -> Tensor:
    if name == "log_prob":
        return model.log_prob(x, c).mean()  # type: ignore[operator]
    if name == "elbo":
        return model.elbo(x, c, generator=generator).mean()  # type: ignore[operator]
    return -model.loss(x, c, generator=generator).total  # type: ignore[operator]
