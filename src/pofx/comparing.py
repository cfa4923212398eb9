"""Which family serves these data: every model on the same split with the same budget, then what the figures prove.

A comparison is a folder. Whatever is finished in it is never done again, so that after an interruption the same command
goes on:

=========================  ==================================================================================
``compare.json``           what was asked, and every figure
``report.html``            the page
``runs/NAME-seedS/``       a run folder for each training
``scores/NAME-seedS.json`` what evaluating it gave
``shown/``                 the samples on the page
=========================  ==================================================================================
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pofx import data as sources
from pofx.catalogue import entries, find
from pofx.data.dataset import Data
from pofx.errors import Unusable
from pofx.evaluate.score import Score
from pofx.files import read_json, write_json
from pofx.fitting import fit, resume
from pofx.protocols import Samples, capabilities
from pofx.report.comparison import SPLIT, Comparison
from pofx.report.page import layout, shown
from pofx.report.rows import Row
from pofx.runs import LEAST_SCORING, Run, chosen_device, load, named_after
from pofx.train import checkpoint
from pofx.train.settings import seconds
from pofx.train.watch import Watcher

LEAST_SHARE = 0.25  # of the budget, for scoring what trains in no time


class Spectator(Watcher):
    """Hears how a comparison goes: what a ``Watcher`` hears of each run, and each row as it is filled."""

    def compared(self, comparison: Comparison, coming: Sequence[str]) -> None:
        """A row was added; ``coming`` names the models still to be trained."""


def compare(
    source: str | Sequence[Run | str | Path],
    *,
    models: Sequence[str] | None = None,
    budget: str | float = "60s",
    seeds: int = 1,
    condition: str = "auto",
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    watch: Spectator | None = None,
    **source_options: Any,
) -> Comparison:
    """Trains, scores and compares models on a source; or compares finished runs.

    Every model sees the same training split for the same time, one after another, and is scored on the same test split
    in at most the time it trained. The baselines, and the codecs where they can read the data, are always among them. A
    model that fails is a row that says why.

    Args:
        source: as for ``fit``, or finished runs that share their data.
        models: catalogue names; by default one of each family that takes the data.
        budget: of each model.
        seeds: trainings of each model, which give the spread.
        condition: "auto": the class where the source has classes.
        out: the folder; by default ``runs/compare-SOURCE``. A comparison left unfinished there is gone on with.
        seed: of the split, and of the first training.
        device: "auto", "cpu", "cuda", ...
        watch: hears how it goes.
        source_options: of the source.

    Raises:
        Unusable: nothing can be compared: the source, a model's name, the runs or the folder.
        KeyboardInterrupt: everything is saved; the same call goes on.
    """
    device = chosen_device(device)
    if not isinstance(source, str | Path):
        return _compare_runs(list(source), out=out, seed=seed, device=device, watch=watch or Spectator())
    if seeds < 1:
        raise Unusable(f"--seeds must be at least 1, got {seeds}; one training per model is --seeds 1")
    budget_seconds = seconds(budget)
    if budget_seconds <= 0:
        raise Unusable(f"--budget must be above 0 seconds, got {budget}; try 60s")
    source = str(source)
    data, condition = _loaded(source, condition, seed, source_options)
    names = chosen(models, data)
    asked = {
        "source": source, "budget": f"{budget_seconds:g}s", "seeds": seeds, "seed": seed, "condition": condition,
        "options": source_options, "models": names, "fingerprint": data.fingerprint(),
        "command": _command(source, models, budget, seeds, condition, seed),
    }  # fmt: skip
    comparison = Comparison(data, _claimed(out, source, asked), asked)
    trials = Trials(comparison, budget_seconds, device, watch or Spectator(), source_options | {"condition": condition})
    jobs = {name: [_job(trials, name, seed + i) for i in range(seeds)] for name in names}
    return _filled(comparison, jobs, trials.watch)


def chosen(models: Sequence[str] | None, data: Data) -> list[str]:
    """The models to train: those named, else a flagship of each family that takes the data; then every baseline.

    Raises:
        Unusable: a name that is unknown, or a model that does not take the data.
    """
    suitable = {name: e for name, e in entries().items() if data.domain.kind in e.domains}
    named = list(dict.fromkeys(models)) if models is not None else [n for n, e in suitable.items() if e.flagship]
    for name in named:
        if find(name).name not in suitable:
            raise Unusable(
                f"{name} takes {' or '.join(find(name).domains)}, but the data are {data.domain.kind}; "
                f"for these there are: {', '.join(suitable)}"
            )
    return list(dict.fromkeys([*named, *(n for n, e in suitable.items() if e.family == "baselines")]))


@dataclass(frozen=True)
class Trial:
    """What one training gave."""

    run: Run
    parameters: int
    able: frozenset[str]
    scores: tuple[Score, ...]
    samples: Tensor | None
    given: Tensor | None


@dataclass(frozen=True)
class Trials:
    """Trains and scores the runs of a comparison, each once: what is found finished is read."""

    comparison: Comparison
    budget: float
    device: str
    watch: Spectator
    options: dict[str, Any]

    def __call__(self, name: str, seed: int) -> Trial:
        """Trains, or goes on with, or reads one run; then its scores and samples."""
        run = self._trained(name, seed)
        run.data = self.comparison.data
        least = LEAST_SHARE * self.budget
        allowed = self.budget if run.train_seconds > least else least  # the same for all that train
        return tried(
            run, self.comparison.folder, f"{name}-seed{seed}", allowed, self.comparison.asked["seed"], self.watch
        )

    def _trained(self, name: str, seed: int) -> Run:
        home = self.comparison.folder / "runs" / f"{name}-seed{seed}"
        if home.exists() and not (home / "checkpoint" / "state.safetensors").exists():
            shutil.rmtree(home)  # cut off before its first checkpoint: nothing is lost
        if not home.exists():
            asked, data = self.comparison.asked, self.comparison.data
            return fit(
                name, asked["source"], out=home, budget=self.budget, seed=seed, data_seed=asked["seed"], data=data,
                device=self.device, watch=self.watch, **self.options,
            )  # fmt: skip
        run = load(home)
        return run if run.finished else resume(home, device=self.device, watch=self.watch)


def tried(run: Run, folder: Path, label: str, allowed: float, seed: int, watch: Spectator) -> Trial:
    """A finished run's scores and its samples for the page, made once and kept in the folder."""
    kept, drawn = folder / "scores" / f"{label}.json", folder / "shown" / f"{label}.safetensors"
    if not kept.exists():
        scores = run.evaluate(SPLIT, seconds=allowed, seed=seed, watch=watch)
        write_json(kept, {"scores": [score.to_json() for score in scores]})
    if not drawn.exists():
        tensors: dict[str, Tensor] = {}
        if Samples in capabilities(run.model):
            given = layout(run.condition)[1]
            given = given if run.domain.kind == "images" else None
            tensors["x"] = run.sample(shown(run.domain, run.condition), given, seed=seed).x
            tensors |= {} if given is None else {"c": given}
        checkpoint.save(drawn, tensors)
    tensors, _ = checkpoint.load(drawn)
    return Trial(
        run,
        parameters=sum(p.numel() for p in run.model.parameters()),
        able=frozenset(protocol.__name__ for protocol in capabilities(run.model)),
        scores=tuple(map(_score, read_json(kept)["scores"])),
        samples=tensors.get("x"),
        given=tensors.get("c"),
    )


