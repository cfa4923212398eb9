"""Texts: contiguous spans, an alphabet from training alone, and symbols that turn back into the text."""

import pytest
import torch

from pofx.data import inspect, load
from pofx.errors import Unusable
from pofx.rendering import text_of

TEXT = "".join(f"{i} grüne Flaschen hängen an der Wand.\n" for i in range(400))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "flaschen.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "flaschen.txt"


@pytest.mark.parametrize("encoding", ["characters", "bytes", "bpe"])
def test_spans_are_contiguous_and_decode_to_the_text(path, encoding):
    data = load(str(path), encoding=encoding, length=16)
    whole = TEXT.encode() if encoding == "bytes" else TEXT
    spans = [data.indices[name].tolist() for name in ("train", "validation", "test")]
    assert spans[0][0] == 0
    assert spans[0][1] == spans[1][0]
    assert spans[1][1] == spans[2][0]
    assert spans[2] == [len(whole) * 9 // 10, len(whole)]
    for name, (start, end) in zip(("train", "validation", "test"), spans):
        x = data.domain.check(data.part(name).rows()[0])
        text = "".join(text_of(x, data.domain)) if encoding == "characters" else None
        if text is not None:
            assert TEXT[start:end].startswith(text)
            assert end - start - len(text) < 16
        elif encoding == "bytes":
            assert whole[start:end].startswith(bytes(x.flatten().tolist()))
        else:
            from tokenizers import Tokenizer

            decoded = Tokenizer.from_str(data.domain.tokenizer).decode(x.flatten().tolist())
            assert TEXT[start:end].startswith(decoded.rstrip("\ufffd"))


def test_training_windows_have_stride_one(path):
    data = load(str(path), length=16)
    start, end = data.indices["train"].tolist()
    assert len(data.train) == end - start - 15
    windows, _ = data.train.take(torch.tensor([0, 1, len(data.train) - 1]))
    assert text_of(windows, data.domain) == [TEXT[:16], TEXT[1:17], TEXT[end - 16 : end]]
    assert len(load(str(path), length=16, limit=10).train) == 10


def test_the_alphabet_is_that_of_training(tmp_path):
    (tmp_path / "t.txt").write_text("abcd" * 500 + "efg" * 60)
    data = load(str(tmp_path / "t.txt"))
    assert data.domain.symbols == ("a", "b", "c", "d", "\N{REPLACEMENT CHARACTER}")
    assert any("never stand in training ('efg')" in line for line in data.problems)
    assert set(text_of(data.test.rows()[0], data.domain)[1]) <= {"\N{REPLACEMENT CHARACTER}"}


def test_records_end_and_are_padded_with_end(tmp_path):
    names = [f"name{'x' * (i % 7)}{i}" for i in range(100)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n\n")
    data = load(f"{tmp_path / 'names.txt'}:records")
    assert data.domain.length == max(map(len, names)) + 1
    assert data.domain.end == data.domain.vocabulary - 1
    for name in ("train", "validation", "test"):
        x = data.domain.check(data.part(name).rows()[0])
        assert text_of(x, data.domain) == [names[i] for i in data.indices[name]]
        assert (x[:, -1] == data.domain.end).all()
    short = load(f"{tmp_path / 'names.txt'}:records,length=6")
    assert short.domain.length == 6
    assert any("longer than 6" in line for line in short.problems)


@pytest.mark.parametrize("encoding", ["bytes", "bpe"])
def test_records_of_other_encodings(tmp_path, encoding):
    names = [f"größe {i}" for i in range(60)]
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    data = load(f"{tmp_path / 'names.txt'}:records", encoding=encoding)
    x = data.domain.check(data.test.rows()[0])
    assert text_of(x, data.domain) == [names[i] for i in data.indices["test"]]


def test_a_folder_is_one_text(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_text("second " * 200)
    (tmp_path / "a.txt").write_text("first " * 200)
    data = load(str(tmp_path), length=5)
    assert text_of(data.train.rows()[0][:1], data.domain) == ["first"]


@pytest.mark.parametrize(
    ("content", "source", "message"),
    [
        (b"ten chars.", "", "at least 10 windows of 64.*got 10"),
        (b"", "", "at least 10 windows"),
        (b"\xff\xfe" * 1000, "", "not UTF-8.*encoding=bytes"),
        (b"a\nb\n", ":records", "too few"),
        (b"abc " * 200, ":encoding=bpe", "fewer than a window"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path, content, source, message):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(Unusable, match=message):
        load(f"{tmp_path / 't.txt'}{source}")
    assert inspect(f"{tmp_path / 't.txt'}{source}").fatal


def test_an_unknown_kind_of_file(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\0\1\2" * 100)
    with pytest.raises(Unusable, match=r"not read here.*\.csv"):
        load(str(tmp_path / "x.bin"))
