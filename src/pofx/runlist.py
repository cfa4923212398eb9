"""The runs below a folder, newest first: what each is, how far it came, and what came of it."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pofx.catalogue import find
from pofx.domains import domain_from_config
from pofx.errors import Unusable
from pofx.evaluate.score import Kind, Score
from pofx.files import read_json
from pofx.protocols import Bounds, Infers, Scores, capabilities
from pofx.runs import STATE, Run
from pofx.train.launch import LOCK

State = Literal["finished", "stopped", "running", "broken"]
_WEIGHTS, _CHECKPOINT = "model.safetensors", Path("checkpoint") / STATE
_LIKELIHOODS: dict[type, Kind] = {Scores: "exact", Bounds: "lower bound"}


@dataclass(frozen=True)
class Listed:
    """One run folder at a glance.

    Args:
        folder: where it is.
        state: "running": its lock is held; "stopped": it can be resumed; "broken": ``reason`` says why.
        written: when its last file was written, in seconds since 1970.
        size: bytes on disk.
        model, source: as they were given to ``fit``; "" where that cannot be read.
        step, planned: rounds trained, of how many.
        seconds: that training took.
        score: log p(x) of the test split where a comparison holds it, else the best of the validation split.
        shown: ``score`` in the data's unit, with its sign.
        reason: what is wrong with a broken one.
    """

    folder: Path
    state: State
    written: float
    size: int
    model: str = ""
    source: str = ""
    step: int = 0
    planned: int = 0
    seconds: float = 0.0
    score: Score | None = None
    shown: str = ""
    reason: str = ""

    @property
    def standing(self) -> str:
        """The state for people: "stopped at 4 of 7"."""
        if self.state == "broken":
            return f"broken: {self.reason}"
        return self.state if self.state == "finished" else f"{self.state} at {self.step} of {self.planned}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        score = self.score.to_json() if self.score else None
        return asdict(self) | {"folder": str(self.folder), "score": score}


def listed(folder: str | Path = "runs") -> list[Listed]:
    """Every run below a folder, those of comparisons too, the last written first. Nothing is changed by looking.

    Raises:
        Unusable: there is no such folder. A broken run is a line that says so.
    """
    if not Path(folder).is_dir():
        raise Unusable(f"there is no folder {folder}; name one that holds runs")
    return sorted(map(_looked_at, _run_folders(Path(folder))), key=lambda run: run.written, reverse=True)


def _run_folders(folder: Path) -> Iterator[Path]:
    """What holds a file of a run is one; runs do not hold runs."""
    for parent, below, files in os.walk(folder):
        if "config.json" in files or _WEIGHTS in files or (Path(parent) / _CHECKPOINT).is_file():
            below.clear()
            yield Path(parent)


def _looked_at(folder: Path) -> Listed:
    files = list(_stats(folder))
    written, size = max((file.st_mtime for file in files), default=0.0), sum(file.st_size for file in files)
    running = is_held(folder)
    config: dict[str, Any] = {}
    try:
        run = Run(folder)
        config = run.config
        if running and not (folder / _CHECKPOINT).exists():
            return Listed(folder, "running", written, size, run.name, config["source"], 0, config.get("planned", 0))
        progress = run.progress
        if progress["finished"] and not (folder / _WEIGHTS).is_file():
            raise Unusable(f"{folder}/{_WEIGHTS} is missing")
        score = _test_score(folder) or _validation_score(run, progress)
        return Listed(
            folder,
            "running" if running else "finished" if progress["finished"] else "stopped",
            written,
            size,
            run.name,
            config["source"],
            int(progress["step"]),
            int(progress["planned"]),
            float(progress["seconds"]),
            score,
            _shown(score, run),
        )
    # Whatever a damaged file makes of it, the list goes on.
    except Exception as error:
        model, source = (str(config.get(key, "")) if isinstance(config, dict) else "" for key in ("model", "source"))
        return Listed(folder, "broken", written, size, model, source, reason=_few_words(error, folder))


def _stats(folder: Path) -> Iterator[os.stat_result]:
    """Of every file that is still there when it is looked at: a running run renames its own."""
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(parent, name))


def is_held(folder: Path) -> bool:
    """Whether a process is writing this run: its lock cannot be taken at once. No lock is made for looking."""
    from filelock import FileLock, Timeout

    path = folder / LOCK
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that we may not write is not ours to run
        return False


def _test_score(folder: Path) -> Score | None:
    """log p(x) of the test split, where the run belongs to a comparison that has scored it."""
    path = folder.parent.parent / "scores" / f"{folder.name}.json"
    if folder.parent.name != "runs" or not path.is_file():
        return None
    scores = [Score(**score) for score in read_json(path)["scores"]]
    return next((s for s in scores if s.metric == "log p(x)" and s.value is not None), None)


def _validation_score(run: Run, progress: dict[str, Any]) -> Score | None:
    """What its best weights reached on the validation split."""
    value = progress.get("best_value")
    if value is None:
        return None
    able = _capabilities(run.config)
    n = min(run.config["validation_rows"], run.config["data"]["observations"]["validation"])
    for protocol, kind in _LIKELIHOODS.items():
        if protocol in able:
            return Score("log p(x)", value, kind, "nats", n, split="validation")
    return Score("loss", -value, "none", "", n, split="validation", better="lower")


def _capabilities(config: dict[str, Any]) -> frozenset[type]:
    """What the run's model is able to do, by its class alone; of a prior of codes, whether it bounds log p(x)."""
    able = capabilities(find(config["model"]).load())
    if "latent" not in config:
        return able
    theirs = capabilities(find(config["latent"]["model"]).load())
    return frozenset({Bounds} if Infers in theirs and {Scores, Bounds} & able else ())


def _shown(score: Score | None, run: Run) -> str:
    if score is None:
        return ""
    told = score.shown(domain_from_config(run.config["domain"]))
    return told if score.metric.startswith("log p") else f"{score.metric} {told}"


def _few_words(error: Exception, folder: Path) -> str:
    """The rule that was broken, without the cure and the folder, which the line names already."""
    told = " ".join(str(error).split()) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
    told = told.replace(f"{folder}{os.sep}", "").removeprefix(f"{folder} is ")
    return re.split(r";| \(|, so ", told)[0][:100]


def age(written: float) -> str:
    """How long ago, in one unit.

    >>> age(time.time() - 7500)
    '2 h'
    """
    past = max(0.0, time.time() - written)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if past >= length:
            return f"{int(past // length)} {unit}"
    return f"{int(past)} s"
