"""Loggers: each row of a run's history, sent on to TensorBoard, Weights & Biases or Trackio.

The run writes its own ``history.csv`` in any case. None needs an account or a network: what cannot be sent is kept.
"""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pofx.errors import Unusable, nearest
from pofx.train.watch import Watcher, Watchers

PROJECT = "pofx"


class Logger(Watcher):
    """Remembers which run it hears of, until training starts.

    Raises:
        Unusable: its package is not installed.
    """

    package = ""

    def __init__(self) -> None:
        try:
            importlib.import_module(self.package)
        except ImportError:
            raise Unusable(
                f"--logger {self.package} needs the package {self.package}, which is not installed; "
                f"pip install 'pofx[{self.package}]', or leave --logger out"
            ) from None

    @property
    def module(self) -> Any:
        """The package: not kept, since a watcher is sent to other processes, and a module cannot be."""
        return importlib.import_module(self.package)

    def opened(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Which run it is."""
        self.folder, self.config = folder, dict(config)


class TensorBoard(Logger):
    """Event files in the run's ``tensorboard/``: ``tensorboard --logdir runs`` shows every run below it."""

    package = "tensorboard"

    def started(self, name: str, planned: int, step: int, per_round: int) -> None:
        """Opens the file; what an interrupted run logged after its last checkpoint is not shown twice."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        if step == 0:
            self.writer.add_text("config", f"```json\n{json.dumps(self.config, indent=2)}\n```")

    def recorded(self, row: Mapping[str, float]) -> None:
        """A point on each curve."""
        for name, value in _measured(row).items():
            self.writer.add_scalar(name, value, int(row["step"]))

    def ended(self) -> None:
        """Writes what is waiting."""
        self.writer.close()


class WandB(Logger):
    """Weights & Biases: online with a login, else offline in the run's ``wandb/``, for ``wandb sync`` later.

    ``WANDB_MODE`` and the package's other variables are respected.
    """

    package = "wandb"

    def started(self, name: str, planned: int, step: int, per_round: int) -> None:
        """Opens a run of the same name in the project "pofx" (or ``WANDB_PROJECT``)."""
        mode = os.environ.get("WANDB_MODE") or ("online" if self.module.login(prompt=False) else "offline")
        try:
            self.run = self._begun(name, mode)
        except self.module.Error:  # a login, but no way to the server
            self.run = self._begun(name, "offline")

    def _begun(self, name: str, mode: str) -> Any:
        quiet = self.module.Settings(silent=True, console="off")
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        return self.module.init(
            project=project, name=name, dir=str(self.folder), config=self.config, mode=mode, settings=quiet
        )

    def recorded(self, row: Mapping[str, float]) -> None:
        """A point on each curve."""
        self.run.log(_measured(row), step=int(row["step"]))

    def ended(self) -> None:
        """Writes what is waiting."""
        self.run.finish()


class Trackio(Logger):
    """Trackio: a local database, which ``trackio show`` draws; ``TRACKIO_SPACE_ID`` sends it elsewhere."""

    package = "trackio"

    def started(self, name: str, planned: int, step: int, per_round: int) -> None:
        """Opens a run of the same name in the project "pofx"; a resumed one goes on there."""
        self.run = self.module.init(
            project=PROJECT, name=name, config=self.config, resume="allow" if step else "never", embed=False
        )

    def recorded(self, row: Mapping[str, float]) -> None:
        """A point on each curve."""
        self.run.log(_measured(row), step=int(row["step"]))

    def ended(self) -> None:
        """Writes what is waiting."""
        self.run.finish()


LOGGERS: Mapping[str, type[Logger]] = {kind.package: kind for kind in (TensorBoard, WandB, Trackio)}


def with_loggers(watcher: Watcher, names: str | tuple[str, ...] | None) -> Watcher:
    """The watcher, and beside it the loggers of these names.

    Args:
        watcher: hears first.
        names: "tensorboard,wandb", or a tuple; None for no logger.

    Raises:
        Unusable: a name that is none, or a package that is not installed: said before anything is trained.
    """
    asked = names.split(",") if isinstance(names, str) else list(names or ())
    for name in asked:
        if name not in LOGGERS:
            raise Unusable(f"there is no logger {name!r}{nearest(name, LOGGERS)} (history.csv is always written)")
    return Watchers((watcher, *(LOGGERS[name]() for name in dict.fromkeys(asked)))) if asked else watcher


def _measured(row: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name != "step"}
