"""A module inside a model: what it puts out, read or replaced by hooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pofx.errors import Unusable, nearest
from pofx.nn.modes import evaluating
from pofx.protocols import Encodes, Judges, Learns, PseudoScores, Represents, Scores, capabilities
from pofx.randomness import stream


class Layer:
    """A module of a model, by its path, or the model's own ``features`` where the path is "".

    Raises:
        Unusable: there is no such module, or the model has no features.
    """

    def __init__(self, model: Any, path: str) -> None:
        modules = dict(model.named_modules())
        if path and path not in modules:
            raise Unusable(f"the model has no layer {path!r}{nearest(path, filter(None, modules))}")
        if not path and Represents not in capabilities(model):
            raise Unusable("the model has no features of its own; name a layer, as in RUN:layer")
        self.model, self.path = model, path
        self.module: nn.Module | None = modules[path] if path else None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((t.device for t in self.model.state_dict().values()), torch.device("cpu"))

    @torch.no_grad()
    def outputs(self, x: Tensor, c: Tensor | None) -> Tensor:
        """What the module puts out for x, as it is shaped there; of several calls the first.

        Raises:
            Unusable: the module is not called, or puts out something else than real numbers for each observation.
        """
        x, c = x.to(self.device), None if c is None else c.to(self.device)
        if self.module is None:
            return self.model.features(x)
        seen: list[Any] = []
        handle = self.module.register_forward_hook(lambda module, given, out: seen.append(out))
        try:
            with evaluating(self.model):
                for call in _calls(self.model):
                    call(x, c)
                    if seen:
                        return self._checked(seen[0], len(x))
        finally:
            handle.remove()
        raise Unusable(f"the layer {self.path!r} is never called as a module; name one around or inside it")

    @contextmanager
    def replaced(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Inside, the module's output is ``change`` of what it is."""
        assert self.module is not None
        handle = self.module.register_forward_hook(lambda module, given, out: change(out))
        try:
            yield
        finally:
            handle.remove()

    def _checked(self, out: Any, n: int) -> Tensor:
        what = f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        good = isinstance(out, Tensor) and out.is_floating_point() and out.ndim in (2, 3, 4) and len(out) == n
        if not good:
            raise Unusable(
                f"a layer gives (B, W), (B, T, W) or (B, C, H, W) real numbers for B = {n} observations, and "
                f"{self.path!r} gives {what}; name another"
            )
        return out


def as_rows(out: Tensor) -> Tensor:
    """(B, W), (B, T, W) or (B, C, H, W) to one vector per row: of an observation, a symbol or a place."""
    return (out.movedim(1, -1) if out.ndim == 4 else out).flatten(0, -2)


def as_outputs(rows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of ``as_rows``."""
    if len(shape) == 4:
        return rows.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()
    return rows.view(shape)


def _calls(model: Any) -> Iterator[Callable[[Tensor, Tensor | None], Any]]:
    """Ways to run a model over x, the one that sees most of it first."""
    able = capabilities(model)
    if Scores in able:
        yield lambda x, c: model.log_prob(x, c)
    if Encodes in able and Judges not in able:  # a game searches for z, in many calls
        yield lambda x, c: model.encode(x, c)
    if Represents in able:
        yield lambda x, c: model.features(x)
    if Learns in able:
        yield lambda x, c: model.loss(x, c, generator=stream(0, "activations", device=x.device))
    if PseudoScores in able:
        yield lambda x, c: model.pseudo_log_prob(x, c)
