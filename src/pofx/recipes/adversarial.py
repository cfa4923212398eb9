"""Recipes of games between two networks: samples of the class asked for, and modes of stacked digits."""

from pofx.recipes.recipe import Expected, Recipe

# Chosen on counts of samples at 900 rounds, with rates of 1e-3 to 1.2e-2: 4e-3 to 6e-3 have six times less KL, and four
# times less Frechet distance to validation, than 1e-3. Slopes held 10 times less were worse; batches of 32, and a critic
# that sees the spread of a batch, no better.
_SMALL = {"width": 16, "batch_size": 64, "learning_rate": 4e-3}

RECIPES = (
    Recipe(
        "classes-mnist",
        "pairs judged together, slopes held (R1 + R2), the critic told the class by projection",
        model="r3gan",
        source="mnist",
        given={**_SMALL, "condition": "class", "steps": 4000},
        time="20 min",
        machine="one core",
        expected=Expected(0.95, "", "statistic", metric="conditional accuracy"),
        samples=1000,
        beside="a judge of our own counts, so that no published figure is of the same",
    ),
    Recipe(
        "classes-fashion-mnist",
        "the same of garments",
        model="r3gan",
        source="fashion-mnist",
        given={**_SMALL, "condition": "class", "steps": 4000},
        time="20 min",
        machine="one core",
        expected=Expected(0.85, "", "statistic", metric="conditional accuracy"),
        samples=1000,
        beside="a judge of our own counts, so that no published figure is of the same",
    ),
    Recipe(
        "stacked-mnist-pairs",
        "two digits as channels, 100 modes, without a class",
        model="r3gan",
        source="mnist:stack=2",
        given={**_SMALL, "latent_dim": 32, "steps": 13_000},
        time="20 min",
        machine="one core",
        expected=Expected(0.02, "nats", "statistic", metric="kl of modes"),
        samples=10_000,
        beside="a perfect sampler has 0.005 at 10,000 samples",
    ),
    Recipe(
        "stacked-mnist",
        "three digits as channels, 1000 modes, without a class",
        model="r3gan",
        source="mnist:stack=3",
        given={"width": 64, "latent_dim": 64, "minibatch_std": True, "steps": 50_000, "batch_size": 64},
        time="20 min",
        machine="a GPU",
        expected=Expected(0.06, "nats", "statistic", metric="kl of modes"),
        samples=26_000,
        beside="to uniform, at 26,000 samples, where a perfect sampler has 0.019: PacGAN 0.06 (packs of 2, 10 trials, "
        "128,000 stacks, 50 epochs), EnGAN 0.031; here it is to the law of the data's own digits",
    ),
)
