"""What a run will take, before it is begun: parameters, memory, operations, time here and on other devices.

Nothing of it is guessed from tables. The model is built as ``fit`` builds it, plays a few rounds that are undone,
scores, draws and saves once; what the run does many times is then multiplied.
"""

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pofx import data as sources
from pofx.catalogue import find
from pofx.data.dataset import Data, Part
from pofx.errors import Unusable
from pofx.evaluate.operations import Operations
from pofx.evaluate.spending import Spent, held, spent
from pofx.frozen import autoencoder_run, recorded
from pofx.origins import recorded_origin
from pofx.preparing import DRAW_BUDGET, adapted, planned_for, settings_for, sorted_arguments, split_seed, trainer_for
from pofx.protocols import Samples, capabilities
from pofx.randomness import stream
from pofx.rendering import Sampled, natural_suffix
from pofx.runs import CHUNK, chosen_device, lasting, reading
from pofx.samplers.chunks import sample_many
from pofx.train import checkpoint
from pofx.train.course import DRAWINGS, SAVE_SECONDS, VALIDATIONS
from pofx.train.loop import Player, Trainer
from pofx.train.plan import measured_round, undone, use_threads
from pofx.train.settings import seconds, settings_from
from pofx.train.validation import Validation
from pofx.train.watch import Watcher
from pofx.world import World

PROBE_SECONDS, PROBE_ROUNDS = 2.0, 5
UTILISATION = 0.4  # of a device's stated rate: what well fed transformers reach; small networks reach far less


@dataclass(frozen=True)
class Devices:
    """Several devices of a stated rate.

    Args:
        count: of them.
        rate: floating-point operations per second of each.
        utilisation: the share of that rate which training is taken to reach.
    """

    count: int
    rate: float
    utilisation: float = UTILISATION

    @classmethod
    def parse(cls, text: str, utilisation: float = UTILISATION) -> "Devices":
        """ "8x400": eight devices of 400 TFLOP/s each.

        >>> Devices.parse("8x400")
        Devices(count=8, rate=400000000000000.0, utilisation=0.4)
        """
        parts = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+\.?\d*)", text.strip())
        if not parts or not int(parts[1]) or not float(parts[2]):
            raise Unusable(f"--on is devices x TFLOP/s of each, such as 8x400, got {text!r}")
        if not 0 < utilisation <= 1:
            raise Unusable(f"--utilisation must be in (0, 1], got {utilisation}; 0.4 is usual")
        return cls(int(parts[1]), float(parts[2]) * 1e12, utilisation)


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Args:
        model, source, device, threads: of the run.
        parameters: that gradients move.
        steps: rounds of training.
        observations: that one round visits.
        flops: of one round: two for each multiply-add of matrix products, convolutions and attention, forward, backward
            and in the optimiser; what is done element by element is not counted.
        round_seconds: median of a few rounds here.
        memory: bytes, by what they are for. What stays: "base" (the process with its data before the model is built; on
            a GPU the data alone), "weights", "optimiser", "average", "best weights". What comes and goes in a step:
            "gradients" and "activations" of the largest turn, both counted (activations: what one loss saves for its
            gradient), "workspace", what a few steps were measured to need beyond that, and "validation" and "sheet",
            what is measured to come on top. At other times: "loading" the data, measured, and "saving" a checkpoint,
            counted.
        seconds: by what they go to: "setup", "probe", "rounds", "validation", "sheets", "checkpoints", "last sheet".
        data_bytes: of all splits.
    """

    model: str
    source: str
    device: str
    threads: int
    parameters: int
    steps: int
    observations: int
    flops: float
    round_seconds: float
    memory: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    data_bytes: int = 0

    @property
    def peak(self) -> int:
        """Bytes at the highest: what stays, and the largest of what comes and goes."""
        m = self.memory
        stays = sum(m[name] for name in ("base", "weights", "optimiser", "average", "best weights"))
        training = m["gradients"] + m["activations"] + m["workspace"] + max(m["validation"], m["sheet"])
        return stays + max(training, m["loading"], m["saving"])

    @property
    def training_seconds(self) -> float:
        """What the run will store as its training time."""
        return sum(self.seconds[name] for name in ("rounds", "validation", "sheets", "checkpoints"))

    @property
    def total_seconds(self) -> float:
        """From loaded code to the last sheet."""
        return sum(self.seconds.values())

    def seconds_on(self, devices: Devices) -> float:
        """Of the rounds alone, were they spread evenly over other devices, at no cost of communication."""
        return self.steps * self.flops / (devices.count * devices.rate * devices.utilisation)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with what follows from them."""
        follows = {"peak": self.peak, "training_seconds": self.training_seconds, "total_seconds": self.total_seconds}
        return asdict(self) | follows


