"""pofx's gpt, trained by pofx's own loop and recipe."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shakespeare import BLOCK
from torch import Tensor

from pofx.data.dataset import Windows
from pofx.domains import Tokens
from pofx.models.autoregressive.gpt import GPT
from pofx.randomness import seeded_init
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

TOKENS = 1_536_000  # what nanoGPT trains on by default


@dataclass(frozen=True)
class Recipe:
    """gpt's arguments, and the training settings that differ from its own recipe."""

    gpt: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> "Recipe":
        """With some arguments or settings changed, told apart by their names."""
        settings = {name: changes.pop(name) for name in [*changes] if name in SETTINGS}
        return Recipe(self.gpt | changes, self.settings | settings)


SETTINGS = (
    "steps", "batch_size", "learning_rate", "muon_learning_rate", "optimiser", "beta1", "beta2", "weight_decay",
    "schedule", "warmup", "cooldown", "clip", "ema",
)  # fmt: skip


def train(text: Tensor, vocabulary: int, recipe: Recipe, seed: int) -> tuple[GPT, float]:
    """The trained model and the CPU seconds of its training.

    Windows have 65 symbols: the first is read to predict the other 64, as nanoGPT's are. It is predicted too, from
    nothing, and counts among the tokens trained on.
    """
    began = time.process_time()
    with seeded_init(seed):
        model = GPT(Tokens(vocabulary, BLOCK + 1), **recipe.gpt)
    settings = settings_from(model.recipe, recipe.settings)
    assert settings.steps is not None
    trainer = Trainer(model, Windows(text, BLOCK + 1), settings, planned=settings.steps, seed=seed)
    for _ in range(settings.steps):
        trainer.round()
    return model, time.process_time() - began


def nats(model: GPT) -> Callable[[Tensor], Tensor]:
    """As ``loss_over`` wants them: of all but the first symbol of each window."""
    return lambda windows: -model.conditionals(windows)[:, 1:]
