"""What a step of training a VAE costs: pythae's trainer, pofx's, and a bare loop with the fused Adam, on one network.

    python benchmarks/autoencoders/training.py          # with pythae installed: about 4 minutes

The network is pythae's default for vectors, 784-512-20 and back with ReLU and Bernoulli pixels; the data are synthetic
pictures of MNIST's size and number. The bare loop and its model are written by hand (engine/bare.py, by_hand.py). None
clips, averages or decays weights, unless a row says so. Blocks of all loops take turns on one thread, in an order that
is drawn; printed are medians of the ratios of CPU time within a round, with their 95% interval (bootstrap).
"""

import argparse
import importlib.util
import platform
import warnings
from functools import partial

import torch
from alike import workload  # before loops and measure: it says where they are
from loops import bare_loop, pofx_loop
from measure import block_steps, silence, taking_turns

ALIKE = {"clip": 0.0, "ema": 0.0, "weight_decay": 0.0}
CLIPPING = {"ema": 0.0, "weight_decay": 0.0}
ALLOWED = 1.03  # of a bare loop's time that pofx may take
HAS_PYTHAE = importlib.util.find_spec("pythae") is not None


def loops_of(work, pythae=HAS_PYTHAE):
    """name -> builds the loop; the bare one last."""
    loops = {}
    if pythae:
        from with_pythae import pythae_loop

        loops["pythae"] = partial(pythae_loop, work, fused=False, default=True)
        loops["pythae, fused Adam"] = partial(pythae_loop, work, fused=True, default=True)
    loops["pofx, clipping"] = partial(pofx_loop, work, **CLIPPING)
    loops["bare, clipping"] = partial(bare_loop, work, written=work.written, **CLIPPING)
    loops["bare, pofx's model"] = partial(bare_loop, work, **ALIKE)
    loops["pofx"] = partial(pofx_loop, work, **ALIKE)
    loops["bare"] = partial(bare_loop, work, written=work.written, **ALIKE)
    return loops


def ratios(names, turns):
    """(label, Ratio) of each pair that says something."""
    pairs = [(name, "bare") for name in names[:-1] if "clipping" not in name]
    pairs += [("pofx, clipping", "bare, clipping"), ("pythae", "pofx"), ("pythae, fused Adam", "pofx")]
    for first, second in pairs:
        if first in names:
            yield f"{first} / {second}", turns.ratio(names.index(first), names.index(second))


def verdict(found):
    """Whether pythae / pofx is as large as pythae / bare, but for 3%."""
    reached, whole = (found[name].quartiles[1] for name in ("pythae / pofx", "pythae / bare"))
    said = "at least" if reached >= whole / ALLOWED else "below"
    return f"pythae / pofx is {reached:.3f}, {said} {whole:.3f} / {ALLOWED} = {whole / ALLOWED:.3f}"


def main(arguments=None):
    options = _options(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    print(
        f"{options.pairs} rounds of blocks of {options.seconds:g} s; torch {torch.__version__}, "
        f"Python {platform.python_version()}, one thread of {platform.machine()}"
    )
    if not HAS_PYTHAE:
        print("pythae is left out: pip install --constraint constraints.txt pythae")
    for batch in options.batches:
        work = workload(batch)
        with silence():
            loops = {name: build() for name, build in loops_of(work).items()}
        steps = block_steps(loops["bare"], options.seconds)
        turns = taking_turns(list(loops.values()), rounds=options.pairs, steps=steps)
        print(f"\nbatch {batch:<28} ms/step  median  95% interval    (cores of others: {turns.others:.2f})")
        found = dict(ratios(list(loops), turns))
        for label, ratio in found.items():
            low, high = ratio.interval
            print(f"{label:34} {ratio.milliseconds[0]:7.3f}  {ratio.quartiles[1]:6.3f}  {low:.3f} to {high:.3f}")
        if "pythae / pofx" in found:
            print(verdict(found), flush=True)


def _options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=lambda text: [int(b) for b in text.split(",")], default=[16, 128])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.15, help="CPU seconds of a block of the bare loop")
    options = parser.parse_args(arguments)
    if options.pairs < 2 or options.seconds <= 0:
        parser.error(f"needs at least 2 rounds of blocks above 0 s, got {options.pairs} of {options.seconds:g} s")
    return options


if __name__ == "__main__":
    main()
