"""One training step of the VAE on 8x8 digits: pofx's trainer beside a bare loop that does the same by hand.

Interleaved blocks on one thread, CPU seconds (so that other work on the machine weighs little), medians with quartiles.

    python benchmarks/step.py
"""

import argparse
import platform
import time
from statistics import quantiles

import torch
from bare_vae import bare_vae

from pofx.data import load
from pofx.models.autoencoders.vae import VAE
from pofx.randomness import seeded_init, stream
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

BLOCK = 50  # steps timed at once


def trainer_step(data):
    """A round of pofx's trainer, with the recipe that the model asks for on these data."""
    with seeded_init(0):
        model = VAE(data.domain, latent_dim=16, hidden=(256, 256))
    model.adapt(data.train.rows()[0], generator=stream(0, "adapt"))
    trainer = Trainer(model, data.train, settings_from(model.recipe, {}), planned=10_000)

    def step():
        trainer.round()
        if trainer.step % BLOCK == 0:
            trainer.observed()

    return step


def block(step):
    """CPU milliseconds per step, over one block."""
    begun = time.process_time()
    for _ in range(BLOCK):
        step()
    return (time.process_time() - begun) * 1000 / BLOCK


def shown(name, values, unit):
    low, middle, high = quantiles(values, n=4)
    print(f"{name:<8} {middle:7.3f} {unit:<8} ({low:.3f} to {high:.3f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=40, help="blocks of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load("digits")
    steps = {"bare": bare_vae(data.train.rows()[0]), "pofx": trainer_step(data)}
    for step in steps.values():
        block(step)
    times = {name: [] for name in steps}
    for i in range(options.blocks):
        for name in sorted(steps, reverse=bool(i % 2)):
            times[name].append(block(steps[name]))
    print(f"VAE 64-256-256-16, batch 128, {options.blocks} x {BLOCK} steps; torch {torch.__version__}, "
          f"Python {platform.python_version()}, one thread of {platform.machine()}")  # fmt: skip
    for name, values in times.items():
        shown(name, values, "ms/step")
    shown("ratio", [p / b for p, b in zip(times["pofx"], times["bare"])], "pofx/bare")


if __name__ == "__main__":
    main()
