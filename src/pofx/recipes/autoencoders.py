"""Recipes of the autoencoders: bounds of the likelihood of binary pictures."""

from pofx.recipes.recipe import Expected, Recipe

RECIPES = (
    Recipe(
        "ladder-vae-mnist",
        "a ladder VAE on MNIST binarised once: 3 levels of maps at 4x4, 7x7 and 14x14, 64 to 256 wide, 102 epochs",
        model="ladder-vae",
        source="binarized-mnist",
        given={
            "levels": 3,
            "sizes": (32, 16, 8),
            "width": 64,
            "blocks": 2,
            "free_bits": 0.5,
            "warm_up": 0.1,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "steps": 40_000,
            "validation_rows": 2000,
        },
        time="30 min",
        machine="a GPU",
        expected=Expected(79.24, "nats", "lower bound"),
        samples=1000,
        beside="addtt/ladder-vae-pytorch has 79.24 with 3 levels and 1000 samples (79.47 with 100; its bound is 82.14)",
    ),
)
