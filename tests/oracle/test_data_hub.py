"""Streamed sets, read from files that the test writes: what is read once a pass, and the same bits after a stop."""

import io
import json
import os
import signal
import sys
import tarfile

import numpy as np
import pyarrow as arrow
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file

from pofx import fitting
from pofx.data import load, streamed
from pofx.data.streamed import Streamed
from pofx.errors import Unusable
from pofx.randomness import stream
from pofx.runs import load as load_run
from pofx.train.batches import batches_of
from pofx.train.loop import Trainer

pytest.importorskip("datasets", reason="streams are read by the extra pofx[stream]")

N, TRAIN = 100, range(20, 100)  # pictures; those after a tenth for validation and a tenth for test


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(streamed, "BLOCK", 40)
    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "cache"))


def png(level):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), level, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path):
    """Grey pictures of levels 0 to 99 in three Parquet files, each of its level's last digit as class."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, levels in (("a", range(37)), ("b", range(37, 60)), ("c", range(60, N))):
        columns = {
            "image": [{"bytes": png(i), "path": None} for i in levels],
            "label": [i % 10 for i in levels],
        }
        parquet.write_table(arrow.table(columns), folder / f"{name}.parquet", row_group_size=7)
    return f"hf:{folder}:size=4"


@pytest.fixture
def shards(tmp_path):
    """The same pictures in WebDataset shards."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for k in range(2):
        with tarfile.open(folder / f"{k}.tar", "w") as tar:
            for i in range(k * 50, k * 50 + 50):
                for suffix, content in (("png", png(i)), ("cls", str(i % 10).encode())):
                    member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"hf:{folder}/*.tar:size=4"


DOCUMENTS = [f"this is document {i}, of {'many ' * (i % 7)}words" for i in range(200)]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS))
    return f"hf:{path}:length=12"


def batches(data, size, pieces=(range(1), 1)):
    return batches_of(data.train, size, stream(0, "data"), torch.device("cpu"), pieces)


@pytest.mark.parametrize("source", ["pictures", "shards"])
def test_a_pass_reads_every_training_picture_once_and_no_other(source, request):
    data = load(request.getfixturevalue(source), condition="class")
    assert isinstance(data.train, Streamed)
    assert data.domain.shape == (1, 4, 4), "grey pictures have one channel"
    assert data.validation.x[:, 0, 0, 0].tolist() == list(range(10))
    assert data.test.x[:, 0, 0, 0].tolist() == list(range(10, 20))
    drawn = batches(data, 8)
    for _ in range(2):
        x, c = (torch.cat(tensors) for tensors in zip(*(drawn.next()[0] for _ in range(10))))
        assert sorted(x[:, 0, 0, 0].tolist()) == list(TRAIN)
        assert x[:, 0, 0, 0].tolist() != list(TRAIN), "it is shuffled"
        assert (x == x[:, :1, :1, :1]).all()
        assert [int(data.condition.names[k]) for k in c] == [level % 10 for level in x[:, 0, 0, 0].tolist()]


def test_windows_see_every_symbol_once_in_the_order_of_the_text(texts):
    data = load(texts)
    reader = data.train.reader()
    rows = torch.cat([data.train.batch(reader.block(16))[0] for _ in range(17)])
    text = "".join(f"{document}\n" for document in DOCUMENTS[40:])
    read = "".join(data.domain.symbols[i] for i in rows.flatten().tolist())
    assert len(read) > 0.8 * len(text)
    assert read == text[: len(read)]
    held_out = "".join(data.domain.symbols[i] for i in data.test.x.flatten().tolist())
    assert "".join(f"{document}\n" for document in DOCUMENTS[20:40]).startswith(held_out)


@pytest.mark.parametrize("encoding", ["bytes", "bpe"])
def test_other_encodings(texts, encoding):
    data = load(texts, encoding=encoding)
    x = data.train.batch(data.train.reader().block(8))[0]
    assert data.domain.kind == "tokens"
    assert x.shape[1] == 12
    assert int(x.max()) < data.domain.vocabulary


