"""``pofx compress`` and ``decompress``: what comes back is what went in, and what cannot be is one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.cli import main
from pofx.errors import Unusable
from pofx.rendering import Sampled
from pofx.runs import load


def pofx(line, home):
    assert main(line.format(home=home).split()) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Sources, a run on each, and what they compress to."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for kind, darkest in (("light", 2), ("dark", 0)):
        (folder / "photos" / kind).mkdir(parents=True)
        for i in range(30):
            grey = rng.integers(darkest, darkest + 2, (4, 4), dtype=np.uint8) * 85
            Image.fromarray(grey).save(folder / "photos" / kind / f"{i:02d}.png")
    (folder / "book.txt").write_text("it was the best of times, it was the worst of times. \n" * 60)
    words = ["it", "was", "worst", "tim", ""]
    # What is compressed has no whole number of windows, and no line end at its end.
    (folder / "other.txt").write_bytes(" ".join(words[i] for i in rng.integers(0, 5, 3000)).encode() + b"\n\nend"[:3])
    (folder / "strange.txt").write_text("it was so. {}")
    np.save(folder / "table.npy", rng.normal(size=(100, 2)).astype(np.float32))
    for line in (
        "fit gpt {home}/book.txt --length 16 --steps 5 --width 16 --layers 1 --heads 2 --out {home}/gpt",
        "fit gpt {home}/book.txt --length 16 --steps 5 --width 16 --layers 1 --heads 2 --seed 1 --out {home}/gpt2",
        "fit n-gram {home}/photos:levels=4 --condition class --out {home}/photographs",
        "fit vae {home}/table.npy --steps 2 --out {home}/vae",
        "fit marginals {home}/table.npy --out {home}/numbers",
        "compress {home}/gpt {home}/other.txt -o {home}/other.pofx --json {home}/other.json",
        "compress {home}/photographs {home}/photos:levels=4 --split all -o {home}/p.pofx --json {home}/p.json",
    ):
        pofx(line, folder)
    data = (folder / "other.pofx").read_bytes()
    (folder / "cut.pofx").write_bytes(data[:-7])
    (folder / "turned.pofx").write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    return folder


def test_a_text_comes_back_byte_for_byte_in_the_bytes_that_its_likelihood_says(home, tmp_path):
    pofx(f"decompress {{home}}/gpt {{home}}/other.pofx -o {tmp_path}/back.md", home)
    text = (home / "other.txt").read_bytes()
    assert (tmp_path / "back.md").read_bytes() == text
    told = json.loads((home / "other.json").read_text())
    assert told["values"] == len(text)
    assert len(text) % 16
    assert told["bytes"] == (home / "other.pofx").stat().st_size
    assert told["bits_per_value"] == pytest.approx(8 * told["bytes"] / len(text))
    assert told["unit"] == "bits/char"
    run = load(home / "gpt")
    whole = torch.tensor([run.domain.symbols.index(s) for s in text.decode()][: len(text) // 16 * 16]).view(-1, 16)
    least = -run.score(whole).value.double().sum().item() / np.log(2) / 8
    assert least <= told["information_bytes"] < least + 16
    assert told["excess_percent"] == pytest.approx(100 * (told["bytes"] / told["information_bytes"] - 1))
    assert 0 < told["excess_percent"] < 100 * 150 / least + 1  # the header, and less than 1%


def test_pictures_come_back_with_their_classes(home, tmp_path):
    pofx(f"decompress {{home}}/photographs {{home}}/p.pofx -o {tmp_path}/x.npy --json {tmp_path}/x.json", home)
    parts = [load(home / "photographs").data.part(name).rows() for name in ("train", "validation", "test")]
    x = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert x.dtype == np.uint8
    assert np.array_equal(x, torch.cat([x for x, _ in parts]).numpy())
    assert json.loads((tmp_path / "x.json").read_text())["classes"] == torch.cat([c for _, c in parts]).tolist()
    pofx(f"decompress {{home}}/photographs {{home}}/p.pofx -o {tmp_path}/x.png", home)
    assert Image.open(tmp_path / "x.png").size[0] > 100
    told = json.loads((home / "p.json").read_text())
    assert told["observations"] == 60
    assert told["bytes"] < 60 * 4 * 4 * 2 / 8 + 130  # the class leaves one bit of the two of a pixel


def test_the_same_from_python(home):
    run = load(home / "photographs")
    x, c = run.data.test.rows()
    back = run.decompress(run.compress(x, c))
    assert isinstance(back, Sampled)
    assert torch.equal(back.x, x)
    assert torch.equal(back.condition, c)
    dark = run.decompress(run.compress(x, "dark"))
    assert dark.condition.unique().tolist() == [run.condition.names.index("dark")]
    text = load(home / "gpt")
    assert text.decompress(text.compress(b"it was\n")) == b"it was\n"
    with pytest.raises(Unusable, match="was compressed by the weights"):
        load(home / "gpt2").decompress(text.compress(b"it was\n"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compress {home}/gpt {home}/other.txt -o {out}/x.zip", "compress writes .pofx files, got"),
        ("compress {home}/gpt {home}/strange.txt -o {out}/x.pofx", "the vocabulary has no '{}'"),
        ("compress {home}/gpt {home}/other.txt --split test -o {out}/x.pofx", "leave --split out"),
        ("compress {home}/gpt {home}/nowhere.txt -o {out}/x.pofx", "nowhere.txt"),
        ("compress {home}/vae {home}/table.npy -o {out}/x.pofx", "vae cannot compress"),
        ("compress {home}/numbers {home}/table.npy -o {out}/x.pofx", "a density over real numbers"),
        ("compress {home}/gpt {home}/other.txt -o /proc/x.pofx", "cannot be written"),
        ("compress {home}/gpt {home}/other.txt", "required: -o"),
        (
            "decompress {home}/gpt {home}/nowhere.pofx -o {out}/x.txt",
            "nowhere.pofx; give one that 'pofx compress' wrote",
        ),
        ("decompress {home}/gpt {home}/book.txt -o {out}/x.txt", "reads a .pofx file, got"),
        ("decompress {home}/gpt {home}/cut.pofx -o {out}/x.txt", "cut.pofx is not whole"),
        ("decompress {home}/gpt {home}/turned.pofx -o {out}/x.txt", "turned.pofx is not whole"),
        ("decompress {home}/gpt2 {home}/other.pofx -o {out}/x.txt", "was compressed by the weights"),
        ("decompress {home}/vae {home}/other.pofx -o {out}/x.txt", "vae cannot decompress"),
        ("decompress {home}/photographs {home}/p.pofx -o {out}/x.txt", "images are saved as .png or .npy, got 'x.txt'"),
        ("decompress {home}/gpt {home}/other.pofx -o {out}", "cannot be written"),
    ],
)
def test_one_line_and_exit_two(line, words, home, capsys, tmp_path):
    capsys.readouterr()
    assert main([part.format(home=home, out=tmp_path) for part in line.split()]) == 2
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert told.startswith("pofx: ")
    assert words in told
    assert not list(tmp_path.iterdir())