def _filled(comparison: Comparison, jobs: dict[str, list[Callable[[], Trial]]], watch: Spectator) -> Comparison:
    """Row after row, the figures written after each; the page at the end, also at an early one."""
    names = list(jobs)
    figures, page = comparison.folder / "compare.json", comparison.folder / "report.html"
    try:
        for i, name in enumerate(names):
            comparison.coming = tuple(names[i:])
            watch.said(f"{name} ({i + 1} of {len(names)})")
            comparison.rows.append(_row(name, jobs[name]))
            comparison.save(figures)
            watch.compared(comparison, names[i + 1 :])
        comparison.coming = ()
        comparison.rows += _codecs(comparison.data)
        comparison.save(figures)
    finally:
        comparison.save(page)
    watch.compared(comparison, [])
    return comparison


def _row(label: str, jobs: Sequence[Callable[[], Trial]]) -> Row:
    """One model's trainings; those that failed are counted, and the last reason given."""
    trials: list[Trial] = []
    reason = ""
    for job in jobs:
        try:
            trials.append(job())
        except Exception as error:
            reason = _reason(error)
    entry = entries().get(trials[0].run.name if trials else label)
    family, summary = (entry.family, entry.summary) if entry else ("", "")
    if not trials:
        return Row(label, family, summary, status="failed", reason=reason)
    first = trials[0]
    failed = len(jobs) - len(trials)
    return Row(
        label,
        family,
        summary,
        reason=f"{failed} of {len(jobs)} trainings failed: {reason}" if failed else "",
        parameters=first.parameters,
        steps=round(sum(t.run.steps for t in trials) / len(trials)),
        seconds=sum(t.run.train_seconds for t in trials) / len(trials),
        able=first.able,
        by_seed=tuple(t.scores for t in trials),
        history=first.run.history,
        events=first.run.events,
        samples=first.samples,
        given=first.given,
    )


def _codecs(data: Data) -> list[Row]:
    """PNG and xz as rows, each with the best code it found."""
    from pofx.evaluate.codecs import codec_scores

    best = {name: max(s, key=lambda score: score.value) for name, s in codec_scores(data, SPLIT).items() if s}
    return [Row(name, family="codecs", summary=score.note, by_seed=((score,),)) for name, score in best.items()]


