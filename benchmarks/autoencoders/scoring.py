"""What scoring costs: the bound of a VAE by many samples beside the decoder's matrix products alone, and pythae's.

The products are those that no way of scoring can leave out: each layer's weights times the activations of every sample
of every observation, in pieces of the same size. pythae's ``get_nll`` scores the same weights and pictures with as many
samples, without gradients; it is told beside our bound and one written out with torch.distributions, so that its sign
is seen. CPU time on one thread; all take turns; medians of the ratios within a round, with their 95% interval.

    python benchmarks/autoencoders/scoring.py          # --samples 200 --batch 100 --rounds 20
"""

import argparse
import importlib.util
import math
import platform
from statistics import fmean, stdev

import torch
from alike import carried, ours  # before measure: it says where that is
from measure import silence, taking_turns
from torch.distributions import Bernoulli, Normal

from pofx.models.autoencoders import vae
from pofx.randomness import seeded_init, stream

NETWORKS = {
    "784-200-200-50 tanh": {"hidden": (200, 200), "latent_dim": 50, "activation": "tanh"},
    "784-512-20 silu": {"activation": "silu"},
    "784-512-20 relu": {},
}
HAS_PYTHAE = importlib.util.find_spec("pythae") is not None


def model_of(arguments):
    """On binary pictures of 28x28."""
    with seeded_init(0):
        return ours(**arguments)


def drawn(batch):
    """Sparse noise."""
    return (torch.rand(batch, 1, 28, 28, generator=stream(0, "x")) < 0.2).to(torch.uint8)


def products_of(model, rows):
    """The decoder's matrix products for so many rows, as a function to be timed."""
    layers = [*model.decoder.layers, model.decoder.head]
    piece = max(1, vae._CHUNK // len(model.bias))
    inputs = [torch.randn(piece, layer.in_features) for layer in layers]
    weights = [layer.weight.detach().T for layer in layers]
    outputs = [torch.empty(piece, layer.out_features) for layer in layers]

    def products():
        for _ in range(rows // piece):
            for x, w, out in zip(inputs, weights, outputs):
                torch.mm(x, w, out=out)
        for x, w, out in zip(inputs, weights, outputs):
            torch.mm(x[: rows % piece], w, out=out[: rows % piece])

    return products


def plain_bound(model, x, samples, generator):
    """log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x), as it is read, in double precision; nats for each of x."""
    weights = {name: p.detach().double() for name, p in model.named_parameters()}

    def network(name, h):
        h = torch.relu(h @ weights[f"{name}.layers.0.weight"].T + weights[f"{name}.layers.0.bias"])
        return h @ weights[f"{name}.head.weight"].T + weights[f"{name}.head.bias"]

    x = x.flatten(1).double()
    mu, log_var = network("encoder", x - 0.5).chunk(2, 1)
    sigma = (log_var / 2).exp()
    z = mu + sigma * torch.randn(samples, *mu.shape, generator=generator, dtype=torch.double)
    log_q, log_prior = Normal(mu, sigma).log_prob(z).sum(-1), Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_p = Bernoulli(logits=network("decoder", z) + weights["bias"]).log_prob(x).sum(-1)
    return (log_p + log_prior - log_q).logsumexp(0) - math.log(samples)


def by_pythae(model, x, samples):
    """Its get_nll on the same weights, as a function; its own batches are of samples, and hold all of them here."""
    peer, x = carried(model), x.float()
    return lambda: peer.get_nll(x, n_samples=samples, batch_size=samples)


def repeatedly(function):
    """As a loop to be timed."""

    def advance(n):
        for _ in range(n):
            function()

    return advance


@torch.no_grad()
def timed(model, x, samples, rounds, pythae):
    """Turns of the bound, the products, and pythae if it is asked for."""
    functions = [
        lambda: model.elbo(x, samples=samples, generator=stream(0, "z")),
        products_of(model, len(x) * samples),
    ]
    if pythae:
        functions.append(by_pythae(model, x, samples))
    return taking_turns([repeatedly(f) for f in functions], rounds=rounds, steps=1)


@torch.no_grad()
def values(model, x, samples, repeats=5):
    """name -> the mean over x of what each says, several times with new draws."""
    told = {
        "pofx elbo": lambda k: model.elbo(x, samples=samples, generator=stream(k, "z")).mean().item(),
        "torch.distributions": lambda k: plain_bound(model, x, samples, stream(k, "plain")).mean().item(),
    }
    if HAS_PYTHAE:
        score = by_pythae(model, x, samples)
        told["pythae get_nll"] = lambda k: float(score())
    return {name: [value(k) for k in range(repeats)] for name, value in told.items()}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    if min(options.samples, options.batch) < 1 or options.rounds < 2:
        parser.error(f"needs samples, a batch and at least 2 rounds, got {vars(options)}")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread of {platform.machine()}")
    print(f"batch {options.batch}, {options.samples} samples{'':<16} elbo, s  ratio  95% interval")
    x = drawn(options.batch)
    for name, arguments in NETWORKS.items():
        pythae = HAS_PYTHAE and not arguments  # its own network
        turns = timed(model_of(arguments), x, options.samples, options.rounds, pythae)
        show(f"{name}, of the products", turns.ratio(0, 1))
        if pythae:
            show(f"{name}, of pythae's time", turns.ratio(0, 2))
    if not HAS_PYTHAE:
        print("pythae is left out: pip install --constraint constraints.txt pythae")
    print("\nmean over x of the same weights, nats     (spread over five draws)")
    with silence():
        told = values(model_of({}), x, options.samples)
    for name, found in told.items():
        print(f"{name:<34} {fmean(found):>9.4f}   ({stdev(found):.4f})")


def show(label, ratio):
    low, high = ratio.interval
    print(
        f"{label:<40} {ratio.milliseconds[0] / 1000:>8.4f}  {ratio.quartiles[1]:.3f}  {low:.3f} to {high:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
