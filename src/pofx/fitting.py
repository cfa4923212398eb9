"""From a name, a source and a budget to a run folder; and on from where a run was left."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pofx
from pofx import data as sources
from pofx.catalogue import find
from pofx.conditions import Classes
from pofx.data.dataset import Data
from pofx.domains import Domain
from pofx.errors import Unusable
from pofx.files import share, write_json
from pofx.frozen import autoencoder_run, require_unchanged
from pofx.nn.modes import evaluating
from pofx.origins import recorded_origin
from pofx.preparing import (
    DRAW_BUDGET,
    adapted,
    described,
    most_threads,
    planned_for,
    settings_for,
    sorted_arguments,
    split_seed,
    trainer_for,
)  # fmt: skip
from pofx.protocols import Judges, Samples, capabilities
from pofx.reading import Reading
from pofx.rendering import Sampled, natural_suffix
from pofx.runs import (
    CHUNK,
    FORMAT,
    STATE,
    Run,
    chosen_device,
    fitting_together,
    lasting,
    load,
    named_after,
    reading,
    whole_events,
)
from pofx.samplers.chunks import sample_many
from pofx.train import checkpoint
from pofx.train.course import Course
from pofx.train.health import duplicated
from pofx.train.history import differences, write_history
from pofx.train.launch import LOCK, launched, locked
from pofx.train.loggers import with_loggers
from pofx.train.loop import Trainer, under
from pofx.train.plan import use_threads
from pofx.train.settings import Settings, seconds, settings_from
from pofx.train.sharding import forget_shards, load_shards, save_shards, spread, whole
from pofx.train.validation import Validation
from pofx.train.watch import Watcher, stop_on_signals
from pofx.world import World, check_strategy, joined

METER_ROWS = 128
GOOD = "good.safetensors"  # the checkpoint that a diverging run goes back to


def fit(
    model: str,
    source: str,
    *,
    out: str | Path | None = None,
    steps: int | None = None,
    budget: str | float | None = None,
    condition: str = "none",
    latent: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "ddp",
    data: Data | None = None,
    data_seed: int | None = None,
    features: str | None = None,
    from_source: str | None = None,
    logger: str | tuple[str, ...] | None = None,
    watch: Watcher | None = None,
    **given: Any,
) -> Run:
    """Trains a model of the catalogue on a source, and writes a run folder.

    Args:
        model: its name in the catalogue.
        source: a named set, a file or a folder, with its options.
        out: the run folder; by default ``runs/MODEL-SOURCE``, then ``-2``, ... An existing run is never overwritten.
        steps: rounds of training; or
        budget: time of training, such as "90s"; with neither, the model's default, usually two minutes.
        condition: "none", "class", "text" or a column.
        latent: the finished run of an autoencoder on these data: the model becomes a prior of its codes, and the run
            a model of the data (``models.Latent``) that needs no other folder.
        seed: of everything random.
        device: "auto", "cpu", "cuda", ...
        devices: processes on this machine that train together, one for each processor core or GPU. Under ``torchrun``
            leave it out.
        strategy: of several processes: "ddp" keeps all weights in each, "fsdp" shards them (models with one loss).
        data: the source, already loaded with its seed and condition, and read through ``features``.
        data_seed: of the split, where it is not ``seed``: trainings that differ in seed share their data. With
            ``latent`` that of the autoencoder, which must not have learnt from what the prior is tested on.
        features: RUN:layer, to learn from the activations of a module of another run over the source, split as it was
            for that run. Without a layer, from the ``features`` of its model.
        from_source: the data that the model maps onto ``source``, of as many numbers a row; without them noise.
        logger: "tensorboard", "wandb", "trackio", or several with commas: they get each row of the history.
        watch: hears how it goes.
        given: training settings, options of the source, and the model's own arguments, by name.
    """
    watcher = with_loggers(watch or Watcher(), logger)
    given_budget = {} if budget is None else {"budget": seconds(budget)}
    arguments, source_options, chosen = sorted_arguments(find(model), given)
    if from_source is not None and (latent is not None or features is not None):
        raise Unusable("--from maps rows as they are, got --latent or --features beside it; leave one of them out")
    autoencoder = None if latent is None else autoencoder_run(latent, find(model))
    chosen |= given_budget | ({} if steps is None else {"steps": steps})
    settings_from({}, chosen)  # what is wrong with them is said before anything is loaded
    check_strategy(strategy, devices, device := chosen_device(device))
    if devices > 1 and data is not None:
        raise Unusable("data in memory cannot be given to several processes; give their source, or leave --devices out")
    if devices > 1:
        made = launched(
            _fitted, devices, watcher, model, source, out=out, steps=steps, budget=budget, condition=condition,
            latent=latent, seed=seed, device=device, strategy=strategy, data_seed=data_seed, features=features,
            from_source=from_source, **given,
        )  # fmt: skip
        return load(made, device=device)
    with joined(strategy, device) as world, _deterministic(bool(chosen.get("deterministic"))):
        data_seed = split_seed(seed, data_seed, autoencoder)
        source_options |= {"condition": condition}
        through = None if features is None else reading(features, device=world.device)
        data = data or _loaded(source, through, data_seed, source_options)
        config: dict[str, Any] = {
            "format": FORMAT,
            "pofx": pofx.__version__,
            "model": model,
            "arguments": arguments,
            "source": source,
            "origin": lasting(source),
            "source_options": source_options,
            "seed": seed,
            "data_seed": data_seed,
            "sample_chunk": CHUNK,
        } | described(data, autoencoder)
        if through is not None:
            config |= {"features": through.written, "features_identity": through.identity}
        if from_source is not None:
            config["from_source"] = recorded_origin(
                from_source, lasting(from_source), find(model), data.domain, seed=data_seed
            )
        watcher = watcher if world.leads else Watcher()
        network = adapted(config, data, world.device)
        settings = settings_for(network, chosen, len(data.train))
        config["settings"] = {name: getattr(settings, name) for name in Settings.names()}
        with _new(lambda: _folder(out, _words(config), source), config, world) as folder:
            trainer = trainer_for(network, data, settings, config, world, watcher)
            config |= planned_for(trainer, settings)
            course = _course(folder, config, trainer, data, watcher)
            world.led(lambda: _describe(folder, config, data))
            if trainer.players and (copies := duplicated(data)):
                course.alarm(copies)
            course.save(True)
            watcher.opened(folder, config)
            return _train(folder, course, config["threads"], watcher)


def resume(
    folder: str | Path,
    *,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "ddp",
    logger: str | tuple[str, ...] | None = None,
    watch: Watcher | None = None,
) -> Run:
    """Goes on with a run where its last checkpoint stands, also with another number of processes.

    A finished run is left as it is. The other arguments are those of ``fit``.
    """
    run = load(folder, device=chosen_device(device))
    check_strategy(strategy, devices, run.device)
    if run.finished:
        return run
    watcher = with_loggers(watch or Watcher(), logger)
    if devices > 1:
        launched(_resumed, devices, watcher, folder, device=run.device, strategy=strategy)
        return load(folder, device=run.device)
    wanted = bool(run.config["settings"].get("deterministic"))
    with joined(strategy, run.device) as world, locked(run.folder, world), _deterministic(wanted):
        config, watcher = run.config, watcher if world.leads else Watcher()
        require_unchanged(config)
        state = _read(run.folder / "checkpoint" / STATE)
        network = run.untrained(state[1], under("model", state[0])).to(world.device)
        with fitting_together(run.folder):
            settings = Settings(**config["settings"])
        data = run.data
        trainer = trainer_for(network, data, settings, config, world, watcher)
        course = _course(run.folder, config, trainer, data, watcher)
        _restore(course, state, run.folder)
        watcher.opened(run.folder, config)
        threads = min(config["threads"], most_threads(world)) if world.size > 1 else config["threads"]
        return _train(run.folder, course, threads, watcher)


def _loaded(source: str, through: Reading | None, seed: int, options: dict[str, Any]) -> Data:
    if through is not None:
        return through.source(source, **options)
    return sources.load(source, seed=seed, **options)


def _describe(folder: Path, config: dict[str, Any], data: Data) -> None:
    write_json(folder / "config.json", config)
    if data.indices:
        checkpoint.save(folder / "split.safetensors", data.indices)


def _fitted(*args: Any, **kwargs: Any) -> Path:
    return fit(*args, **kwargs).folder


def _resumed(*args: Any, **kwargs: Any) -> Path:
    return resume(*args, **kwargs).folder


def _course(folder: Path, config: dict[str, Any], trainer: Trainer, data: Data, watcher: Watcher) -> Course:
    """What is done between rounds, bound to the run folder."""
    settings, world = trainer.settings, trainer.world
    x, c = data.validation.to(trainer.device).rows()
    keep = config["validation_rows"]
    rows = (x[:keep], None if c is None else c[:keep])
    validation = None
    if trainer.players and Validation.name_for(trainer.model) is not None:
        validation = Validation(rows, batch_size=settings.batch_size, seed=config["seed"], world=world)
    course = Course(trainer, validation, save=lambda good: None, restore=lambda: None, watcher=watcher)
    course.budget = settings.budget
    course.watched = (x[:METER_ROWS], None if c is None else c[:METER_ROWS]) if trainer.players else None
    if course.watched is not None and {Judges, Samples} <= capabilities(trainer.model) and not world.sharded:
        course.labels = _labels(config, data, course.watched[0])
    home = folder / "checkpoint"
    course.save = lambda good: _save(folder, config, course, good=good)
    course.restore = lambda: trainer.load(_placed(_read(home / GOOD), trainer))
    long = (settings.budget or 0.0) >= DRAW_BUDGET
    if Samples in capabilities(trainer.model) and long and world.leads and not world.sharded:
        course.draw = _drawer(folder, config, trainer, data)
    return course


def _labels(config: dict[str, Any], data: Data, x: Tensor) -> Tensor | None:
    """Classes of x, the first validation rows, also where the model is not told them; None where there are none."""
    if data.condition is None and "class" in data.offers and config.get("features") is None:
        try:
            options = config["source_options"] | {"condition": "class"}
            data = sources.load(config["origin"], seed=config["data_seed"], **options)
        except Unusable:  # a class that is held out alone, say: no reason not to train on the rest
            return None
    rows, c = data.validation.rows()
    if not isinstance(data.condition, Classes) or c is None or not rows[: len(x)].equal(x.to(rows.device)):
        return None
    return c[: len(x)].to(x.device)


def _drawer(folder: Path, config: dict[str, Any], trainer: Trainer, data: Data) -> Callable[[int], None]:
    def draw(step: int) -> None:
        with evaluating(trainer.model):
            x = sample_many(trainer.model, CHUNK, seed=config["seed"], chunk=CHUNK, device=trainer.device)
        Sampled(x, data.domain).save(_sheet_path(folder, data.domain, step))

    return draw


def _sheet_path(folder: Path, domain: Domain, step: int) -> Path:
    return folder / "samples" / f"step-{step:06d}{natural_suffix(domain)}"


def _train(folder: Path, course: Course, threads: int, watcher: Watcher) -> Run:
    """Runs the course to its end; an interrupted one is saved and says how to go on."""
    trainer = course.trainer
    trainer.model.train()
    watcher.started(folder.name, trainer.planned, trainer.step, trainer.observations)
    with stop_on_signals() as stop, use_threads(threads):
        try:
            ended = course.run(stop)
        finally:
            watcher.ended()
    if not ended:
        watcher.said(
            f"stopped at step {trainer.step} of {trainer.planned}, all saved; go on with: pofx resume {folder}"
        )
        raise KeyboardInterrupt
    run = load(folder, device=str(trainer.device))
    if trainer.world.leads and Samples in capabilities(run.model):
        x = run.sample(CHUNK, seed=run.config["seed"])
        x.save(_sheet_path(folder, run.domain, trainer.step))
    return run


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Only kernels that repeat bit for bit, inside the block."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for; read when it starts
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def _save(folder: Path, config: dict[str, Any], course: Course, *, good: bool) -> None:
    """The checkpoint, one file that is whole or absent; where it is kept or may be gone back to, under more names.

    What people read beside it (weights to sample from, history, events) is not written with each that is only good.
    """
    trainer, validation = course.trainer, course.validation
    best = validation.best if validation is not None else None
    tensors, plain = trainer.state()
    plain["config"], plain["history"], plain["events"] = config, course.history, course.events
    plain["run"] = {
        "step": trainer.step,
        "planned": trainer.planned,
        "seconds": course.seconds,
        "finished": trainer.step >= trainer.planned,
        "best_step": validation.best_step if validation else 0,
        "best_value": validation.best_value if validation and validation.best_step else None,
    }
    tensors |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    home, world = folder / "checkpoint", trainer.world
    if world.sharded:
        tensors, plain["shards"] = save_shards(home, tensors, trainer.step, world)
    shown = None
    if not good:
        with trainer.weights():
            shown = whole(best or trainer.model.state_dict())
            shown = {name: tensor.clone() for name, tensor in shown.items()} if trainer.ema and not best else shown

    def write() -> None:
        if shown is not None:
            checkpoint.save(folder / "model.safetensors", shown, {"config": config})
            write_history(folder, course.history, course.events)
        # The last one last: a process killed before it goes on from an older one, and comes here again.
        names = [f"step-{trainer.step:06d}.safetensors"] if trainer.settings.keeps(trainer.step) else []
        first, *others = [home / name for name in (*names, *([GOOD] if good else []), STATE)]
        checkpoint.save(first, tensors, plain)
        for other in others:
            share(first, other)
        if world.sharded:
            named = [checkpoint.plain_values(path).get("shards", "") for path in home.glob("*.safetensors")]
            forget_shards(home, set(named))

    world.led(write)


def _read(path: Path) -> checkpoint.State:
    """A checkpoint, whole, whatever number of processes wrote it."""
    tensors, plain = checkpoint.load(path)
    return (tensors | load_shards(path.parent / plain["shards"]) if "shards" in plain else tensors), plain


def _placed(state: checkpoint.State, trainer: Trainer) -> checkpoint.State:
    """A checkpoint with its tensors where the trainer's are; the states of generators live on the CPU."""
    states = ("data/before", "data/now", "noise/now")
    placed = {name: x if name in states else x.to(trainer.device) for name, x in state[0].items()}, state[1]
    return spread(placed, trainer.model) if trainer.world.sharded else placed


