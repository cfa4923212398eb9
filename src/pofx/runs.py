"""A run folder: what was trained, on what, how, and what came of it. Loading it needs tensors and JSON only.

========================  ============================================================================================
``config.json``           model, arguments, source, split, settings, plan: enough to build and train it again
``model.safetensors``     the weights that are scored and sampled: best on validation, else the averaged last ones
``history.csv``           losses by step; the same as ``history.jsonl``, a JSON object a line
``events.jsonl``          what happened besides: alarms, ways back, why it stopped
``samples/``              sheets drawn while training
``split.safetensors``     the rows of the source in each split, where the split is ours
``checkpoint/``           everything that the next round depends on: the last, the last good one, those kept
``lock``                  held by the process that trains it
========================  ============================================================================================
"""

import csv
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pofx
from pofx import data as sources
from pofx import packed
from pofx.building import MEANING, build, rehearse, require_own_autoencoder
from pofx.conditions import Condition, condition_from_config, expand
from pofx.data.dataset import Data
from pofx.data.request import is_local
from pofx.domains import Domain, Tokens, domain_from_config
from pofx.errors import Unusable, in_brief, nearest
from pofx.evaluate.evaluation import evaluate
from pofx.evaluate.likelihood import Scored, per_observation
from pofx.evaluate.pace import Clock
from pofx.evaluate.score import Score
from pofx.evaluate.windows import strided_score
from pofx.files import read_json
from pofx.origins import KINDS as OF_AN_ORIGIN
from pofx.protocols import Chains, Completes, Represents, Samples, capabilities
from pofx.reading import Reading, named
from pofx.rendering import Sampled
from pofx.samplers.chunks import complete_many, sample_many
from pofx.samplers.decoding import Watch
from pofx.train import checkpoint
from pofx.train.history import differences, short
from pofx.train.launch import launched
from pofx.train.plan import use_threads
from pofx.train.watch import Watcher
from pofx.world import check_strategy, joined

FORMAT = 2
CHUNK = 64
STATE = "state.safetensors"  # the last checkpoint
LEAST_SCORING = 5.0  # seconds, for what trains in no time

_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model", "source", "origin"), str),
    **dict.fromkeys(("arguments", "source_options", "domain", "data", "settings"), dict),
    **dict.fromkeys(("seed", "data_seed"), int),
    "condition": (dict, type(None)),
}
# Of a run that rests on another, what is said of that one.
_OTHERS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "latent": {
        **dict.fromkeys(("run", "model", "identity"), str),
        **dict.fromkeys(("arguments", "domain"), dict),
        "condition": (dict, type(None)),
    },
    "features": {"features": str, "features_identity": str},
    "from_source": OF_AN_ORIGIN,
}
_MOST = {"planned": 10**12, "validation_rows": 10**9, "sample_chunk": 2**16, "threads": 2**10}


