"""The training set itself: perfect-looking samples, nothing learnt."""

import torch
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, rows_for
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.models.baselines.classwise import only_classes
from pofx.nn.buffers import resizable


class Copy(nn.Module):
    """Draws rows of the training split, under classes those of the class asked for. It has no likelihood.

    A measure of sample quality that cannot tell it from a model does not measure generalisation.

    Args:
        rows: how many of the training split are kept, at random.
    """

    kept: Tensor
    kept_classes: Tensor

    def __init__(self, domain: Domain, *, condition: Condition | None = None, rows: int = 10_000) -> None:
        super().__init__()
        require("copy", domain, Images, Vectors, Tokens)
        if rows < 1:
            raise Unusable(f"rows must be at least 1, got {rows}; leave it out for 10000")
        self.domain, self.condition, self.rows = domain, only_classes("copy", condition), rows
        self.register_buffer("kept", torch.zeros((1, *domain.shape), dtype=domain.dtype))
        self.register_buffer("kept_classes", torch.zeros(1, dtype=torch.int64))
        resizable(self, "kept", "kept_classes")

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Keeps the training split, or a part of it."""
        chosen = torch.randperm(len(x), generator=generator, device=generator.device)[: self.rows].to(x.device)
        self.kept = x[chosen].clone()
        self.kept_classes = torch.zeros(len(chosen), dtype=torch.int64, device=x.device)
        if condition is not None:
            self.kept_classes = condition[chosen].clone()

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator) -> Tensor:
        """n rows, drawn with replacement; of a class of which none is kept, and of the null, any row."""
        c = rows_for(self.condition, condition, n, generator=generator)
        suits = torch.ones(n, len(self.kept), device=self.kept.device)
        if c is not None:
            same = (self.kept_classes == c[:, None].to(self.kept.device)).to(suits.dtype)
            suits = torch.where(same.any(1, keepdim=True), same, suits)
        index = torch.multinomial(suits, 1, generator=generator)[:, 0]
        return self.kept[index].to(self.domain.dtype)