def _restore(course: Course, state: checkpoint.State, folder: Path) -> None:
    """Everything where a checkpoint left it.

    Raises:
        Unusable: the checkpoint does not fit the run.
    """
    (tensors, plain), trainer = _placed(state, course.trainer), course.trainer
    with fitting_together(folder):
        if not 0 <= plain["step"] <= plain["planned"] <= plain["config"]["planned"]:
            raise ValueError(f"step {plain['step']} of {plain['planned']}")
        trainer.load((tensors, plain))
        course.seconds = float(plain["run"]["seconds"])
        if not all(isinstance(value, int | float) for row in plain["history"] for value in row.values()):
            raise ValueError("a row of the history holds what is no number")
        course.history, course.events = list(plain["history"]), whole_events(plain["events"])
        if course.validation is not None and plain["run"]["best_step"]:
            best = under("best", tensors)
            if {name: x.shape for name, x in best.items()} != {k: x.shape for k, x in under("model", tensors).items()}:
                raise ValueError("the best weights are not those of this model")
            course.validation.best = best
            course.validation.best_step = int(plain["run"]["best_step"])
            course.validation.best_value = float(plain["run"]["best_value"])


def _words(config: dict[str, Any]) -> str:
    """What a run's folder is named by: "gpt", or "gpt-on-vq-vae" of a prior."""
    return config["model"] + (f"-on-{config['latent']['model']}" if "latent" in config else "")


