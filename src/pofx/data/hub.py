"""Sets that the library ``datasets`` reads, streamed: of the Hugging Face hub, or local files, however many.

``hf:NAME`` is a set of the hub; ``hf:PATH`` a folder of Parquet, JSON lines, WebDataset shards or pictures, one such
file, or a pattern of them. Nothing is downloaded or unpacked beforehand. Validation and test are the first examples of
their own splits, or of the stream, which training then passes over; what is learnt from data (alphabets, classes,
means) is learnt from the first training rows.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pofx.conditions import Classes
from pofx.data.dataset import Data
from pofx.data.kinds import ClassColumn, Columns, Kind, Labelled, Pictures, Texts
from pofx.data.pictures import SPLIT_FOLDERS
from pofx.data.request import Request, is_local
from pofx.data.rows import FEWEST, SPLITS
from pofx.data.streamed import Example, Examples, Place, Resumable, Streamed
from pofx.data.tables import MOST_CLASSES
from pofx.errors import Unusable, nearest
from pofx.files import cache_folder

HEAD = 10_240  # examples that are looked at before training; a tenth of them is test, a tenth validation
HEAD_BYTES = 256 << 20  # of which no more are looked at
BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".tar": "webdataset", ".arrow": "arrow"}
_CLASS_COLUMNS, _TEXT_COLUMNS = ("label", "cls", "class"), ("text", "txt", "content")


def read_hub(request: Request) -> Data:
    """A streamed set: a bounded number of its first examples is held out or looked at, the rest is read in training."""
    splits, declared = _opened(request)
    first = next(iter(Examples(splits["train"], splits["train"].state_dict())), None)
    if first is None:
        raise Unusable(f"{request.place} is empty; give a set with some examples")
    kind = _kind(first, declared, request)
    label = _label(kind, first, declared, request)
    used = [*(kind.columns if isinstance(kind, Columns) else [kind.column]), *([label] if label else [])]
    splits = {name: stream.select_columns(used) for name, stream in splits.items()}
    begins = {name: stream.state_dict() for name, stream in splits.items()}

    own = [name for name in SPLITS[1:] if name in splits]
    cut = [name for name in SPLITS[1:] if name not in splits]
    head = _first(splits["train"], begins["train"], kind, HEAD)
    each = max(1, len(head) // 10)
    held = {name: head[i * each : (i + 1) * each] for i, name in enumerate(cut)}
    held |= {name: _first(splits[name], begins[name], kind, HEAD // 10) for name in own}
    training = head[len(cut) * each :]
    begin = _place_after(splits["train"], begins["train"], kind, len(cut) * each)

    labels = None if label is None else _class_column(label, declared, training, request)
    layout = Labelled(kind.learnt(training), labels)
    parts = {name: layout.part(examples) for name, examples in {"train": training, **held}.items()}
    if sum(map(len, parts.values())) < FEWEST or not all(map(len, parts.values())):
        counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
        raise Unusable(f"{request.source} begins with too few usable observations: at least {FEWEST}; got {counts}")
    condition = None if labels is None else _classes(labels, training)
    _note(len(parts["train"]), condition, label in declared, request)
    return Data(
        request.source,
        layout.kind.domain(),
        train=Streamed(parts["train"], splits["train"], begin, layout.usable, layout, _identity(request)),
        validation=parts["validation"],
        test=parts["test"],
        condition=condition,
        problems=tuple(request.findings.problems),
        split=_described(own, cut, each),
    )


def _opened(request: Request) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """The splits as streams, by our names, and the class names that the set declares, by column."""
    try:
        import datasets
    except ImportError:
        raise Unusable("hf: sources need the datasets library; pip install 'pofx[stream]'") from None
    try:
        found = datasets.load_dataset(
            **_location(request),
            name=request.options.config,
            revision=request.options.revision,
            streaming=True,
            cache_dir=str(cache_folder() / "hub"),
        )
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Unusable(f"hf:{request.place} cannot be opened ({reason}); check the name, path or network") from None
    splits = {SPLIT_FOLDERS.get(name, name): stream for name, stream in found.items()}
    if "train" not in splits and len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    if "train" not in splits:
        raise Unusable(f"hf:{request.place} has the splits {', '.join(splits)} and no train; give a set that has one")
    features = splits["train"].features or {}
    declared = {name: tuple(kind.names) for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    return {name: _undecoded(splits[name], datasets) for name in SPLITS if name in splits}, declared


def _undecoded(stream: Any, datasets: Any) -> Any:
    """Pictures are decoded by us, when their batch is taken."""
    for name, kind in (stream.features or {}).items():
        if isinstance(kind, datasets.Image):
            stream = stream.cast_column(name, datasets.Image(decode=False))
    return stream


def _location(request: Request) -> dict[str, Any]:
    """What names the set to ``datasets.load_dataset``."""
    if not is_local(request.place):
        if request.place.count("/") > 1 or set(request.place) & set("*~\\"):
            raise Unusable(
                f"hf:{request.place}: there is no such file or folder, and a set is NAME or OWNER/NAME; check it"
            )
        return {"path": request.place}
    if request.path.is_dir():
        return {"path": str(request.path.resolve())}
    suffix = Path(request.place).suffix
    if suffix not in BUILDERS:
        raise Unusable(f"hf:{request.place} must be a folder, or files of {', '.join(BUILDERS)}; got {suffix!r}")
    return {"path": BUILDERS[suffix], "data_files": str(request.path.absolute())}


def _kind(first: Example, declared: Mapping[str, Any], request: Request) -> Kind:
    """What is modelled: pictures before texts before numbers, unless a column is named."""
    options = request.options
    for name in filter(None, (options.column, *options.drop)):
        if name not in first:
            raise Unusable(f"{request.source} has no column {name!r}{nearest(name, first)}")
    columns = [name for name in ([options.column] if options.column else first) if not name.startswith("__")]
    pictures = [name for name in columns if isinstance(first[name], dict) and "bytes" in first[name]]
    texts = [name for name in columns if isinstance(first[name], str)]
    texts = [name for name in texts if name in _TEXT_COLUMNS] or texts
    aside = {*declared, *options.drop, request.condition}
    numbers = [name for name in columns if isinstance(first[name], int | float) and name not in aside]
    if pictures:
        return Pictures(pictures[0], request)
    if texts and (texts[0] in _TEXT_COLUMNS or options.column or not numbers):
        return Texts(texts[0], request)
    if numbers:
        return Columns(tuple(numbers))
    raise Unusable(f"{request.source} has no pictures, texts or numbers in {', '.join(columns)}; name one with column=")


def _label(kind: Kind, first: Example, declared: Mapping[str, Any], request: Request) -> str | None:
    """The column of the condition that is asked for."""
    wanted = request.condition
    if wanted == "none":
        return None
    if isinstance(kind, Texts):
        raise Unusable(f"{request.source}: streamed texts have no condition {wanted!r}; leave --condition out")
    if wanted == "class":
        wanted = next((name for name in (*declared, *_CLASS_COLUMNS, "class") if name in first), "class")
    if wanted not in first or isinstance(first[wanted], float | dict | list):
        offer = [name for name in first if isinstance(first[name], str | int)]
        raise Unusable(f"{request.source} has no classes {wanted!r}{nearest(wanted, offer)}")
    return wanted


def _first(stream: Resumable, begin: Place, kind: Kind, most: int) -> list[Example]:
    """The first usable examples, at most so many, and no more than may be held."""
    taken, size = [], 0
    for example in islice(Examples(stream, begin, kind.usable), most):
        taken.append(example)
        size += kind.weigh(example)
        if size > HEAD_BYTES:
            break
    return taken


def _place_after(stream: Resumable, begin: Place, kind: Kind, n: int) -> Place:
    """Where the stream stands after n usable examples."""
    examples = Examples(stream, begin, kind.usable)
    for _ in range(n):
        examples.next()
    return examples.place()


def _class_column(
    column: str, declared: Mapping[str, tuple[str, ...]], training: Sequence[Example], request: Request
) -> ClassColumn:
    """The classes that the set declares, else the values of the head."""
    values = sorted({example[column] for example in training} - {None})
    names = declared.get(column) or tuple(map(str, values))
    if not 1 <= len(names) <= MOST_CLASSES:
        raise Unusable(
            f"{request.source}: classes are 1 to {MOST_CLASSES:,}, and {column!r} has {len(names):,} values; "
            "use another --condition"
        )
    codes = range(len(names)) if column in declared else values
    return ClassColumn(column, names, {value: i for i, value in enumerate(codes)})


def _classes(column: ClassColumn, training: Sequence[Example]) -> Classes:
    codes = [code for code in map(column.code, training) if code is not None]
    counts = torch.bincount(torch.tensor(codes), minlength=len(column.names)).double()
    return Classes(column.names, tuple((counts / counts.sum()).tolist()))


def _note(rows: int, condition: Classes | None, told: bool, request: Request) -> None:
    """What a person would want to know of a stream whose head has so many rows."""
    note = request.findings.note
    note(
        f"the stream's length is unknown: what is counted, learnt before training or compared is its first {rows:,} "
        "training observations; examples are shuffled in blocks, not all together"
    )
    if condition is not None:
        request.findings.classes.update(
            {name: round(share * rows) for name, share in zip(condition.names, condition.frequencies)}
        )
        seen = sum(share > 0 for share in condition.frequencies)
        if seen < condition.count:
            note(f"its first training observations are of {seen} of {condition.count} classes: is the set sorted?")
        if not told:
            note("an example of a class that they do not show is passed over")


def _described(own: Sequence[str], cut: Sequence[str], each: int) -> str:
    made = [f"{name}: the first examples of its own split" for name in own]
    made += [f"{name}: {each:,} of the stream's first examples, which training passes over" for name in cut]
    return "; ".join(["streamed: training reads the rest in order, and its first are those that are counted", *made])


def _identity(request: Request) -> str:
    """A name of the hub with its subset and revision; a local set is told by its head, wherever it lies."""
    options = request.options
    return "" if is_local(request.place) else f"{request.place}/{options.config}/{options.revision}"
