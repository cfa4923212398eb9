"""What is saved reads back as what was sampled."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.rendering import BETWEEN, Sampled, sheet, text_of, tokens_of


def test_a_sheet_shows_every_pixel():
    x = torch.tensor([[[[0, 1], [2, 3]]], [[[3, 2], [1, 0]]], [[[3, 3], [3, 3]]]], dtype=torch.uint8)
    page = np.asarray(sheet(x, Images(1, 2, 2, levels=4), columns=2, gap=1, scale=2))
    assert page.shape == (11, 11)
    tile = page[1:5, 1:5]
    np.testing.assert_array_equal(tile, np.kron([[0, 85], [170, 255]], np.ones((2, 2))))
    assert (page[6:10, 1:5] == 255).all()
    assert (page[:, [0, 5, 10]] == BETWEEN).all()
    assert (page[6:10, 6:10] == BETWEEN).all()


def test_colours_keep_their_order():
    x = torch.tensor([255, 0, 10], dtype=torch.uint8).view(1, 3, 1, 1)
    assert sheet(x, Images(3, 1, 1), gap=0, scale=1).getpixel((0, 0)) == (255, 0, 10)


def test_two_channels_are_red_and_green():
    x = torch.tensor([255, 10], dtype=torch.uint8).view(1, 2, 1, 1)
    assert sheet(x, Images(2, 1, 1), gap=0, scale=1).getpixel((0, 0)) == (255, 10, 0)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_vectors_are_scattered(dim):
    page = np.asarray(sheet(torch.randn(50, dim, generator=torch.Generator().manual_seed(0)), Vectors(dim)))
    assert page.std() > 5


def test_text_stops_at_the_end():
    domain = Tokens(4, 5, end=3, encoding="characters", symbols=("a", "b", "ü", ""))
    assert text_of(torch.tensor([[0, 1, 2, 3, 3], [3, 3, 3, 3, 3], [2, 2, 2, 2, 2]]), domain) == ["abü", "", "üüüüü"]
    assert text_of(torch.tensor([[65, 66]]), Tokens(256, 2, encoding="bytes")) == ["AB"]
    assert text_of(torch.tensor([[1, 0]]), Tokens(2, 2)) == ["1 0"]


def test_csv_reads_back_exactly(tmp_path):
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-20, 1e20])
    path = Sampled(x, Vectors(2, ("mass, kg", "b"))).save(tmp_path / "x.csv")
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["mass, kg", "b"]
    np.testing.assert_array_equal(np.array(rows, dtype=np.float32), x.numpy())


def test_arrays_and_pictures_are_written(tmp_path):
    x = torch.randint(17, (10, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sampled = Sampled(x, Images(1, 8, 8, levels=17))
    np.testing.assert_array_equal(np.load(sampled.save(tmp_path / "x.npy")), x.numpy())
    assert Image.open(sampled.save(tmp_path / "x.png")).size == (4 * 50 + 2, 3 * 50 + 2)
    assert len(sampled) == len(np.asarray(sampled)) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.png"]


def test_records_are_lines_and_streams_are_parted(tmp_path):
    x = torch.tensor([[0, 1], [1, 0]])
    stream, record = (Tokens(2 + k, 2, end, "characters", ("a", "b", "")[: 2 + k]) for k, end in ((0, None), (1, 2)))
    assert Sampled(x, stream).save(tmp_path / "s.txt").read_text() == "ab\n---\nba\n"
    assert Sampled(x, record).save(tmp_path / "r.txt").read_text() == "ab\nba\n"


@pytest.mark.parametrize(
    ("sampled", "name"),
    [
        (Sampled(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), Images(1, 2, 2)), "x.csv"),
        (Sampled(torch.zeros(2, 3), Vectors(3)), "x.txt"),
        (Sampled(torch.zeros(2, 3, dtype=torch.int64), Tokens(2, 3)), "x.png"),
        (Sampled(torch.zeros(2, 3), Vectors(3)), "x"),
    ],
)
def test_unsuitable_suffixes(tmp_path, sampled, name):
    with pytest.raises(Unusable, match="are saved as"):
        sampled.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "domain",
    [Tokens(4, 3, end=3, encoding="characters", symbols=("a", "b", "ü", "")), Tokens(256, 4, encoding="bytes")],
)
def test_a_prompt_reads_back(domain):
    assert text_of(tokens_of("aüb", domain)[None], domain) == ["aüb"]


def test_a_prompt_with_an_unknown_character():
    with pytest.raises(Unusable, match="the vocabulary has no 'xy'"):
        tokens_of("axy", Tokens(1, 3, encoding="characters", symbols=("a",)))
