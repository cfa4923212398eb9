"""What scoring costs: the bound of a VAE by many samples beside the decoder's matrix products alone.

The products are those that no way of scoring can leave out: each layer's weights times the activations of every sample
of every observation, in pieces of the same size. One thread; both take turns, and each is the median of its times.

    python benchmarks/autoencoders/scoring.py          # --samples 200 --batch 100 --repeats 15
"""

import argparse
import platform
import statistics
import time

import torch

from pofx.domains import Images
from pofx.models.autoencoders import vae
from pofx.randomness import seeded_init, stream

NETWORKS = {
    "784-200-200-50 tanh": {"hidden": (200, 200), "latent_dim": 50, "activation": "tanh"},
    "784-512-20 relu": {"hidden": (512,), "latent_dim": 20, "activation": "relu"},
    "784-512-20 silu": {"hidden": (512,), "latent_dim": 20, "activation": "silu"},
}


def model_of(arguments):
    """On binary pictures of 28x28."""
    with seeded_init(0):
        return vae.VAE(Images(1, 28, 28, levels=2), network="mlp", prior="normal", **arguments)


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


def seconds(function):
    """Of the processor, that one call takes."""
    began = time.process_time()
    function()
    return time.process_time() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread of {platform.machine()}")
    print(f"batch {options.batch}, {options.samples} samples{'':<8} elbo, s  products, s  ratio")
    x = (torch.rand(options.batch, 1, 28, 28, generator=stream(0, "x")) < 0.2).to(torch.uint8)
    for name, arguments in NETWORKS.items():
        model = model_of(arguments)
        products = products_of(model, options.batch * options.samples)

        def bound(model=model):
            return model.elbo(x, samples=options.samples, generator=stream(0, "z"))

        with torch.no_grad():
            bound(), products()
            times = [(seconds(bound), seconds(products)) for _ in range(options.repeats)]
        ours, floor = (statistics.median(column) for column in zip(*times))
        ratio = statistics.median(a / b for a, b in times)
        print(f"{name:<29} {ours:>8.4f} {floor:>12.4f} {ratio:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
