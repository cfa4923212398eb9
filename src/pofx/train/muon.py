"""Muon: momentum, orthogonalised by Newton-Schulz; for the hidden matrices of a network."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from pofx.errors import Unusable

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(g: Float[Tensor, "K M N"], steps: int = 5) -> Float[Tensor, "K M N"]:
    """About U V^T of each g = U S V^T: singular values within roughly 0.7 to 1.2, the singular vectors kept.

    With X = g / |g|_F, repeats X <- a X + (b A + c A^2) X, where A = X X^T: a quintic in each singular value whose
    slope at zero is steep, so that five steps lift even small ones.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (kellerjordan.github.io).
    """
    a, b, c = COEFFICIENTS
    x = g.to(torch.bfloat16 if g.is_cuda else torch.float32)  # bf16 is slow on a CPU without it
    tall = g.shape[1] > g.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(g.dtype)


class Muon(Optimizer):
    """W <- (1 - lr * weight_decay) W - lr sqrt(max(1, rows/columns)) orthogonalise(g + momentum (m - g)).

    m is the running mean of the gradients (Nesterov's form above). Matrices of one shape go through together.

    Args:
        params: matrices, or groups of them.
        lr: step size, the spectral norm of a step on a square matrix.
        momentum: of m.
        weight_decay: decoupled.
        steps: of Newton-Schulz.

    ``grad_scale`` divides the gradients and ``found_inf`` skips the step, on the device, as in torch's fused ones.

    Raises:
        Unusable: a parameter that is not a matrix, or a setting out of range.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.95, weight_decay: float = 0.0, steps: int = 5
    ) -> None:
        if not (lr >= 0 and 0 <= momentum < 1 and weight_decay >= 0 and steps >= 1):
            raise Unusable(
                "muon needs lr >= 0, momentum in [0, 1), weight_decay >= 0 and steps >= 1, "
                f"got {lr}, {momentum}, {weight_decay} and {steps}"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None
        self._step_supports_amp_scaling = True
        shapes = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]
        if shapes:
            raise Unusable(f"muon takes matrices, got a parameter of shape {shapes[0]}; give it to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape, p.dtype, p.device].append(p)
            for parameters in alike.values():
                self._step_alike(parameters, group)
        return loss

    def _step_alike(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        rows, columns = parameters[0].shape
        size = group["lr"] * math.sqrt(max(1, rows / columns)) * self._keep
        directions = torch.stack([self._direction(p, group["momentum"]) for p in parameters])
        for p, o in zip(parameters, orthogonalise(directions, group["steps"])):
            p.mul_(1 - group["lr"] * group["weight_decay"] * self._keep).sub_(_as(size * o, p))

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        g = p.grad if self.grad_scale is None else p.grad / self.grad_scale
        if self.found_inf is not None:
            g = torch.where(self.found_inf == 0, g, 0)
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        m = state["momentum_buffer"].lerp_(g, (1 - momentum) * self._keep)
        return _whole(g.lerp(m, momentum))

    @property
    def _keep(self) -> Any:
        """0 where the step is to be skipped, decided on the device."""
        return 1 if self.found_inf is None else 1 - self.found_inf


def _whole(matrix: Tensor) -> Tensor:
    """A matrix that is sharded over processes, gathered: its singular vectors are those of the whole."""
    return matrix.full_tensor() if hasattr(matrix, "full_tensor") else matrix


def _as(matrix: Tensor, p: Tensor) -> Tensor:
    """A whole matrix cut as p is."""
    if not hasattr(p, "full_tensor"):
        return matrix
    from torch.distributed.tensor import distribute_tensor  # half a second of import

    return distribute_tensor(matrix, p.device_mesh, p.placements)  # type: ignore[attr-defined]


def hidden_matrices(
    parameters: Iterable[nn.Parameter], model: nn.Module
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parts ``parameters`` into those for Muon and the rest, for AdamW.

    Muon's are the weights of ``nn.Linear`` layers, but of none that stands at or below an attribute named ``head``:
    an output layer, like an embedding, has rows that belong to symbols, not directions to be mixed.
    """
    hidden = {
        id(layer.weight)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and "head" not in name.split(".")
    }
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for p in parameters:
        (matrices if id(p) in hidden else rest).append(p)
    return matrices, rest
