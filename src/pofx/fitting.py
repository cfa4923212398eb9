"""From a name, a source and a budget to a run folder; and on from where a run was left."""

import csv
import inspect
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pofx
from pofx import data as sources
from pofx.catalogue import Entry, find
from pofx.conditions import condition_to_config
from pofx.data.dataset import Data
from pofx.domains import Domain
from pofx.errors import Unusable, nearest
from pofx.files import write_json, write_whole
from pofx.protocols import Adapts, Samples, capabilities
from pofx.randomness import stream
from pofx.rendering import Sampled, natural_suffix
from pofx.runs import CHUNK, FORMAT, Run, build, chosen_device, lasting, load, load_weights, named_after
from pofx.samplers.chunks import sample_many
from pofx.train import checkpoint
from pofx.train.course import VALIDATIONS, Course
from pofx.train.loggers import with_loggers
from pofx.train.loop import Trainer, compiled
from pofx.train.plan import fastest_threads, measured_round, planned_rounds, use_threads
from pofx.train.settings import Settings, seconds, settings_from
from pofx.train.validation import Validation
from pofx.train.watch import Watcher, stop_on_signals

DEFAULT_BUDGET = 120.0
VALIDATION_ROWS = 256
DRAW_BUDGET = 20.0  # seconds: a shorter run draws its last sheet only


