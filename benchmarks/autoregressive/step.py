"""A training step of gpt beside the matrix products that it cannot do without, and where the rest of it goes.

    python benchmarks/autoregressive/step.py            # --compile adds the compiled step, after its compilation

The floor is the products of the linear layers alone, forward and backward (y = x W^T; dx = dy W; dW = dy^T x), of the
same shapes on the same thread, in blocks that take turns with the step's. CPU time; medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pofx.data.dataset import Windows
from pofx.domains import Tokens
from pofx.models.autoregressive.gpt import GPT
from pofx.randomness import seeded_init, stream
from pofx.train.loop import Trainer, compiled
from pofx.train.settings import settings_from

VOCABULARY, LENGTH, PLANNED = 65, 64, 10_000
BACKWARD = "autograd::engine::evaluate_function: "
PARTS = {
    "products of linear layers": ("aten::mm",),
    "attention": (
        "aten::scaled_dot_product_attention",
        BACKWARD + "ScaledDotProductFlashAttentionForCpuBackward0",
    ),
    "norms, forward": ("aten::rms_norm",),
    "cross entropy": (
        "aten::cross_entropy_loss",
        BACKWARD + "NllLossBackward0",
        BACKWARD + "LogSoftmaxBackward0",
    ),
    "Muon": ("Optimizer.step#Muon.step",),
    "AdamW": ("Optimizer.step#AdamW.step",),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    trainer = _trainer(options.layers, options.batch)
    floor = _floor(trainer)
    report("eager", trainer.round, floor, options.pairs)
    shares(trainer)
    if options.compile:
        began = time.process_time()
        compiled(trainer.model, trainer.round, print)
        print(f"compiled in {time.process_time() - began:.0f} s of this process")
        report("compiled", trainer.round, floor, options.pairs)


def report(name: str, step: Callable[[], None], floor: Callable[[], None], pairs: int) -> None:
    """Medians of both, and of their ratio."""
    for run in (step, floor):
        _seconds(run, 3)
    times = [(_seconds(step, 3), _seconds(floor, 3)) for _ in range(pairs)]
    ours, least = (statistics.median(column) * 1000 for column in zip(*times))
    ratio = statistics.median(a / b for a, b in times)
    print(f"{name}: {ours:.1f} ms a step, {least:.1f} ms of products: {ratio:.2f} times the floor")


def shares(trainer: Trainer, rounds: int = 20) -> None:
    """Of the step's time, by the profiler; the gradient of a norm is elementwise operators, told apart by nothing."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(rounds):
            trainer.round()
    events = {event.key: event for event in seen.key_averages()}
    total = sum(event.self_cpu_time_total for event in events.values())
    spent = {part: sum(events[name].cpu_time_total for name in names) for part, names in PARTS.items()}
    for part, value in (spent | {"the rest, elementwise": total - sum(spent.values())}).items():
        print(f"  {part:30} {value / total:6.1%}")


def _trainer(layers: int, batch: int) -> Trainer:
    with seeded_init(0):
        model = GPT(Tokens(VOCABULARY, LENGTH), layers=layers)
    settings = settings_from(model.recipe, {"batch_size": batch, "steps": PLANNED})
    text = torch.randint(VOCABULARY, (100_000,), generator=stream(0, "data"))
    return Trainer(model, Windows(text, LENGTH), settings, planned=PLANNED)


def _floor(trainer: Trainer) -> Callable[[], None]:
    """The products of every linear layer that a round uses."""
    used: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x, y, w = inputs[0].flatten(0, -2), output.flatten(0, -2), layer.weight
        used.append(tuple(torch.randn(t.shape) for t in (x, y, w)))

    hooks = [m.register_forward_hook(keep) for m in trainer.model.modules() if isinstance(m, nn.Linear)]
    trainer.round()
    for hook in hooks:
        hook.remove()

    def products() -> None:
        for x, dy, w in used:
            torch.mm(x, w.T), torch.mm(dy, w), torch.mm(dy.T, x)

    return products


def _seconds(run: Callable[[], None], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - began) / times


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