def plan(
    model: str,
    source: str,
    *,
    steps: int | None = None,
    budget: str | float | None = None,
    condition: str = "none",
    latent: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    data: Data | None = None,
    data_seed: int | None = None,
    features: str | None = None,
    from_source: str | None = None,
    **given: Any,
) -> Plan:
    """Measures and counts what ``fit`` with these arguments will take; takes them as ``fit`` does, and writes nothing.

    It lasts about as long as loading the data, a validation or two, a sheet or two and a few seconds.

    Args:
        model: its name in the catalogue.
        source: a named set, a file or a folder, with its options.
        steps: rounds of training; or
        budget: time of training, such as "90s"; with neither, the model's default.
        condition: "none", "class", "text" or a column.
        latent: the run of an autoencoder, whose codes the model is a prior of.
        seed: of everything random.
        device: "auto", "cpu", "cuda", ...
        data: the source, already loaded.
        data_seed: of the split, where it is not ``seed``.
        features: RUN:layer, whose activations are learnt from.
        from_source: the data that the model maps from.
        given: training settings, options of the source, and the model's own arguments, by name.
    """
    began = time.perf_counter()
    arguments, source_options, chosen = sorted_arguments(find(model), given)
    autoencoder = None if latent is None else autoencoder_run(latent, find(model))
    chosen |= ({} if budget is None else {"budget": seconds(budget)}) | ({} if steps is None else {"steps": steps})
    settings_from({}, chosen)
    device = chosen_device(device)
    options, split = source_options | {"condition": condition}, split_seed(seed, data_seed, autoencoder)
    target, before = torch.device(device), held(torch.device(device))
    loaded, loading = spent(lambda: _loaded(data, source, split, options, features), target)
    _warm()
    loaded = replace(loaded, train=loaded.train.to(device))
    config: dict[str, Any] = {"model": model, "arguments": arguments, "seed": seed}
    config |= {} if autoencoder is None else {"latent": recorded(autoencoder, loaded)}
    if from_source is not None:
        origin = recorded_origin(from_source, lasting(from_source), find(model), loaded.domain, seed=split)
        config |= {"from_source": origin, "data_seed": split}
    base = held(target)
    trainer = _trainer(config, loaded, chosen, device, plain=False)
    setup = time.perf_counter() - began
    seen = _measured(trainer, loaded)
    steps = trainer.planned
    del trainer  # counted on another one, that is not compiled, and after what could swell the process
    counting = _trainer(config, loaded, chosen, device, plain=True)
    flops, memory = _counted(counting, bool(seen.seconds["validation"]))
    in_steps = memory["optimiser"] + memory["gradients"] + memory["activations"]
    return Plan(
        model, source, device, seen.threads,
        parameters=sum(p.numel() for p in counting.model.parameters() if p.requires_grad),
        steps=steps, observations=counting.observations, flops=flops, round_seconds=seen.round_seconds,
        memory={
            "base": base, **memory, "workspace": max(0, seen.growth - in_steps), **seen.on_top,
            "loading": max(0, before + loading.bytes - base),
        },
        seconds={"setup": setup, **seen.seconds},
        data_bytes=sum(_part_size(loaded.part(name)) for name in ("train", "validation", "test")),
    )  # fmt: skip


def _loaded(data: Data | None, source: str, seed: int, options: dict[str, Any], features: str | None) -> Data:
    """The data, and what ``fit`` makes of all of them at once."""
    if data is None and features is not None:
        data = reading(features).source(source, **options)
    data = data or sources.load(source, seed=seed, **options)
    data.fingerprint()
    return data


def _warm() -> None:
    """A step of one weight: loads what the first step of any model loads, which is no model's own memory."""
    weight = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.AdamW([weight])
    (weight * weight).sum().backward()
    optimiser.step()


def _trainer(config: dict[str, Any], data: Data, chosen: dict[str, Any], device: str, *, plain: bool) -> Trainer:
    """As ``fit`` makes it, up to the first round; ``plain``: not compiled, so that operations can be seen."""
    network = adapted(config, data, device)
    settings = settings_for(network, chosen, len(data.train))
    settings = replace(settings, compile=False) if plain else settings
    trainer = trainer_for(network, data, settings, config, World(device=device), Watcher())
    network.train()
    return trainer


@dataclass(frozen=True)
class Measured:
    """What was seen while a few rounds, and once each of what comes between them, were done.

    Args:
        threads: of the run.
        round_seconds: median.
        growth: bytes by which a few rounds raised the peak.
        on_top: bytes by which what is no round raised it further.
        seconds: of the whole run, by what they go to.
    """

    threads: int
    round_seconds: float
    growth: int
    on_top: dict[str, int]
    seconds: dict[str, float]


