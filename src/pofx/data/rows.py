"""From the rows of a source to ``Data``: split, condition, checks. What is learnt is learnt from training rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pofx.conditions import Classes, Condition, TextCondition, VectorCondition
from pofx.data.dataset import Binarised, Data, Part, Rows
from pofx.data.maps import Mapped, Store, partly_read
from pofx.data.palettes import painted
from pofx.data.request import Findings, Request
from pofx.domains import Domain, Images, Vectors
from pofx.errors import Unusable, nearest
from pofx.randomness import stream

SPLITS = ("train", "validation", "test")
FEWEST, FEW = 10, 50  # observations: below the first nothing can be learnt, below the second hardly anything
EXAMPLES = 256  # rows of a condition kept, to draw from when sampling


@dataclass(frozen=True)
class Labels:
    """A class per row: ``index`` (N,) into ``names``."""

    index: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """Real numbers per row: ``values`` (N, D), float32, of columns ``names``."""

    values: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Captions:
    """A text per row."""

    texts: tuple[str, ...]


Given = Labels | Numbers | Captions


@dataclass(frozen=True)
class Observations:
    """What a source holds, before it is split.

    Args:
        domain: of ``x``.
        x: (N, ...) canonical, or a store of them on the disk.
        official: rows of each split that the source itself makes; a missing one is cut from "train".
        described: where the official split is from, for people.
        given: what a row can be conditioned on, by the name the user gives.
        log_prob: log-density, where it is known.
    """

    domain: Domain
    x: Tensor | Store
    official: Mapping[str, Tensor] = field(default_factory=dict)
    described: str = "official"
    given: Mapping[str, Given] = field(default_factory=dict)
    log_prob: Callable[[Tensor], Tensor] | None = None


def split_rows(found: Observations, request: Request) -> Data:
    """Splits, conditions and checks the rows of a source."""
    findings = request.findings
    index, described = split_of(found, request.seed)
    if len(found.x) < FEWEST or not all(map(len, index.values())):
        counts = ", ".join(f"{len(rows)} {name}" for name, rows in index.items())
        raise Unusable(
            f"{request.source} has too few observations: at least {FEWEST}, some in each split; got {counts}"
        )
    if len(index["train"]) < FEW:
        findings.note(
            f"only {len(index['train'])} training observations: whatever is learnt from them is thin evidence"
        )
    full = index["train"]
    index["train"] = full[: request.options.limit]

    domain, x = painted(found.domain, found.x, full, request)
    found = replace(found, domain=domain, x=x)
    condition, c = _condition(found, request, full, index)
    findings.classes.update(_class_counts(found, index["train"]))
    _check_duplicates(found.x, index, findings)
    if isinstance(found.domain, Vectors) and isinstance(found.x, Tensor):
        _check_columns(found.x[full], found.domain, findings)
    domain, parts = _parts(found, c, index, request)
    findings.problems.extend(partly_read(parts))
    return Data(
        request.source,
        domain,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        condition=condition,
        problems=tuple(findings.problems),
        split=described,
        indices=index,
        log_prob=found.log_prob,
        offers=tuple(found.given),
    )


def seeded_split(n: int, seed: int) -> dict[str, Tensor]:
    """Rows 0 .. n-1, shuffled by the seed: 80% training, 10% validation, 10% test."""
    return cut(torch.arange(n), ("validation", "test"), 0.1, seed)


def hashes(x: Tensor) -> np.ndarray:
    """(N,) a number for each row, the same for equal rows; it holds within one process."""
    return np.array([hash(row.tobytes()) for row in x.reshape(len(x), -1).numpy()])


def cut(rows: Tensor, names: tuple[str, ...], share: float, seed: int) -> dict[str, Tensor]:
    """Shuffles ``rows`` and cuts a share for each name from their end; the rest is "train"."""
    rows = rows[torch.randperm(len(rows), generator=stream(seed, "split"))]
    size = max(1, round(share * len(rows)))
    sizes = [len(rows) - size * len(names), *[size] * len(names)]
    if sizes[0] < 0:
        return dict.fromkeys(("train", *names), rows[:0])
    return dict(zip(("train", *names), (part.clone() for part in rows.split(sizes))))


def split_of(found: Observations, seed: int) -> tuple[dict[str, Tensor], str]:
    """Rows of each split, official or drawn by the seed, and how it was made, for people."""
    if not found.official:
        return seeded_split(len(found.x), seed), "seeded 80/10/10"
    index = dict(found.official)
    missing = tuple(name for name in SPLITS[1:] if name not in index)
    if missing:
        index |= cut(index["train"], missing, 0.1, seed)
    described = found.described + (f"; {' and '.join(missing)} cut from train by the seed" if missing else "")
    return {name: index[name] for name in SPLITS}, described


def _condition(
    found: Observations, request: Request, train: Tensor, index: Mapping[str, Tensor]
) -> tuple[Condition | None, Tensor | None]:
    """The condition asked for, and its row for every row of x."""
    wanted = request.condition
    if wanted == "none":
        return None, None
    if wanted not in found.given:
        offer = nearest(wanted, found.given) if found.given else "; it offers none, so leave --condition out"
        raise Unusable(f"{request.source} has no condition {wanted!r}{offer}")
    given = found.given[wanted]
    if isinstance(given, Labels):
        return _classes(given, wanted, train, index)
    if isinstance(given, Captions):
        return _texts(given, train, index["train"][:EXAMPLES])
    examples = given.values[index["train"][:EXAMPLES]]
    return VectorCondition(tuple(given.values.shape[1:]), _nested(examples), given.names), given.values


def _classes(given: Labels, wanted: str, train: Tensor, index: Mapping[str, Tensor]) -> tuple[Condition, Tensor]:
    """Names from the whole training split, so that a limit never renames a class; frequencies from what is kept."""
    known = given.index[train].unique()
    for name, rows in index.items():
        unseen = set(given.index[rows].tolist()) - set(known.tolist())
        if unseen:
            names = ", ".join(given.names[k] for k in sorted(unseen)[:5])
            raise Unusable(
                f"--condition {wanted}: {names} stands in {name} but never in training; "
                "leave it out of the data, or use another condition"
            )
    rows = torch.searchsorted(known, given.index)
    counts = torch.bincount(rows[index["train"]], minlength=len(known)).double()
    frequencies = tuple((counts / counts.sum()).tolist())
    return Classes(tuple(given.names[k] for k in known.tolist()), frequencies), rows


def _texts(given: Captions, train: Tensor, kept: Tensor) -> tuple[Condition, Tensor]:
    """Characters from 1; those never seen in training are left out of a held-out text."""
    seen = [given.texts[i] for i in train.tolist()]
    alphabet = {ch: i + 1 for i, ch in enumerate(sorted(set("".join(seen))))}
    rows = torch.zeros(len(given.texts), max(1, *map(len, seen)), dtype=torch.int64)
    for row, text in zip(rows, given.texts):
        codes = [alphabet[ch] for ch in text if ch in alphabet][: len(row)]
        row[: len(codes)] = torch.tensor(codes, dtype=torch.int64)
    return TextCondition((rows.shape[1],), _nested(rows[kept]), tuple(alphabet)), rows


def _nested(rows: Tensor) -> tuple[tuple[int | float, ...], ...]:
    return tuple(tuple(row) for row in rows.tolist())


def _class_counts(found: Observations, train: Tensor) -> dict[str, int]:
    for given in found.given.values():
        if isinstance(given, Labels):
            counts = torch.bincount(given.index[train], minlength=len(given.names)).tolist()
            return dict(zip(given.names, counts))
    return {}


def _parts(
    found: Observations, c: Tensor | None, index: Mapping[str, Tensor], request: Request
) -> tuple[Domain, dict[str, Part]]:
    if not isinstance(found.x, Tensor):
        return found.domain, _mapped(found.x, c, index, request)
    rows = {name: Rows(found.x[i], None if c is None else c[i]) for name, i in index.items()}
    if not request.options.binary:
        return found.domain, dict(rows)
    if not isinstance(found.domain, Images) or found.domain.levels in (None, 2):
        raise Unusable(f"{request.source}: 'binary' draws grey pictures as ink, and these are not grey; leave it out")
    levels = found.domain.levels or 2
    drawn = {name: Rows(_draw(part.x, levels, request.seed, name), part.c) for name, part in rows.items()}
    train = Binarised(rows["train"].x, rows["train"].c, levels, drawn["train"].x)
    return replace(found.domain, levels=2), {**drawn, "train": train}


def _mapped(store: Store, c: Tensor | None, index: Mapping[str, Tensor], request: Request) -> dict[str, Part]:
    if request.options.binary:
        raise Unusable(f"{request.source}: 'binary' draws pictures that are held in memory; leave it out, or 'mapped'")
    return {name: Mapped(store, rows, None if c is None else c[rows], store.most) for name, rows in index.items()}


def _draw(x: Tensor, levels: int, seed: int, name: str) -> Tensor:
    """One fixed draw of binary pictures, through the very code that redraws them in training."""
    part = Binarised(x, None, levels, x)
    return part.take(torch.arange(len(x)), generator=stream(seed, f"binarise/{name}"))[0]


def _check_duplicates(x: Tensor | Store, index: Mapping[str, Tensor], findings: Findings) -> None:
    """Exact copies, by a hash of each row: within training, and of held-out rows in training."""
    if not isinstance(x, Tensor) and not x.comparable:
        findings.note("copies are not looked for: that would read every shard")
        return
    found = {
        name: hashes(x[rows]) if isinstance(x, Tensor) else x.digests[rows.numpy()] for name, rows in index.items()
    }
    copies = len(found["train"]) - len(np.unique(found["train"]))
    if copies:
        findings.note(f"{copies:,} of {len(found['train']):,} training observations are exact copies of another")
    for name, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        shared = int(np.isin(found[name], found[other]).sum())
        if shared:
            findings.note(f"{shared:,} of {len(found[name]):,} {name} observations also stand in {other}")


def _check_columns(x: Tensor, domain: Vectors, findings: Findings) -> None:
    """Columns over which a density has no upper limit: constant ones, and those of few values."""
    for i, column in enumerate(x.T):
        name = domain.columns[i] if domain.columns else f"number {i}"
        values = len(column[:10_000].unique())
        if values == 1 and bool((column == column[0]).all()):
            findings.note(f"column {name} is constant ({column[0]:g}) in training; drop it")
        elif values <= min(20, len(column) // 5):
            findings.note(
                f"column {name} takes few values ({values}): a density over it has no upper limit, so likelihoods "
                f"mean little; drop it, or give it as --condition"
            )