def _compare_runs(
    runs: list[Run | str | Path], *, out: str | Path | None, seed: int, device: str, watch: Spectator
) -> Comparison:
    """Finished runs side by side, scored again on the test split that they share."""
    if len(runs) < 2:
        raise Unusable(f"a comparison of runs needs at least two, got {len(runs)}; or give a source to compare on")
    opened = [run if isinstance(run, Run) else load(run, device=device) for run in runs]
    first = opened[0]
    for run in opened:
        if not run.finished:
            raise Unusable(f"{run.folder} is not finished; finish it with: pofx resume {run.folder}")
        if run.config["data"]["fingerprint"] != first.config["data"]["fingerprint"]:
            raise Unusable(
                f"runs are compared on the same data and split, but those of {run.folder} ({run.config['source']}) "
                f"and {first.folder} ({first.config['source']}) differ; fit both on one source, seed and condition"
            )
    asked = {
        "source": first.config["source"], "budget": "as trained", "seeds": 1, "seed": seed,
        "runs": [str(run.folder.resolve()) for run in opened], "fingerprint": first.config["data"]["fingerprint"],
        "command": f"pofx compare {' '.join(str(run.folder) for run in opened)}",
    }  # fmt: skip
    comparison = Comparison(first.data, _claimed(out, first.config["source"], asked), asked)
    jobs = {}
    for label, run in zip(_labels(opened), opened):
        jobs[label] = [_tried(run, comparison.folder, label, seed, watch)]
    return _filled(comparison, jobs, watch)


def _job(trials: Trials, name: str, seed: int) -> Callable[[], Trial]:
    return lambda: trials(name, seed)


def _tried(run: Run, folder: Path, label: str, seed: int, watch: Spectator) -> Callable[[], Trial]:
    return lambda: tried(run, folder, label, max(LEAST_SCORING, run.train_seconds), seed, watch)


def _labels(runs: Sequence[Run]) -> list[str]:
    """Catalogue names; where two runs share one, their folders' names."""
    names = [run.name for run in runs]
    labels = [run.folder.name if names.count(run.name) > 1 else run.name for run in runs]
    return [label if labels.count(label) == 1 else f"{label}-{i + 1}" for i, label in enumerate(labels)]


def _loaded(source: str, condition: str, seed: int, options: dict[str, Any]) -> tuple[Data, str]:
    """The data, and the condition that "auto" means for them."""
    if condition != "auto":
        return sources.load(source, seed=seed, condition=condition, **options), condition
    try:
        return sources.load(source, seed=seed, condition="class", **options), "class"
    except Unusable:
        return sources.load(source, seed=seed, condition="none", **options), "none"


def _claimed(out: str | Path | None, source: str, asked: dict[str, Any]) -> Path:
    """A folder for this comparison: new, or one that holds the same question, which is gone on with.

    Raises:
        Unusable: the folder asked for holds something else.
    """
    if out is not None:
        folder = Path(out)
        if not _free(folder, asked):
            raise Unusable(
                f"{folder} holds something else than this comparison, and is not overwritten; choose another --out"
            )
    else:
        words = named_after("compare", source)
        folders = [Path("runs") / words] + [Path("runs") / f"{words}-{i}" for i in range(2, 10_000)]
        folder = next(folder for folder in folders if _free(folder, asked))
    if not (folder / "compare.json").exists():
        write_json(folder / "compare.json", {"asked": asked, "models": []})
    return folder


def _free(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether the folder is new, empty, or holds the same question (of which models and seeds may be added)."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    if not (folder / "compare.json").exists():
        return not any(folder.iterdir())
    held = read_json(folder / "compare.json").get("asked", {})
    may_differ = ("models", "seeds", "command")
    return {k: v for k, v in held.items() if k not in may_differ} == {
        k: v for k, v in asked.items() if k not in may_differ
    }


def _command(
    source: str, models: Sequence[str] | None, budget: str | float, seeds: int, condition: str, seed: int
) -> str:
    flags = [f"--budget {budget}" + ("" if isinstance(budget, str) else "s")]
    flags += [f"--models {','.join(models)}"] if models is not None else []
    flags += [f"--seeds {seeds}"] if seeds > 1 else []
    flags += [f"--seed {seed}"] if seed else []
    flags += [f"--condition {condition}"] if condition == "none" else []
    return f"pofx compare {source} {' '.join(flags)}"


def _score(values: dict[str, Any]) -> Score:
    return Score(**{**values, "value": float("nan") if values["value"] is None else values["value"]})


def _reason(error: Exception) -> str:
    told = " ".join(str(error).split()) or "no reason given"
    return told if isinstance(error, Unusable) else f"{type(error).__name__}: {told}"
