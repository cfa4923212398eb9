"""The loop of two players that a person writes by hand, a critic against a generator; it imports nothing of pofx."""

import math

import torch


def bare_game(critic, generator, critic_steps, x, *, batch, rate, betas, decay, clip, average, planned, data, noise):
    """Yields the generator's loss of each round; a player is (parameters, loss)."""
    adam = [torch.optim.AdamW(p, lr=rate, betas=betas, weight_decay=decay, fused=True) for p, _ in (critic, generator)]
    live, position, order = [*critic[0], *generator[0]], len(x), None
    averages = [p.detach().clone() for p in live]
    for step in range(planned):
        for move in range(critic_steps + 1):
            (parameters, loss), optimiser = ((critic, adam[0]), (generator, adam[1]))[move == critic_steps]
            if move < critic_steps:  # the generator plays on the critic's last batch
                if position + batch > len(x):
                    position, order = 0, torch.randperm(len(x), generator=data)
                real, position = x[order[position : position + batch]], position + batch
            optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / planned))
            total = loss(real, noise)
            total.backward(inputs=parameters)
            if clip:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            optimiser.zero_grad()
        if average:
            with torch.no_grad():
                torch._foreach_lerp_(averages, live, 1 / (average * planned))
        yield total.detach()
