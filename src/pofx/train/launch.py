"""Several processes on one machine, each calling the same function; and one process at a time in a run folder."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pofx.errors import Unusable
from pofx.files import sweep
from pofx.signals import answering
from pofx.train.watch import Stop, Watcher, stop_on_signals
from pofx.world import World

LOCK = "lock"
KINDS = ("unusable", "interrupted", "done")  # what a process ends with, the most telling first


@contextmanager
def locked(folder: Path, world: World) -> Iterator[None]:
    """Holds a run folder against other processes; a process that dies, however, holds nothing.

    What a process that was killed left half-written there is swept up.

    Raises:
        Unusable: another process trains this run.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)

    def take() -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Unusable(f"{folder} is being trained by another process; wait for it, or stop it") from None
        except OSError as error:
            raise Unusable(f"{folder} cannot be written ({error.strerror}); mend its permissions") from None
        sweep(folder)
        sweep(folder / "checkpoint")

    world.led(take)
    try:
        yield
    finally:
        if world.leads:
            lock.release()


def speaks() -> bool:
    """Whether this process talks to the person: of several under ``torchrun``, the first."""
    return os.environ.get("RANK", "0") == "0"


def leave(status: int) -> NoReturn:
    """Ends this one of several processes, at once: all is done and saved.

    An interpreter that winds up beside gloo's threads was seen to abort, now and then, when nothing was left to do.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def launched(call: Callable[..., Any], devices: int, watcher: Watcher, *args: Any, **kwargs: Any) -> Any:
    """``call(*args, watch=watcher, **kwargs)`` in ``devices`` processes that work together; what it gives the leader.

    The processes are PyTorch's (``torch.multiprocessing``), started afresh; Ctrl-C and SIGTERM reach all of them.

    Raises:
        Unusable: what the leading process could not use.
        KeyboardInterrupt: they were interrupted; everything is saved.
    """
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as home, stop_on_signals() as stop, _quiet():
        task = (devices, f"{home}/meeting", call, watcher, args, kwargs, results)
        # They begin deaf to Ctrl-C: this process hears it, and tells them.
        with answering(signal.SIG_IGN, signal.SIGINT):
            running = multiprocessing.start_processes(_work, task, nprocs=devices, join=False, start_method="spawn")
        assert running is not None
        said: list[tuple[str, Any]] = []
        try:
            _joined(running, stop, results, said)
        except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
            said += _read(results)
            if not said and stop.asked:
                raise KeyboardInterrupt from None
            if not said:  # else one has said why, and the others only missed it
                if isinstance(error, multiprocessing.ProcessExitedException):
                    raise Unusable(
                        f"a process was killed ({error.signal_name or error.exit_code}; out of memory?); go on with "
                        "'pofx resume', with fewer --devices, or begin again with --accumulate"
                    ) from None
                raise
        kind, value = min(said, key=lambda result: KINDS.index(result[0]))
    if kind == "unusable":
        raise Unusable(value)
    if kind == "interrupted":
        raise KeyboardInterrupt
    return value


@contextmanager
def _quiet() -> Iterator[None]:
    """torch tells of each process that it ends; we tell why."""
    log = logging.getLogger("torch.multiprocessing.spawn")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _joined(running: Any, stop: Stop, results: Any, said: list[tuple[str, Any]]) -> None:
    """Waits for all processes, and reads what they say; what this one is told, they are told."""
    told = False
    while not running.join(timeout=0.2):
        said += _read(results)
        if stop.asked and not told:
            told = True
            for process in running.processes:
                if process.is_alive():
                    process.terminate()
    said += _read(results)


def _read(results: Any) -> list[tuple[str, Any]]:
    read = []
    while not results.empty():
        read.append(results.get())
    return read


def _work(
    rank: int,
    size: int,
    meeting: str,
    call: Callable[..., Any],
    watcher: Watcher,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    results: Any,
) -> None:
    """One of the processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "POFX_MEETING": meeting}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # before training begins, as while it goes on
    try:
        result = ("done", call(*args, watch=watcher, **kwargs))
    except Unusable as error:
        result = ("unusable", str(error))
    except KeyboardInterrupt:
        result = ("interrupted", "")
    if rank == 0 or result[0] == "unusable":
        results.put(result)
    leave(1 if result[0] == "unusable" else 0)  # 1, so that nobody waits for one that cannot go on
