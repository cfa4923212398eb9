"""CPU time of pofx's training loop, and of others', as a ratio to a loop written by hand.

    python benchmarks/engine                                # every model, every loop that is installed
    python benchmarks/engine --models vae-10ms,gpt --loops pofx,lightning

One thread; short blocks of both loops that take turns; the ratio of each pair. Printed: the median ratio, its
quartiles, and the upper end of the 95% interval of the median (bootstrap). "bare / bare" is the resolution.
"""

import argparse
import functools
import os
import platform
import warnings

import torch
from by_hand import derivation_error
from loops import bare_loop, pofx_loop
from measure import Ratio, paired, silence
from peers import PEERS
from workloads import WORKLOADS, Workload

from pofx.protocols import Watched, capabilities

LOOPS = ("pofx", "by-hand", "derived", "meters", *dict.fromkeys(name.split(",")[0] for name in PEERS), "bare")
METER_SECONDS = 0.5  # of CPU for each reading of the meters: 20 of them in a run of ten seconds


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    error = derivation_error(WORKLOADS["vae-10ms"].x[:128])
    if error > 1e-5:
        raise SystemExit(f"the gradients derived by hand differ from autograd's by {error:.1e}, more than 1e-5")
    print(
        f"{options.pairs} pairs of blocks of {options.seconds:g} s; torch {torch.__version__}, "
        f"Python {platform.python_version()}, one thread of {os.cpu_count()} cores, {platform.machine()}"
    )
    for package in sorted({peer.package for peer in PEERS.values() if peer.missing}):
        print(f"{package} is left out: pip install --constraint constraints.txt {package}")
    for name in options.models:
        workload = WORKLOADS[name]
        print(f"\n{name}: {workload.what}\n{'':28} ms/step  median  quartiles       95% below  cores of others")
        for label, first, second, seconds in comparisons(workload, options.loops, options.seconds):
            show(label, paired(first, second, pairs=options.pairs, seconds=seconds))


def comparisons(workload: Workload, loops: list[str], seconds: float):
    """(label, loop, the loop that it is held against, seconds of a block)."""
    for label, build, against in _loops(workload, loops):
        with silence():
            first, second = build(), against()
        yield label, first, second, METER_SECONDS if label.startswith("meters") else seconds


def _loops(workload: Workload, loops: list[str]):
    ours, by_hand = functools.partial(pofx_loop, workload), functools.partial(bare_loop, workload)
    model = workload.model()
    if "pofx" in loops:
        yield "pofx / bare", ours, by_hand
    if "by-hand" in loops and workload.written:
        yield "pofx / model by hand too", ours, functools.partial(by_hand, written=workload.written)
    if "derived" in loops and workload.derived:
        derived, written = (functools.partial(by_hand, written=w) for w in (workload.derived, workload.written))
        yield "derived by hand / autograd", derived, written
    if "meters" in loops and Watched in capabilities(model):
        yield "meters / no meters", functools.partial(ours, meters=True), ours
    for name, peer in PEERS.items():
        if name.split(",")[0] in loops and not peer.missing and peer.trains(model):
            yield f"{name} / bare", functools.partial(peer.build, workload), functools.partial(peer.bare, workload)
    if "bare" in loops:
        yield "bare / bare", by_hand, by_hand


def show(label: str, ratio: Ratio) -> None:
    low, middle, high = ratio.quartiles
    upper = ratio.interval[1]
    print(
        f"{label:28} {ratio.milliseconds[0]:7.3f}  {middle:6.3f}  {low:.3f} to {high:.3f}  {upper:9.3f}  "
        f"{ratio.others:.2f}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/engine", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=_some_of(WORKLOADS), default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--loops", type=_some_of(LOOPS), default=list(LOOPS), help=", ".join(LOOPS))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.2, help="CPU seconds of a block")
    options = parser.parse_args()
    if options.pairs < 2 or options.seconds <= 0:
        parser.error(f"needs at least 2 pairs of blocks above 0 s, got {options.pairs} of {options.seconds:g} s")
    return options


def _some_of(names):
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}")
        return chosen

    return parse


if __name__ == "__main__":
    main()
