"""How near a learnt map comes to the true one: L2-UVP = 100 E|T(x) - T*(x)|^2 / Var(y), in %, for w2-gan.

    python benchmarks/transport.py --dims 2,4,8,16,32,64

Three truths, each known exactly, learnt by one network with one recipe from draws that never repeat:

``normals``  from N(0, S) to N(0, S'), of which each root is a random rotation times numbers log-spaced 0.5 to 2, as in
             Korotin et al. 2021, arXiv:1909.13082; T* is Bures'.
``convex``   from N(0, I) to its image under T* = grad psi, psi a strongly convex log-sum-exp of 4 random quadratics.
``sharp``    the same of 8 quadratics farther apart, with half the temperature: most points lie within one of them.

Beside the figure, on 2^14 fresh points: that of the best map known without learning, between the two laws as normals.
"""

import argparse
import math
import time
from functools import partial

import torch

from pofx.domains import Vectors
from pofx.models import W2GAN
from pofx.randomness import seeded_init, stream
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

FRESH = 2**14


def rotation(dim, generator):
    """Uniform: QR of normals, with the signs mended."""
    q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
    return q * r.diagonal().sign()


def root(a):
    """Of a positive matrix."""
    values, vectors = torch.linalg.eigh(a.double())
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def bures(a, b):
    """The map x -> A x of least cost between normals of these covariances: A = a^-1/2 (a^1/2 b a^1/2)^1/2 a^-1/2."""
    half = root(a)
    back = torch.linalg.inv(half)
    return (back @ root(half @ b.double() @ half) @ back).float()


class Normals:
    """Two normals and the map between them."""

    def __init__(self, dim, generator):
        spread = torch.logspace(math.log10(0.5), math.log10(2), dim)
        self.dim = dim
        self.roots = [rotation(dim, generator) * spread for _ in range(2)]
        self.linear = bures(*(r @ r.T for r in self.roots))

    def source(self, n, generator):
        return torch.randn(n, self.dim, generator=generator) @ self.roots[0].T

    def target(self, n, generator):
        return torch.randn(n, self.dim, generator=generator) @ self.roots[1].T

    def map(self, x):
        return x @ self.linear


class Convex:
    """A standard normal and its image under grad psi, psi = 0.1 |x|^2 + tau log sum_k exp(q_k(x) / tau).

    The slopes of each quadratic q_k are log-uniform from 0.25 to 2, in directions of its own.
    """

    def __init__(self, dim, generator, *, pieces=4, apart=0.5, temperature=0.5):
        self.dim, self.tau = dim, temperature * math.sqrt(dim)
        self.centres = apart * torch.randn(pieces, dim, generator=generator)
        slopes = 0.25 * 8 ** torch.rand(pieces, dim, generator=generator)
        turns = torch.stack([rotation(dim, generator) for _ in range(pieces)])
        self.curves = turns * slopes[:, None] @ turns.mT
        self.levels = torch.zeros(pieces)
        self.levels = -self._pieces(self.source(FRESH, generator))[0].mean(0)  # so that all have their share

    def _pieces(self, x):
        """q_k(x) = (x - m_k)' A_k (x - m_k) / 2 + b_k, and their gradients."""
        away = x - self.centres[:, None]
        gradients = away @ self.curves
        return ((gradients * away).sum(2) / 2).T + self.levels, gradients

    def source(self, n, generator):
        return torch.randn(n, self.dim, generator=generator)

    def target(self, n, generator):
        return self.map(self.source(n, generator))

    def map(self, x):
        values, gradients = self._pieces(x)
        return 0.2 * x + torch.einsum("nk,knd->nd", (values / self.tau).softmax(1), gradients)


TRUTHS = {"normals": Normals, "convex": Convex, "sharp": partial(Convex, pieces=8, apart=1.0, temperature=0.25)}


class Source:
    """Draws of a truth's source."""

    def __init__(self, truth):
        self.truth = truth

    def sample(self, n, condition=None, *, generator):
        return self.truth.source(n, generator)


class Fresh:
    """Draws of a truth's target, new at every visit."""

    observations = FRESH

    def __init__(self, truth):
        self.truth = truth

    def __len__(self):
        return 2**20

    def take(self, index, *, generator):
        return self.truth.target(len(index), generator), None

    def rows(self):
        return self.truth.target(FRESH, stream(0, "rows")), None

    def to(self, device):
        return self


def learnt(truth, seed, steps, hidden, network):
    """The trainer of a w2-gan by its own recipe, all rounds played, and the seconds of the processor that it took."""
    began, part = time.process_time(), Fresh(truth)
    with seeded_init(seed):
        model = W2GAN(Vectors(truth.dim), source=Source(truth), units="common", hidden=hidden, network=network)
    model.adapt(part.rows()[0], generator=stream(seed, "adapt"))
    trainer = Trainer(model, part, settings_from(model.recipe, {"steps": steps}), planned=steps, seed=seed)
    for _ in range(steps):
        trainer.round()
    return trainer, time.process_time() - began


def unexplained(truth, map_, x):
    """L2-UVP of a map, %."""
    y = truth.map(x)
    return (100 * (map_(x) - y).square().sum(1).mean() / y.var(0).sum()).item()


def as_normals(truth):
    """The map between the two laws if they were normal, from moments of many draws."""
    x, y = (draw(2**17, stream(1, "moments")) for draw in (truth.source, truth.target))
    linear = bures(x.T.cov(), y.T.cov())
    return lambda rows: (rows - x.mean(0)) @ linear + y.mean(0)


def judged(truth, model, seed):
    """L2-UVP, that of the normals' map, and W2^2 as it is and by the dual."""
    x = truth.source(FRESH, stream(seed, "fresh points"))
    ours, theirs = (unexplained(truth, map_, x) for map_ in (model.transport, as_normals(truth)))
    cost = (truth.map(x) - x).square().sum(1).mean()
    dual = model.meters(truth.target(FRESH, stream(seed, "fresh targets")))["w2_squared"]
    return f"{ours:<10.3f} {theirs:<13.2f} {cost:<10.4g} {dual:<12.4g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", default="2,4,8,16,32,64")
    parser.add_argument("--truths", default="normals,convex,sharp")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--hidden", default="128,128")
    parser.add_argument("--network", default="free")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("truth    dim  seed  L2-UVP %   as normals %  W2^2 true  by the dual  steps  processor s")
    hidden = tuple(map(int, options.hidden.split(",")))
    for dim in map(int, options.dims.split(",")):
        for name in options.truths.split(","):
            for seed in range(options.seeds):
                truth = TRUTHS[name](dim, stream(seed, f"{name} {dim}"))
                trainer, seconds = learnt(truth, seed, options.steps, hidden, options.network)
                with trainer.weights():
                    figures = judged(truth, trainer.model, seed)
                print(f"{name:<8} {dim:<4} {seed:<5} {figures} {options.steps:<6} {seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
