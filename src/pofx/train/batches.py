"""Batches in a new order each epoch, or block by block of a stream; resumable at any place."""

from typing import Any

import torch
from torch import Tensor

from pofx.data.dataset import Batch, Part
from pofx.data.maps import OnDisk
from pofx.data.order import shuffled
from pofx.data.streamed import Streamed
from pofx.randomness import Shared


class Batches:
    """Endless batches of a part: a permutation per epoch, read in slices; a shorter rest begins no batch.

    Args:
        part: on its device.
        size: observations per batch, at most ``len(part)``.
        generator: on the CPU, so that every device and every process sees the same order.
        pieces: which of how many equal pieces of each batch are taken here, one after the other.
    """

    def __init__(
        self,
        part: Part,
        size: int,
        generator: torch.Generator,
        device: torch.device,
        pieces: tuple[range, int] = (range(1), 1),
    ) -> None:
        self.part, self.size, self.generator = part, size, generator
        self.device = torch.device("cpu") if isinstance(part, OnDisk) else device  # where its rows are looked up
        self.mine, self.pieces = pieces
        self._shuffle()

    def next(self) -> list[Batch]:
        """This process's pieces of the next batch: observations and condition rows."""
        if self.position + self.size > len(self.order):
            self._shuffle()
        index = self.order[self.position : self.position + self.size].to(self.device)
        self.position += self.size
        if self.pieces == 1:
            return [self.part.take(index, generator=self.generator)]
        shares = [Shared.of(self.generator, piece, self.pieces) for piece in self.mine]
        cut = index.chunk(self.pieces)
        taken = [self.part.take(cut[share.piece], generator=share) for share in shares]
        self.generator.set_state(shares[-1].get_state())
        return taken

    def _shuffle(self) -> None:
        # The order is redrawn from this state on resume: a state is smaller than a permutation.
        self.before = self.generator.get_state()
        order = shuffled(len(self.part), self.generator)
        self.order = order.to(self.device) if isinstance(order, Tensor) else order
        self.position = 0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds."""
        return {"before": self.before, "now": self.generator.get_state()}, {"position": self.position}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """The inverse of ``state``.

        Raises:
            ValueError: the position lies outside the epoch.
        """
        if not 0 <= plain["position"] <= len(self.order):
            raise ValueError(f"position {plain['position']} of {len(self.order)}")
        self.generator.set_state(tensors["before"])
        self._shuffle()
        self.generator.set_state(tensors["now"])
        self.position = int(plain["position"])


class StreamedBatches:
    """Endless batches of a stream: a block of its rows is read and shuffled, then the next.

    Rows are decoded when their batch is taken, by the process that takes them. On resume the block is read again.

    Args:
        part: on its device.
        size: observations per batch.
        generator: on the CPU; it draws the order of each block.
        pieces: which of how many equal pieces of each batch are taken here, one after the other.
    """

    def __init__(
        self, part: Streamed, size: int, generator: torch.Generator, pieces: tuple[range, int] = (range(1), 1)
    ) -> None:
        self.part, self.size, self.generator = part, size, generator
        self.mine, self.pieces = pieces
        self.reader = part.reader()
        self._read()

    def next(self) -> list[Batch]:
        """This process's pieces of the next batch: observations and condition rows."""
        if self.position == len(self.block):
            self._read()
        start, share = self.position, self.size // self.pieces
        self.position += self.size
        return [self.part.batch(self.block[start + piece * share : start + (piece + 1) * share]) for piece in self.mine]

    def _read(self) -> None:
        self.before = self.generator.get_state()
        self.rest, self.place = self.reader.state()
        rows = self.reader.block(self.size)
        self.block = [rows[i] for i in torch.randperm(len(rows), generator=self.generator).tolist()]
        self.position = 0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds: where the block began, and the place in it."""
        tensors = {"before": self.before, "now": self.generator.get_state(), "rest": self.rest}
        return tensors, {"position": self.position, "place": self.place}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """The inverse of ``state``; a block that is already here is not read again.

        Raises:
            ValueError: the position lies outside the block.
        """
        before, rest = tensors["before"], tensors["rest"].cpu()
        if plain["place"] != self.place or not before.equal(self.before) or not rest.equal(self.rest):
            self.generator.set_state(before)
            self.reader.load(rest, plain["place"])
            self._read()
        if not 0 <= plain["position"] <= len(self.block):
            raise ValueError(f"position {plain['position']} of {len(self.block)}")
        self.generator.set_state(tensors["now"])
        self.position = int(plain["position"])


def batches_of(
    part: Part, size: int, generator: torch.Generator, device: torch.device, pieces: tuple[range, int]
) -> Batches | StreamedBatches:
    """Batches of a part that is indexed, or of one that is read in order."""
    if isinstance(part, Streamed):
        return StreamedBatches(part, size, generator, pieces)
    return Batches(part, size, generator, device, pieces)
