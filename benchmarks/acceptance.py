"""Samples asked for by class that a classifier takes for that class, after a given time of training.

    POFX_DATA=... python benchmarks/acceptance.py --source mnist --budget 10m --models vae,flow-matching,wgan-gp

The classifier is trained on the training split alone; its own accuracy on the test split stands beside each figure.
"""

import argparse
import tempfile
from pathlib import Path

import pofx


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="mnist")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--scoring", type=float, default=180.0, help="seconds for the scores of each model")
    parser.add_argument("--models", default="vae,flow-matching,wgan-gp")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("model          accepted           classifier  n     steps  seconds  parameters")
    for model in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            run = pofx.fit(
                model, options.source, condition="class", budget=options.budget, out=Path(folder) / "run",
                seed=options.seed,
            )  # fmt: skip
            score = next(s for s in run.evaluate(seconds=options.scoring) if s.metric == "conditional accuracy")
            size = sum(p.numel() for p in run.model.parameters())
            print(
                f"{model:<14} {score.value:.4f} +- {score.stderr:.4f}  {score.floor:<11.4f} {score.n:<5} "
                f"{run.steps:<6} {run.train_seconds:<8.0f} {size}",
                flush=True,
            )


if __name__ == "__main__":
    main()
