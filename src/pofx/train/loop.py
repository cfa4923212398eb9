"""The loop over turns: one trainer for every game, read in five minutes.

A round is every player's turn, ``repeats`` times: draw a batch, compute the loss, send gradients to that player's
parameters alone, clip, step. Maximum likelihood is a game of one; a GAN of two. Nothing is read back from the device in
a round: losses and gradient norms are gathered there and read a few times a second. A step whose loss or gradient is
not finite is skipped on the device itself, and counted. (Only a turn with an ``after`` waits for the device at each
step: it must not follow a step that was skipped.)
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pofx.data.dataset import Batch, Part
from pofx.errors import Unusable
from pofx.protocols import Learns, Loss, Plays, Progress, Turn, capabilities
from pofx.randomness import Shared, stream
from pofx.train.batches import batches_of
from pofx.train.batchnorm import synchronise
from pofx.train.checkpoint import State
from pofx.train.ema import EMA
from pofx.train.ledger import Ledger
from pofx.train.optimisers import load_state, optimisers_for, state_of, step
from pofx.train.schedule import rate
from pofx.train.settings import Settings
from pofx.train.sharding import shard, whole
from pofx.world import ALONE, World


def turns_of(model: Any) -> tuple[Turn, ...]:
    """The model's turns; a single loss is a game of one; a model that only adapts plays none."""
    able = capabilities(model)
    if Plays in able:
        return model.turns()
    if Learns in able:
        return (Turn("model", tuple(p for p in model.parameters() if p.requires_grad), model.loss),)
    return ()


Named = dict[str, Tensor]
HALVES = (torch.bfloat16, torch.float16)


