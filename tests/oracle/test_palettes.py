"""Palettes: known colours come back, k-means is as good as scikit-learn's, and pictures are judged by what is seen."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.cli import main
from pofx.data import inspect, load, palettes
from pofx.data.dataset import Data, Rows
from pofx.distributions import likelihood
from pofx.domains import Images, domain_from_config
from pofx.errors import Unusable
from pofx.evaluate.classifier import train_classifier
from pofx.evaluate.features import copy_map, feature_map
from pofx.files import read_json
from pofx.fitting import fit
from pofx.randomness import stream
from pofx.rendering import Sampled, sheet
from pofx.report.figures import nearest
from pofx.runs import load as load_run

COLOURS = ((10, 20, 60), (200, 30, 40), (30, 190, 60), (250, 240, 230))  # darkest first
ORANGE = (215, 60, 30)  # nearest to the red
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "cache"))


def write(folder, levels, colours=COLOURS):
    folder.mkdir(parents=True)
    for i, picture in enumerate(np.array(colours, dtype=np.uint8)[levels]):
        Image.fromarray(picture).save(folder / f"{i:03}.png")


@pytest.fixture
def folder(tmp_path):
    """Training pictures in four colours, test pictures in these and an orange."""
    write(tmp_path / "photos" / "train", RNG.integers(4, size=(40, 6, 5)))
    test = np.arange(10 * 6 * 5).reshape(10, 6, 5) % 5
    write(tmp_path / "photos" / "test", test, (*COLOURS, ORANGE))
    return tmp_path / "photos", test


@pytest.mark.parametrize("mapped", ["", ",mapped"])
def test_known_colours_come_back(folder, mapped):
    path, test = folder
    data, plain = load(f"{path}:palette=4{mapped}"), load(str(path))
    assert data.domain == Images(1, 6, 5, 4, COLOURS)
    for name in ("train", "validation"):
        levels, pixels = data.part(name).rows()[0], plain.part(name).rows()[0]
        assert torch.equal(torch.tensor(COLOURS)[levels[:, 0].long()].permute(0, 3, 1, 2), pixels.int())
    levels = data.domain.check(data.test.rows()[0])
    np.testing.assert_array_equal(levels[:, 0].numpy(), np.where(test == 4, 1, test))


def test_colours_of_training_alone_are_learnt(folder):
    path, _ = folder
    with pytest.raises(
        Unusable, match=r"have 4 different colours, and palette=5 asks for more; give at most palette=4"
    ):
        load(f"{path}:palette=5")
    report = inspect(f"{path}:palette=9")
    assert report.domain.palette == COLOURS
    assert any("have 4 different colours" in line for line in report.problems)


def test_a_limit_changes_no_colour(folder):
    path, _ = folder
    assert load(f"{path}:palette=3,limit=5").domain == load(f"{path}:palette=3").domain


@pytest.mark.parametrize("options", ["", ",size=4"])
def test_mapped_pictures_are_the_pictures(tmp_path, options):
    write(tmp_path / "p", RNG.integers(200, size=(40, 6, 5)), RNG.integers(256, size=(200, 3)))
    held, mapped = load(f"{tmp_path}/p:palette=7{options}"), load(f"{tmp_path}/p:palette=7,mapped{options}")
    assert held.domain == mapped.domain
    assert held.problems == mapped.problems
    for name in ("train", "validation", "test"):
        assert torch.equal(held.part(name).rows()[0], mapped.part(name).rows()[0])


def test_colours_of_a_large_map_are_of_some_training_pictures(folder, monkeypatch):
    monkeypatch.setattr(palettes, "LOOKED_AT", 5)
    path, _ = folder
    assert load(f"{path}:palette=4,mapped").domain.palette == COLOURS
    with pytest.raises(Unusable, match="the 5 training pictures that colours are learnt from have 4"):
        load(f"{path}:palette=5,mapped")


@pytest.mark.parametrize("k", [8, 64])
def test_k_means_is_as_good_as_scikit_learns(k):
    from sklearn.cluster import KMeans

    middles = RNG.integers(256, size=(20, 3))
    pixels = (middles[RNG.integers(20, size=4000)] + RNG.normal(size=(4000, 3)) * 15).clip(0, 255).astype(int)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    ours = np.array(palettes.centres(colours, counts, k, generator=stream(0, "palette")))
    theirs = KMeans(k, n_init=1, random_state=0).fit(pixels)
    error = ((pixels[:, None] - ours) ** 2).sum(-1).min(1).sum()
    assert len(ours) == k
    assert error < 1.1 * theirs.inertia_


def test_the_nearest_colour_is_exact():
    """Against whole numbers of 64 bits, ties included."""
    colours, palette = RNG.integers(256, size=(5000, 3)), RNG.integers(0, 256, size=(300, 3))
    palette[200:] = palette[:100]
    distances = ((colours[:, None] - palette) ** 2).sum(-1)
    np.testing.assert_array_equal(palettes._nearest(colours, 4 * palette), distances.argmin(1))


def test_more_colours_than_k_means_sees_are_drawn_by_their_pixels(monkeypatch):
    monkeypatch.setattr(palettes, "MOST", 100)
    colours = np.stack([np.arange(256)] * 3, axis=1)
    counts = np.where(np.arange(256) % 128 < 2, 10**6, 1)  # all but a few pixels: 0, 1, 128, 129
    found = palettes.centres(colours, counts, 2, generator=stream(0, "palette"))
    assert all(abs(value - about) < 1 for colour, about in zip(found, (0.5, 128.5)) for value in colour)


def test_equal_and_empty_centres_go_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(palettes, "_starts", lambda colours, counts, k, generator: colours[[0, 0, 1, 2, 3]][:k])
    write(tmp_path / "p", RNG.integers(5, size=(40, 6, 5)), (*COLOURS, ORANGE))
    data = load(f"{tmp_path}/p:palette=5")
    assert data.domain.levels == len(set(data.domain.palette)) == 4
    assert "4 colours of palette=5 are used; the others were equal or empty" in data.problems


@pytest.mark.parametrize("scale", [16, 255, 65535])
def test_grey_pictures_get_greys(tmp_path, scale):
    rank = RNG.integers(3, size=(60, 4, 4))
    np.save(tmp_path / "grey.npy", np.array([0, scale // 3, scale])[rank].astype(np.int32))
    data = load(f"{tmp_path}/grey.npy:palette=3")
    assert data.domain.palette == tuple((v, v, v) for v in (0, round(scale // 3 * 255 / scale), 255))
    x = data.test.rows()[0]
    assert data.domain.colours(x).shape[1] == 1
    np.testing.assert_array_equal(x[:, 0].numpy(), rank[data.indices["test"]])


def test_floats_of_0_to_1_are_256_levels_first(tmp_path):
    np.save(tmp_path / "x.npy", RNG.choice([0.0, 0.5, 1.0], size=(60, 3, 4, 4)))
    assert len(load(f"{tmp_path}/x.npy:palette=8").domain.palette) == 8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digits:palette=4,levels=2", "got palette=4 and levels=2; leave one of the two out"),
        ("digits:palette=4,binary", "got palette=4 and binary; leave one of the two out"),
        ("digits:palette=1", "palette must be 2 to 1024, got 1"),
        ("digits:palette=many", "palette takes a whole number"),
        ("digits:palette=18", "have 17 different colours, and palette=18 asks for more; give at most palette=17"),
        ("moons:palette=4", "takes no palette"),
        ("{tmp}/vectors.npy:palette=4", "holds vectors, and palette is for pictures"),
        ("{tmp}/tokens.npy:palette=4,length=8", "holds tokens, and palette is for pictures"),
        ("{tmp}/four.npy:palette=4", "these have 4 channels; leave palette out"),
        ("{tmp}/black.npy:palette=4", "have 1 different colours, and palette=4 asks for more; leave palette out"),
    ],
)
def test_what_has_no_palette_says_why(tmp_path, source, message):
    np.save(tmp_path / "vectors.npy", np.zeros((40, 3)))
    np.save(tmp_path / "tokens.npy", np.zeros(400, dtype=np.int64))
    np.save(tmp_path / "four.npy", RNG.integers(9, size=(40, 4, 3, 3)))
    np.save(tmp_path / "black.npy", np.zeros((40, 3, 3), dtype=np.uint8))
    with pytest.raises(Unusable, match=message) as caught:
        load(source.format(tmp=tmp_path))
    assert "\n" not in str(caught.value)


def test_pictures_of_shards(tmp_path):
    levels = RNG.integers(4, size=(30, 4, 4))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, picture in enumerate(np.array(COLOURS, dtype=np.uint8)[levels]):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            member = tarfile.TarInfo(f"{i:03}.png")
            member.size = len(file.getvalue())
            tar.addfile(member, io.BytesIO(file.getvalue()))
    data = load(f"{tmp_path}/a.tar:size=4,palette=4")
    assert data.domain.palette == COLOURS
    np.testing.assert_array_equal(data.test.rows()[0][:, 0].numpy(), levels[data.indices["test"]])


def test_pictures_of_a_stream(tmp_path):
    pytest.importorskip("datasets", reason="streams are read by the extra pofx[stream]")
    import pyarrow
    from pyarrow import parquet

    levels = RNG.integers(4, size=(40, 4, 4))
    levels[:8] = 0  # held out: of one colour
    rows = []
    for picture in np.array(COLOURS, dtype=np.uint8)[levels]:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    (tmp_path / "set").mkdir()
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "set" / "a.parquet")
    data = load(f"hf:{tmp_path}/set:size=4,palette=4")
    assert data.domain.palette == COLOURS
    np.testing.assert_array_equal(data.train.rows()[0][:, 0].numpy(), levels[8:])
    reader = data.train.reader()
    np.testing.assert_array_equal(data.train.batch(reader.block(4)[:4])[0][:, 0].numpy(), levels[8:12])


PAINTED = Images(1, 4, 4, 4, COLOURS)


def in_colours(levels):
    return torch.tensor(COLOURS, dtype=torch.uint8)[levels[:, 0].long()].permute(0, 3, 1, 2).contiguous()


def test_a_domain_reads_back():
    assert domain_from_config(json.loads(json.dumps(PAINTED.to_config()))) == PAINTED
    before = {"kind": "images", "channels": 1, "height": 4, "width": 4, "levels": 4}  # of runs older than palettes
    assert domain_from_config(before) == Images(1, 4, 4, 4)


@pytest.mark.parametrize(
    ("channels", "levels", "palette", "message"),
    [
        (3, 4, COLOURS, "needs one channel and a level for each of its 4 colours, got 3 and 4"),
        (1, 5, COLOURS, "got 1 and 5"),
        (1, 2, ((0, 0, 0), (0, 0, 256)), "three numbers of 0 to 255"),
    ],
)
def test_palettes_that_fit_no_picture(channels, levels, palette, message):
    with pytest.raises(Unusable, match=message):
        Images(channels, 4, 4, levels, palette)


def test_equal_levels_of_other_colours_are_other_data():
    part = Rows(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    others = [Data("x", Images(1, 4, 4, 4, palette), part, part, part) for palette in (COLOURS, COLOURS[::-1], ())]
    assert len({data.fingerprint() for data in others}) == 3


def test_sheets_show_the_colours(tmp_path):
    x = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    page = np.asarray(sheet(x, PAINTED, columns=2, gap=0, scale=1))
    np.testing.assert_array_equal(page, np.kron(np.array(COLOURS).reshape(2, 2, 3), np.ones((4, 4, 1))))
    saved = np.load(Sampled(x, PAINTED).save(tmp_path / "x.npy"))
    np.testing.assert_array_equal(saved, x)
    every = Images(1, 1, 1, 256, tuple((v, 255 - v, 7) for v in range(256)))
    shown = np.asarray(sheet(torch.arange(256).view(-1, 1, 1, 1).to(torch.uint8), every, columns=256, gap=0, scale=1))
    np.testing.assert_array_equal(shown[0], every.palette)


def test_colours_are_a_categorical_unless_told_otherwise():
    assert likelihood(PAINTED).kind == "categorical"
    assert likelihood(PAINTED, "logistic").kind == "logistic"
    assert likelihood(Images(1, 4, 4, 4)).kind == "logistic"


def test_pictures_are_compared_by_their_colours():
    """In a palette as in RGB, though the levels are others."""
    x = torch.from_numpy(RNG.integers(4, size=(30, 1, 4, 4), dtype=np.uint8))
    rgb = Images(3, 4, 4)
    painted, plain = (Data("x", d, *[Rows(y)] * 3) for d, y in ((PAINTED, x), (rgb, in_colours(x))))
    for of in (feature_map, copy_map):
        torch.testing.assert_close(of(painted)(x), of(plain)(in_colours(x)))
    assert torch.equal(in_colours(nearest(x[:5], x[5:], PAINTED)), nearest(in_colours(x[:5]), in_colours(x[5:]), rgb))


def test_the_judge_sees_colours():
    from pofx.conditions import Classes

    x = torch.from_numpy(RNG.integers(4, size=(80, 1, 4, 4), dtype=np.uint8))
    c = torch.arange(80) % 2
    classes = Classes(("a", "b"), (0.5, 0.5))
    judges = [
        train_classifier(Rows(y, c), d, classes, seed=0, steps=3)
        for d, y in ((PAINTED, x), (Images(3, 4, 4), in_colours(x)))
    ]
    for one, other in zip(*(judge.network.state_dict().values() for judge in judges)):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


SMALL = {
    "gpt": "--width 16 --layers 1 --heads 2 --condition class",
    "vae": "--latent-dim 2",
    "wgan-gp": "",
    "flow-matching": "--width 8",
}


@pytest.mark.parametrize("model", SMALL)
def test_models_run_on_a_palette(tmp_path, model, monkeypatch):
    """Fit, resume, sample into the palette's colours, evaluate: each finds the colours it left."""
    monkeypatch.chdir(tmp_path)
    colours = RNG.integers(256, size=(30, 3))
    for kind in ("a", "b"):
        write(tmp_path / "photos" / kind, RNG.integers(30, size=(30, 6, 6)), colours)
    source = f"{tmp_path}/photos:palette=8"
    for line in (
        f"data {source} -o first.png",
        f"fit {model} {source} --steps 2 {SMALL[model]} --out run --quiet",
        "resume run",
        "sample run -n 6 -o sheet.png",
        "sample run -n 6 -o x.npy",
        "evaluate run --json scores.json",
    ):
        assert main(line.split()) == 0, line
    run = load_run("run")
    assert run.domain.palette == load(source).domain.palette
    assert len(set(run.domain.palette)) == 8
    assert {tuple(pixel) for pixel in np.asarray(Image.open("sheet.png")).reshape(-1, 3)} <= {
        *run.domain.palette,
        (128, 128, 128),  # between tiles
    }
    assert np.load("x.npy").shape == (6, 1, 6, 6)
    assert read_json(tmp_path / "scores.json")["scores"]


def test_another_palette_is_other_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write(tmp_path / name, RNG.integers(20, size=(20, 4, 4)), RNG.integers(256, size=(20, 3)))
    fit("gpt", "one:palette=4", steps=1, width=16, layers=1, heads=2, out="run")
    for line in ("score run two:palette=4 -o s.csv", "complete run two:palette=4 -o c.png"):
        assert main(line.split()) == 2
        assert "4 colours of its own palette; give data of the same kind" in " ".join(capsys.readouterr().err.split())