def fit(
    model: str,
    source: str,
    *,
    out: str | Path | None = None,
    steps: int | None = None,
    budget: str | float | None = None,
    condition: str = "none",
    seed: int = 0,
    device: str = "auto",
    data: Data | None = None,
    data_seed: int | None = None,
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
        seed: of everything random.
        device: "auto", "cpu", "cuda", ...
        data: the source, already loaded with its seed and condition.
        data_seed: of the split, where it is not ``seed``: trainings that differ in seed share their data.
        logger: "tensorboard", "wandb", "trackio", or several with commas: they get each row of the history.
        watch: hears how it goes.
        given: training settings, options of the source, and the model's own arguments, by name.
    """
    watcher = with_loggers(watch or Watcher(), logger)
    given_budget = {} if budget is None else {"budget": seconds(budget)}
    arguments, source_options, chosen = _sorted(find(model), given)
    chosen |= given_budget | ({} if steps is None else {"steps": steps})
    settings_from({}, chosen)  # what is wrong with them is said before anything is loaded
    device = chosen_device(device)
    data_seed = seed if data_seed is None else data_seed
    source_options |= {"condition": condition}
    data = data or sources.load(source, seed=data_seed, **source_options)
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
    } | _described(data)
    network = build(config, data.domain, data.condition).to(device)
    settings = _settings(network, chosen, len(data.train))
    if Adapts in capabilities(network):
        x, c = data.train.to(device).rows()
        network.adapt(x, c, generator=stream(seed, "adapt", device=device))
    trainer = Trainer(network, data.train.to(device), settings, planned=settings.steps or 1, seed=seed)
    with _claimed(_folder(out, model, source)) as folder:
        if settings.compile and trainer.players:
            compiled(network, lambda: _trial(trainer), watcher.said)
        config |= _plan(trainer, settings)
        write_json(folder / "config.json", config)
        if data.indices:
            checkpoint.save(folder / "split.safetensors", data.indices)
        course = _course(folder, config, trainer, data, watcher)
        course.save()
    watcher.opened(folder, config)
    return _train(folder, course, config["threads"], watcher)


def resume(
    folder: str | Path,
    *,
    device: str = "auto",
    logger: str | tuple[str, ...] | None = None,
    watch: Watcher | None = None,
) -> Run:
    """Goes on with a run where its last checkpoint stands; a finished run is left as it is."""
    run = load(folder, device=chosen_device(device))
    if run.finished:
        return run
    config, watcher, data = run.config, with_loggers(watch or Watcher(), logger), run.data
    network = build(config, run.domain, run.condition).to(run.device)
    tensors, plain = checkpoint.load(run.folder / "checkpoint" / "state.safetensors", device=run.device)
    settings = Settings(**config["settings"])
    load_weights(
        network, {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}, run.folder
    )
    trainer = Trainer(network, data.train.to(run.device), settings, planned=plain["planned"], seed=config["seed"])
    if settings.compile and trainer.players:
        compiled(network, lambda: _trial(trainer), watcher.said)
    trainer.load((_on_cpu_if_generator(tensors), plain))
    course = _course(run.folder, config, trainer, data, watcher)
    course.seconds = plain["run"]["seconds"]
    course.history = [row for row in run.history if row["step"] <= trainer.step]
    if course.validation is not None and plain["run"]["best_step"]:
        course.validation.best = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
        course.validation.best_step = plain["run"]["best_step"]
        course.validation.best_value = plain["run"]["best_value"]
    watcher.opened(run.folder, config)
    return _train(run.folder, course, config["threads"], watcher)


def _sorted(entry: Entry, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
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


def _described(data: Data) -> dict[str, Any]:
    """What a run keeps of its data: enough to know them again."""
    return {
        "domain": data.domain.to_config(),
        "condition": condition_to_config(data.condition),
        "data": {
            "fingerprint": data.fingerprint(),
            "split": data.split,
            "observations": {name: len(data.part(name).rows()[0]) for name in ("train", "validation", "test")},
        },
    }


def _settings(network: Any, given: dict[str, Any], observations: int) -> Settings:
    """The model's recipe under what was given; a batch larger than the data is refused if the user asked for it."""
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
    if settings.steps is None and settings.budget is None:
        return settings_from(recipe, given | {"budget": DEFAULT_BUDGET})
    return settings


def _plan(trainer: Trainer, settings: Settings) -> dict[str, Any]:
    """Sets the number of rounds; gives the threads that compute them, and the validation rows they leave time for."""
    rows, threads = VALIDATION_ROWS, settings.threads or torch.get_num_threads()
    if not trainer.players:
        trainer.planned = 0
    elif settings.steps is None:
        assert settings.budget is not None
        probe = 0.02 * settings.budget
        if settings.threads is None:
            threads, each = fastest_threads(trainer, seconds=probe)
        else:
            with use_threads(threads):
                each = measured_round(trainer, seconds=probe)
        trainer.planned = planned_rounds(each, settings.budget)
        # Scoring a row costs about as much as training on one: validation gets about a twentieth of the time.
        rows = max(32, int(0.05 * trainer.planned * trainer.observations / VALIDATIONS))
    return {
        "settings": {name: getattr(settings, name) for name in Settings.names()},
        "planned": trainer.planned,
        "threads": threads,
        "validation_rows": settings.validation_rows or min(rows, 2000),
    }


def _trial(trainer: Trainer) -> None:
    """One round, undone."""
    measured_round(trainer, seconds=0.0)


def _course(folder: Path, config: dict[str, Any], trainer: Trainer, data: Data, watcher: Watcher) -> Course:
    """What is done between rounds, bound to the run folder."""
    settings = trainer.settings
    validation = None
    if trainer.players and Validation.name_for(trainer.model) is not None:
        x, c = data.validation.to(trainer.device).rows()
        keep = config["validation_rows"]
        rows = (x[:keep], None if c is None else c[:keep])
        validation = Validation(rows, batch_size=settings.batch_size, seed=config["seed"])
    course = Course(trainer, validation, save=lambda: None, budget=settings.budget, watcher=watcher)
    course.save = lambda: _save(folder, course)
    if Samples in capabilities(trainer.model) and (settings.budget or 0.0) >= DRAW_BUDGET:
        course.draw = _drawer(folder, config, trainer, data)
    return course


def _drawer(folder: Path, config: dict[str, Any], trainer: Trainer, data: Data) -> Callable[[int], None]:
    def draw(step: int) -> None:
        trainer.model.eval()
        x = sample_many(trainer.model, CHUNK, seed=config["seed"], chunk=CHUNK, device=trainer.device)
        trainer.model.train()
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
    if Samples in capabilities(run.model):
        x = run.sample(CHUNK, seed=run.config["seed"])
        x.save(_sheet_path(folder, run.domain, trainer.step))
    return run


def _save(folder: Path, course: Course) -> None:
    """Weights, history, checkpoint: each file whole, the checkpoint last, since it is what says how far the run is."""
    trainer, validation = course.trainer, course.validation
    best = validation.best if validation is not None else None
    with trainer.weights():
        checkpoint.save(folder / "model.safetensors", best or trainer.model.state_dict())
    _write_history(folder / "history.csv", course.history)
    tensors, plain = trainer.state()
    plain["run"] = {
        "step": trainer.step,
        "planned": trainer.planned,
        "seconds": course.seconds,
        "finished": trainer.step >= trainer.planned,
        "best_step": validation.best_step if validation else 0,
        "best_value": validation.best_value if validation and validation.best_step else None,
    }
    tensors |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    checkpoint.save(folder / "checkpoint" / "state.safetensors", tensors, plain)


def _write_history(path: Path, rows: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["step", "seconds"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


def _on_cpu_if_generator(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """States of generators live on the CPU whatever the device."""
    states = ("data/before", "data/now", "noise/now")
    return {name: tensor.cpu() if name in states else tensor for name, tensor in tensors.items()}


def _folder(out: str | Path | None, model: str, source: str) -> Path:
    """The folder asked for, or the first free one of the default names."""
    if out is not None:
        return Path(out)
    words = named_after(model, source)
    folders = [Path("runs") / words] + [Path("runs") / f"{words}-{i}" for i in range(2, 10_000)]
    return next(folder for folder in folders if not folder.exists())


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """Makes a new run folder; if its first files cannot be written, nothing of it stays."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir() or any(folder.iterdir()):
            raise Unusable(f"{folder} exists, and a run is never overwritten; choose another --out") from None
    except OSError as error:
        raise Unusable(f"{folder} cannot be made ({error.strerror}); choose another --out") from None
    try:
        yield folder
    except BaseException:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        os.rmdir(folder)
        raise