class Run:
    """A trained model with its data and its record.

    Args:
        folder: as written by ``fit``.
        device: where the model is to live.
    """

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        self.folder, self.device = Path(folder), device
        if not self.folder.is_dir():
            raise Unusable(f"there is no run at {self.folder}; 'pofx fit' writes one")
        self.config: dict[str, Any] = read_json(self.folder / "config.json")
        if not isinstance(self.config, dict) or self.config.get("format") != FORMAT:
            written = self.config.get("format") if isinstance(self.config, dict) else None
            raise Unusable(
                f"{self.folder} is a run of format {written}, this pofx {pofx.__version__} reads format {FORMAT}; "
                "use the version that wrote it or fit again"
            )
        wrong = [key for key in (*_KINDS, *_MOST, *_OTHERS) if not _is_well_formed(self.config, key)]
        if wrong:
            raise Unusable(
                f"{self.folder}/config.json has no usable {', '.join(wrong)} "
                f"(got {', '.join(short(self.config.get(key)) for key in wrong)}); restore it or fit again"
            )

    @property
    def name(self) -> str:
        """The model's name in the catalogue."""
        return self.config["model"]

    @cached_property
    def domain(self) -> Domain:
        """What one observation is."""
        with fitting_together(self.folder):
            return domain_from_config(self.config["domain"])

    @cached_property
    def condition(self) -> Condition | None:
        """The meaning of the condition, or None."""
        with fitting_together(self.folder):
            return condition_from_config(self.config["condition"])

    @cached_property
    def model(self) -> Any:
        """The model with the weights that are scored and sampled."""
        tensors, plain = checkpoint.load(self.folder / "model.safetensors")
        model = self.untrained(plain, tensors)
        with fitting_together(self.folder):
            model.load_state_dict(tensors)
        return model.to(self.device).eval()

    def untrained(self, plain: dict[str, Any], weights: dict[str, Tensor]) -> Any:
        """The model as it was before training, to take ``weights`` saved with the plain values beside them.

        Raises:
            Unusable: ``config.json`` is no longer what they were saved with, or asks for other weights.
        """
        changes = differences(plain.get("config"), self.config)
        if changes:
            raise Unusable(
                f"{self.folder}/config.json was changed since the run began ({changes}); change it back, or fit a new "
                "run"
            )
        with fitting_together(self.folder):
            rehearse(self.config, self.domain, self.condition, weights)
            require_own_autoencoder(self.config, weights)
            return build(self.config, self.domain, self.condition)

    @cached_property
    def data(self) -> Data:
        """The data of the run, loaded again; refused if they are no longer the same."""
        config = self.config
        with fitting_together(self.folder):
            data = self.read(config["origin"], seed=config["data_seed"], **config["source_options"])
        if data.fingerprint() != config["data"].get("fingerprint"):
            raise Unusable(
                f"{config['source']} has changed since {self.folder} was fitted (its fingerprint differs); "
                "restore the data or fit again"
            )
        return data

    @cached_property
    def labelled(self) -> Data:
        """The data with their classes, if the source has some, for a run that was fitted without; else its data."""
        config = self.config
        if self.condition is not None or "class" not in self.data.offers:
            return self.data
        try:
            return self.read(
                config["origin"], seed=config["data_seed"], **config["source_options"] | {"condition": "class"}
            )
        except Unusable:  # a class that is held out alone, say: no reason not to score the rest
            return self.data

    @cached_property
    def reads(self) -> Reading | None:
        """The run and the layer whose activations this one was fitted on, or None.

        Raises:
            Unusable: that run is gone, or has changed.
        """
        if self.config.get("features") is None:
            return None
        through = reading(self.config["features"], device=self.device)
        if through.identity != self.config.get("features_identity"):
            raise Unusable(
                f"{through.run.folder} has changed since {self.folder} was fitted on its activations; restore it, or "
                "fit again"
            )
        return through

    def read(self, source: str, *, seed: int, **options: Any) -> Data:
        """A source as this run reads it: through a layer of another run, where it was fitted on its activations."""
        if self.reads is not None:
            return self.reads.source(source, **options)
        return sources.load(source, seed=seed, **options)

    @property
    def history(self) -> list[dict[str, float]]:
        """Losses by step."""
        path = self.folder / "history.csv"
        if not path.exists():
            return []
        with fitting_together(self.folder), open(path, newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened besides, in order: each has ``kind``, ``step`` and ``line``."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return []
        with fitting_together(self.folder):
            events = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
            return whole_events(events)

    @cached_property
    def progress(self) -> dict[str, Any]:
        """step, planned, seconds, finished, best_step."""
        with fitting_together(self.folder):
            run = checkpoint.plain_values(self.folder / "checkpoint" / STATE)["run"]
            kinds = {"step": int, "planned": int, "seconds": float, "finished": bool}
            return run | {name: kind(run[name]) for name, kind in kinds.items()}

    @property
    def threads(self) -> int:
        """Threads that the run computes with."""
        return int(self.config["threads"])

    @property
    def finished(self) -> bool:
        """Whether training ended as planned."""
        return bool(self.progress["finished"])

    @property
    def steps(self) -> int:
        """Rounds trained."""
        return int(self.progress["step"])

    @property
    def train_seconds(self) -> float:
        """Seconds that training took."""
        return float(self.progress["seconds"])

    def sample(
        self,
        n: int,
        condition: Tensor | str | None = None,
        *,
        seed: int = 0,
        chunk: int | None = None,
        watch: Watch | None = None,
        **settings: Any,
    ) -> Sampled:
        """n samples; asking for more does not change the first ones.

        Args:
            n: how many.
            condition: a class's name, a text, rows of the canonical tensor, or None: drawn by training frequency.
            seed: of the draw.
            chunk: how many are drawn together, by default as many as the run says; another number, other samples.
            watch: sees them grow, ``watch(x, values)``, where the model draws value by value; see ``pofx.growing``.
            settings: of the model's sampler, such as ``temperature`` or ``steps``.
        """
        if n < 1:
            raise Unusable(f"-n must be at least 1, got {n}")
        self.require(Samples, "sample")
        given = self._drawing("sample", chunk, watch, settings)
        c = self.rows(condition)
        with use_threads(self.threads), _within_memory(given["chunk"]):
            x = sample_many(self.model, n, c, seed=seed, device=self.device, **given)
        return Sampled(x, self.domain, c)

    def complete(
        self,
        x: Tensor,
        known: Tensor,
        condition: Tensor | str | None = None,
        *,
        seed: int = 0,
        chunk: int | None = None,
        watch: Watch | None = None,
        **settings: Any,
    ) -> Sampled:
        """x with what is not known of it drawn, given what is.

        Args:
            x: (N, ...) canonical; what is not known is not read.
            known: boolean, a mask of x's shape or of one observation's.
            condition: as for ``sample``; by default inferred from what is known.
            seed: of the draw.
            chunk: how many are drawn together.
            watch: sees them grow, as for ``sample``.
            settings: of the model's sampler.
        """
        self.require(Completes, "complete")
        given = self._drawing("complete", chunk, watch, settings)
        if Chains in capabilities(self.model) and not self.model.completes(known):
            orders = getattr(self.model, "orders", None)
            each = "" if orders is None else f" in each of its {len(orders)} orders"
            raise Unusable(
                f"{self.name} completes what follows a known beginning{each}, and this is not one; change --keep, or "
                "fit masked-lm, which completes any mask"
            )
        c = self.rows(condition)
        with use_threads(self.threads), _within_memory(given["chunk"]):
            done = complete_many(self.model, x, known, c, seed=seed, device=self.device, **given)
        return Sampled(done, self.domain, c)

    def grows(self, verb: str) -> bool:
        """Whether a ``watch`` can see what the model's ``sample`` or ``complete`` draws grow."""
        in_order = getattr(self.model, "orders", None) is None  # rows read in orders of their own grow in none
        return in_order and "watch" in _settings(getattr(self.model, verb))

    def _drawing(self, verb: str, chunk: int | None, watch: Watch | None, settings: dict[str, Any]) -> dict[str, Any]:
        """What goes to the sampler, checked."""
        if chunk is not None and not 1 <= chunk <= _MOST["sample_chunk"]:
            raise Unusable(f"--chunk must be 1 to {_MOST['sample_chunk']}, got {chunk}; leave it out for the run's")
        given = settings if watch is None else settings | {"watch": watch}
        _check_names(getattr(self.model, verb), given, f"{self.name}'s sampler")
        return given | {"chunk": chunk or self.config["sample_chunk"]}

    def evaluate(
        self,
        split: str = "test",
        *,
        seconds: float | None = None,
        seed: int = 0,
        devices: int = 1,
        stride: int | None = None,
        watch: Watcher | None = None,
    ) -> list[Score]:
        """Scores on a split, each with kind and unit; together they take at most ``seconds`` (the training time).

        With a ``stride``, beyond that time, log p of the split as one long text, by windows that move on by so much.
        Of a run on another's activations, also beyond it, how much of that one's likelihood is left with them
        reconstructed.

        Several ``devices``, or the processes of ``torchrun``, share the rows to score and the samples to draw.
        """
        check_strategy("ddp", devices, self.device)
        limit = max(LEAST_SCORING, self.train_seconds) if seconds is None else seconds
        watcher = watch or Watcher()
        given: dict[str, Any] = {"split": split, "seconds": limit, "seed": seed}
        if devices > 1:
            return launched(_evaluated, devices, watcher, self.folder, device=self.device, stride=stride, **given)
        with joined("ddp", self.device) as world, use_threads(self.threads):
            said = watcher.said if world.leads else Watcher().said
            model, long = self.model.to(world.device), []
            if stride is not None and world.leads:
                long = [strided_score(model, self.data, split=split, stride=stride, device=world.device)]
            labelled = self.labelled if world.leads and Represents in capabilities(model) else None
            scores = evaluate(
                model, self.data, device=world.device, labelled=labelled, watch=said, world=world, **given
            )
            if self.reads is not None and world.leads:
                origin, options, clock = self.config["origin"], self.config["source_options"], Clock.of(limit)
                scores += self.reads.recovered(model, origin, options, split=split, clock=clock, seed=seed, watch=said)
            return long + scores

    def score(
        self, x: Tensor, condition: Tensor | None = None, *, samples: int = 100, steps: int = 40, seed: int = 0
    ) -> Scored:
        """log p of each canonical observation, in nats; without a condition, the marginal over classes.

        Args:
            x: (N, ...) observations.
            condition: (N, ...) rows, or None.
            samples: of the latent, for a bound.
            steps: of the solver, for an estimate.
            seed: of the noise.
        """
        rows = (self.domain.check(x), expand(self.condition, condition, len(x)))
        with use_threads(self.threads):
            return per_observation(self.model, rows, samples=samples, steps=steps, seed=seed, device=self.device)

    @cached_property
    def identity(self) -> bytes:
        """8 bytes that another run, or this one trained further, does not share."""
        return packed.identity(self.model.state_dict(), {part: self.config[part] for part in MEANING})

    def compress(self, x: Tensor | bytes, condition: Tensor | str | None = None) -> bytes:
        """A text's bytes, or canonical rows and their classes, in about -log2 p(x|c) - log2 p(c) bits; lossless.

        Args:
            x: (N, ...) observations, or what a text file holds.
            condition: (N,) classes, one for all, or the name of one; none for a model that is not given any.

        Raises:
            Unusable: the model has no exact probabilities of symbols, or the text has characters it does not know.
        """
        self.require(Chains, "compress")
        content = packed.content_of(x, self.rows(condition), self.domain, self.condition)
        return packed.pack(self.model, content, run=self.identity, threads=self.threads)

    def decompress(self, data: bytes, *, named: str = "the code") -> Sampled | bytes:
        """The inverse of ``compress``: a text's bytes, or the rows with their classes.

        Raises:
            Unusable: the data are spoilt, or were compressed by another run or on another kind of machine.
        """
        self.require(Chains, "decompress")
        content = packed.unpack(self.model, data, run=self.identity, named=named)
        if content.text and isinstance(self.domain, Tokens):
            return packed.text_of_message(content.message, self.domain)
        return Sampled(content.message.x, self.domain, content.message.classes)

    def rows(self, condition: Tensor | str | None) -> Tensor | None:
        """Condition rows from what a person says."""
        if condition is None or isinstance(condition, Tensor):
            return condition
        if self.condition is None:
            raise Unusable(f"{self.folder} was fitted without a condition; fit with --condition to use one")
        return self.condition.parse(condition)

    def require(self, protocol: type, verb: str) -> None:
        """Refuses what the model cannot do, in one line."""
        if protocol not in capabilities(self.model):
            can = ", ".join(sorted(p.__name__.lower() for p in capabilities(self.model)))
            cure = getattr(self.model, "cures", {}).get(protocol)
            told = f"it {can}" if cure is None else cure.format(source=self.config["source"], run=self.folder)
            raise Unusable(f"{self.name} cannot {verb}; {told}")


def _evaluated(folder: Path, *, device: str, **given: Any) -> list[Score]:
    return load(folder, device=device).evaluate(**given)


def load(folder: str | Path, *, device: str = "cpu") -> Run:
    """Opens a run folder.

    Raises:
        Unusable: it is not one, not whole, or of another version.
    """
    return Run(folder, device=device)


def reading(text: str, *, device: str = "cpu") -> Reading:
    """RUN:layer as a person writes it.

    Raises:
        Unusable: there is no such run.
    """
    folder, layer = named(text)
    return Reading(load(folder, device=device), layer)


def lasting(source: str) -> str:
    """A source that means the same from any folder: an absolute path, or a name that no path can shadow."""
    if source.startswith(sources.STREAM):
        path, colon, options = source.removeprefix(sources.STREAM).partition(":")
        place = str(Path(path).expanduser().absolute()) if is_local(path) else path
        return sources.STREAM + place + colon + options
    path, colon, options = source.partition(":")
    if Path(path).expanduser().exists():
        return str(Path(path).expanduser().resolve()) + colon + options
    return source if source.startswith(sources.FORCE) or Path(source).exists() else sources.FORCE + source


def named_after(what: str, source: str) -> str:
    """A file name for what is made of a source: "vae", "mnist:levels=2" -> "vae-mnist-levels-2"."""
    path, _, options = source.partition(":")
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{what}-{Path(path).stem}-{options}").strip("-")


def chosen_device(device: str) -> str:
    """ "auto" is the GPU where there is one; a device that is not there is refused in one line."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        asked = torch.device(device)
        # A GPU is asked for without a context on it: it may be another process's.
        there = (asked.index or 0) < torch.cuda.device_count() if asked.type == "cuda" else _works(asked)
    except (RuntimeError, AssertionError):
        there = False
    if not there:
        raise Unusable(f"--device {device} is not there; use --device cpu, or leave it out")
    return device


def _works(device: torch.device) -> bool:
    return torch.empty(0, device=device).numel() == 0


@contextmanager
def fitting_together(folder: Path) -> Iterator[None]:
    """Files of a run that are whole, but not of one run, are refused in one line."""
    try:
        yield
    except Unusable:
        raise
    except Exception as error:  # of any kind: by what is wrong with them, they fail in any place
        raise Unusable(
            f"the files in {folder} do not fit each other ({in_brief(error)}); restore them or fit again"
        ) from None


@contextmanager
def _within_memory(chunk: int) -> Iterator[None]:
    """What the allocator refuses is said in one line."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise Unusable(
            f"memory must hold what is drawn together, and {chunk} observations are more than it does "
            f"({in_brief(error)}); draw fewer at once with --chunk"
        ) from None


