"""CPU time on one thread until tiny shakespeare's characters cost 1.898 nats: pofx's gpt beside nanoGPT.

    git clone https://github.com/karpathy/nanoGPT
    POFX_DATA=... python benchmarks/autoregressive/time_to_loss.py --nanogpt nanoGPT --final
    ... --ablation                                         # each part of the recipe taken out alone
    ... --trial nanogpt steps=1050 learning_rate=6e-3      # one more row of trials.csv; or: --trial gpt layers=2 ...

1.898 is what nanoGPT's CPU setting (4 layers, 128 wide, blocks of 64, 2000 batches of 12) reaches. A schedule is always
run to its end, and the time is that of the whole training; scoring is not counted.
"""

import argparse
import ast
import csv
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ours
import shakespeare
import theirs
import torch

TRIALS = Path(__file__).parent / "trials.csv"
SEEDS = (0, 1, 2)

GRAMS = {"layers": 1, "grams": 5, "gram_rows": 4608}
SHORT = ours.Recipe(GRAMS, {"steps": 100, "batch_size": 20, "learning_rate": 0.02})
LONG = ours.Recipe({"layers": 2, "grams": 5, "gram_rows": 3072}, {**SHORT.settings, "steps": 1181})
PLAIN = ours.Recipe({"layers": 2, "grams": 1}, {"steps": 300, "batch_size": 20})
TUNED = theirs.Recipe(steps=1200, learning_rate=6e-3, min_lr=0.0, beta2=0.95)

ABLATIONS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "no n-grams": {"grams": 1},
    "pairs and triples alone": {"grams": 3},
    "2 layers, fewer rows of n-grams": {"layers": 2, "gram_rows": 3072},
    "AdamW for Muon": {"optimiser": "adamw"},
    "learned places for rotary": {"position": "learned"},
    "LayerNorm for RMSNorm": {"norm": "layer"},
    "no QK-norm": {"qk_norm": False},
    "GELU for ReLU^2": {"activation": "gelu"},
    "SwiGLU for ReLU^2": {"activation": "swiglu"},
    "no zero initialisation": {"zero_init": False},
    "tied symbols": {"tie": True},
    "cosine for trapezoid": {"schedule": "cosine"},
    "learning rate 6e-3 for 0.02": {"learning_rate": 6e-3},
    "betas 0.9, 0.99 for 0.8, 0.95": {"beta1": 0.9, "beta2": 0.99},
    "batch 12, as many tokens": {"batch_size": 12, "steps": 167},
    "batch 40, as many tokens": {"batch_size": 40, "steps": 50},
}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    nanogpt = theirs.module_of(options.nanogpt) if options.nanogpt else None
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread, {platform.machine()}")
    if options.trial:
        trial(nanogpt, *options.trial)
    if options.ablation:
        ablation()
    if options.final:
        final(nanogpt, options.only)


def final(nanogpt: Any, only: list[str] | None) -> None:
    """On the test split; the contenders take turns, seed by seed, so that a busy machine slows all."""
    split = shakespeare.split(tuning=False)
    contenders: dict[str, tuple[tuple[int, ...], Callable[[int], tuple[float, float, int]]]] = {
        "nanoGPT": (SEEDS[:1], lambda seed: run_theirs(nanogpt, split, theirs.Recipe(), seed)),
        "nanoGPT, tuned": (SEEDS, lambda seed: run_theirs(nanogpt, split, TUNED, seed)),
        "gpt": (SEEDS, lambda seed: run_ours(split, SHORT, seed)),
        "gpt, no n-grams": (SEEDS, lambda seed: run_ours(split, PLAIN, seed)),
        "gpt, 1.536M tokens": (SEEDS, lambda seed: run_ours(split, LONG, seed)),
    }
    contenders = {name: contender for name, contender in contenders.items() if not only or name in only}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for seed in SEEDS:
        for name, (seeds, run) in contenders.items():
            if seed in seeds:
                took, loss, size = run(seed)
                seconds[name].append(took)
                print(f"{name:28} seed {seed}  {took:6.1f} s  {loss:.4f} nats/char  {size:,} parameters", flush=True)
    base = statistics.median(seconds["nanoGPT"])
    for name, values in seconds.items():
        print(
            f"{name:28} median {statistics.median(values):6.1f} s, {statistics.median(values) / base:.3f} of nanoGPT's"
        )


def ablation() -> None:
    """On the held-back tenth, seed 0: each part of the short recipe taken out alone."""
    split = shakespeare.split(tuning=True)
    for name, changes in ABLATIONS.items():
        took, loss, size = run_ours(split, SHORT.but(**changes), 0)
        print(f"{name:32} {loss:.4f} nats/char  {took:5.1f} s  {size:,} parameters", flush=True)


def trial(nanogpt: Any, who: str, *settings: str) -> None:
    """One setting on the held-back tenth, seed 0, added to ``trials.csv``."""
    split, given = shakespeare.split(tuning=True), dict(map(_setting, settings))
    if who == "nanogpt":
        recipe = theirs.Recipe(**given)
        steps, symbols = recipe.steps, recipe.steps * recipe.batch * shakespeare.BLOCK
        took, loss, _ = run_theirs(nanogpt, split, recipe, 0)
    else:
        own = ours.Recipe().but(**given)
        steps = own.settings["steps"]
        symbols = steps * own.settings["batch_size"] * (shakespeare.BLOCK + 1)
        took, loss, _ = run_ours(split, own, 0)
    print(f"{who} {' '.join(settings)}: {took:.1f} s, {loss:.4f} nats/char")
    with TRIALS.open("a", newline="") as file:
        csv.writer(file).writerow([who, " ".join(settings), 0, steps, symbols, f"{took:.1f}", f"{loss:.4f}"])


def run_ours(split: shakespeare.Split, recipe: ours.Recipe, seed: int) -> tuple[float, float, int]:
    """CPU seconds, nats per character, parameters."""
    model, took = ours.train(split.train, split.vocabulary, recipe, seed)
    return took, shakespeare.loss_over(split.held_out, ours.nats(model)), _size(model)


def run_theirs(nanogpt: Any, split: shakespeare.Split, recipe: theirs.Recipe, seed: int) -> tuple[float, float, int]:
    """CPU seconds, nats per character, parameters."""
    model, took = theirs.train(nanogpt, split.train, split.vocabulary, recipe, seed)
    return took, shakespeare.loss_over(split.held_out, theirs.nats(model)), _size(model)


def _size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except ValueError:
        return name, value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of github.com/karpathy/nanoGPT")
    parser.add_argument("--final", action="store_true", help="all contenders on the test split (about 15 minutes)")
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="with --final: these, named as it prints them")
    parser.add_argument("--ablation", action="store_true", help="each part taken out (about 2 minutes)")
    parser.add_argument("--trial", nargs="+", metavar=("WHO", "NAME=VALUE"), help="nanogpt or gpt, and its settings")
    options = parser.parse_args()
    if not options.nanogpt and (options.final or (options.trial or [""])[0] == "nanogpt"):
        parser.error("--nanogpt DIR is needed: a checkout of github.com/karpathy/nanoGPT")
    return options


if __name__ == "__main__":
    main()
