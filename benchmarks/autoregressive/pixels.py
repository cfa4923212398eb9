"""What keeping feature maps, keys or a state is worth when pictures are drawn pixel by pixel.

    python benchmarks/autoregressive/pixels.py

CPU seconds of one thread for a batch of 28 x 28 binary pictures, cached, against the naive way, which computes
everything that came before at each pixel anew. Naive steps are measured at places spread evenly over the picture and
their mean is taken for all, since a whole naive batch takes minutes. Both give the same outputs, as far as is printed.
"""

import argparse
import time

import torch

from pofx.catalogue import find
from pofx.domains import Images
from pofx.randomness import seeded_init, stream

PICTURES = Images(1, 28, 28, levels=2)


def seconds(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def measure(name, batch, places):
    with seeded_init(0):
        model = find(name).build(PICTURES).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=stream(0, "init")))
    with torch.no_grad():
        model.sample(2, generator=stream(0, "warm"))
        cached, x = seconds(lambda: model.sample(batch, generator=stream(0, "eval")))
        s = model.sequence.read(x)
        naive, kept = (model.stepper(batch, None, cached=cached) for cached in (False, True))
        at = [(2 * k + 1) * PICTURES.dims // (2 * places) for k in range(places)]
        told = [seconds(lambda t=t: naive(s, t)) for t in at]
        gap = max((kept(s, t) - outputs).abs().max().item() for t, (_, outputs) in zip(at, told))
    return cached, PICTURES.dims * sum(spent for spent, _ in told) / places, gap


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="pixelcnn,rnn,gpt")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--places", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("model      cached, s  naive, s  ratio  largest difference of outputs")
    for name in options.models.split(","):
        cached, naive, gap = measure(name, options.batch, options.places)
        print(f"{name:<10} {cached:<10.2f} {naive:<9.0f} {naive / cached:<6.0f} {gap:.1e}", flush=True)


if __name__ == "__main__":
    main()