def _folder(out: str | Path | None, what: str, source: str) -> Path:
    """The folder asked for, or the first free one of the default names."""
    if out is not None:
        return Path(out)
    words = named_after(what, source)
    for folder in [Path("runs") / words] + [Path("runs") / f"{words}-{i}" for i in range(2, 10_000)]:
        with suppress(FileExistsError):  # made at once, so that two that begin together have one each
            folder.mkdir(parents=True)
            return folder
    raise Unusable("runs/ holds 10,000 runs of this name; choose another --out")


@contextmanager
def _new(choose: Callable[[], Path], config: dict[str, Any], world: World) -> Iterator[Path]:
    """Makes a new run folder and holds its lock; if its first files cannot be written, nothing of it stays."""
    folder = Path(world.led(lambda: str(_made(choose(), config))))
    with locked(folder, world):
        try:
            yield folder
        except BaseException:
            if world.leads and not (folder / "checkpoint" / STATE).exists():
                shutil.rmtree(folder)
            raise


def _made(folder: Path, config: dict[str, Any]) -> Path:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir() or {path.name for path in folder.iterdir()} - set(_begun(folder)):
            raise Unusable(f"{folder} exists, and a run is never overwritten; {_instead(folder, config)}") from None
    except OSError as error:
        raise Unusable(f"{folder} cannot be made ({error.strerror}); choose another --out") from None
    return folder


def _begun(folder: Path) -> tuple[str, ...]:
    """What may stand in a folder that a new run takes: nothing, or what was begun and killed before its first step."""
    first = ("config.json", "split.safetensors", "checkpoint", LOCK)
    left = tuple(path.name for path in folder.glob(".*.tmp"))
    return () if (folder / "checkpoint" / STATE).exists() else (*first, *left)


def _instead(folder: Path, config: dict[str, Any]) -> str:
    """What to do where a folder is taken: a run of the same configuration can be gone on with."""
    try:
        held = load(folder).config
    except Unusable:
        return "choose another --out"
    same = [key for key in config if key not in ("pofx", "source")]
    changes = differences({k: held.get(k) for k in same}, {k: config[k] for k in same})
    if not changes:
        return f"it is this very run: go on with 'pofx resume {folder}', or choose another --out"
    return f"it holds another configuration ({changes}); choose another --out"
