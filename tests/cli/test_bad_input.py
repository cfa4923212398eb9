"""What a user can get wrong ends in exit status 2 and one line with rule, value and cure; nothing is lost."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pofx import fitting
from pofx.cli import main


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with good and bad sources, and a whole run."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    (folder / "empty").mkdir()
    (folder / "short.txt").write_text("ten chars!")
    (folder / "file.xyz").write_bytes(b"\x00\x01")
    (folder / "notes.csv").write_text("a,b\n" + "1,2\n" * 40)
    table = rng.normal(size=(200, 3)).astype(np.float32)
    np.save(folder / "good.npy", table)
    table[17, 1] = np.nan
    np.savetxt(folder / "nan.csv", table, delimiter=",", header="height,width,depth", comments="")
    (folder / "words.csv").write_text("size,colour\n" + "".join(f"{v},red\n" for v in rng.normal(size=100)))
    (folder / "broken.csv").write_text("a,b\n1,2\n3\n")
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "pictures").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / "pictures" / f"{i:02d}.png")
    (folder / "pictures" / "bad.png").write_bytes(b"this is no picture")
    (folder / "mixed").mkdir()
    for i, side in enumerate((8, 9) * 10):
        Image.fromarray(rng.integers(0, 255, (side, side), dtype=np.uint8)).save(folder / "mixed" / f"{i:02d}.png")
    fitting.fit("vae", str(folder / "good.npy"), out=folder / "run", steps=3, device="cpu")
    fitting.fit("marginals", "digits", out=folder / "marginals", device="cpu")
    fitting.fit("wgan-gp", str(folder / "good.npy"), out=folder / "wgan", steps=2, device="cpu")
    (folder / "book.txt").write_text("it was the best of times, it was the worst of times. " * 20)
    (folder / "latin.txt").write_bytes("größer".encode("latin-1"))
    (folder / "bad.png").write_bytes(b"this is no picture")
    small = {"steps": 1, "width": 16, "layers": 1, "heads": 2, "device": "cpu"}
    fitting.fit("gpt", str(folder / "book.txt"), out=folder / "book", length=16, **small)
    fitting.fit("gpt", "digits", out=folder / "digits", **small)
    tiny = {"steps": 1, "hidden": (8,), "device": "cpu"}
    fitting.fit("vae", str(folder / "book.txt"), out=folder / "words", length=16, **tiny)
    fitting.fit("vae", "digits", out=folder / "codes", latent_dim=3, **tiny)
    fitting.fit("vae", "digits", out=folder / "classes", latent_dim=2, condition="class", **tiny)
    for name, spoil in SPOILT.items():
        shutil.copytree(folder / "run", folder / name)
        spoil(folder / name)
    return folder


def edit(**values):
    def spoil(run: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | values))

    return spoil


SPOILT = {
    "half": lambda run: (run / "model.safetensors").unlink(),
    "other-version": edit(format=99),
    "pickled": lambda run: (run / "model.safetensors").write_bytes(b"\x80\x04\x95 not safetensors"),
    "cut": lambda run: os.truncate(run / "model.safetensors", 40),
    "no-json": lambda run: (run / "config.json").write_text("{"),
    "unknown-model": edit(model="vay"),
    "misfit": edit(arguments={"latent_dim": 5}),
    "no-checkpoint": lambda run: (run / "checkpoint" / "state.safetensors").unlink(),
}

# arguments ({home} stands for the folder), and words that the one line must hold
CASES = [
    ("fit vae {home}/missing.csv", "missing.csv"),
    ("fit vae no-such-set", "did you mean|there are"),
    ("fit vae {home}/empty", "empty"),
    ("fit vae {home}/pictures", "bad.png"),
    ("fit vae {home}/mixed", "--size|size="),
    ("fit flow-matching {home}/nan.csv", "width"),
    ("fit vae {home}/words.csv", "colour"),
    ("fit vae {home}/broken.csv", "broken.csv"),
    ("fit vae {home}/pickled.npy", "pickled.npy"),
    ("fit vae {home}/file.xyz", "file.xyz"),
    ("fit gpt {home}/short.txt", "short.txt"),
    ("fit n-gram {home}/good.npy", "tokens or images"),
    ("fit vay digits", "did you mean 'vae'"),
    ("fit vae digits --latent-dim -3", "latent_dim|--latent-dim"),
    ("fit vae digits --latent-dim many", "invalid int value: 'many'"),
    ("fit vae digits --latnet-dim 3", "did you mean '--latent-dim'"),
    ("fit vae digits --steps 0", "--steps must be at least 1, got 0"),
    ("fit vae digits --budget soon", "a budget is a time like 90s"),
    ("fit vae digits --batch-size 5000", "--batch-size must be at most"),
    ("fit vae digits --learning-rate -1", "--learning-rate must be above 0"),
    ("fit vae digits --optimiser adma", "invalid choice: 'adma'"),
    ("fit vae digits --device cuda:7", "--device cuda:7"),
    ("fit vae digits --condition colour", "colour"),
    ("fit vae digits:levles=2", "did you mean 'levels'"),
    ("fit vae digits --steps 2 --out {home}/run", "never overwritten"),
    ("fti vae digits", "did you mean 'fit'"),
    ("fit", "required: MODEL, SOURCE"),
    ("resume {home}/nowhere", "there is no run at"),
    ("sample {home}/half -o {home}/x.npy", "model.safetensors is missing"),
    ("sample {home}/other-version -o {home}/x.npy", "format 99"),
    ("sample {home}/pickled -o {home}/x.npy", "not a whole safetensors file"),
    ("sample {home}/cut -o {home}/x.npy", "not a whole safetensors file"),
    ("sample {home}/no-json -o {home}/x.npy", "cannot be read as JSON"),
    ("sample {home}/unknown-model -o {home}/x.npy", "model 'vae' -> 'vay'"),
    ("sample {home}/misfit -o {home}/x.npy", "was changed since the run began (arguments.latent_dim None -> 5)"),
    ("resume {home}/no-checkpoint", "state.safetensors is missing"),
    ("sample {home}/run -n -4 -o {home}/x.npy", "-n must be at least 1, got -4"),
    ("sample {home}/run -o {home}/x.gif", "x.gif"),
    ("sample {home}/run -o {home}/x.npy --temperature 0.5", "no setting 'temperature'"),
    ("sample {home}/run -o {home}/x.npy --length 9", "no setting 'length'"),
    ("evaluate {home}/run --stride 9", "a stride is for models that score a text"),
    ("sample {home}/run -o {home}/x.npy --condition 3", "without a condition"),
    ("sample {home}/run -o /proc/x.npy", "cannot be written"),
    ("sample {home}/run --otput x.npy -o {home}/x.npy", "no flag --otput"),
    ("sample {home}/run", "name one, such as -o samples.csv"),
    ("sample {home}/digits -o -", "name one, such as -o samples.png"),
    ("sample {home}/digits -o {home}/x.jpg", "saved as .png or .npy, got 'x.jpg'"),
    ("sample {home}/marginals -o {home}/x.gif", "marginals draws them as a whole; save a .png"),
    ("sample {home}/book -o {home}/x.gif", "saved as .txt or .npy, got 'x.gif'"),
    ("sample {home}/book -n 0", "-n must be at least 1, got 0"),
    ("sample {home}/book --top-k 0", "top_k must lie in 1 to 15, the number of symbols, got 0"),
    ("sample {home}/book --top-k 16", "top_k must lie in 1 to 15, the number of symbols, got 16"),
    ("sample {home}/book --top-p 0", "top_p must lie above 0 and be at most 1, got 0.0"),
    ("sample {home}/book --temperature -0.1", "temperature must be at least 0 and finite"),
    ("sample {home}/book --chunk 0", "--chunk must be 1 to 65536, got 0"),
    ("complete {home}/book {home}/latin.txt", "a prompt is UTF-8 text"),
    ("complete {home}/book größe", "the vocabulary has no 'gßö'"),
    ("complete {home}/book {empty}", "a prompt has at least one symbol, got none"),
    ("complete {home}/book times,times,times", "got 17; give its end alone"),
    ("complete {home}/book " + 1000 * "t", "got 1000; give its end alone"),
    ("complete {home}/book missing.txt", "there is no file 'missing.txt'"),
    ("complete {home}/book times --length 3", "length counts what is known too"),
    ("sample {home}/book --length 100000000000000000000", "length must lie in 1 to 1,000,000,000"),
    ("sample {home}/book --length 900000000 --chunk 4096 -n 4096", "must fit into memory"),
    ("complete {home}/book times --top-k 0", "top_k must lie in 1 to 15"),
    ("complete {home}/book times --top-k 99", "top_k must lie in 1 to 15"),
    ("complete {home}/book times --temperature -1", "temperature must be at least 0 and finite"),
    ("complete {home}/book times -n 0", "-n must be at least 1, got 0"),
    ("complete {home}/digits digits", "name one, such as -o completions.png"),
    ("complete {home}/digits {home}/bad.png -o {home}/x.png", "bad.png is an unreadable picture"),
    ("complete {home}/digits digits --keep 1 -o {home}/x.gif", "all was known; know less"),
    ("complete {home}/digits digits --keep 1.5 -o {home}/x.png", "--keep must be in [0, 1], got 1.5"),
    ("score {home}/run digits -o {home}/x.csv", "was fitted on vectors"),
    ("fit gan moons --packing 500 --steps 2 --out {home}/packed", "--batch-size must be at least 500"),
    ("score {home}/wgan {home}/good.npy -o {home}/x.csv", "has no likelihood"),
    ("encode {home}/marginals digits -o {home}/x.npy", "marginals cannot encode"),
    ("complete {home}/run digits -o {home}/x.npy", "vae cannot complete"),
    ("interpolate {home}/marginals -o {home}/x.png", "marginals cannot interpolate"),
    ("interpolate {home}/run -n 2 -o {home}/x.csv --condition tall", "fitted without a condition"),
    ("traverse {home}/marginals -o {home}/x.png", "marginals cannot traverse"),
    ("traverse {home}/run -o {home}/x.png", "traversals of vectors are saved as .csv or .npy"),
    ("traverse {home}/run -n 0 -o {home}/x.csv", "-n must be 1 to 3, the dimensions of the latent, got 0"),
    ("traverse {home}/run -n 4 -o {home}/x.csv", "-n must be 1 to 3, the dimensions of the latent, got 4"),
    ("traverse {home}/run --between 1 -o {home}/x.csv", "--between must be at least 2, got 1"),
    ("traverse {home}/run --around 999 -o {home}/x.csv", "--around must be mean, or 0 to 19"),
    ("traverse {home}/run --around nowhere -o {home}/x.csv", "got 'nowhere'"),
    ("traverse {home}/words -o {home}/x.csv", "a traversal shows pictures or vectors, and these are tokens"),
    ("map {home}/marginals -o {home}/x.png", "marginals cannot map"),
    ("map {home}/run -o {home}/x.csv", "maps are saved as .png"),
    ("map {home}/run -n 1 -o {home}/x.png", "-n must be at least 2, got 1"),
    ("map {home}/run --grid -o {home}/x.png", "--grid shows decoded pictures"),
    ("map {home}/codes --grid -o {home}/x.png", "--grid needs a latent of two dimensions, and this one has 3"),
    ("map {home}/classes --grid -o {home}/x.png", "given one condition, got none"),
    ("map {home}/classes --condition 11 -o {home}/x.png", "there is no class '11'"),
    ("evaluate {home}/run --split tset", "invalid choice: 'tset'"),
    ("compare digits --models vae,gtp --out {home}/c1", "did you mean 'gpt'"),
    ("compare digits --seeds 0 --out {home}/c2", "seeds"),
    ("compare {home}/run {home}/marginals --out {home}/c3", "same"),
    ("data {home}/empty", "empty"),
    ("data {home}/missing", "missing"),
]


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_one_line_and_exit_two(line, words, home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(str(path) for path in home.rglob("*"))
    capsys.readouterr()
    status = main([word.format(home=home, empty="") for word in line.split()])
    printed = capsys.readouterr()
    assert status == 2, printed.out + printed.err
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("pofx: ")
    assert any(word in lines[0] for word in words.split("|")), lines[0]
    assert "Traceback" not in printed.err + printed.out
    after = sorted(str(path) for path in home.rglob("*"))
    assert after == before, "a failed command leaves nothing behind and takes nothing away"


def test_at_least_thirty():
    assert len(CASES) >= 30


def test_more_than_memory_holds_is_one_line(home, capsys, monkeypatch):
    monkeypatch.setattr("pofx.nn.memory.free_memory", lambda device: 1000)
    for line in ("sample {home}/book -n 3", "complete {home}/digits digits -o {home}/x.png"):
        assert main(line.format(home=home).split()) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "they take" in printed.err
        assert "1e-06 GB are free; draw fewer at once with --chunk" in printed.err
        assert len(printed.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_what_the_allocator_refuses_is_one_line(error, home, capsys, monkeypatch):
    def refuse(*args, **settings):
        raise error

    monkeypatch.setattr("pofx.runs.sample_many", refuse)
    assert main(f"sample {home}/book --chunk 300".split()) == 2
    printed = capsys.readouterr().err.strip()
    assert "300 observations are more than it does" in printed
    assert len(printed.splitlines()) == 1


def test_a_full_disk_is_one_line_and_loses_nothing(home, capsys, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pofx.files.os.fsync", full)
    target = home / "run" / "model.safetensors"
    before = target.read_bytes()
    assert main(f"sample {home}/run -o {home}/samples.npy".split()) == 2
    printed = capsys.readouterr().err.strip()
    assert "No space left on device" in printed
    assert len(printed.splitlines()) == 1
    assert target.read_bytes() == before
    assert not (home / "samples.npy").exists()
