"""The loop over turns: one trainer for every game, read in five minutes.

A round is every player's turn, ``repeats`` times: draw a batch, compute the loss, send gradients to that player's
parameters alone, clip, step. Maximum likelihood is a game of one; a GAN of two. Nothing is read back from the device in
a round: losses are gathered there and read a few times a second.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from pofx.data.dataset import Batch, Part
from pofx.protocols import Learns, Plays, Progress, Turn, capabilities
from pofx.randomness import stream
from pofx.train.batches import Batches
from pofx.train.ema import EMA
from pofx.train.optimisers import load_state, optimisers_for, state_of
from pofx.train.schedule import rate
from pofx.train.settings import Settings

State = tuple[dict[str, Tensor], dict[str, Any]]


def turns_of(model: Any) -> tuple[Turn, ...]:
    """The model's turns; a single loss is a game of one; a model that only adapts plays none."""
    able = capabilities(model)
    if Plays in able:
        return model.turns()
    if Learns in able:
        return (Turn("model", tuple(p for p in model.parameters() if p.requires_grad), model.loss),)
    return ()


@dataclass
class Player:
    """A turn with its optimisers, and what its losses were since they were last read."""

    turn: Turn
    optimisers: tuple[Optimizer, ...]
    parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def move(self, batch: Batch, trainer: "Trainer") -> None:
        """One optimiser step on one batch."""
        with trainer.autocast():
            loss = self.turn.loss(*batch, generator=trainer.noise)
        parameters = self.turn.parameters
        loss.total.backward(inputs=parameters)
        if trainer.settings.clip:
            clip_grad_norm_(parameters, trainer.settings.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if self.turn.after is not None:
            carry = {name: value.detach() for name, value in loss.carry.items()}
            self.turn.after(carry, Progress(trainer.step, trainer.planned))
        for name, value in (("loss", loss.total), *loss.parts.items()):
            self.parts.setdefault(name, []).append(value.detach())


class Trainer:
    """Plays the rounds of a model's game.

    Args:
        model: on its device; it ``Learns``, ``Plays``, or only adapts.
        part: the training split, on the model's device.
        settings: how.
        planned: rounds in all; the schedule and the average's horizon go by it.
        seed: of the data and noise streams.
    """

    def __init__(self, model: nn.Module, part: Part, settings: Settings, *, planned: int, seed: int = 0) -> None:
        device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.model, self.settings, self.planned, self.device = model, settings, planned, device
        self.step = 0
        self.players = [Player(turn, optimisers_for(turn, model, settings)) for turn in turns_of(model)]
        self.peaks = [g["lr"] for g in self._groups()]
        self.batches = Batches(part, min(settings.batch_size, len(part)), stream(seed, "data"), device)
        self.batch: Batch | None = None
        self.noise = stream(seed, "noise", device=device)
        self.ema = EMA(model, settings.ema) if settings.ema and self.players else None

    def round(self) -> None:
        """Every player's turn once."""
        factor = rate(self.step, self.planned, self.settings)
        for group, peak in zip(self._groups(), self.peaks):
            group["lr"] = peak * factor
        for player in self.players:
            for _ in range(player.turn.repeats):
                if player.turn.fresh or self.batch is None:
                    self.batch = self.batches.next()
                player.move(self.batch, self)
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
        """Mean of each loss since the last call: "player/part" -> value. The one place that waits for the device."""
        named = {
            f"{p.turn.player}/{name}": torch.stack(values).mean()
            for p in self.players
            for name, values in p.parts.items()
        }
        for player in self.players:
            player.parts.clear()
        read = torch.stack(list(named.values())).tolist() if named else []
        return dict(zip(named, read))

    @property
    def observations(self) -> int:
        """Observations that one round visits."""
        return self.batches.size * sum(p.turn.repeats for p in self.players if p.turn.fresh)

    def state(self) -> State:
        """Everything that the next round depends on: tensors, and plain values for JSON."""
        tensors, plain = _prefixed("model", self.model.state_dict()), {"step": self.step, "planned": self.planned}
        for player in self.players:
            for k, optimiser in enumerate(player.optimisers):
                name = f"optimiser/{player.turn.player}/{k}"
                more, values = state_of(optimiser)
                tensors |= _prefixed(name, more)
                plain |= {f"{name}/{key}": value for key, value in values.items()}
        more, values = self.batches.state()
        tensors |= _prefixed("data", more)
        plain |= {f"data/{key}": value for key, value in values.items()}
        tensors["noise/now"] = self.noise.get_state()
        if self.batch is not None and not all(player.turn.fresh for player in self.players):
            tensors |= _prefixed("batch", {str(i): t for i, t in enumerate(self.batch) if t is not None})
        if self.ema is not None:
            tensors |= _prefixed("ema", self.ema.tensors())
        return tensors | self._unread(), plain

    def load(self, state: State) -> None:
        """The inverse of ``state``: the next round is the one that would have come."""
        tensors, plain = state
        self.step, self.planned = plain["step"], plain["planned"]
        self.model.load_state_dict(_under("model", tensors))
        for player in self.players:
            unread = _under(f"unread/{player.turn.player}", tensors)
            player.parts = {name: list(values.unbind()) for name, values in unread.items()}
            for k, optimiser in enumerate(player.optimisers):
                name = f"optimiser/{player.turn.player}/{k}"
                load_state(optimiser, _under(name, tensors), _under(name, plain))
        self.batches.load(_under("data", tensors), _under("data", plain))
        self.noise.set_state(tensors["noise/now"])
        batch = _under("batch", tensors)
        self.batch = (
            (batch["0"].to(self.device), batch["1"].to(self.device) if "1" in batch else None) if batch else None
        )
        if self.ema is not None:
            self.ema.load(_under("ema", tensors))

    def _unread(self) -> dict[str, Tensor]:
        """Losses not yet read, so that the history too goes on as if nothing had happened."""
        return {
            f"unread/{p.turn.player}/{name}": torch.stack(values)
            for p in self.players
            for name, values in p.parts.items()
        }

    def _groups(self) -> list[dict[str, Any]]:
        return [group for p in self.players for optimiser in p.optimisers for group in optimiser.param_groups]


def compiled(model: nn.Module, try_round: Callable[[], None], say: Callable[[str], None]) -> None:
    """Compiles the networks inside a model; where a round then fails, takes it back with one line.

    Networks, not losses: a loss draws from generators, which a compiled graph cannot.
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


def _prefixed(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{key}": value for key, value in values.items()}


def _under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    start = prefix + "/"
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
