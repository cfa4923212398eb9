"""Sources and their splits: named sets, options, conditions, and what is found wrong with them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pofx.conditions import Classes, TextCondition
from pofx.data import inspect, load, sources
from pofx.data.pictures import as_pictures
from pofx.data.request import Options
from pofx.data.rows import seeded_split
from pofx.data.shapes import BACKGROUND, COLOURS, draw
from pofx.errors import Unusable

SPLITS = ("train", "validation", "test")


def test_digits_are_scikit_learns():
    data = load("digits", condition="class")
    bunch = load_digits()
    for name in SPLITS:
        x, c = data.part(name).rows()
        np.testing.assert_array_equal(x.flatten(1).numpy(), bunch.data[data.indices[name]])
        np.testing.assert_array_equal(c.numpy(), bunch.target[data.indices[name]])
    frequencies = np.bincount(bunch.target[data.indices["train"]]) / len(data.train)
    np.testing.assert_allclose(data.condition.frequencies, frequencies)


@pytest.mark.parametrize("n", [10, 57, 1797])
def test_a_seeded_split_is_a_partition(n):
    split = seeded_split(n, seed=5)
    assert sorted(torch.cat(list(split.values())).tolist()) == list(range(n))
    assert len(split["validation"]) == len(split["test"]) == max(1, round(n / 10))
    assert all(torch.equal(rows, seeded_split(n, seed=5)[name]) for name, rows in split.items())
    assert any(not torch.equal(rows, seeded_split(n, seed=6)[name]) for name, rows in split.items())


def test_levels_are_equal_bins():
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    domain, y = as_pictures(x, 256, Options(levels=16))
    assert domain.levels == 16
    assert y.flatten().bincount().tolist() == [16] * 16
    assert torch.equal(y.flatten(), y.flatten().sort().values)
    with pytest.raises(Unusable, match="finer"):
        as_pictures(x, 16, Options(levels=32))


def test_binary_is_redrawn_in_training_and_fixed_where_it_is_scored():
    grey, data, again = load("digits"), load("digits:binary"), load("digits:binary")
    assert data.domain.levels == 2
    index = torch.arange(len(data.train))
    first, second = (data.train.take(index, generator=torch.Generator().manual_seed(s))[0] for s in (1, 2))
    assert not torch.equal(first, second)
    for name in SPLITS:
        assert torch.equal(data.part(name).rows()[0], again.part(name).rows()[0])
    # ink with the grey value as its probability: the mean over many draws is the grey picture
    draws = [data.train.take(index, generator=torch.Generator().manual_seed(s))[0].double() for s in range(200)]
    p = grey.train.rows()[0].double() / 16
    mean = torch.stack(draws).mean(0)
    assert float((mean - p).abs().max()) < 6 * (0.25 / 200) ** 0.5
    assert torch.equal(mean[p == 0], p[p == 0])
    assert torch.equal(mean[p == 1], p[p == 1])


@pytest.mark.parametrize("k", [2, 3])
def test_a_stack_is_of_digits_of_its_own_split(k):
    """Each picture of a split stands once in each channel, and none else; the first channel has the split's order."""
    plain, data = load("digits"), load(f"digits:stack={k}")
    assert data.domain.shape == (k, 8, 8)
    assert (
        data.fingerprint() == load(f"digits:stack={k}").fingerprint() != load(f"digits:stack={k}", seed=1).fingerprint()
    )
    for name in SPLITS:
        x, own = data.part(name).rows()[0], plain.part(name).rows()[0]
        assert torch.equal(x[:, :1], own)
        for i in range(1, k):
            assert not torch.equal(x[:, i], x[:, i - 1])
            assert sorted(x[:, i].flatten(1).tolist()) == sorted(own.flatten(1).tolist())


def test_a_stacks_class_is_the_number_that_it_spells():
    plain, data = load("digits", condition="class"), load("digits:stack=2", condition="class")
    assert data.condition.names == tuple(f"{i:02d}" for i in range(100))
    for name in SPLITS:
        x, c = plain.part(name).rows()
        digit = {tuple(row): int(k) for row, k in zip(x.flatten(1).tolist(), c)}
        pairs, number = data.part(name).rows()
        spelt = [10 * digit[tuple(a)] + digit[tuple(b)] for a, b in pairs.flatten(2).tolist()]
        assert number.tolist() == spelt
    kept = load("digits:stack=2,limit=7", condition="class")
    assert torch.equal(kept.train.rows()[0], data.train.rows()[0][:7])
    assert kept.condition.names == data.condition.names


def test_the_text_of_a_source_and_its_keywords_say_the_same():
    written, keyword = load("digits:size=4,limit=100"), load("digits:limit=100", size=4)
    assert written.fingerprint() == keyword.fingerprint()
    assert len(written.train) == 100
    assert written.domain.shape == (1, 4, 4)
    assert keyword.source == "digits:size=4,limit=100"
    assert load(keyword.source).fingerprint() == keyword.fingerprint()
    assert torch.equal(load("digits").train.rows()[0][:7], load("digits", limit=7).train.rows()[0])


