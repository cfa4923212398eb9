"""What stands before the first round of a run: its arguments told apart, a model, settings, rounds and their number."""

import inspect
from typing import Any

import torch

from pofx import data as sources
from pofx.building import build
from pofx.catalogue import Entry
from pofx.conditions import condition_to_config
from pofx.data.dataset import Data
from pofx.domains import Images
from pofx.errors import Unusable, nearest
from pofx.frozen import give_weights, recorded
from pofx.protocols import Adapts, capabilities
from pofx.randomness import stream
from pofx.runs import Run
from pofx.train.course import VALIDATIONS
from pofx.train.loop import Trainer, compiled
from pofx.train.plan import fastest_threads, measured_round, planned_rounds, use_threads
from pofx.train.settings import Settings, settings_from
from pofx.train.watch import Watcher
from pofx.world import World

DEFAULT_BUDGET = 120.0
VALIDATION_ROWS = 256
DRAW_BUDGET = 20.0  # seconds: a shorter run draws its last sheet only


def sorted_arguments(entry: Entry, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What was given by name, as arguments of the model, options of the source, and training settings.

    Raises:
        Unusable: a name that is none of them; the nearest that is one is named.
    """
    own, options = entry.hyperparameters(), inspect.signature(sources.load).parameters
    for name in given:
        if name not in (*own, *options, *Settings.names()):
            raise Unusable(f"{entry.name} has no argument {name!r}{nearest(name, [*own, *options, *Settings.names()])}")
    arguments = {name: value for name, value in given.items() if name in own}
    source_options = {name: value for name, value in given.items() if name in options and name not in own}
    return arguments, source_options, {k: v for k, v in given.items() if k not in arguments | source_options}


def split_seed(seed: int, data_seed: int | None, autoencoder: Run | None) -> int:
    """Of the split: what is given; else the autoencoder's, which has learnt from its own training split; else seed."""
    if data_seed is not None:
        return data_seed
    return seed if autoencoder is None else autoencoder.config["data_seed"]


def described(data: Data, autoencoder: Run | None) -> dict[str, Any]:
    """What a run keeps of its data, and of the autoencoder whose codes it models: enough to know them again."""
    latent = {} if autoencoder is None else {"latent": recorded(autoencoder, data)}
    return latent | {
        "domain": data.domain.to_config(),
        "condition": condition_to_config(data.condition),
        "data": {
            "fingerprint": data.fingerprint(),
            "split": data.split,
            "observations": {name: data.part(name).observations for name in ("train", "validation", "test")},
        },
    }


def settings_for(network: Any, given: dict[str, Any], observations: int) -> Settings:
    """The model's recipe under what was given. Refused: a batch larger than the data, if asked for, or too small."""
    recipe = dict(getattr(network, "recipe", {}))
    if given.get("batch_size", 1) > observations:
        raise Unusable(
            f"--batch-size must be at most the {observations} training observations, got {given['batch_size']}"
        )
    if "batch_size" in recipe:
        recipe["batch_size"] = min(recipe["batch_size"], observations)
    if "steps" in given or "budget" in given:
        recipe.pop("budget", None)
    settings = settings_from(recipe, given)
    least = getattr(network, "least_batch", 1) * settings.accumulate
    if settings.batch_size < least:
        raise Unusable(
            f"--batch-size must be at least {least}, as so many are judged together, got {settings.batch_size}; "
            "take a larger one, or a smaller --packing"
        )
    if settings.steps is None and settings.budget is None:
        return settings_from(recipe, given | {"budget": DEFAULT_BUDGET})
    return settings


def adapted(config: dict[str, Any], data: Data, device: str) -> Any:
    """The untrained model on its device, with what is counted rather than descended learnt from the training split."""
    network = build(config, data.domain, data.condition)
    if "latent" in config:
        give_weights(network, config)
    network.to(device)
    if Adapts in capabilities(network):
        x, c = data.train.to(device).rows()
        network.adapt(x, c, generator=stream(config["seed"], "adapt", device=device))
    return network


def trainer_for(
    network: Any, data: Data, settings: Settings, config: dict[str, Any], world: World, watcher: Watcher
) -> Trainer:
    """The rounds of a run, compiled if that was asked for."""
    if world.device.startswith("cuda") and isinstance(data.domain, Images):
        network.to(memory_format=torch.channels_last)  # what its convolutions are fastest on
    planned = config.get("planned") or settings.steps or 1
    part = data.train.to(world.device)
    trainer = Trainer(network, part, settings, planned=planned, seed=config["seed"], world=world)
    if settings.precision == "bf16" and world.device == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        watcher.said("--precision bf16: this processor has no bf16 of its own, so expect steps about 8 times as long")
    if settings.compile and trainer.players:
        compiled(
            network.prior if "latent" in config else network, lambda: measured_round(trainer, seconds=0.0), watcher.said
        )
    return trainer


def planned_for(trainer: Trainer, settings: Settings) -> dict[str, Any]:
    """Sets the number of rounds; gives the threads that compute them, and the validation rows they leave time for."""
    rows, threads = VALIDATION_ROWS, settings.threads or most_threads(trainer.world)
    if not trainer.players:
        trainer.planned = 0
    elif settings.steps is None:
        assert settings.budget is not None
        probe = 0.02 * settings.budget
        if settings.threads is None and trainer.world.size == 1:
            threads, each = fastest_threads(trainer, seconds=probe)
        else:
            with use_threads(threads):
                each = measured_round(trainer, seconds=probe)
        trainer.planned = trainer.world.agreed(planned_rounds(each, settings.budget))
        # Scoring a row costs about as much as training on one: validation gets about a twentieth of the time.
        rows = max(32, int(0.05 * trainer.planned * trainer.observations / VALIDATIONS))
    rows = settings.validation_rows or min(rows, 2000)
    return {"planned": trainer.planned, "threads": threads, "validation_rows": rows}


def most_threads(world: World) -> int:
    """Threads of each process: together as many as there are cores."""
    return max(1, torch.get_num_threads() // world.size) if world.size > 1 else torch.get_num_threads()
