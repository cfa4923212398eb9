"""A training from a file: a run's own ``config.json``, which repeats that run, or a few keys written by hand.

A file by hand has the names that ``fit`` takes, flat or under ``arguments``, ``settings`` and ``source_options``:

    {"model": "vae", "source": "digits", "steps": 100, "latent_dim": 8}
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pofx import data as sources
from pofx.catalogue import Entry, find
from pofx.errors import Unusable, nearest
from pofx.files import read_json
from pofx.fitting import fit
from pofx.runs import FORMAT, lasting
from pofx.train.settings import Settings

_GROUPS = ("arguments", "settings", "source_options")
_RECORDED = (
    "format",
    "pofx",
    "origin",
    "sample_chunk",
    "domain",
    "data",
    "planned",
    "features_identity",
)  # what a run knows of itself
_REQUIRED = ("model", "source")
_NOT_IN_FILES = ("data", "watch", "given")


def fitting_arguments(path: str | Path, **given: Any) -> dict[str, Any]:
    """What ``fit(**...)`` takes, from a file, with what is given beside it on top.

    Of a run, these are the seed, split, settings, threads and planned number of steps, so that on the same machine and
    version the repeated run has the same bits; a run that the clock cut short is repeated to its planned end.

    >>> run = fit("vae", "moons", steps=10, out="first")                          # doctest: +SKIP
    >>> fit(**fitting_arguments("first/config.json"), out="second")               # doctest: +SKIP

    Args:
        path: JSON, or YAML with ``pofx[yaml]``; or a run folder.
        given: wins over the file.

    Raises:
        Unusable: the file cannot be read, lacks the model or the source, or has a key or a value that does not fit.
    """
    path = _file(path)
    written = _flattened(_read(path), path)
    merged = overlaid(written, given)
    _check(merged, path)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in merged.items()}


def named_model(path: str | Path) -> str | None:
    """The model that a file names, or None."""
    name = _mapping(_read(_file(path)), path).get("model")
    return name if isinstance(name, str) else None


def _file(path: str | Path) -> Path:
    return Path(path) / "config.json" if Path(path).is_dir() else Path(path)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise Unusable(f"there is no file {path}; --config takes a run's config.json or a file like it")
    return _read_yaml(path) if path.suffix in (".yaml", ".yml") else read_json(path)


def _read_yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise Unusable(f"{path} needs the package PyYAML; pip install 'pofx[yaml]', or write JSON") from None
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _yaml_loader(yaml))  # a safe one: it builds plain values
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise Unusable(f"{path} cannot be read as YAML ({reason}); mend it") from None


def _yaml_loader(yaml: Any) -> Any:
    """YAML's plain values, and 1e-3 as the number that everybody means by it."""

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def _mapping(value: Any, where: str | Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Unusable(f"{where} must hold names with values, got {type(value).__name__}; see 'pofx fit --help'")
    return value


def _flattened(written: Any, path: Path) -> dict[str, Any]:
    """One level of names; of a run's record, what trains it again."""
    written = dict(_mapping(written, path))
    if written.get("format", FORMAT) != FORMAT:
        raise Unusable(
            f"{path} is of format {written['format']}, this pofx reads format {FORMAT}; use the version that wrote it"
        )
    if not isinstance(written.get("condition"), str):
        written.pop("condition", None)  # its meaning, in a record; its name is among the options of the source
    if isinstance(written.get("latent"), Mapping):
        written["latent"] = written["latent"].get("run")  # what it is and holds, in a record
    if isinstance(written.get("from_source"), Mapping):
        written["from_source"] = written["from_source"].get("origin")  # likewise
    flat = {name: value for name, value in written.items() if name not in (*_GROUPS, *_RECORDED)}
    for group in _GROUPS:
        flat = dict(_mapping(written.get(group, {}), f"{path}: {group}")) | flat
    flat = {name: value for name, value in flat.items() if value is not None}
    if written.get("planned"):
        flat = overlaid(flat, {"steps": written["planned"]})
    source, origin = flat.get("source"), written.get("origin")
    if isinstance(source, str) and isinstance(origin, str) and lasting(source) != origin:
        flat["source"] = origin  # the path that was meant, where it is called from another folder
    return flat


def overlaid(written: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given on top of what is written.

    A number of steps also replaces a budget, and a budget what was planned for another one.

    >>> overlaid({"budget": "2m", "hidden": (8,)}, {"steps": 5})
    {'hidden': (8,), 'steps': 5}
    """
    rivals = {"steps": ("budget",), "budget": ("steps", "validation_rows")}
    replaced = [rival for name in given for rival in rivals.get(name, ())]
    return {name: value for name, value in written.items() if name not in replaced} | dict(given)


def _check(flat: Mapping[str, Any], path: Path) -> None:
    """Every name is known, every value of its type, and what is required is there."""
    entry = find(flat["model"]) if isinstance(flat.get("model"), str) else None
    kinds = _kinds(entry)
    for name in (name for name in flat if name not in kinds):
        # Without a model, what is unknown may be an argument of it: only a misspelt key of ours is one for certain.
        if entry is not None or get_close_matches(name, _REQUIRED):
            raise Unusable(f"{path} has no use for {name!r}{nearest(name, kinds)}")
    for name in _REQUIRED:
        if name not in flat:
            raise Unusable(f"{path} lacks {name!r}; add it, or give {name.upper()} beside --config")
    for name, value in flat.items():
        if not _fits(value, kinds[name]):
            raise Unusable(f"{path}: {name} must be {_said(kinds[name])}, got {value!r}; mend it")


def _kinds(entry: Entry | None) -> dict[str, Any]:
    """Name -> annotation of everything that a file may say."""
    kinds = {name: p.annotation for name, p in inspect.signature(sources.load).parameters.items()}
    kinds |= {field.name: field.type for field in fields(Settings)}
    kinds |= {name: p.annotation for name, p in entry.hyperparameters().items()} if entry else {}
    own = inspect.signature(fit).parameters
    return kinds | {name: p.annotation for name, p in own.items() if name not in _NOT_IN_FILES}


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_fits(part, get_args(kind)[0]) for part in value)
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (bool, str, Path, NoneType) else True


def _said(kind: Any) -> str:
    """An annotation in words: ``int | None`` -> "a whole number"."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_said(part) for part in get_args(kind) if part is not NoneType))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a list, each {_said(get_args(kind)[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return words.get(kind, str(kind))
