"""Modes of stacked MNIST: how many of 100 or 1000 a sampler finds, and how evenly.

    POFX_DATA=... python benchmarks/adversarial/stacked.py --stack 2

Trains by the recipe (``pofx reproduce``), or takes a run that there is (``--run``). A classifier of single digits,
trained on the training split alone, judges each channel. Beside the samples stand as many stacks of real test digits,
paired at random: what a perfect sampler gets with the same judge. KL is that of the counts to the law of the training
split's digits, and to uniform as it is published; the floor is (modes - 1) / (2 n). Confidence is the judge's mean
probability of the digit that it says.
"""

import argparse
import time

import torch

import pofx
from pofx.data import load
from pofx.evaluate.classifier import cached_judge
from pofx.evaluate.modes import Modes, count_modes
from pofx.randomness import stream
from pofx.recipes import find, reproduce

RECIPES = {2: "stacked-mnist-pairs", 3: "stacked-mnist"}


def main(arguments=None):
    options = parsed(arguments)
    recipe = find(RECIPES[options.stack])
    digits = load(options.digits, condition="class")
    judge = cached_judge(digits, seed=0, seconds=options.judging)
    begun, cpu = time.perf_counter(), time.process_time()
    if options.run:
        run = pofx.load(options.run)
    else:
        run = reproduce(
            recipe.name, steps=options.steps, seed=options.seed, quick=options.quick, device=options.device
        ).run
    trained = (
        f"{time.perf_counter() - begun:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
        if not options.run
        else "before"
    )
    n = options.samples or recipe.samples
    x = run.sample(n, seed=options.seed).x
    rows = digits.test.rows()[0]
    generator = stream(options.seed, "stacked/real")
    real = torch.cat([rows[torch.randint(len(rows), (n,), generator=generator)] for _ in range(x.shape[1])], dim=1)
    print(f"{run.folder}: {run.steps} steps; trained in {trained}")
    print(f"judge of single digits: {judge.accuracy:.4f} on test, {judge.steps} steps; n = {n}")
    print("               modes       KL to data  KL to uniform  floor    confidence")
    for name, stacks in (("samples", x), ("real, test", real)):
        line(name, count_modes(stacks, judge, digits.condition.frequencies))


def line(name: str, counted: Modes) -> None:
    found = f"{counted.found}/{len(counted.histogram)}"
    print(
        f"{name:<14} {found:<11} {counted.kl:<11.4f} {counted.kl_uniform:<14.4f} {counted.floor:<8.4f} "
        f"{counted.confidence:.4f}",
        flush=True,
    )


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", type=int, choices=RECIPES, default=2)
    parser.add_argument("--run", help="a run folder to judge, in place of training")
    parser.add_argument("--steps", type=int, help="rounds of training, in place of the recipe's")
    parser.add_argument("--samples", type=int, help="in place of the recipe's number")
    parser.add_argument("--judging", type=float, default=180.0, help="seconds for the training of the judge")
    parser.add_argument("--digits", default="mnist", help="what the judge learns from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="about a minute that shows that it runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
