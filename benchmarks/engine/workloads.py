"""What is trained: one small form of each family, built as often as it is asked for, always from the same seed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import by_hand
import games_by_hand
import torch
from torch import Generator, Tensor, nn

from pofx.catalogue import find
from pofx.domains import Images, Tokens
from pofx.models.autoencoders.vae import VAE
from pofx.models.autoregressive.gpt import GPT
from pofx.models.diffusion.flow_matching import FlowMatching
from pofx.randomness import seeded_init, stream
from pofx.train.settings import Settings, settings_from

PLANNED = 1_000_000  # steps, of which a measurement makes the first few thousand


@dataclass(frozen=True)
class Workload:
    """A model, its data and how it is trained.

    Args:
        what: sizes, for people.
        untrained: builds the model.
        draw: so many observations, from a generator.
        batch: observations of a step.
        written: builds (parameters, loss) of the same model written by hand, where there is one; of a game, of both.
        derived: the same with gradients derived by hand.
        rows: observations to learn from; by default as many as MNIST has.
    """

    what: str
    untrained: Callable[[], nn.Module]
    draw: Callable[[int, Generator], Tensor]
    batch: int
    written: Callable | None = None
    derived: Callable | None = None
    rows: int = 60_000

    @cached_property
    def x(self) -> Tensor:
        """What it learns from."""
        return self.draw(self.rows, stream(0, "benchmark"))

    def model(self) -> nn.Module:
        """From the same seed at every call."""
        with seeded_init(0):
            model = self.untrained()
        if hasattr(model, "adapt"):
            model.adapt(self.x, generator=stream(0, "adapt"))
        return model

    def settings(self, model: nn.Module, **given) -> Settings:
        """The model's recipe, but for what the bare loop leaves out: Muon and warm-up."""
        shared = {"batch_size": self.batch, "optimiser": "adamw", "schedule": "cosine", "warmup": 0.0}
        return settings_from(model.recipe, shared | given)


def pictures(side: int, levels: int) -> Callable[[int, Generator], Tensor]:
    """Noisy copies of ten prototypes."""

    def draw(n: int, g: Generator) -> Tensor:
        prototypes = torch.rand(10, 1, side, side, generator=g)
        y = 0.5 * prototypes[torch.randint(10, (n,), generator=g)] + 0.5 * torch.rand(n, 1, side, side, generator=g)
        return (levels * y).floor().clamp(max=levels - 1).to(torch.uint8)

    return draw


def symbols(vocabulary: int, length: int) -> Callable[[int, Generator], Tensor]:
    """Symbols that all follow one another equally often."""
    return lambda n, g: torch.randint(vocabulary, (n, length), generator=g)


_DIGITS, _BINARY = Images(1, 8, 8, levels=17), Images(1, 28, 28, levels=2)


def _game(name: str, domain: Images) -> nn.Module:
    return find(name).build(domain, width=32)  # as wide as those by hand


GAMES = (
    ("wgan-gp", 3, games_by_hand.wgan_gp),
    ("gan", 1, games_by_hand.gan),
    ("sngan", 1, games_by_hand.sngan),
    ("r3gan", 1, games_by_hand.r3gan),
)

WORKLOADS = {
    "vae-1ms": Workload(
        "VAE 64-64-8, 17 levels, batch 32",
        lambda: VAE(_DIGITS, latent_dim=8, hidden=(64,)),
        pictures(8, 17),
        batch=32,
    ),
    "vae-digits": Workload(
        "VAE 64-256-256-16, 17 levels, batch 128",
        lambda: VAE(_DIGITS, latent_dim=16, hidden=(256, 256)),
        pictures(8, 17),
        batch=128,
        written=by_hand.logistic_vae,
    ),
    "vae-10ms": Workload(
        "VAE 784-400-20, 2 levels, batch 128",
        lambda: VAE(_BINARY, latent_dim=20, hidden=(400,), network="mlp"),
        pictures(28, 2),
        batch=128,
        written=by_hand.bernoulli_vae,
        derived=by_hand.derived_vae,
    ),
    "gpt": Workload(
        "GPT of 2 layers, width 32, 32 symbols of 65, batch 8",
        lambda: GPT(Tokens(65, 32), width=32, layers=2, heads=2, grams=1),
        symbols(65, 32),
        batch=8,
    ),
    "flow-matching": Workload(
        "U-Net of width 16 on 8x8, 17 levels, batch 16",
        lambda: FlowMatching(_DIGITS, width=16),
        pictures(8, 17),
        batch=16,
    ),
    **{
        name: Workload(
            f"MLPs of 192-192 on 8x8, 17 levels, batch 64, {steps} critic steps a round",
            partial(_game, name, _DIGITS),
            pictures(8, 17),
            batch=64,
            written=partial(written, games_by_hand.mlp_pair, levels=17),
        )
        for name, steps, written in GAMES
    },
    **{
        f"{name}-conv": Workload(
            f"convolutions of width 32 on 28x28, 2 levels, batch 64, {steps} critic steps a round",
            partial(_game, name, _BINARY),
            pictures(28, 2),
            batch=64,
            written=partial(written, games_by_hand.conv_pair, levels=2),
        )
        for name, steps, written in GAMES
    },
}
