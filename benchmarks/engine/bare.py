"""The training loop that a person writes by hand: the yardstick, so it imports nothing of pofx."""

import math

import torch


def bare(parameters, loss, x, *, batch, rate, betas, decay, clip, average, planned, data, noise, fused=True):
    """Yields the loss of each step: AdamW that decays every weight, a cosine, clipping, averages, shuffled epochs."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, fused=fused)
    averages, step = [p.detach().clone() for p in parameters], 0
    while step < planned:
        for index in torch.randperm(len(x), generator=data)[: len(x) // batch * batch].split(batch):
            optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / planned))
            total = loss(x[index], noise)
            total.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            optimiser.zero_grad()
            if average:
                with torch.no_grad():
                    torch._foreach_lerp_(averages, parameters, 1 / (average * planned))
            step += 1
            yield total.detach()
