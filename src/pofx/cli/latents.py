"""What is done with a run's latent: codes, what comes back from them, walks between them and along them, a map."""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.cli.bar import printer
from pofx.cli.inputs import observations
from pofx.conditions import Classes
from pofx.data.dataset import Batch
from pofx.domains import Images
from pofx.errors import Unusable
from pofx.files import write_whole
from pofx.latentmaps import LatentMap, Traversal, decoded_plane, in_the_plane
from pofx.protocols import Decodes, Encodes, Represents, capabilities
from pofx.rendering import Sampled
from pofx.runs import Run
from pofx.samplers.latents import interpolate, reconstruct, traverse

MOST = 2048  # test observations whose codes say where a latent lies
DIMENSIONS = 10  # of a traversal
DEVIATIONS = 3.0  # standard deviations of the codes, to either side


def encode_and_show(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """The latent of each observation of a source, as an array."""
    run.require(Encodes, "encode")
    if Path(options.output).suffix != ".npy":
        raise Unusable(f"encode writes .npy, got {options.output}; name a .npy file")
    z = _codes(run, *observations(run, options))
    _write_array(options.output, z)
    printer(options)(f"{len(z)} latents of shape {tuple(z.shape[1:])}: {options.output}")
    return {"n": len(z), "shape": list(z.shape[1:])}


def reconstruct_and_show(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Observations through the latent and back; pictures above their reconstructions."""
    _require_latent(run, "reconstruct")
    x, c = observations(run, options)
    to_picture = Path(options.output).suffix == ".png"
    x, c = (x[:32], None if c is None else c[:32]) if to_picture else (x, c)
    back = torch.cat([reconstruct(run.model, *batch) for batch in _batches(run, x, c)]).cpu()
    pairs = torch.stack([x.cpu(), back], dim=1).flatten(0, 1) if to_picture else back
    Sampled(pairs, run.domain, columns=8).save(options.output)
    each = ", each after its original" if to_picture else ""
    printer(options)(f"{len(back)} reconstructions{each}: {options.output}")
    return {"n": len(back), "output": options.output}


def interpolate_and_show(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Walks in latent space between pairs of the test split; where the model is told a class, between two of one."""
    _require_latent(run, "interpolate")
    x, c = _test_rows(run, options.condition)
    pairs = _pairs(c if isinstance(run.condition, Classes) and c is not None else torch.zeros(len(x)))
    if not 1 <= options.n <= len(pairs):
        raise Unusable(f"-n must be 1 to {len(pairs)} pairs, got {options.n}; ask for at most {len(pairs)}")
    if options.between < 2:
        raise Unusable(f"--between must be at least 2, got {options.between}")
    first, second = pairs[: options.n].T
    a, b = x[first].to(run.device), x[second].to(run.device)
    walk = interpolate(run.model, a, b, options.between, None if c is None else c[first].to(run.device))
    # A row of a sheet, or one text after another, is one walk.
    Sampled(walk.transpose(0, 1).flatten(0, 1).cpu(), run.domain, columns=options.between).save(options.output)
    printer(options)(f"{options.n} walks of {options.between} steps: {options.output}")
    return {"n": options.n, "between": options.between, "output": options.output}


def traverse_and_show(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Each dimension of the latent moved alone, those first that move x most."""
    _require_latent(run, "traverse")
    if options.between < 2:
        raise Unusable(f"--between must be at least 2, got {options.between}")
    x, c = _test_rows(run, options.condition)
    z = _codes(run, x[:MOST], None if c is None else c[:MOST])
    if not z.is_floating_point():
        raise Unusable("a traversal needs a latent of real numbers, and this one is of symbols; use pofx map")
    n = min(DIMENSIONS, z.shape[1]) if options.n is None else options.n
    if not 1 <= n <= z.shape[1]:
        raise Unusable(f"-n must be 1 to {z.shape[1]}, the dimensions of the latent, got {n}")
    centre, told = _centre(options.around, z, c)
    deviations = torch.linspace(-DEVIATIONS, DEVIATIONS, options.between, dtype=z.dtype)
    places = z.mean(0) + deviations[:, None] * z.std(0)
    told = None if told is None else told.to(run.device)
    walks = traverse(run.model, centre.to(run.device), places.to(run.device), told).cpu()
    traversal = Traversal.by_movement(walks, deviations.tolist(), run.domain).first(n)
    traversal.save(options.output)
    printer(options)(f"{n} of {z.shape[1]} dimensions, {options.between} steps of each: {options.output}")
    return {"dimensions": list(traversal.dimensions), "deviations": list(traversal.deviations),
            "movement": list(traversal.movement), "output": options.output}  # fmt: skip


def map_and_show(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Codes of the test split in the plane, coloured by class; with a grid, what the decoder makes of the plane."""
    run.require(Encodes, "map")
    if options.n < 2:
        raise Unusable(f"-n must be at least 2, got {options.n}; leave it out for 2000")
    x, c = _test_rows(run, options.condition)
    known = _classes(run) if options.condition is None else None
    x, c = x[: options.n], None if c is None else c[: options.n]
    z, what = _places(run, x, c)
    plane = in_the_plane(z, what)
    grid = None
    if options.grid:
        told = _check_grid(run, z, options.condition)
        grid = decoded_plane(run.model, plane.frame, told, device=run.device)
    labels, names = (None, ()) if known is None else (known[0][: options.n], known[1])
    LatentMap(plane, labels, names, grid, run.domain).save(options.output)
    shares = f", {100 * sum(plane.shares):.0f}% of the variance" if z.shape[1] > 2 else ""
    printer(options)(f"{len(z)} observations in the latent{shares}: {options.output}")
    return {"n": len(z), "shares": list(plane.shares), "output": options.output}


def _require_latent(run: Run, verb: str) -> None:
    if not {Encodes, Decodes} <= capabilities(run.model):
        raise Unusable(f"{run.name} cannot {verb}; a model that encodes and decodes can, such as vae")


def _test_rows(run: Run, condition: str | None) -> Batch:
    """The test split with what the model is told of it; of one class alone, or with one condition for all, if asked."""
    x, c = run.data.test.rows()
    c = None if run.condition is None else c
    if condition is None:
        return x, c
    told = run.rows(condition)
    if isinstance(run.condition, Classes) and told is not None and c is not None:
        rows = c == told
        if int(rows.sum()) < 2:
            raise Unusable(f"the test split has {int(rows.sum())} observations of class {condition}; choose another")
        return x[rows], c[rows]
    return x, None if told is None else told.expand(len(x), *told.shape[1:])


def _pairs(c: Tensor) -> Tensor:
    """(P, 2) places of rows in twos of equal c, in their order."""
    waiting: dict[float, int] = {}
    pairs = []
    for place, value in enumerate(c.tolist()):
        if value in waiting:
            pairs.append((waiting.pop(value), place))
        else:
            waiting[value] = place
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def _centre(around: str, z: Tensor, c: Tensor | None) -> Batch:
    """The code that a traversal starts from, (1, K), and its condition: an observation's own."""
    if around == "mean":
        return z.mean(0, keepdim=True), None if c is None or (c != c[:1]).any() else c[:1]
    if not around.isdigit() or int(around) >= len(z):
        raise Unusable(f"--around must be mean, or 0 to {len(z) - 1}, a test observation, got {around!r}")
    place = slice(int(around), int(around) + 1)
    return z[place], None if c is None else c[place]


def _places(run: Run, x: Tensor, c: Tensor | None) -> tuple[Tensor, str]:
    """What puts observations into a space: codes of real numbers, else what a probe reads."""
    z = _codes(run, x[:1], None if c is None else c[:1])
    if z.is_floating_point():
        return _codes(run, x, c), "latent"
    if Represents not in capabilities(run.model):
        raise Unusable(
            f"a latent of symbols is mapped by the features of a model, and {run.name} has none; use another"
        )
    with torch.no_grad():
        return torch.cat([run.model.features(batch) for batch, _ in _batches(run, x, None)]).cpu(), "features"


def _check_grid(run: Run, z: Tensor, condition: str | None) -> Tensor | None:
    """The condition that a grid is decoded with."""
    if not isinstance(run.domain, Images) or Decodes not in capabilities(run.model):
        raise Unusable(f"--grid shows decoded pictures, and {run.name} makes none of {run.domain.kind}; leave it out")
    if z.shape[1] != 2:
        raise Unusable(f"--grid needs a latent of two dimensions, and this one has {z.shape[1]}; fit --latent-dim 2")
    if run.condition is not None and condition is None:
        raise Unusable("--grid shows what is decoded given one condition, got none; give --condition VALUE")
    return run.rows(condition)


def _classes(run: Run) -> tuple[Tensor, tuple[str, ...]] | None:
    """The class of each test row and the classes' names, also where the model was not told them; None without any."""
    data = run.labelled
    _, c = data.test.rows()
    return (c, data.condition.names) if isinstance(data.condition, Classes) and c is not None else None


def _codes(run: Run, x: Tensor, c: Tensor | None) -> Tensor:
    with torch.no_grad():
        return torch.cat([run.model.encode(*batch) for batch in _batches(run, x, c)]).cpu()


def _batches(run: Run, x: Tensor, c: Tensor | None, size: int = 256) -> Iterator[Batch]:
    for start in range(0, len(x), size):
        rows = None if c is None else c[start : start + size].to(run.device)
        yield x[start : start + size].to(run.device), rows


def _write_array(path: str, z: Tensor) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, z.numpy(), allow_pickle=False)
    write_whole(Path(path), lambda temporary: temporary.write_bytes(buffer.getvalue()))
