"""Thousands of run folders with something spoilt: one line that says so, or exactly what the whole folder gives."""

import copy
import json
import math
import os
import random
import resource
import shutil
import signal
import struct

import pytest
import torch
from PIL import Image

from pofx import fitting, rendering
from pofx.errors import Unusable
from pofx.runs import load
from pofx.train import checkpoint
from pofx.train.loop import Trainer

WEIGHTS, STATE = "model.safetensors", "checkpoint/state.safetensors"
FILES = ("config.json", WEIGHTS, STATE, "history.csv", "history.jsonl", "events.jsonl", "checkpoint/good.safetensors")
DEEP = eval("[" * 90 + "]" * 90)
VALUES = (
    None, True, -1, 0, 3, 10**9, 10**30, -(10**30), 0.5, 1e308, math.nan, math.inf, "", "x", "vae", "x" * 5000, [], {},
    [1], [10**9] * 3, {"a": 1}, DEEP,
)  # fmt: skip
FORMS = (("vae", "moons", {"hidden": (4,), "latent_dim": 2}), ("wgan-gp", "digits", {"hidden": (4,), "latent_dim": 2}))


class Hang(BaseException):
    """A case took too long."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Unfinished runs, and what sampling and resuming gives while they are whole."""
    play, home = Trainer.round, tmp_path_factory.mktemp("whole")

    def interrupted(self):
        play(self)
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)

    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "_scatter", lambda x, domain: Image.new("L", (8, 8)))
        patch.setattr(os, "fsync", lambda handle: None)  # what is lost with the power is not asked here
        for model, source, arguments in FORMS:
            condition = "class" if source == "digits" else "none"
            given = {"steps": 5, "limit": 60, "batch_size": 30, "condition": condition, "threads": 1, **arguments}
            with pytest.MonkeyPatch.context() as stop:
                stop.setattr(Trainer, "round", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    fitting.fit(model, source, out=home / model, device="cpu", **given)
            drawn = load(home / model).sample(2).x
            shutil.copytree(home / model, home / f"{model}-done")
            found.append((home / model, drawn, fitting.resume(home / f"{model}-done", device="cpu").model.state_dict()))
        yield found


def spoil_bytes(rng, run):
    """Flips, cuts, grows, empties, replaces or removes a file."""
    path = run / rng.choice(FILES)
    data = bytearray(path.read_bytes())
    what = rng.choice(("flip", "flip", "flip in front", "cut", "grow", "empty", "folder", "loop", "gone", "another"))
    if what == "flip" and data:
        for _ in range(rng.choice((1, 1, 10))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif what == "flip in front" and data:
        data[rng.randrange(min(len(data), 200))] ^= 1 << rng.randrange(8)
    elif what == "cut":
        del data[rng.randrange(len(data) + 1) :]
    elif what == "grow":
        data += rng.randbytes(rng.choice((1, 1000, 10**6)))
    elif what == "empty":
        data.clear()
    elif what == "another":
        data = bytearray((run / rng.choice(FILES)).read_bytes())
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path.name)
    elif what != "gone":
        path.write_bytes(data)


def change(rng, value):
    """One place of a tree of plain values replaced, removed, or given company."""
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(list(keys)) if keys else None
        inner = None if key is None else place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            break
        place = inner
    what = rng.random()
    if key is None or what < 0.1:
        place.update(more=rng.choice(VALUES)) if isinstance(place, dict) else place.append(rng.choice(VALUES))
    elif what < 0.25:
        del place[key]
    else:
        place[key] = copy.deepcopy(rng.choice(VALUES))


def spoil_config(rng, run):
    """A value of ``config.json``."""
    config = json.loads((run / "config.json").read_text())
    change(rng, config)
    (run / "config.json").write_text(json.dumps(config))


def spoil_header(rng, run):
    """The header of a safetensors file: lengths, shapes, kinds, offsets that are not so."""
    path = run / rng.choice((WEIGHTS, STATE))
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    what = rng.randrange(5)
    if what == 0:
        entry["shape"] = rng.choice(([10**9, 10**9], [2**63, 4], [-1], [0], [], entry["shape"][::-1], ["x"]))
    elif what == 1:
        entry["dtype"] = rng.choice(("F64", "F8_E4M3", "F8_E8M0", "F4", "BOOL", "U64", "X", 3))
    elif what == 2:
        entry["data_offsets"] = rng.choice(([0, 2**62], [-1, 4], [8, 0], [0], [2**64, 2**65]))
    elif what == 3:
        change(rng, header)
    text = json.dumps(header).encode()
    said = rng.choice((0, 1, 2**40, 2**63, 2**64 - 1)) if what == 4 else len(text)
    path.write_bytes(struct.pack("<Q", said) + text + data[8 + length :])


def forge_config(rng, run):
    """A value of the configuration, everywhere, with checksums that are right; what would only take long stays."""
    config = json.loads((run / "config.json").read_text())
    planned = config["planned"]
    change(rng, config)
    config["planned"] = planned
    if isinstance(config.get("settings"), dict):
        config["settings"]["compile"] = False
    (run / "config.json").write_text(json.dumps(config))
    for file in (WEIGHTS, STATE, "checkpoint/good.safetensors"):
        tensors, plain = checkpoint.load(run / file)
        checkpoint.save(run / file, tensors, plain | {"config": config})


def forge_state(rng, run):
    """Tensors or plain values of a checkpoint, with checksums that are right."""
    path = run / rng.choice((WEIGHTS, STATE))
    tensors, plain = checkpoint.load(path)
    name = rng.choice(list(tensors))
    what = rng.randrange(7)
    if what == 0:
        tensors[f"{name}x"] = tensors.pop(name)
    elif what == 1:
        del tensors[name]
    elif what == 2:
        tensors[name] = torch.zeros(rng.choice(((), (0,), (1,), (3, 3), (100_000,))), dtype=tensors[name].dtype)
    elif what == 3:
        tensors["more"] = torch.zeros(2)
    else:
        changed = {name: value for name, value in plain.items() if name != "config"}
        change(rng, changed)
        plain = changed | ({"config": plain["config"]} if "config" in plain else {})
    checkpoint.save(path, tensors, plain)


def tried(act):
    """What ``act`` gives; None where it is refused in one line."""
    try:
        return act()
    except Unusable as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None


def too_long(number, frame):
    raise Hang


def case(seed, whole, folder):
    rng = random.Random(seed)
    original, drawn, weights = rng.choice(whole)
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(original, run)
    spoil = rng.choice((spoil_bytes, spoil_bytes, spoil_config, spoil_header, forge_config, forge_state))
    spoil(rng, run)
    honest = not spoil.__name__.startswith("forge")
    opened = tried(lambda: load(run))
    if opened is not None:
        for look in (lambda: opened.progress, lambda: opened.history, lambda: opened.events):
            tried(look)
        if tried(lambda: opened.model) is not None and honest:
            sampled = tried(lambda: opened.sample(2))
            assert sampled is None or sampled.x.equal(drawn)
    resumed = tried(lambda: fitting.resume(run, device="cpu"))
    if resumed is not None and honest:
        assert all(x.equal(weights[name]) for name, x in resumed.model.state_dict().items())


def try_cases(seeds, whole, folder):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    usual = signal.signal(signal.SIGALRM, too_long)
    try:
        for seed in seeds:
            signal.alarm(60)
            try:
                case(seed, whole, folder)
            except (Exception, Hang) as error:
                raise AssertionError(f"case {seed}: {type(error).__name__} {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"


def test_two_hundred(whole, tmp_path):
    try_cases(range(200), whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_ten_thousand(part, whole, tmp_path):
    try_cases(range(500 * part, 500 * part + 500), whole, tmp_path)
