"""Recipes of the autoencoders: bounds of the likelihood of binary pictures."""

from pofx.recipes.recipe import Expected, Recipe

# Chosen on validation at 15,000 and 60,000 steps: rates of 1.5e-3 to 6e-3, decays of 0 to 0.3, with and without a
# warm-up of the KL term, which made it worse.
_ONE_LAYER = {
    "network": "mlp",
    "hidden": (200, 200),
    "activation": "tanh",
    "latent_dim": 50,
    "learning_rate": 2e-3,
    "beta2": 0.999,
    "weight_decay": 0.02,
    "clip": 0.0,
}

RECIPES = (
    Recipe(
        "vae-mnist",
        "the IWAE paper's network of one layer (784-200-200-50), trained on the bound of one sample, 700 epochs",
        model="vae",
        source="mnist:binary",
        given={**_ONE_LAYER, "steps": 300_000, "batch_size": 128, "validation_rows": 2000},
        time="40 min",
        machine="one core",
        expected=Expected(87.8, "nats", "lower bound", measured="one thread, 1 seed: 87.72"),
        samples=5000,
        beside="Burda et al. have 86.76 after 3280 epochs of batches of 20; repeats have 86.08 to 87.75",
    ),
    Recipe(
        "iwae-mnist",
        "the same network, trained on the bound of 50 weighted samples by the doubly reparameterised gradient",
        model="vae",
        source="mnist:binary",
        given={
            **_ONE_LAYER,
            "objective": "dreg",
            "importance": 50,
            "steps": 300_000,
            "batch_size": 128,
            "validation_rows": 2000,
        },
        time="30 min",
        machine="a GPU",
        expected=Expected(84.78, "nats", "lower bound"),
        samples=5000,
        beside="Burda et al. have 84.78 by their own gradient; repeats have 84.32 to 84.59",
    ),
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