def _is_well_formed(config: dict[str, Any], key: str) -> bool:
    value = config.get(key)
    if key in _KINDS:
        return _has(config, {key: _KINDS[key]})
    if key in _OTHERS:
        said = config if key == "features" else value
        return key not in config or (isinstance(said, dict) and _has(said, _OTHERS[key]))
    return type(value) is int and (0 if key == "planned" else 1) <= value <= _MOST[key]


def _has(said: dict[str, Any], kinds: dict[str, type | tuple[type, ...]]) -> bool:
    return all(name in said and isinstance(said[name], kind) for name, kind in kinds.items())


def _settings(method: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(method).parameters.items()
    return [name for name, p in parameters if p.kind is p.KEYWORD_ONLY and name != "generator"]


def _check_names(method: Callable[..., Any], settings: dict[str, Any], what: str) -> None:
    known = _settings(method)
    for name in settings:
        if name not in known:
            raise Unusable(f"{what} has no setting {name!r}" + (nearest(name, known) if known else "; it has none"))


def whole_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events with all that one has; of an alarm, the rule that rang too. Raises: ``KeyError``, ``TypeError``."""
    needed = {"alarm": ("kind", "step", "line", "rule")}
    return [
        event | {key: event[key] for key in needed.get(event["kind"], ("kind", "step", "line"))} for event in events
    ]
