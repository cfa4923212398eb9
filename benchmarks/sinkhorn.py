"""Entropic transport of 2048 points in six dimensions to a marginal error of 1e-4: pofx beside POT and GeomLoss.

Everything is timed from the points on, cost matrix included. Each peer takes the fewest iterations that reach the
error, found beforehand, with no test of its own for when to stop; pofx finds out as it goes. The error printed is the
larger of the L1 errors of rows and columns, in double precision, of the plan or the potentials that were returned.
"pofx" returns potentials and value; "pofx, plan" makes the plan too, as POT does. Of the peers, those within three
times the quickest are repeated, all in turns; the others run once, or not to the end, where 5 iterations take twice
what the quickest takes for all. Seconds are of the wall clock; with one thread, of the processor.

    python benchmarks/sinkhorn.py                # --threads 1 --repeats 9 --slow (those that take many seconds)
"""

import argparse
import os
import statistics
import sys
import time
import warnings

THREADS = next((sys.argv[i + 1] for i, word in enumerate(sys.argv[:-1]) if word == "--threads"), "2")
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = THREADS  # read when NumPy is imported

import numpy as np  # noqa: E402
import ot  # noqa: E402
import torch  # noqa: E402

from pofx.divergences import sinkhorn  # noqa: E402

try:
    from geomloss import ot as geomloss
except ImportError:
    geomloss = None

N, DIM, ERROR, AIM = 2048, 6, 1e-4, 0.95e-4  # pofx aims a little below, for the rounding of what it returns
SLOW, FAR, MOST = 3.0, 2.0, 2000  # times of the quickest: repeated within, given up beyond after 5 iterations
clock = time.process_time if THREADS == "1" else time.perf_counter


def points(kind, dtype):
    """Samples of a normal law, and of one unlike it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, DIM, generator=generator, dtype=torch.float64)
    if kind == "uniform":
        y = torch.rand(N, DIM, generator=generator, dtype=torch.float64) + 0.1
    else:
        centres = 2 * torch.randn(5, DIM, generator=generator, dtype=torch.float64)
        y = centres[torch.randint(5, (N,), generator=generator)]
        y = y + 0.4 * torch.randn(N, DIM, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def marginal_error(plan):
    plan = torch.as_tensor(plan).double()
    return max((plan.sum(axis) - 1 / N).abs().sum().item() for axis in (0, 1))


def plan_of(f, g, x, y, epsilon):
    """In double precision, of potentials at equal weights."""
    cost = torch.cdist(x.double(), y.double()).square()
    return ((f.double()[:, None] + g.double() - cost) / epsilon).exp() / N**2


def pot(method, *, numpy=True, **settings):
    """POT's plan, from points."""

    def run(x, y, epsilon, steps):
        x, y = (x.numpy(), y.numpy()) if numpy else (x, y)
        return ot.sinkhorn([], [], ot.dist(x, y), epsilon, method, numItermax=steps, stopThr=0, warn=False, **settings)

    return run


def pot_solve(x, y, epsilon, steps):
    return ot.solve(ot.dist(x.numpy(), y.numpy()), reg=epsilon, max_iter=steps, tol=0).plan


def pot_solve_sample(x, y, epsilon, steps):
    return ot.solve_sample(x.numpy(), y.numpy(), reg=epsilon, max_iter=steps, tol=0).plan


def pot_scaling(x, y, epsilon, steps):
    """Twenty epsilons bring it from its 1e4 to within rounding of what is asked for."""
    cost = ot.dist(x.numpy(), y.numpy())
    return ot.bregman.sinkhorn_epsilon_scaling([], [], cost, epsilon, numItermax=30, numInnerItermax=steps, warn=False)


def pot_greedy(x, y, epsilon, steps):
    uniform = np.full(N, 1 / N)
    cost = ot.dist(x.numpy(), y.numpy())
    return ot.bregman.greenkhorn(uniform, uniform, cost, epsilon, numItermax=steps * N, stopThr=0, warn=False)


def pot_screened(x, y, epsilon, steps):
    uniform = np.full(N, 1 / N)
    cost = ot.dist(x.numpy(), y.numpy())
    return ot.bregman.screenkhorn(uniform, uniform, cost, epsilon, N, N, maxiter=steps)


def with_geomloss(x, y, epsilon, steps):
    return geomloss.solve_sample(x, y, reg=epsilon, max_iter=steps)


PEERS = {
    "POT sinkhorn": pot("sinkhorn"),
    "POT sinkhorn, torch": pot("sinkhorn", numpy=False),
    "POT stabilized": pot("sinkhorn_stabilized", tau=1e5),  # at its own 1e3 the plan sums to 1/N, not to one
    "POT stabilized, torch": pot("sinkhorn_stabilized", numpy=False, tau=1e5),
    "POT log": pot("sinkhorn_log"),
    "POT log, torch": pot("sinkhorn_log", numpy=False),
    "POT solve": pot_solve,
    "POT solve_sample": pot_solve_sample,
    "GeomLoss solve_sample": with_geomloss,
}
SLOW_PEERS = {"POT epsilon scaling": pot_scaling, "POT greenkhorn": pot_greedy, "POT screenkhorn": pot_screened}


