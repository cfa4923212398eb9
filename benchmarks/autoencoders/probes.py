"""What a linear probe reads from the features of autoencoders, beside raw pixels, untrained and supervised networks.

    POFX_DATA=... python benchmarks/autoencoders/probes.py

Every model is trained without classes for the same CPU time, on one thread. Then a multinomial logistic regression is
fitted on its features of training rows, its penalty chosen on validation rows, and its accuracy on test rows is told:
the mean over the seeds, and their standard deviation. The split is the same for all.

Those with convolutions have the same encoder, batches and learning rate. The anchors are encoders of either kind as
they were built, and trained by their labels with a linear layer on top, for as long.
"""

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import pofx
from pofx.catalogue import find
from pofx.data import Rows
from pofx.evaluate.probe import chosen_probe, features_of, plain_map
from pofx.nn.modes import evaluating
from pofx.protocols import Loss, Turn
from pofx.randomness import seeded_init, stream
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

CONVOLUTIONS = {"network": "conv", "width": 32, "latent_dim": 64}
MODELS = {
    "autoencoder": ("autoencoder", CONVOLUTIONS),
    "denoising-masking": ("autoencoder", {**CONVOLUTIONS, "corruption": "masking"}),
    "denoising-gaussian": ("autoencoder", {**CONVOLUTIONS, "corruption": "gaussian"}),
    "vae": ("vae", CONVOLUTIONS),
    "masked-autoencoder": ("masked-autoencoder", {}),
    "masked-normalised": ("masked-autoencoder", {"normalise": True}),
}
ANCHORS = {
    "convolutions": ("autoencoder", CONVOLUTIONS),
    "patches": ("masked-autoencoder", {}),
}
SETTINGS = {"convolutions": {"batch_size": 128, "learning_rate": 2e-3, "weight_decay": 0.01}, "patches": {}}


@dataclass(frozen=True)
class Told:
    """One probe."""

    name: str
    accuracy: float
    width: int
    penalty: float
    steps: int = 0
    seconds: float = 0.0


class Supervised(nn.Module):
    """An encoder that is told the classes: the cross-entropy of a linear layer on its features."""

    def __init__(self, encoder, classes):
        super().__init__()
        self.encoder, self.recipe = encoder, encoder.recipe
        width = encoder.features(torch.zeros(1, *encoder.domain.shape, dtype=encoder.domain.dtype)).shape[1]
        self.head = nn.Linear(width, classes)

    def features(self, x):
        return self.encoder.features(x)

    def adapt(self, x, condition=None, *, generator):
        self.encoder.adapt(x, generator=generator)

    def turns(self):
        """Of what the features come from: a decoder has no gradient."""
        x = torch.zeros(2, *self.encoder.domain.shape, dtype=self.encoder.domain.dtype)
        loss, parameters = self.features(x).square().sum(), tuple(self.encoder.parameters())
        used = torch.autograd.grad(loss, parameters, allow_unused=True)
        moved = [p for p, gradient in zip(parameters, used) if gradient is not None]
        return (Turn("supervised", (*moved, *self.head.parameters()), self.loss),)

    def loss(self, x, condition=None, *, generator):
        return Loss(F.cross_entropy(self.head(self.features(x)), condition))


def kind_of(arguments):
    return "convolutions" if arguments.get("network") == "conv" else "patches"


def built(name, arguments, data, seed):
    with seeded_init(seed):
        return find(name).build(data.domain, **arguments)


def trained(build, part, settings, seed, seconds):
    """A model trained for ``seconds`` of CPU time, and its steps: as many as a few rounds say will fit."""
    model = build()
    model.adapt(part.rows()[0], generator=stream(seed, "adapt"))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chosen = settings_from(model.recipe, {**settings, "steps": 1})
    trial = Trainer(model.train(), part, chosen, planned=1, seed=seed)
    trial.round()
    begun, rounds = time.process_time(), 0
    while time.process_time() - begun < 0.03 * seconds or not rounds:
        trial.round()
        rounds += 1
    steps = max(1, int(seconds * rounds / (time.process_time() - begun)))
    model.load_state_dict(state)
    trainer = Trainer(model, part, chosen, planned=steps, seed=seed)
    for _ in range(steps):
        trainer.round()
    with trainer.weights():
        averaged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(averaged)
    return model, steps


def probed(name, read, rows, classes, steps=0, seconds=0.0):
    train, validation, test = ((read(x), c) for x, c in rows)
    probe = chosen_probe(train, validation, classes=classes)
    return Told(name, probe.accuracy(*test), train[0].shape[1], probe.penalty, steps, seconds)


def of_seed(options, data, rows, seed):
    """Everything that depends on the seed."""
    classes, unlabelled = data.condition.count, Rows(data.train.rows()[0])

    def told(name, model, steps, begun):
        seconds = time.process_time() - begun
        with evaluating(model):
            return probed(name, lambda x: features_of(model, x), rows, classes, steps, seconds)

    for anchor in options.anchors:
        name, arguments = ANCHORS[anchor]
        yield told(f"random, {anchor}", built(name, arguments, data, seed), 0, time.process_time())
        begun = time.process_time()
        model, steps = trained(
            lambda name=name, arguments=arguments: Supervised(built(name, arguments, data, seed), classes),
            data.train, SETTINGS[anchor], seed, options.seconds,
        )  # fmt: skip
        yield told(f"supervised, {anchor}", model, steps, begun)
    for called in options.models:
        name, arguments = MODELS[called]
        begun = time.process_time()
        model, steps = trained(
            lambda name=name, arguments=arguments: built(name, arguments, data, seed),
            unlabelled, SETTINGS[kind_of(arguments)], seed, options.seconds,
        )  # fmt: skip
        yield told(called, model, steps, begun)


def table(found):
    """Lines, best first."""
    yield "features              accuracy  spread  each seed                numbers  penalty  steps  CPU s"
    groups = {}
    for t in found:
        groups.setdefault(t.name, []).append(t)
    for name, of in sorted(groups.items(), key=lambda item: -statistics.fmean(t.accuracy for t in item[1])):
        values = [t.accuracy for t in of]
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
        each = " ".join(f"{v:.4f}" for v in values)
        yield (
            f"{name:<25} {statistics.fmean(values):<9.4f} {spread:<7} {each:<24} {of[0].width:<8} {of[0].penalty:<8g} "
            f"{of[0].steps:<6} {statistics.fmean(t.seconds for t in of):.0f}"
        )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="fashion-mnist")
    parser.add_argument("--seconds", type=float, default=24.0, help="of CPU time that each model is trained for")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20_000, help="training rows that a probe is fitted on")
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--anchors", type=lambda text: text.split(","), default=list(ANCHORS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = pofx.datasets.load(options.source, condition="class")
    rows = [tuple(t[: options.rows] for t in data.part(name).rows()) for name in ("train", "validation", "test")]
    fitted, chosen, held = (len(x) for x, _ in rows)
    print(f"{options.source}: probes fitted on {fitted} rows, chosen on {chosen}, told on {held}")
    found = [probed("raw pixels", plain_map(data.domain), rows, data.condition.count)]
    for told in itertools.chain.from_iterable(of_seed(options, data, rows, seed) for seed in range(options.seeds)):
        print(f"  {told.name:<25} {told.accuracy:.4f}", flush=True)
        found.append(told)
    print(*table(found), sep="\n")


if __name__ == "__main__":
    main()
