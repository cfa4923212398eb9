"""The processes that work on one model together; usually there is one.

The engine is PyTorch's own: ``torch.distributed`` under ``torchrun``, gradients averaged by ``DistributedDataParallel``
or weights sharded by ``fully_shard``. Data order and noise are drawn for the whole batch in every process, and each
takes its rows (``pofx.randomness.Shared``), so several processes compute what one would with the same batch.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.errors import Unusable

STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True)
class World:
    """This process among ``size`` that train together.

    Args:
        rank: 0 to size - 1; 0 leads: it writes the run folder and talks to the person.
        strategy: "ddp" keeps every weight in every process; "fsdp" shards weights, gradients and optimiser state.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    strategy: str = "ddp"
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of every weight."""
        return self.size > 1 and self.strategy == "fsdp"

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size
        return values

    def means(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each over processes."""
        return values if self.size == 1 else {name: self.mean(value.clone()) for name, value in values.items()}

    def anyone(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, raised for all if any process raised it: what they decide, they decide together."""
        if self.size == 1:
            return flags
        raised = self.mean(torch.tensor(flags, dtype=torch.float64, device=self.device))
        return tuple(flag > 0 for flag in raised.tolist())

    def agreed(self, value: Any) -> Any:
        """The leader's value, a plain one, in every process."""
        if self.size == 1:
            return value
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0)
        return held[0]

    def led(self, call: Callable[[], Any]) -> Any:
        """What ``call`` gives the leader, who alone calls it; what it cannot use, nobody can.

        Raises:
            Unusable: as the leader's call did.
        """
        if self.size == 1:
            return call()
        value, error = None, None
        if self.leads:
            try:
                value = call()
            except BaseException as fault:  # whatever it is, nobody may wait for what will not come
                error = fault
        value, told = self.agreed((value, None if error is None else str(error)))
        if error is not None:
            raise error
        if told is not None:
            raise Unusable(told)
        return value

    def gathered(self, value: Any) -> list[Any]:
        """Every process's plain value, by rank, in every process."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(held, value)
        return held

    def share(self, rows: slice) -> slice:
        """This process's rows of a slice: consecutive, as even as can be, every row in one process."""
        n = rows.stop - rows.start
        return slice(rows.start + self.rank * n // self.size, rows.start + (self.rank + 1) * n // self.size)

    def own(self, role: str) -> str:
        """A role of randomness that no other process has; alone, the role itself."""
        return role if self.size == 1 else f"{role}/{self.rank}"

    def together(self, leader: Iterable[Any]) -> Iterator[Any]:
        """What the leader's iterator gives, in every process; only the leader's is run."""
        if self.size == 1:
            yield from leader
            return
        end, ours = object(), iter(leader)
        while True:
            value = next(ours, end) if self.leads else None
            done, value = self.agreed((value is end, None if value is end else value))
            if done:
                return
            yield value

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()


ALONE = World()


@contextmanager
def joined(strategy: str, device: str) -> Iterator[World]:
    """The world that ``torchrun`` or ``launched`` made, or this process alone on ``device``."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=device)
        return
    rank, on_gpu = int(os.environ["RANK"]), device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    meeting = os.environ.get("POFX_MEETING")
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{meeting}" if meeting else None, rank=rank, world_size=size
    )
    world = World(rank, size, strategy, device)
    try:
        yield world
        world.wait()  # who leaves early takes the others' connections away
    finally:
        torch.distributed.destroy_process_group()


def check_strategy(strategy: str, devices: int, device: str) -> None:
    """Refuses an unknown strategy, and more processes than there are processor cores or GPUs.

    Raises:
        Unusable: as it says.
    """
    if strategy not in STRATEGIES:
        raise Unusable(f"--strategy is one of {', '.join(STRATEGIES)}, got {strategy!r}; ddp suits most models")
    on_gpu = device.startswith("cuda")
    there = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    kind = "GPUs" if on_gpu else "processor cores"
    if not 1 <= devices <= there:
        raise Unusable(f"--devices must be 1 to the {there} {kind} of this machine, got {devices}; leave it out for 1")
    if devices > 1 and "WORLD_SIZE" in os.environ:
        raise Unusable(f"--devices must be left out under torchrun, which has started its processes; got {devices}")
