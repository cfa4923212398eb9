"""A ring of 8 narrow normals, learnt by a generator that knows how the critic will answer, and by one that does not.

    python benchmarks/adversarial/unrolled.py --picture unrolled.png

The setting is that of Metz et al. 2017, arXiv:1611.02163, section 3.1 and appendix A, scaled down. Both rows of the
picture have the same networks, batches, rates and seed, and descend the same value; one sees 0 steps ahead, one 5.
Their toy code places 8 centres at angles from 0 to 2 pi, both ends included, which are 7; here they are 8.
"""

import argparse
import time

import torch

from pofx.catalogue import find
from pofx.data import Rows
from pofx.data.toys import mixture
from pofx.divergences import mode_coverage
from pofx.domains import Vectors
from pofx.randomness import seeded_init, stream
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

NETWORKS = {"hidden": (64, 64), "latent_dim": 64, "critic_learning_rate": 1e-4}
MODELS = {
    "plain": ("gan", {**NETWORKS, "loss": "saturating", "r1": 0.0}),
    "unrolled": ("unrolled-gan", {**NETWORKS, "unrolled": 5, "unrolled_rate": 0.3}),
}
SETTINGS = {
    "batch_size": 128, "learning_rate": 1e-3, "beta1": 0.5, "beta2": 0.99, "schedule": "constant", "ema": 0.0,
}  # fmt: skip
COLUMNS, SAMPLES = 6, 2_500


def watched(kind, sd, seed, steps):
    """Samples at ``COLUMNS`` times, the training's CPU seconds, and the modes found at each of them."""
    toy, g = mixture("ring", sd=sd), stream(seed, "ring")
    x = toy.draw(torch.randint(toy.parts, (100_000,), generator=g), generator=g)
    name, arguments = MODELS[kind]
    with seeded_init(seed):
        model = find(name).build(Vectors(2), **arguments)
    model.adapt(x, generator=stream(seed, "adapt"))
    trainer = Trainer(model.train(), Rows(x), settings_from(model.recipe, SETTINGS), planned=steps, seed=seed)
    seen, begun = [], time.process_time()
    for _ in range(COLUMNS):
        for _ in range(steps // COLUMNS):
            trainer.round()
        seen.append(model.sample(SAMPLES, generator=stream(seed, "eval")))
    seconds = time.process_time() - begun
    return seen, [mode_coverage(y, torch.tensor(toy.centres), sd) for y in seen], seconds


def drawn(rows, steps, path):
    """Kinds from top to bottom, training from left to right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(rows), COLUMNS, figsize=(2 * COLUMNS, 2 * len(rows)), layout="constrained")
    for row, (kind, seen) in zip(axes, rows.items()):
        for column, (axis, y) in enumerate(zip(row, seen)):
            axis.scatter(*y[:1000].T, s=2, alpha=0.3, linewidths=0, color="#1f5fa8")
            axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=[], yticks=[], aspect="equal")
            axis.set_title(f"{kind}, step {(column + 1) * (steps // COLUMNS)}", fontsize=8)
    figure.savefig(path, dpi=80)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed; the picture's")
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--sd", type=float, default=0.02)
    parser.add_argument("--picture", help="a PNG of the first seed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"ring of 8, sd {options.sd}: modes found / KL to uniform, nats / share within three sd, along training")
    pictures = {}
    for seed in range(options.first, options.first + options.seeds):
        for kind in MODELS:
            seen, found, seconds = watched(kind, options.sd, seed, options.steps)
            pictures.setdefault(kind, seen)
            told = "  ".join(f"{c.found}/{c.kl:.2f}/{100 * c.within:.0f}%" for c in found)
            print(f"{kind:<9} seed {seed:<4} {told}  {seconds:.0f} CPU s", flush=True)
    if options.picture:
        drawn(pictures, options.steps, options.picture)


if __name__ == "__main__":
    main()
