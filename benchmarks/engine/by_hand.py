"""VAEs written by hand, as a parameter list and a loss (x, generator) -> scalar; they import nothing of pofx."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

silu_backward = torch.ops.aten.silu_backward  # gradient times the derivative of a sigmoid(a), in one pass


def logistic_vae():
    """64-256-256-16 and back, discretised logistics over the 17 levels of 8x8 pictures."""
    encoder = nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 32))
    decoder = nn.Sequential(nn.Linear(16, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 128))

    def loss(x, generator):
        y = (2 * x.flatten(1).float() + 1) / 17 - 1
        mu, log_var = encoder(y).chunk(2, 1)
        m, s = decoder(mu + (log_var / 2).exp() * torch.randn(mu.shape, generator=generator)).chunk(2, 1)
        a, b = (y + 1 / 17 - m) * (-s).exp(), (y - 1 / 17 - m) * (-s).exp()  # the edges of the bin that x owns
        inside = a - F.softplus(a) - F.softplus(b) + torch.log(-torch.expm1(b - a))
        log_p = torch.where(y < -0.94, F.logsigmoid(a), torch.where(y > 0.94, -F.softplus(b), inside)).sum(1)
        return (-log_p + 0.5 * (mu**2 + log_var.exp() - log_var - 1).sum(1)).mean()

    return [*encoder.parameters(), *decoder.parameters()], loss


def bernoulli_vae(hidden=400, latent=20, activation=F.silu):
    """784-400-20 and back over pictures of two levels, differentiated by autograd."""
    weights = _bernoulli_weights(hidden, latent)
    return weights, lambda x, generator: bernoulli_loss(weights, *_drawn(x, generator, latent), activation)


def derived_vae():
    """The same with its gradients derived by hand: the floor, which a library that differentiates will not reach."""
    weights = _bernoulli_weights()
    return weights, lambda x, generator: Derived(weights, *bernoulli_gradients(weights, *_drawn(x, generator)))


@dataclass
class Derived:
    """A loss whose gradients are known already, for a loop that calls ``backward``."""

    weights: list[Tensor]
    value: Tensor
    gradients: list[Tensor]

    def backward(self):
        for weight, gradient in zip(self.weights, self.gradients):
            weight.grad = gradient

    def detach(self):
        return self.value


def bernoulli_loss(weights, x, epsilon, activation=F.silu):
    """The negative bound, nats per observation."""
    w1, b1, w2, b2, w3, b3, w4, b4 = weights
    mu, log_var = F.linear(activation(F.linear(x - 0.5, w1, b1)), w2, b2).chunk(2, 1)
    z = mu + (log_var / 2).exp() * epsilon
    logits = F.linear(activation(F.linear(z, w3, b3)), w4, b4)
    rate = 0.5 * (mu**2 + log_var.exp() - log_var - 1).sum()
    return (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + rate) / len(x)


@torch.no_grad()
def bernoulli_gradients(weights, x, epsilon):
    """The same loss and its gradient for each weight, by the chain rule written out."""
    w1, b1, w2, b2, w3, b3, w4, b4 = weights
    y, n = x - 0.5, len(x)
    a1 = torch.addmm(b1, y, w1.T)
    h1 = F.silu(a1)
    mu, log_var = torch.addmm(b2, h1, w2.T).chunk(2, 1)
    sigma = (log_var / 2).exp()
    z = mu + sigma * epsilon
    a2 = torch.addmm(b3, z, w3.T)
    h2 = F.silu(a2)
    logits = torch.addmm(b4, h2, w4.T)
    rate = 0.5 * (mu**2 + sigma**2 - log_var - 1).sum()
    value = (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + rate) / n
    d_logits = logits.sigmoid_().sub_(x).div_(n)
    d_a2 = silu_backward(d_logits @ w4, a2)
    d_z = d_a2 @ w3
    d_q = torch.cat([d_z + mu / n, 0.5 * (d_z * epsilon * sigma + (sigma**2 - 1) / n)], 1)
    d_a1 = silu_backward(d_q @ w2, a1)
    inputs, outputs = (y, h1, z, h2), (d_a1, d_q, d_a2, d_logits)
    return value, [g for h, d in zip(inputs, outputs) for g in (d.T @ h, d.sum(0))]


def derivation_error(x):
    """Largest difference of a gradient from autograd's, relative to the largest gradient of that weight."""
    weights = _bernoulli_weights()
    x, epsilon = _drawn(x, torch.Generator().manual_seed(1))
    _, derived = bernoulli_gradients(weights, x, epsilon)
    expected = torch.autograd.grad(bernoulli_loss(weights, x, epsilon), weights)
    return max(((d - e).abs().max() / e.abs().max()).item() for d, e in zip(derived, expected))


def _bernoulli_weights(hidden=400, latent=20):
    sizes = (784, hidden), (hidden, 2 * latent), (latent, hidden), (hidden, 784)
    return [p for inputs, outputs in sizes for p in nn.Linear(inputs, outputs).parameters()]


def _drawn(x, generator, latent=20):
    return x.flatten(1).float(), torch.randn(len(x), latent, generator=generator)
