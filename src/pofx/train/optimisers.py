"""One optimiser per player; with Muon, one for its matrices and one for the rest."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pofx.protocols import Turn
from pofx.train.muon import Muon, hidden_matrices
from pofx.train.settings import Settings


def optimisers_for(turn: Turn, model: nn.Module, settings: Settings) -> tuple[Optimizer, ...]:
    """The optimisers of one player; its own settings win over the run's."""
    own: Any = dict(turn.optimiser)
    settings = replace(settings, **own)
    parameters = list(turn.parameters)
    if settings.optimiser == "sgd":
        return (_sgd(parameters, settings),)
    if settings.optimiser == "adam":
        return (_adam(Adam, parameters, replace(settings, weight_decay=0.0)),)
    if settings.optimiser == "adamw":
        return (_adam(AdamW, parameters, settings),)
    matrices, rest = hidden_matrices(parameters, model)
    muon = Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay) if matrices else None
    others = _adam(AdamW, rest, settings) if rest else None
    return tuple(optimiser for optimiser in (muon, others) if optimiser is not None)


@torch.no_grad()
def step(optimiser: Optimizer, scale: torch.Tensor | None, bad: torch.Tensor) -> None:
    """One step with the gradients divided by ``scale``; none, and no trace of one, where ``bad`` is 1.

    Both stay on the device: the fused kernels read them there, as they do for torch's gradient scaler, so that neither
    clipping nor skipping waits for the device or passes over the gradients again.
    """
    if getattr(optimiser, "_step_supports_amp_scaling", False):
        # float32, whatever the weights are: so the kernels want them
        optimiser.grad_scale = None if scale is None else scale.float()  # type: ignore[attr-defined]
        optimiser.found_inf = bad  # type: ignore[attr-defined]
        optimiser.step()
    elif not bad:
        if scale is not None:
            grads = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_div_(grads, scale)
        optimiser.step()


def _sgd(parameters: Sequence[nn.Parameter], settings: Settings) -> Optimizer:
    sgd = SGD(
        _groups(parameters, settings), lr=settings.learning_rate, momentum=settings.beta1, fused=_can_fuse(parameters)
    )
    if settings.beta1:  # the fused kernel would leave them unset where its first step is skipped
        for p in parameters:
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return sgd


def _adam(kind: type[Adam] | type[AdamW], parameters: Sequence[nn.Parameter], settings: Settings) -> Optimizer:
    # Fused is about 0.8 of the default's step time on a small network.
    betas = (settings.beta1, settings.beta2)
    groups = _groups(parameters, settings)
    return kind(groups, lr=settings.learning_rate, betas=betas, fused=_can_fuse(parameters))


def _can_fuse(parameters: Sequence[nn.Parameter]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)


def _groups(parameters: Sequence[nn.Parameter], settings: Settings) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for biases, gains and other vectors."""
    if not settings.weight_decay:
        return [{"params": list(parameters), "weight_decay": 0.0}]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def state_of(optimiser: Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors and plain values: what a checkpoint holds."""
    state = optimiser.state_dict()["state"]
    tensors = {f"{i}/{key}": v for i, entry in state.items() for key, v in entry.items() if torch.is_tensor(v)}
    plain = {f"{i}/{key}": v for i, entry in state.items() for key, v in entry.items() if not torch.is_tensor(v)}
    return tensors, plain


def load_state(optimiser: Optimizer, tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> None:
    """The inverse of ``state_of``.

    Raises:
        ValueError: it is another optimiser's, or other weights'; fused kernels would not notice.
    """
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*tensors.items(), *plain.items()):
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    names = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimiser, (Adam, AdamW)) else {"momentum_buffer"}
    for i, entry in state.items():
        right = {key: () if key == "step" else tuple(parameters[i].shape) for key in names}
        if {key: tuple(v.shape) for key, v in entry.items() if v is not None} != right:
            raise ValueError(f"the optimiser's state {i} does not fit its weights")
        for key in names - {"step"}:
            if entry[key] is not None:  # fused kernels walk the memory: it must be laid out as the weights are
                entry[key] = torch.empty_like(parameters[i], requires_grad=False).copy_(entry[key])
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
