"""Hashed n-grams: what stood at the last few places, looked up at once.

A table costs no arithmetic, and spares the first layers the work of finding out which symbols came before. Shapes: B
batch, T positions, E width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pofx.errors import Unusable
from pofx.nn.sequence import NumberSequence, SymbolSequence

PRIME = 1_000_003


class Grams(nn.Module):
    """For each n from 2 to ``longest``, a vector of the last n symbols, in channels of its own; zero at first.

    Row k = sum_i s_{t-i} PRIME^(i-1) mod ``rows``, i = 1 .. n, of the table of n: n-grams may share one.

    Source: Pagnoni et al. 2024, "Byte latent transformer", arXiv:2412.09871, section 3.2.1; there the vectors of every
    n are as wide as the states, and added.

    Args:
        sequence: of symbols; V, one more than the last of them, stands for what is before the beginning.
        width: E, shared by the tables.
        longest: the longest n.
        rows: of each table.

    Raises:
        Unusable: numbers for symbols, a longest n below 2, no rows, or a width that the tables cannot share.
    """

    def __init__(self, sequence: SymbolSequence | NumberSequence, width: int, longest: int, rows: int) -> None:
        super().__init__()
        if not isinstance(sequence, SymbolSequence):
            raise Unusable("grams are of symbols, and here numbers are read; leave it out")
        if longest < 2 or rows < 1 or width % (longest - 1):
            raise Unusable(
                "grams wants 1 (none) or more, gram_rows at least 1, and a width that is a multiple of grams - 1, "
                f"got grams {longest}, gram_rows {rows} and width {width}; try --grams 3"
            )
        self.vocabulary, self.longest, self.rows = sequence.vocabulary, longest, rows
        tables = [nn.Embedding(rows, width // (longest - 1)) for _ in range(longest - 1)]
        for table in tables:
            nn.init.zeros_(table.weight)
        self.tables = nn.ModuleList(tables)

    def forward(self, s: Int[Tensor, "B T"], first: int, stop: int) -> Float[Tensor, "B P E"]:
        """Of what positions ``first`` .. ``stop`` - 1 have read: the symbols before them."""
        n, new, start = self.longest, stop - first, max(0, first - self.longest)
        before = F.pad(s[:, start : stop - 1], (n - first + start, 0), value=self.vocabulary)
        key = before[:, n - 1 : n - 1 + new]  # s_{t-i} stands at t - first + n - i
        found = []
        for i, table in enumerate(self.tables, start=2):
            key = key + before[:, n - i : n - i + new] * pow(PRIME, i - 1, self.rows)
            found.append(table(key % self.rows))
        return torch.cat(found, dim=-1)
