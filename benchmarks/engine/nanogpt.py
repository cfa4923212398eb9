"""The loop of nanoGPT's train.py, written out: its get_batch, its two groups in the default AdamW, its log interval.

Source: Karpathy 2022, github.com/karpathy/nanoGPT, train.py.
"""

import math

import torch
from loops import advancing
from measure import Advance
from workloads import PLANNED, Workload

from pofx.randomness import stream
from pofx.train.loop import turns_of


def nanogpt_loop(workload: Workload) -> Advance:
    model, noise = workload.model(), stream(0, "noise")
    settings, (turn,) = workload.settings(model), turns_of(model)
    text, length = workload.x.flatten().to(torch.int16).numpy(), workload.x.shape[1]
    groups = [
        {"params": [p for p in turn.parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in turn.parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2))
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def get_batch():
        places = torch.randint(len(text) - length, (settings.batch_size,))
        x = torch.stack([torch.from_numpy(text[i : i + length].astype("int64")) for i in places])
        y = torch.stack([torch.from_numpy(text[i + 1 : i + 1 + length].astype("int64")) for i in places])
        return x, y

    def steps():
        step, (x, _) = 0, get_batch()
        while True:
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / PLANNED))
            loss = turn.loss(x, generator=noise).total  # pofx's GPT makes the targets from x itself
            x, _ = get_batch()
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)
            if step % 10 == 0:
                loss.item()
            step += 1
            yield loss.detach()

    return advancing(steps())