def seconds(run):
    began = clock()
    found = run()
    return clock() - began, found


def fewest(run, first, patience):
    """Iterations, seconds, error, and whether it is reached: of the fewest iterations that do, within a twentieth.

    A run that takes half a second is not repeated to find fewer; one that takes all the patience is the last.
    """

    def tried(steps):
        taken, plan = seconds(lambda: run(steps))
        return steps, taken, marginal_error(getattr(plan, "plan", plan))

    low, best = 0, tried(first)
    while not best[2] <= ERROR:
        if best[1] > patience or best[0] > MOST or not np.isfinite(best[2]):
            return *best, False
        low = best[0]
        best = tried(int(low * 1.5) + 1)
    while best[1] < 0.5 and best[0] - low > max(1, best[0] // 20):
        middle = tried((low + best[0]) // 2)
        if middle[2] <= ERROR:
            best = middle
        else:
            low = middle[0]
    return *best, True


def contenders(x, y, epsilon, options):
    """Peers that reach the error: name -> (run, iterations, error, seconds of one run); says why of the others."""
    found, count = {}, 5
    for name, peer in {**PEERS, **(SLOW_PEERS if options.slow else {})}.items():
        if peer is with_geomloss and geomloss is None:
            continue
        if found and not options.slow:
            began = seconds(lambda peer=peer: peer(x, y, epsilon, 5))[0]
            if began > FAR * min(taken for *_, taken in found.values()):
                print(f"{name:<24} {1e3 * began:.0f} ms for 5 iterations: not run to the end", flush=True)
                continue
        steps, taken, error, reached = fewest(lambda k, peer=peer: peer(x, y, epsilon, k), count, options.patience)
        if not reached:
            print(f"{name:<24} not reached: {steps} iterations, {taken:.3g} s, error {error:.2g}", flush=True)
            continue
        count = max(count, steps) if name == "POT sinkhorn" else count
        found[name] = (lambda peer=peer, steps=steps: peer(x, y, epsilon, steps)), steps, error, taken
    return found


def compare(kind, share, dtype, options):
    x, y = points(kind, dtype)
    epsilon = share * torch.cdist(x.double(), y.double()).square().mean().item()
    print(f"\n{kind}, {str(dtype)[6:]}, epsilon {share} of the mean cost = {epsilon:.4g}")
    ours = sinkhorn(x, y, epsilon=epsilon, tolerance=AIM)
    own = ours.steps, marginal_error(plan_of(ours.f, ours.g, x, y, epsilon)), 0.0
    peers = contenders(x, y, epsilon, options)
    quickest = min((taken for *_, taken in peers.values()), default=0.0)
    rows = {
        "pofx": (lambda: sinkhorn(x, y, epsilon=epsilon, tolerance=AIM), *own),
        "pofx, plan": (lambda: sinkhorn(x, y, epsilon=epsilon, tolerance=AIM).plan(), *own),
        **peers,
    }
    times = {name: [] for name, (*_, taken) in rows.items() if taken < SLOW * quickest or name not in peers}
    for _ in range(options.repeats):
        for name, measured in times.items():
            measured.append(seconds(rows[name][0])[0])
    medians = {name: statistics.median(times.get(name, [taken])) for name, (*_, taken) in rows.items()}
    print(f"{'':<24} iterations  error       ms (quartiles)            / pofx   / pofx, plan")
    for name, (_, steps, error, _) in rows.items():
        low, high = (1e3 * np.quantile(times[name], q) if name in times else np.nan for q in (0.25, 0.75))
        spread = f"({low:.1f} to {high:.1f})" if name in times else "(once)"
        ratios = f"{medians[name] / medians['pofx']:>7.2f}  {medians[name] / medians['pofx, plan']:>7.2f}"
        print(f"{name:<24} {steps:>6}      {error:.1e}  {1e3 * medians[name]:>8.1f} {spread:<18} {ratios}", flush=True)
    if peers:
        best = min(peers, key=medians.get)
        print(f"quickest peer / pofx: {medians[best] / medians['pofx']:.2f} ({best})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--patience", type=float, default=10.0, help="seconds of a run after which a peer is given up")
    parser.add_argument("--slow", action="store_true", help="POT's solvers that take many seconds too")
    parser.add_argument("--kinds", nargs="+", default=["uniform", "mixture"], choices=["uniform", "mixture"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.05, 0.01])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    print(f"torch {torch.__version__}, POT {ot.__version__}, {options.threads} threads, n = {N}, {DIM} dimensions")
    for kind in options.kinds:
        for dtype in options.dtypes:
            for share in options.shares:
                compare(kind, share, getattr(torch, dtype), options)


if __name__ == "__main__":
    main()
