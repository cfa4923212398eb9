"""The same training step, written by hand: the yardstick for pofx's trainer, and so it imports nothing of pofx."""

import torch
from torch import nn
from torch.nn.functional import logsigmoid, softplus


def bare_vae(x, seed=0, planned=10_000):
    """A function that makes one step of a VAE on pictures x (N, C, H, W) of 17 levels."""
    g, d, k = torch.Generator().manual_seed(seed), x[0].numel(), 16
    encoder = nn.Sequential(nn.Linear(d, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 2 * k))
    decoder = nn.Sequential(nn.Linear(k, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 2 * d))
    net = nn.ModuleList([encoder, decoder])
    optimiser = torch.optim.AdamW(net.parameters(), lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0.3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, planned)
    average = [p.detach().clone() for p in net.parameters()]

    def step():
        y = (2 * x[torch.randint(len(x), (128,), generator=g)].flatten(1).float() + 1) / 17 - 1
        mu, log_var = encoder(y).chunk(2, 1)
        m, s = decoder(mu + (log_var / 2).exp() * torch.randn(mu.shape, generator=g)).chunk(2, 1)
        a, b = (y + 1 / 17 - m) * (-s).exp(), (y - 1 / 17 - m) * (-s).exp()  # the edges of the bin that x owns
        inside = a - softplus(a) - softplus(b) + torch.log(-torch.expm1(b - a))
        log_p = torch.where(y < -0.94, logsigmoid(a), torch.where(y > 0.94, -softplus(b), inside)).sum(1)
        (-log_p + 0.5 * (mu**2 + log_var.exp() - log_var - 1).sum(1)).mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step(), schedule.step(), optimiser.zero_grad()
        torch._foreach_lerp_(average, [p.detach() for p in net.parameters()], 0.001)

    return step
