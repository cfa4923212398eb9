"""What `pofx plan` foretells beside what a run then takes: seconds of training and the process's peak memory.

Each plan and each run is a process of its own; the plan comes first. One thread, a fixed number of steps. "busy" is the
processor time over the wall time of the plan and of the run: well below 1, other work took the processor, which no plan
can know. The last column is the ratio of the seconds, each times its "busy": of processor time.

    python benchmarks/plan.py                     # or: --cases vae:digits
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pofx.runs import load

STEPS = {
    "vae:digits": 1500, "gpt:digits": 100, "flow-matching:digits": 150, "wgan-gp:digits": 200,
    "vae:mnist": 80, "gpt:mnist": 20, "flow-matching:mnist": 40, "wgan-gp:mnist": 50,
}  # fmt: skip


def pofx(*arguments):
    """Runs a command to its end; its peak memory in MiB, and its processor time over its wall time."""
    began = time.perf_counter()
    begun = subprocess.Popen([sys.executable, "-m", "pofx", *arguments, "--quiet"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(begun.pid, 0)
    if status:
        sys.exit(f"pofx {' '.join(arguments)} ended with status {os.waitstatus_to_exitcode(status)}")
    busy = (usage.ru_utime + usage.ru_stime) / (time.perf_counter() - began)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), busy


def foretold_and_taken(model, source, steps, place):
    """(seconds, MiB, busy) of the plan, and of the run."""
    flags = [model, source, "--steps", str(steps), "--threads", "1", "--device", "cpu"]
    written, folder = Path(place) / f"{model}-{source}.json", Path(place) / f"{model}-{source}"
    _, attentive = pofx("plan", *flags, "--json", str(written))
    plan = json.loads(written.read_text())
    peak, busy = pofx("fit", *flags, "--out", str(folder))
    return (plan["training_seconds"], plan["peak"] / 2**20, attentive), (load(folder).train_seconds, peak, busy)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(STEPS), choices=STEPS, help="model:source")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread of {platform.machine()}")
    print(f"{'':<22} steps    MiB foretold  ratio  seconds foretold  ratio  busy  ratio of processor time")
    with tempfile.TemporaryDirectory() as place:
        for case in options.cases:
            (t, m, attentive), (seconds, peak, busy) = foretold_and_taken(*case.split(":"), STEPS[case], place)
            print(f"{case:<22} {STEPS[case]:>5} {peak:>6.0f} {m:>8.0f} {m / peak:>6.2f} {seconds:>8.1f} {t:>8.1f} "
                  f"{t / seconds:>6.2f} {attentive:.2f} {busy:.2f} {t * attentive / (seconds * busy):>6.2f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