def test_a_symbol_that_the_head_does_not_hold_is_the_unknown_one(texts, tmp_path, monkeypatch):
    from pofx.data import hub

    with (tmp_path / "texts.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"text": "ω" * 30}))
    monkeypatch.setattr(hub, "HEAD", 100)
    data = load(texts)
    reader = data.train.reader()
    x = torch.cat([data.train.batch(reader.block(16))[0] for _ in range(22)])
    assert int((x == data.domain.symbols.index("\N{REPLACEMENT CHARACTER}")).sum()) == 30


def test_numbers_of_own_splits_and_what_is_missing_is_passed_over(tmp_path):
    folder = tmp_path / "numbers"
    folder.mkdir()
    values = torch.randn(60, 2, generator=stream(0, "x"))
    for name, rows in (("train", values[:50]), ("test", values[50:])):
        x = [float("nan") if name == "train" and i == 7 else value for i, value in enumerate(rows[:, 0].tolist())]
        kinds = ["a" if value > 0 else "b" for value in rows[:, 1].tolist()]
        columns = {"x": x, "y": rows[:, 1].tolist(), "kind": kinds}
        parquet.write_table(arrow.table(columns), folder / f"{name}.parquet")
    data = load(f"hf:{folder}", condition="kind")
    assert data.domain.columns == ("x", "y")
    assert data.test.x.equal(values[50:])
    expected = values[[i for i in range(4, 50) if i != 7]]
    assert data.train.rows()[0].equal(expected[:45])
    assert data.validation.x.equal(values[:4])
    x, c = data.train.batch(data.train.reader().block(45))
    assert x.equal(expected)
    assert [data.condition.names[k] for k in c] == ["a" if y > 0 else "b" for y in x[:, 1]]
    assert "test: the first examples of its own split" in data.split


def test_batches_resume_in_the_middle_of_a_block(pictures, texts):
    for source in (pictures, texts):
        data = load(source)
        drawn, again = batches(data, 16), batches(data, 16)
        for _ in range(7):
            drawn.next()
        assert 0 < drawn.position < len(drawn.block)
        tensors, plain = drawn.state()
        again.load({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(plain)))
        for _ in range(9):
            assert again.next()[0][0].equal(drawn.next()[0][0])


def test_pieces_are_the_whole_batch(pictures):
    data = load(pictures, condition="class")
    whole, first, second = batches(data, 16), batches(data, 16, (range(1), 2)), batches(data, 16, (range(1, 2), 2))
    for _ in range(6):
        parts = zip(first.next()[0], second.next()[0])
        assert all(torch.cat(part).equal(tensor) for part, tensor in zip(parts, whole.next()[0]))


def fitted(name, source, out, **given):
    arguments = {"vae": {"latent_dim": 2, "hidden": (8,)}, "gpt": {"width": 8, "layers": 1, "heads": 2}}[name]
    return fitting.fit(name, source, out=out, steps=7, batch_size=16, device="cpu", seed=3, **arguments, **given)


@pytest.mark.parametrize("name", ["vae", "gpt"])
def test_stop_and_resume_is_no_stop(name, pictures, texts, tmp_path, monkeypatch):
    source, given = (pictures, {"condition": "class"}) if name == "vae" else (texts, {})
    through = fitted(name, source, tmp_path / "through", **given)
    play = Trainer.round

    def interrupted(self):
        play(self)
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(name, os.path.relpath(source.removeprefix("hf:")).join(("hf:", "")), tmp_path / "stopped", **given)
    monkeypatch.setattr(Trainer, "round", play)
    monkeypatch.chdir(tmp_path)
    resumed = fitting.resume(tmp_path / "stopped", device="cpu")
    assert resumed.finished
    for file in ("model.safetensors", "checkpoint/state.safetensors"):
        a, b = load_file(through.folder / file), load_file(resumed.folder / file)
        assert a.keys() == b.keys()
        assert all(a[key].equal(b[key]) for key in a), [key for key in a if not a[key].equal(b[key])]
    assert load_run(resumed.folder).evaluate(), "held-out rows of a stream are scored as any other"


def test_a_batch_in_pieces_trains_as_the_whole(pictures, tmp_path):
    whole = fitted("vae", pictures, tmp_path / "whole")
    pieces = fitted("vae", pictures, tmp_path / "pieces", accumulate=2)
    a, b = (load_file(run.folder / "model.safetensors") for run in (whole, pieces))
    assert all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)


def test_another_head_is_another_fingerprint(pictures, tmp_path):
    before = load(pictures).fingerprint()
    assert load(pictures).fingerprint() == before
    os.replace(tmp_path / "pictures" / "a.parquet", tmp_path / "pictures" / "z.parquet")
    assert load(pictures).fingerprint() != before


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ("", {}, "streamed pictures need one size; give it with --size 64"),
        (":size=4,column=imag", {}, "has no column 'imag'.*image"),
        (":size=4", {"condition": "colour"}, "has no classes 'colour'"),
        (":size=4,records", {}, "is a streamed set and takes no records"),
        ("/*.zip", {}, "there is no such file or folder, and a set is NAME"),
    ],
)
def test_what_cannot_be_streamed_says_why(pictures, options, given, message):
    with pytest.raises(Unusable, match=message) as caught:
        load(pictures.removesuffix(":size=4") + options, **given)
    assert "\n" not in str(caught.value)


def test_a_set_of_the_hub_is_asked_for_by_name(monkeypatch):
    import datasets

    asked = []

    def unreachable(**arguments):
        asked.append(arguments)
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(Unusable, match=r"hf:owner/name cannot be opened \(Couldn't reach the Hub\); check"):
        load("hf:owner/name:config=en,revision=v2,length=8")
    assert asked[0].items() >= {"path": "owner/name", "name": "en", "revision": "v2", "streaming": True}.items()


def test_without_the_library(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Unusable, match=r"hf: sources need the datasets library; pip install 'pofx\[stream\]'"):
        load(pictures)


def test_a_stream_that_breaks_off_says_so_in_one_line(pictures, tmp_path):
    data = load(pictures)
    (tmp_path / "pictures" / "c.parquet").write_bytes(b"cut short")
    drawn = batches(data, 8)
    with pytest.raises(Unusable, match="the stream broke off"):
        list(iter(drawn.next, None))
