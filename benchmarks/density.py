"""How near a learnt density comes to the true one, in two dimensions: mean log p_true - log p_model on held-out points.

    python benchmarks/density.py --budget 2m

Beside the gap, the mass that the learnt density has on a grid wider than the data (it should be one), and, for an
estimate, its bias. The vae's figure is its bound with 1000 samples of the latent.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import pofx


def gap(run, n):
    """Mean and standard error of log p_true - log p_model over n held-out points, and the bias of an estimate."""
    x = run.data.test.rows()[0][:n]
    scored = run.score(x, samples=1000, steps=80)
    difference = run.data.log_prob(x).double() - scored.value
    bias = 0.0 if scored.bias is None else scored.bias.mean().item()
    return difference.mean().item(), (difference.std() / len(x) ** 0.5).item(), bias, scored.kind


def mass(run, side=120, margin=1.0, samples=200):
    """Sum of p over a grid that reaches ``margin`` standard deviations beyond the held-out points."""
    x = run.data.test.rows()[0]
    low, high = x.amin(0) - margin * x.std(0), x.amax(0) + margin * x.std(0)
    axes = [torch.linspace(a, b, side) for a, b in zip(low.tolist(), high.tolist())]
    scored = run.score(torch.cartesian_prod(*axes), samples=samples, steps=40)
    cell = (axes[0].diff()[0] * axes[1].diff()[0]).item()
    return scored.value.exp().sum().item() * cell


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="2m")
    parser.add_argument("--models", default="flow-matching,vae")
    parser.add_argument("--sources", default="moons,gaussian2d")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-n", type=int, default=10_000)
    options = parser.parse_args()
    print("source      model          gap, nats          mass on a grid  bias     steps  seconds  kind")
    for source in options.sources.split(","):
        for model in options.models.split(","):
            with tempfile.TemporaryDirectory() as folder:
                run = pofx.fit(model, source, budget=options.budget, out=Path(folder) / "run", seed=options.seed)
                mean, stderr, bias, kind = gap(run, options.n)
                print(
                    f"{source:<11} {model:<14} {mean:.4f} +- {stderr:.4f}  {mass(run):<15.4f} {bias:<+8.4f} "
                    f"{run.steps:<6} {run.train_seconds:<8.0f} {kind}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
