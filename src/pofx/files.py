"""Files are written whole or not at all: to a temporary name, synced, renamed."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pofx.errors import Unusable, in_brief

OUT = "free space or choose another --out"


def cache_folder() -> Path:
    """Where what can be made again is kept: ``POFX_CACHE``, else the platform's cache folder."""
    own = os.environ.get("POFX_CACHE")
    if own:
        return Path(own).expanduser()
    platform = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(platform).expanduser() / "pofx"


def write_whole(path: Path, write: Callable[[Path], object], *, cure: str = OUT) -> None:
    """Calls ``write`` with a temporary name beside ``path``, syncs it to the disk, then renames it into place.

    Args:
        path: where the file is to stand.
        write: writes the whole file to the path it is given.
        cure: what the user can do where it cannot be written.

    Raises:
        Unusable: the folder cannot be written or the disk is full; what stood at ``path`` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise Unusable(f"{path} cannot be written ({error.strerror or error}); {cure}") from None
    finally:
        with suppress(OSError):  # where the folder is a file, the temporary name cannot even be looked up
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, cure: str = OUT) -> None:
    """Writes a text, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), cure=cure)


def share(path: Path, other: Path) -> None:
    """Gives a file a second name, whole or not at all: what is written to ``path`` later does not change ``other``."""

    def link(temporary: Path) -> None:
        try:
            os.link(path, temporary)
        except OSError:  # a disk without hard links
            shutil.copyfile(path, temporary)

    write_whole(other, link)


def write_json(path: Path, value: Mapping[str, Any], *, cure: str = OUT) -> None:
    """Writes JSON, readable by people, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", cure=cure)


def read_json(path: Path) -> Any:
    """Reads JSON; a missing or broken file is named in one line."""
    if not path.is_file():
        raise Unusable(f"{path} is missing; give a run folder written by 'pofx fit'")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Unusable(f"{path} cannot be read as JSON ({in_brief(error)}); restore it or fit again") from None


def sweep(folder: Path) -> None:
    """Removes what a killed process left half-written in a folder. Call it where no other process writes there."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