@pytest.mark.parametrize(
    ("source", "keywords", "message"),
    [
        ("digit", {}, "did you mean 'digits'"),
        ("name:minst", {}, "did you mean 'mnist'"),
        ("photos/none.npy", {}, "no file or folder"),
        ("", {}, "no named set"),
        ("digits:levls=4", {}, "did you mean 'levels'"),
        ("digits:levels=many", {}, "whole number"),
        ("digits:levels=1", {}, "levels must be 2"),
        ("digits:levels=64", {}, "finer"),
        ("digits:binary=perhaps", {}, "true or false"),
        ("digits", {"size": -3}, "size must be 1"),
        ("digits", {"limit": 0}, "limit must be 1"),
        ("digits:size=4", {"size": 5}, "given twice"),
        ("digits", {"length": 5}, "takes no length"),
        ("digits", {"condition": "clas"}, "did you mean 'class'"),
        ("gaussian2d", {"condition": "class"}, "offers none"),
        ("tinyshakespeare:encoding=byte", {}, "did you mean 'bytes'"),
        ("tinyshakespeare:vocabulary=300", {}, "encoding=bpe"),
        ("digits:binary,levels=2", {}, "not grey"),
        ("digits:stack=4", {}, "stack must be 2 to 3"),
        ("digits:stack=2,palette=4", {}, "leave one"),
        ("shapes:stack=2", {}, "takes no stack"),
        ("shapes:size=8", {}, "at least 16"),
        ("ring8:size=8", {}, "takes no size"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(source, keywords, message):
    with pytest.raises(Unusable, match=message) as caught:
        load(source, **keywords)
    assert "\n" not in str(caught.value)


def test_a_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("abc " * 500)
    assert load("digits").domain.kind == "tokens"
    assert load("digits:length=10").domain.length == 10
    assert load("name:digits").domain.kind == "images"
    assert load("name:digits:size=4").domain.shape == (1, 4, 4)


def test_captions_say_what_is_drawn():
    """Read each picture's colours back: how many objects, of which colours, and where."""
    pictures, captions, classes = draw(300, 32, 0, "train")
    shapes = ("circle", "square", "triangle")
    for picture, caption, kind in zip(pictures, captions, classes):
        assert shapes[kind] == caption.split()[3]
        names = [word for word in caption.split() if word in COLOURS]
        inked = (picture != BACKGROUND).any(0)
        found = {name: inked & nearest_colour(picture, name) for name in set(names)}
        assert sum(mask.sum() for mask in found.values()) == inked.sum()
        if len(set(names)) == 2:
            first, second = (np.argwhere(found[name]).mean(0) for name in names)
            down, right = second - first
            if "left of" in caption:
                assert right > 0
                assert right > abs(down) - 2
            else:
                assert down > 0
                assert down > abs(right) - 2


def nearest_colour(picture, name):
    """Pixels whose colour is that of ``name`` rather than another."""
    table = np.array(list(COLOURS.values()))[:, :, None, None]
    return abs(picture[None].astype(int) - table).sum(1).argmin(0) == list(COLOURS).index(name)


def test_shapes_have_text_and_class_conditions():
    data = load("shapes:size=16,limit=50", condition="text")
    assert isinstance(data.condition, TextCondition)
    x, c = data.train.rows()
    assert data.domain.shape == tuple(x.shape[1:]) == (3, 16, 16)
    caption = data.condition.text(c[0])
    assert torch.equal(data.condition.parse(caption)[0], c[0])
    assert caption == draw(10_000, 16, 0, "train")[1][0]
    assert len(data.condition.examples) == 50
    classes = load("shapes:size=16", condition="class").condition
    assert isinstance(classes, Classes)
    assert classes.names == ("circle", "square", "triangle")


def test_inspect_finds_what_load_would_stop_at():
    report = inspect("digits")
    assert not report.fatal
    assert report.counts == {"train": 1437, "validation": 180, "test": 180}
    assert sum(report.classes.values()) == 1437
    assert report.levels == 17
    assert report.problems == []


def test_every_named_set_is_listed():
    assert {"digits", "mnist", "fashion-mnist", "binarized-mnist", "tinyshakespeare", "shapes", "ring8"} <= set(
        sources()
    )


def test_importing_is_light():
    heavy = ("sklearn", "PIL", "pooch", "pyarrow", "tokenizers", "matplotlib", "scipy", "requests")
    code = f"import sys, pofx.data, pofx.rendering; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_name_no_file_can_have():
    with pytest.raises(Unusable, match=r"cannot be read|no named set"):
        load("x" * 5000)
