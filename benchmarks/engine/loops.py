"""The loops of pofx and the bare ones over a workload, each as a function ``advance(n)``, and what peers share."""

import math

from bare import bare
from bare_game import bare_game
from measure import Advance
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset
from workloads import PLANNED, Workload

from pofx.data.dataset import Rows
from pofx.protocols import Turn
from pofx.randomness import stream
from pofx.train.loop import Trainer, turns_of
from pofx.train.settings import Settings

METERED = 256  # rows that meters are read on


def pofx_loop(workload: Workload, *, meters: bool = False, **given) -> Advance:
    """pofx's trainer; the losses of each block go into a history, and with ``meters`` the model's meters too."""
    model = workload.model()
    trainer = Trainer(model, Rows(workload.x), workload.settings(model, **given), planned=PLANNED)
    rows, history = workload.x[:METERED], []

    def advance(n: int) -> None:
        for _ in range(n):
            trainer.round()
        read = {name: value.item() for name, value in model.meters(rows).items()} if meters else {}
        history.append({"step": trainer.step, **trainer.observed(), **read})

    return advance


def bare_loop(workload: Workload, *, written=None, **given) -> Advance:
    """The loop by hand over pofx's model, or over ``written``, a model that has nothing of pofx either."""
    model = workload.model()
    options = {"fused": given.pop("fused")} if "fused" in given else {}
    settings = workload.settings(model, **given)
    return advancing(bare_steps(model, workload, settings, written() if written else None, **options))


def bare_steps(model: nn.Module, workload: Workload, settings: Settings, written=None, planned=PLANNED, **options):
    """The bare loop of one player, or of two, over the streams that pofx's trainer has with seed 0."""
    turns = turns_of(model)
    options |= {
        "batch": settings.batch_size,
        "rate": settings.learning_rate,
        "betas": _betas(turns[0], settings),
        "decay": settings.weight_decay,
        "clip": settings.clip,
        "average": settings.ema,
        "planned": planned,
        "data": stream(0, "data"),
        "noise": stream(0, "noise"),
    }
    if len(turns) == 1:
        parameters, loss = written or (list(turns[0].parameters), scalar(turns[0]))
        return bare(parameters, loss, workload.x, **options)
    critic, generator = written or ((turn.parameters, scalar(turn)) for turn in turns)
    return bare_game(critic, generator, turns[0].repeats, workload.x, **options)


def scalar(turn: Turn):
    """A turn's loss as a plain function (x, generator) -> scalar."""
    return lambda x, generator: turn.loss(x, generator=generator).total


def advancing(losses) -> Advance:
    """Of a loop that yields its losses; the last of a block is read."""

    def advance(n: int) -> None:
        for _ in range(n):
            loss = next(losses)
        loss.item()

    return advance


def adamw(turn: Turn, settings: Settings) -> AdamW:
    """The optimiser that a peer is given."""
    rate, betas, decay = settings.learning_rate, _betas(turn, settings), settings.weight_decay
    return AdamW(turn.parameters, lr=rate, betas=betas, weight_decay=decay, fused=True)


def cosine(optimiser: AdamW) -> LambdaLR:
    """torch's own way to follow a schedule."""
    return LambdaLR(optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / PLANNED)))


def loader(workload: Workload) -> DataLoader:
    """torch's own way to draw batches."""
    return DataLoader(TensorDataset(workload.x), workload.batch, shuffle=True, drop_last=True)


def _betas(turn: Turn, settings: Settings) -> tuple[float, float]:
    return turn.optimiser.get("beta1", settings.beta1), turn.optimiser.get("beta2", settings.beta2)
