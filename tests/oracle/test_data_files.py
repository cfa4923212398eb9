"""Folders of pictures, arrays and tables, against what was written into them."""

import csv

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from pofx.conditions import Classes, VectorCondition
from pofx.data import inspect, load
from pofx.errors import Unusable

RNG = np.random.default_rng(0)


def write_pictures(folder, count, *, size=(8, 8), mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = RNG.integers(256, size=(count, *shape), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    return pixels


def test_a_folder_gives_back_its_pixels_and_classes(tmp_path):
    cats = write_pictures(tmp_path / "cats", 30)
    dogs = write_pictures(tmp_path / "dogs" / "small", 30)
    data = load(str(tmp_path), condition="class")
    assert data.domain.shape == (3, 8, 8)
    assert data.condition.names == ("cats", "dogs/small")
    everything = np.concatenate([cats, dogs]).transpose(0, 3, 1, 2)
    for name in ("train", "validation", "test"):
        x, c = data.part(name).rows()
        np.testing.assert_array_equal(x.numpy(), everything[data.indices[name]])
        np.testing.assert_array_equal(c.numpy(), data.indices[name] >= 30)


def test_split_folders_are_splits(tmp_path):
    train, test = (
        write_pictures(tmp_path / "train" / "a", 60, mode="L"),
        write_pictures(tmp_path / "test" / "a", 12, mode="L"),
    )
    data = load(str(tmp_path))
    assert data.domain.channels == 1
    assert [len(data.part(name)) for name in ("train", "validation", "test")] == [54, 6, 12]
    np.testing.assert_array_equal(data.test.rows()[0][:, 0].numpy(), test)
    kept = np.concatenate([data.train.rows()[0], data.validation.rows()[0]])[:, 0]
    assert {p.tobytes() for p in kept} == {p.tobytes() for p in train}
    write_pictures(tmp_path / "val" / "a", 11, mode="L")
    assert [len(load(str(tmp_path)).part(name)) for name in ("train", "validation", "test")] == [60, 11, 12]


def test_black_and_white_pictures_have_two_levels(tmp_path):
    bits = RNG.integers(2, size=(20, 8, 8), dtype=np.uint8)
    for i, picture in enumerate(bits * 255):
        Image.fromarray(picture).save(tmp_path / f"{i:02}.png")
    data = load(str(tmp_path))
    assert data.domain.levels == 2
    np.testing.assert_array_equal(data.test.rows()[0][:, 0].numpy(), bits[data.indices["test"]])


def test_sizes_are_mended_by_size(tmp_path):
    write_pictures(tmp_path, 20, size=(20, 30))
    write_pictures(tmp_path / "wide", 20, size=(90, 40))
    with pytest.raises(Unusable, match=r"20x30 \(20\).*--size 32"):
        load(str(tmp_path))
    assert load(str(tmp_path), size=16).domain.shape == (3, 16, 16)
    report = inspect(str(tmp_path))
    assert not report.fatal
    assert any("--size 32" in line for line in report.problems)
    assert set(report.classes) == {"unclassified", "wide"}
    assert sum(report.classes.values()) == 32


def test_a_crop_is_of_the_centre(tmp_path):
    """A white square in the middle of a wide black picture fills what is left."""
    for i in range(20):
        picture = np.zeros((10, 30, 3), dtype=np.uint8)
        picture[:, 10:20] = 200 + i
        Image.fromarray(picture).save(tmp_path / f"{i:02}.png")
    x = load(str(tmp_path), size=10).train.rows()[0]
    assert int(x.min()) >= 200


def test_an_unreadable_picture_is_named(tmp_path):
    write_pictures(tmp_path, 20)
    good = (tmp_path / "003.png").read_bytes()
    (tmp_path / "003.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "004.png").write_bytes(b"not a picture")
    with pytest.raises(Unusable, match=r"004\.png.*--skip-unreadable"):
        load(str(tmp_path))
    data = load(str(tmp_path), skip_unreadable=True)
    assert sum(len(data.part(name)) for name in ("train", "validation", "test")) == 18
    problems = "\n".join(inspect(str(tmp_path)).problems)
    assert "003.png" in problems
    assert "004.png" in problems


def test_transparency_is_white_and_16_bits_are_scaled(tmp_path):
    for i in range(12):
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / f"{i:02}.png")
    assert int(load(str(tmp_path)).train.rows()[0].min()) == 1  # white: the upper of two levels
    deep = tmp_path / "deep"
    deep.mkdir()
    for i in range(12):
        Image.fromarray(np.full((4, 4), 256 * (100 + i), dtype=np.uint16)).save(deep / f"{i:02}.png")
    values = torch.cat([load(str(deep)).part(name).rows()[0] for name in ("train", "validation", "test")]).unique()
    assert values.tolist() == list(range(100, 112))


@pytest.mark.parametrize("kind", ["empty", "one picture", "no train", "all broken", "few"])
def test_folders_nothing_can_be_learnt_from(tmp_path, kind):
    source = tmp_path
    if kind == "one picture":
        write_pictures(tmp_path, 1)
        source = tmp_path / "000.png"
    if kind == "no train":
        write_pictures(tmp_path / "test", 20)
    if kind == "all broken":
        (tmp_path / "a.png").write_bytes(b"nothing")
    if kind == "few":
        write_pictures(tmp_path, 9)
    with pytest.raises(Unusable) as caught:
        load(str(source), skip_unreadable=source.is_dir() and kind != "empty")
    assert "\n" not in str(caught.value)


def test_duplicates_are_counted(tmp_path):
    x = RNG.normal(size=(60, 3))
    np.savez(tmp_path / "twice.npz", train=np.concatenate([x, x[:4]]), validation=RNG.normal(size=(10, 3)), test=x[:5])
    problems = "\n".join(load(str(tmp_path / "twice.npz")).problems)
    assert "4 of 64 training observations are exact copies" in problems
    assert "5 of 5 test observations also stand in train" in problems
    assert "validation" not in problems


@pytest.mark.parametrize(
    ("array", "shape", "levels"),
    [
        (RNG.integers(2, size=(30, 5, 4)), (1, 5, 4), 2),
        (RNG.integers(17, size=(200, 5, 4), dtype=np.uint8), (1, 5, 4), 17),
        (RNG.integers(256, size=(30, 3, 5, 4), dtype=np.uint8), (3, 5, 4), 256),
        (RNG.integers(256, size=(30, 5, 6, 3), dtype=np.uint8), (3, 5, 6), 256),
        (RNG.normal(size=(30, 2, 5, 6)), (2, 5, 6), None),
    ],
)
def test_arrays_are_pictures_by_shape(tmp_path, array, shape, levels):
    np.save(tmp_path / "x.npy", array)
    data = load(str(tmp_path / "x.npy"))
    assert (data.domain.shape, data.domain.levels) == (shape, levels)
    for name in ("train", "validation", "test"):
        x = data.domain.check(data.part(name).rows()[0]).numpy()
        wanted = array[data.indices[name]].reshape(-1, *array.shape[1:])
        if array.shape[-1] == 3:
            wanted = np.moveaxis(wanted, 3, 1)
        np.testing.assert_allclose(x, wanted.reshape(x.shape), rtol=1e-6)


def test_npz_has_classes(tmp_path):
    x, y = RNG.normal(size=(100, 2)), np.arange(100) % 3
    np.savez(tmp_path / "xy.npz", x=x, y=y)
    data = load(str(tmp_path / "xy.npz"), condition="class")
    assert data.condition.names == ("0", "1", "2")
    np.testing.assert_array_equal(data.test.rows()[1].numpy(), y[data.indices["test"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([[1.0, np.nan]] * 20), "20 NaN or infinite.*row 0, column 1"),
        (np.array(["a"] * 20), "must hold numbers"),
        (np.array([{}] * 20, dtype=object), "Python objects"),
        (np.zeros((20, 2, 2, 2, 2)), "reshape"),
        (np.full((20, 4, 4), -1), "0 to 65535"),
        (np.zeros((0, 3)), "too few"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, content, message):
    np.save(tmp_path / "x.npy", content, allow_pickle=True)
    with pytest.raises(Unusable, match=message):
        load(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "csv"])
def test_broken_files(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"\xff\xfe broken")
    with pytest.raises(Unusable):
        load(str(path))
    path.write_bytes(b"")
    with pytest.raises(Unusable):
        load(str(path))


ROWS = [(float(a), float(b), "xyz"[i % 3], i % 4) for i, (a, b) in enumerate(RNG.normal(size=(100, 2)))]


@pytest.fixture(params=["csv", "semicolon", "parquet"])
def table(request, tmp_path):
    if request.param == "parquet":
        path = tmp_path / "t.parquet"
        columns = dict(zip(("a", "b", "kind", "count"), map(list, zip(*ROWS))))
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return path
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";" if request.param == "semicolon" else ",")
        writer.writerows([("a", "b", "kind", "count"), *ROWS])
    return path


def test_a_text_column_is_a_condition_or_dropped(table):
    with pytest.raises(Unusable, match=r"column 'kind' has text.*--condition kind.*drop=kind"):
        load(str(table))
    data = load(f"{table}:drop=kind+count")
    assert data.domain.columns == ("a", "b")
    np.testing.assert_allclose(
        data.test.rows()[0].numpy(), np.array([row[:2] for row in ROWS])[data.indices["test"]], rtol=1e-6
    )
    data = load(str(table), condition="kind")
    assert data.domain.columns == ("a", "b", "count")
    assert data.condition.names == ("x", "y", "z")
    assert [data.condition.names[k] for k in data.test.rows()[1]] == [ROWS[i][2] for i in data.indices["test"]]


def test_number_columns_as_condition(table):
    assert isinstance(load(f"{table}:drop=kind", condition="count").condition, Classes)
    data = load(f"{table}:drop=kind", condition="b")
    assert isinstance(data.condition, VectorCondition)
    _, c = data.train.rows()
    assert data.condition.check(c).shape == (80, 1)
    assert data.condition.examples[0] == tuple(c[0].tolist())
    with pytest.raises(Unusable, match=r"no column 'knd'.*did you mean 'kind'"):
        load(str(table), condition="knd")
    with pytest.raises(Unusable, match="no column 'knd'"):
        load(f"{table}:drop=knd")


def write_csv(path, text):
    path.write_text(text)
    return str(path)


def test_nan_is_named_by_column_row_and_count(tmp_path):
    lines = [f"{i}.5,{i * i}" for i in range(60)]
    lines[4], lines[9], lines[20] = "nan,1", ",2", "inf,3"
    source = write_csv(tmp_path / "t.csv", "\n".join(["first,second", *lines]))
    with pytest.raises(Unusable, match=r"'first' has 3 of 60 values.*row 5"):
        load(source)
    report = inspect(source)
    assert not report.fatal
    assert any("'first'" in line for line in report.problems)
    assert report.domain.dim == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1\n", "line 3: 2 cells wanted, got 1"),
        ("a,a\n" + "1,2\n" * 20, "two columns named 'a'"),
        ("a,b\n", "too few|no numeric"),
        ("a\n" + "x\n" * 20, "text"),
        ("a,b\n" + "1,2\n" * 9, "too few"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    source = write_csv(tmp_path / "t.csv", text)
    with pytest.raises(Unusable, match=message):
        load(source)


def test_a_table_without_header_and_with_constant_column(tmp_path):
    source = write_csv(tmp_path / "t.csv", "".join(f"{v:.4f},7,{i % 2}\n" for i, v in enumerate(RNG.normal(size=100))))
    data = load(source)
    assert data.domain.columns == ("x1", "x2", "x3")
    problems = "\n".join(data.problems)
    assert "x2 is constant (7)" in problems
    assert "x3 takes few values (2)" in problems
    assert "x1" not in problems


def test_an_unseen_class_in_a_held_out_split(tmp_path):
    np.savez(
        tmp_path / "s.npz",
        x_train=RNG.normal(size=(60, 2)), y_train=np.arange(60) % 2,
        x_test=RNG.normal(size=(10, 2)), y_test=np.full(10, 5),
    )  # fmt: skip
    assert len(load(str(tmp_path / "s.npz")).test) == 10
    with pytest.raises(Unusable, match="5 stands in test but never in training"):
        load(str(tmp_path / "s.npz"), condition="class")