class _Move(nn.Module):
    """One player's loss as a module of that player's parameters: what the engine wraps."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn
        self.own = nn.ParameterList(turn.parameters)

    def forward(self, x: Tensor, condition: Tensor | None, generator: torch.Generator) -> Loss:
        return self.turn.loss(x, condition, generator=generator)


def loss_of(turn: Turn, world: World) -> Any:
    """``(x, condition, generator) -> Loss``; the gradients that follow are averaged over the processes."""
    move = _Move(turn)
    if world.size == 1 or world.sharded:  # sharded weights average their own gradients
        return move.forward
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(move)


class Player:
    """A turn with its optimisers and the ledger of its steps."""

    def __init__(self, turn: Turn, model: nn.Module, settings: Settings, world: World) -> None:
        self.turn, self.clip = turn, settings.clip
        self.optimisers = optimisers_for(turn, model, settings)
        self.loss = loss_of(turn, world)
        self.parameters = list(turn.parameters)
        # Gradients reach this player alone; where it has all the weights there are, saying so would only cost time.
        others = {id(p) for p in model.parameters() if p.requires_grad} - {id(p) for p in self.parameters}
        self.inputs = self.parameters if others else None
        self.ledger = Ledger()

    def move(self, pieces: list[Batch], trainer: "Trainer") -> None:
        """One optimiser step on one batch."""
        total, parts, carry, divisor = self._differentiate(pieces, trainer)
        norm = _norm(self.parameters)
        if divisor is not None:
            norm = norm / divisor
        bad = torch.isfinite(norm + total).logical_not_().float()
        scale = (norm / self.clip).clamp_(min=1.0) if self.clip else None
        if divisor is not None:
            scale = divisor if scale is None else scale * divisor
        for optimiser in self.optimisers:
            step(optimiser, scale, bad)
        for p in self.parameters:
            p.grad = None
        if self.turn.after is not None and not bad:
            self.turn.after(trainer.world.means(carry), Progress(trainer.step, trainer.planned))
        self.ledger.add(total, norm, bad, parts)

    def _differentiate(self, pieces: list[Batch], trainer: "Trainer") -> tuple[Tensor, Named, Named, Tensor | None]:
        """Leaves in ``grad`` the gradient of the whole batch's loss, times the divisor; gives loss, parts and carry.

        The whole batch's loss is the mean of its pieces' by weight, over all processes; their weights are known only at
        the end, so the division is left to the step.
        """
        if trainer.pieces == 1:
            loss = self._loss(pieces[0], trainer.noise, trainer)
            loss.total.backward(inputs=self.inputs)
            return loss.total.detach(), loss.parts, _mean_of([loss.carry]), None
        losses, totals, weights = [], [], []
        shares = [Shared.of(trainer.noise, piece, trainer.pieces) for piece in trainer.mine]
        for piece, share in zip(pieces, shares):
            with self._unsynchronised(share is not shares[-1], trainer):
                loss = self._loss(piece, share, trainer)
                loss_in_full = loss.total.float() if loss.total.dtype in HALVES else loss.total
                weight = torch.ones_like(loss_in_full) if loss.weight is None else loss.weight.to(loss_in_full)
                total = loss_in_full * weight
                total.backward(inputs=self.inputs)
            losses.append(loss)
            totals.append(total.detach())
            weights.append(weight)
        trainer.noise.set_state(shares[-1].get_state())
        parts = _mean_of([loss.parts for loss in losses])
        sums = torch.stack(
            [torch.stack(totals).sum(), torch.stack(weights).sum(), *(v.to(total) for v in parts.values())]
        )
        total, divisor, *values = trainer.world.mean(sums.detach())
        return total / divisor, dict(zip(parts, values)), _mean_of([loss.carry for loss in losses]), divisor

    def _loss(self, batch: Batch, generator: Generator, trainer: "Trainer") -> Loss:
        with trainer.autocast():
            return self.loss(*batch, generator)

    def _unsynchronised(self, more: bool, trainer: "Trainer") -> AbstractContextManager[Any]:
        """Gradients are averaged over processes once, with the last piece."""
        return self.loss.no_sync() if more and hasattr(self.loss, "no_sync") else nullcontext()


class Trainer:
    """Plays the rounds of a model's game.

    Args:
        model: on its device; it ``Learns``, ``Plays``, or only adapts.
        part: the training split, on the model's device.
        settings: how.
        planned: rounds in all; the schedule and the average's horizon go by it.
        seed: of the data and noise streams.
        world: the processes that train together.

    Raises:
        Unusable: a batch that cannot be cut into equal pieces, or weights that cannot be sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        part: Part,
        settings: Settings,
        *,
        planned: int,
        seed: int = 0,
        world: World = ALONE,
    ) -> None:
        device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.model, self.settings, self.planned, self.device, self.world = model, settings, planned, device, world
        self.step, self.brake = 0, 1.0
        size = min(settings.batch_size, len(part))
        self.pieces = world.size * settings.accumulate
        if size % self.pieces:
            raise Unusable(
                f"--batch-size must be a multiple of its {self.pieces} pieces ({world.size} processes x "
                f"--accumulate {settings.accumulate}), got {size}; try {max(1, size // self.pieces) * self.pieces}"
            )
        self.mine = range(world.rank * settings.accumulate, (world.rank + 1) * settings.accumulate)
        if settings.accumulate > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise Unusable("--accumulate must be 1 for a model with batch norm, whose statistics are the whole batch's")
        synchronise(model, world)
        if world.sharded:
            shard(model)
        self.players = [Player(turn, model, settings, world) for turn in turns_of(model)]
        self.batches = batches_of(part, size, stream(seed, "data"), device, (self.mine, self.pieces))
        self.noise = stream(seed, "noise", device=device)
        self.ema = EMA(model, settings.ema) if settings.ema and self.players else None
        self.groups = self._groups()
        self.peaks = [group["lr"] for group in self.groups]

    def round(self) -> None:
        """Every player's turn once."""
        factor = self.brake * rate(self.step, self.planned, self.settings)
        for group, peak in zip(self.groups, self.peaks):
            group["lr"] = peak * factor
        batch = None
        for player in self.players:
            for _ in range(player.turn.repeats):
                if batch is None or player.turn.fresh:
                    batch = self.batches.next()
                player.move(batch, self)
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.step, self.planned)

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision."""
        if self.settings.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def weights(self) -> AbstractContextManager[None]:
        """The model holds its averaged weights, if there are any, inside the block."""
        return self.ema.weights() if self.ema is not None else nullcontext()

    def observed(self) -> dict[str, float]:
        """Mean since the last call of each loss, part and gradient norm (before clipping): "player/part" -> value."""
        return {f"{p.turn.player}/{name}": v for p in self.players for name, v in p.ledger.means().items()}

    def latest(self) -> dict[str, float]:
        """The last step's losses, for a bar; nothing of the run depends on when, or whether, it is asked."""
        return {f"{p.turn.player}/{name}": v for p in self.players for name, v in p.ledger.latest().items()}

    def streak(self) -> int:
        """Steps in a row, up to now, that were skipped by the player of whom there are most."""
        for player in self.players:
            player.ledger.read()
        return max((player.ledger.streak for player in self.players), default=0)

    @property
    def skipped(self) -> int:
        """Steps skipped in all, of those that were read."""
        return sum(player.ledger.skipped for player in self.players)

    @property
    def observations(self) -> int:
        """Observations that one round visits."""
        turns = [player.turn for player in self.players]
        reused = 0 if not turns or turns[0].fresh else 1  # the first turn of a round draws in any case
        return self.batches.size * (reused + sum(turn.repeats for turn in turns if turn.fresh))

    def state(self) -> State:
        """Everything that the next round depends on: tensors, and plain values for JSON."""
        tensors: dict[str, Tensor] = _prefixed("model", self.model.state_dict())
        plain: dict[str, Any] = {"step": self.step, "planned": self.planned, "brake": self.brake}
        for player in self.players:
            plain[f"ledger/{player.turn.player}"] = player.ledger.state()
            for k, optimiser in enumerate(player.optimisers):
                name = f"optimiser/{player.turn.player}/{k}"
                more, values = state_of(optimiser)
                tensors |= _prefixed(name, more)
                plain |= _prefixed(name, values)
        more, values = self.batches.state()
        tensors |= _prefixed("data", more)
        plain |= _prefixed("data", values)
        tensors["noise/now"] = self.noise.get_state()
        if self.ema is not None:
            tensors |= _prefixed("ema", self.ema.tensors())
        return tensors, plain

    def load(self, state: State) -> None:
        """The inverse of ``state``: the next round is the one that would have come."""
        tensors, plain = state
        self.step, self.planned, self.brake = int(plain["step"]), int(plain["planned"]), float(plain["brake"])
        self.model.load_state_dict(under("model", tensors))
        for player in self.players:
            player.ledger.load(plain[f"ledger/{player.turn.player}"])
            for k, optimiser in enumerate(player.optimisers):
                name = f"optimiser/{player.turn.player}/{k}"
                load_state(optimiser, under(name, tensors), under(name, plain))
        self.batches.load(under("data", tensors), under("data", plain))
        self.noise.set_state(tensors["noise/now"])
        if self.ema is not None:
            self.ema.load(under("ema", tensors))
        self.groups = self._groups()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for p in self.players for optimiser in p.optimisers for group in optimiser.param_groups]


def compiled(model: nn.Module, try_round: Callable[[], object], say: Callable[[str], None]) -> None:
    """Compiles the networks inside a model; where a round then fails, takes it back with one line.

    Networks, not losses: a loss draws from generators, which a compiled graph cannot. Without CUDA graphs: a loss that
    calls several networks, or one of them twice, still reads what a recorded graph would have overwritten.
    """
    networks = list(model.children())
    for network in networks:
        network.compile()
    try:
        try_round()
    except Exception as error:
        for network in networks:
            network._compiled_call_impl = None
        say(f"--compile is not possible here ({str(error).splitlines()[0][:120]}); going on without it")


def _norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Norm of all gradients together."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    return whole({"norm": norm})["norm"]


def _mean_of(pieces: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Each entry, detached and averaged over the pieces of a batch."""
    if len(pieces) == 1:
        return {name: value.detach() for name, value in pieces[0].items()}
    return {name: torch.stack([piece[name].detach() for piece in pieces]).mean(0) for name in pieces[0]}


def _prefixed(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{key}": value for key, value in values.items()}


def under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """What ``Trainer.state`` holds of one part, by its own names."""
    start = prefix + "/"
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
