"""Batch normalisation over the batch of all processes, as one process would do it."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pofx.world import World


def synchronise(model: nn.Module, world: World) -> None:
    """Makes every batch norm of a model take its statistics over all processes; its state stays what it was.

    PyTorch's ``SyncBatchNorm`` is for GPUs alone, and a class of its own that a checkpoint would remember.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and world.size > 1:
            module.forward = partial(_normalised, module, world)  # type: ignore[method-assign]


def _normalised(norm: _BatchNorm, world: World, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C *S"]:
    """(x - mean) / sqrt(var + eps), affine; mean and variance over the batch and space of all processes.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """
    if not norm.training:  # one process may be alone in this, when it draws samples
        own = norm.running_mean is None
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, own, eps=norm.eps)
    kind, x = x.dtype, x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    axes = [0, *range(2, x.ndim)]
    mean = _mean_over(x.mean(axes, keepdim=True), world)
    variance = _mean_over((x - mean).square().mean(axes, keepdim=True), world)
    if norm.running_mean is not None and norm.running_var is not None:
        n = world.size * x.numel() // x.shape[1]
        _follow(norm, mean.detach().flatten(), variance.detach().flatten() * n / max(1, n - 1))
    y = (x - mean) * (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        shape = (-1, *[1] * (x.ndim - 2))
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(kind)


def _mean_over(values: Tensor, world: World) -> Tensor:
    """The mean over processes, through which gradients flow to each."""
    return _Sum.apply(values) / world.size


class _Sum(torch.autograd.Function):
    """The sum over processes: what any of them makes of it, all of them are moved by."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked or 1)
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance, share)
