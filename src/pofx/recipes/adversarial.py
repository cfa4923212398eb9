"""Recipes of games between two networks: samples of the class asked for, and modes of stacked digits."""

from pofx.recipes.recipe import Expected, Recipe

# Chosen on samples of 700 to 1000 rounds beside validation rows. Of stacks of 2 at 28x28 a rate of 1e-3 has a KL of
# modes of 0.51 and a Frechet distance of 39, 6e-3 0.08 and 7, 1.2e-2 0.06 and 11; at 14x14 1e-3 has 0.41 and 15, 3e-3
# 0.21 and 5, 6e-3 0.12 and 4. A long run takes a little less. With r1 = r2 = 5 in place of 1, batches of 32, or a
# critic that sees the spread of a batch, they were no better. Garments are dense: with 1 their critic goes flat and
# stays so; 0.1 and 0.02 are alike.
_SMALL = {"width": 16, "batch_size": 64, "learning_rate": 4e-3}

RECIPES = (
    Recipe(
        "classes-mnist",
        "pairs judged together, slopes held (R1 + R2), the critic told the class by projection",
        model="r3gan",
        source="mnist",
        given={**_SMALL, "r1": 0.1, "r2": 0.1, "condition": "class", "steps": 4736},
        time="6 min",
        machine="one core",
        expected=Expected(
            0.95, "", "statistic", measured="one thread, 5 CPU minutes, 1 seed: 0.985", metric="conditional accuracy"
        ),
        samples=1000,
        beside="real test rows have the judge's own accuracy, 0.993",
    ),
    Recipe(
        "classes-fashion-mnist",
        "the same of garments",
        model="r3gan",
        source="fashion-mnist",
        given={**_SMALL, "r1": 0.1, "r2": 0.1, "condition": "class", "steps": 13_809},
        time="15 min",
        machine="one core",
        expected=Expected(
            0.85, "", "statistic", measured="one thread, 14 CPU minutes, 1 seed: 0.918", metric="conditional accuracy"
        ),
        samples=1000,
        beside="real test rows have the judge's own accuracy, 0.917",
    ),
    Recipe(
        "stacked-mnist-pairs",
        "two digits as channels, 100 modes, without a class",
        model="r3gan",
        source="mnist:stack=2",
        given={**_SMALL, "r1": 1.0, "r2": 1.0, "latent_dim": 32, "steps": 13_000},
        time="16 min",
        machine="one core",
        expected=Expected(
            0.02,
            "nats",
            "statistic",
            metric="kl of modes",
            measured="one thread, 14 CPU minutes, 1 seed: 0.0110",
        ),
        samples=10_000,
        beside="100 modes of 100; real test digits, paired at random and judged alike, have a KL of 0.0053",
    ),
    Recipe(
        "stacked-mnist",
        "three digits as channels, 1000 modes, without a class",
        model="r3gan",
        source="mnist:stack=3",
        given={
            "width": 32,
            "r1": 1.0,
            "r2": 1.0,
            "latent_dim": 64,
            "batch_size": 256,
            "learning_rate": 3e-3,
            "steps": 50_000,
        },
        time="20 min",
        machine="a GPU",
        expected=Expected(0.06, "nats", "statistic", metric="kl of modes"),
        samples=26_000,
        beside="to uniform, at 26,000 samples, where a perfect sampler has 0.019: PacGAN 0.06 (packs of 2, 10 trials, "
        "128,000 stacks, 50 epochs), EnGAN 0.031; here it is to the law of the data's own digits",
    ),
)