def _measured(trainer: Trainer, data: Data) -> Measured:
    """Plans the rounds as ``fit`` does, then times what the run repeats; only in this order is growth seen."""
    settings, players = trainer.settings, bool(trainer.players)
    grown = _growth(trainer) if players else 0
    decided, probe = spent(lambda: planned_for(trainer, settings), trainer.device)
    planned = trainer.planned
    with use_threads(decided["threads"]), tempfile.TemporaryDirectory() as place:
        each = measured_round(trainer, seconds=PROBE_SECONDS) if players else 0.0
        validation = _validation(trainer, data, decided["validation_rows"])
        sheet = _sheet(trainer, data, Path(place))
        saved = _saved(trainer, Path(place))
    draws = min(DRAWINGS, planned) - 1 if players and (settings.budget or 0.0) >= DRAW_BUDGET else 0
    whole = {
        "probe": probe.seconds, "rounds": planned * each,
        "validation": min(VALIDATIONS, planned) * validation.seconds, "sheets": draws * sheet.seconds,
    }  # fmt: skip
    training = sum(whole.values()) - probe.seconds
    whole |= {"checkpoints": (1 + training // SAVE_SECONDS) * saved.seconds, "last sheet": sheet.seconds}
    on_top = {"validation": validation.bytes, "sheet": sheet.bytes}
    return Measured(decided["threads"], each, grown, on_top, whole)


def _growth(trainer: Trainer) -> int:
    """Bytes by which memory grows in a few rounds; undone."""

    def rounds() -> None:
        for _ in range(PROBE_ROUNDS):
            trainer.round()

    with undone(trainer):
        return spent(rounds, trainer.device)[1].bytes


def _validation(trainer: Trainer, data: Data, rows: int) -> Spent:
    if not trainer.players or Validation.name_for(trainer.model) is None:
        return Spent()
    x, c = data.validation.to(trainer.device).rows()
    kept = (x[:rows], None if c is None else c[:rows])
    validation = Validation(kept, batch_size=trainer.settings.batch_size, seed=0)
    return _settled(lambda: validation.measure(trainer.model), trainer.device)


def _sheet(trainer: Trainer, data: Data, folder: Path) -> Spent:
    if Samples not in capabilities(trainer.model):
        return Spent()

    def draw() -> None:
        trainer.model.eval()
        x = sample_many(trainer.model, CHUNK, seed=0, chunk=CHUNK, device=trainer.device)
        trainer.model.train()
        Sampled(x, data.domain).save(folder / f"sheet{natural_suffix(data.domain)}")

    return _settled(draw, trainer.device)


def _saved(trainer: Trainer, folder: Path) -> Spent:
    def save() -> None:
        checkpoint.save(folder / "model.safetensors", trainer.model.state_dict())
        checkpoint.save(folder / "state.safetensors", trainer.state()[0])

    return _settled(save, trainer.device)


def _settled(call: Callable[[], object], device: torch.device) -> Spent:
    """Bytes of the first call, which allocates; seconds of the second, unless that would take long."""
    _, first = spent(call, device)
    return first if first.seconds > PROBE_SECONDS else Spent(spent(call, device)[1].seconds, first.bytes)


def _counted(trainer: Trainer, validated: bool) -> tuple[float, dict[str, int]]:
    """Operations of one round, and bytes from shapes: what stays, and what one step and one checkpoint need."""
    model, operations = trainer.model, Operations()
    with undone(trainer):
        if trainer.players:
            with operations:
                trainer.round()
        optimiser, checkpointed = _size(*_optimisers_state(trainer)), _size(*trainer.state()[0].values())
    best = _size(*model.state_dict().values()) if validated else 0
    turns = [(_size(*player.turn.parameters), saved_bytes(trainer, player)) for player in trainer.players]
    gradients, activations = max(turns, key=sum, default=(0, 0))
    return float(operations.total), {
        "weights": _size(*model.parameters(), *model.buffers()),
        "optimiser": optimiser,
        "average": _size(*trainer.ema.average) if trainer.ema else 0,
        "best weights": best,
        "gradients": gradients,
        "activations": activations,
        # The bytes of each tensor, then those of the whole file.
        "saving": 2 * (checkpointed + best) if trainer.device.type == "cpu" else 0,
    }


def _optimisers_state(trainer: Trainer) -> list[Tensor]:
    optimisers = [optimiser for player in trainer.players for optimiser in player.optimisers]
    entries = [entry for optimiser in optimisers for entry in optimiser.state.values()]
    return [value for entry in entries for value in entry.values() if torch.is_tensor(value)]


def saved_bytes(trainer: Trainer, player: Player) -> int:
    """What one loss saves for its gradient, each storage once; parameters and the batch are there anyway."""
    batch = trainer.batches.part.take(
        torch.arange(trainer.batches.size // trainer.pieces, device=trainer.device), generator=stream(0, "plan")
    )
    there = [t for t in (*trainer.model.parameters(), *trainer.model.buffers(), *batch) if t is not None]
    known = {t.untyped_storage().data_ptr() for t in there}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), trainer.autocast():
        loss = player.turn.loss(*batch, generator=stream(0, "plan", device=trainer.device))
    del loss
    return sum(kept.values())


def _size(*tensors: Tensor) -> int:
    """Bytes, tensors that share memory counted once."""
    return sum({t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def _part_size(part: Part) -> int:
    """Bytes of what a part holds, whatever it makes of it: a text's windows overlap."""
    return _size(*(value for value in vars(part).values() if isinstance(value, Tensor)))
