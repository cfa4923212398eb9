"""What is seen growing is what was drawn: texts piece by piece, pictures row by row."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.growing import BROKEN, HELD, Growth, TextStream
from pofx.rendering import HIDDEN, Sampled, sheet, tokens_of


def bpe():
    """Byte-pair tokens that cut characters apart, as the tokenizers library makes them."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return Tokens(256, 12, encoding="bpe", tokenizer=tokenizer.to_str())


def encoded(*texts):
    return torch.tensor([list(text.encode()) for text in texts])


SYMBOLS = ("a", "b", "ü", BROKEN, "")
TEXTS = {
    "characters": (Tokens(4, 5, encoding="characters", symbols=SYMBOLS[:4]), [[0, 1, 2, 3, 0], [3, 3, 1, 0, 3]]),
    "records": (
        Tokens(5, 5, end=4, encoding="characters", symbols=SYMBOLS),
        [[0, 1, 4, 4, 4], [4, 4, 4, 4, 4], [4, 4, 4, 4, 4], [0, 0, 0, 0, 0], [2, 4, 4, 4, 4]],
    ),
    "bytes": (Tokens(256, 6, encoding="bytes"), encoded("aübxy", "€€", "ü€x").tolist()),
    "broken bytes": (Tokens(256, 4, encoding="bytes"), [[0xE2, 0x82, 65, 0xE2], [0xE2, 0x82, 0xAC, 0x80]]),
    "numbers": (Tokens(12, 3), [[11, 0, 10], [1, 2, 3]]),
}


def streamed(x, domain, chunk, first=1):
    """The pieces that are written while chunks of x grow from their ``first`` values on, and after each what it was."""
    pieces = []
    stream = TextStream(domain, pieces.append)
    for start in range(0, len(x), chunk):
        part = x[start : start + chunk]
        for values in range(first, x.shape[1] + 1):
            stream(torch.where(torch.arange(x.shape[1]) < values, part, 0), values)
    stream.finish(x)
    return pieces


@pytest.mark.parametrize("chunk", [1, 2, 64])
@pytest.mark.parametrize("name", TEXTS)
def test_what_streams_is_what_is_saved(name, chunk, tmp_path):
    domain, rows = TEXTS[name]
    x = torch.tensor(rows)
    saved = Sampled(x, domain).save(tmp_path / "x.txt").read_text(encoding="utf-8")
    for first in (1, 2):
        assert "".join(streamed(x, domain, chunk, first)) == saved
    assert "".join(streamed(x, domain, chunk, first=x.shape[1] + 1)) == saved, "where nobody saw it grow"


def test_bpe_writes_whole_characters(tmp_path):
    domain = bpe()
    x = torch.stack([tokens_of(text, domain) for text in (" a€ü€ b", "ü€ €€")])
    pieces = streamed(x, domain, chunk=1)
    assert pieces == [*" a€ü€ b", "\n---\nü", *"€ €€", "\n"]
    assert "".join(pieces) == Sampled(x, domain).save(tmp_path / "x.txt").read_text(encoding="utf-8")


def test_each_character_is_written_when_it_is_there():
    pieces = streamed(encoded("a€b"), Tokens(256, 5, encoding="bytes"), chunk=1)
    assert pieces == ["a", "€", "b", "\n"]


def test_the_next_text_streams_once_the_first_has_ended():
    domain, pieces = Tokens(3, 3, end=2, encoding="characters", symbols=("a", "b", "")), []
    stream = TextStream(domain, pieces.append)
    x = torch.tensor([[2, 2, 2], [0, 1, 2]])
    for values in (1, 2, 3):
        stream(x, values)
        assert "".join(pieces) == "\n" + "ab"[:values]


def grown(x, domain, *, chunk=64, first=1):
    growth = Growth(domain, columns=2)
    for start in range(0, len(x), chunk):
        for values in range(first, domain.dims + 1):
            growth(x[start : start + chunk], values)
    return growth


@pytest.mark.parametrize("chunk", [2, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_shows_the_rows_that_are_drawn(channels, chunk):
    domain = Images(channels, 3, 2, levels=4)
    x = torch.randint(4, (3, channels, 3, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames = list(grown(x, domain, chunk=chunk).frames())
    assert len(frames) == 4
    whole, scale = np.asarray(sheet(x, domain, columns=2)), 16
    for drawn, frame in enumerate(frames):
        shown = np.asarray(frame)
        for top in (2, 2 + 3 * scale + 2):
            border = top + drawn * scale
            np.testing.assert_array_equal(shown[top:border], whole[top:border])
            assert (shown[border : top + 3 * scale, 2 : 2 + 2 * scale] == HIDDEN).all()
    np.testing.assert_array_equal(np.asarray(frames[-1]), whole)


def test_the_first_frame_shows_what_was_known():
    domain = Images(1, 4, 1, levels=2)
    frames = list(grown(torch.ones(1, 1, 4, 1, dtype=torch.uint8), domain, first=3).frames())
    grey = [(np.asarray(frame)[:, 3] == HIDDEN).sum() // 12 for frame in frames]
    assert grey == [2, 1, 0]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_reads_back(tmp_path, suffix):
    domain = Images(1, 4, 4, levels=4)
    x = torch.randint(4, (4, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    growth = grown(x, domain)
    path = growth.save(tmp_path / f"x{suffix}")
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0
        read = [(np.asarray(frame.convert("L")), frame.info["duration"]) for frame in ImageSequence.Iterator(picture)]
    assert read[-1][1] == HELD
    assert all(0 < duration < HELD for _, duration in read[:-1])
    for (shown, _), frame in zip(read, growth.frames(), strict=True):
        np.testing.assert_array_equal(shown, np.asarray(frame))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_tall_pictures_grow_by_several_rows():
    frames = list(grown(torch.zeros(1, 1, 200, 1, dtype=torch.uint8), Images(1, 200, 1)).frames())
    assert 50 < len(frames) < 100


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(Unusable, match="pictures grow row by row, got vectors"):
        Growth(Vectors(2))
    with pytest.raises(Unusable, match=r"saved as .gif or .webp, got 'x.png'"):
        grown(torch.zeros(1, 1, 2, 1, dtype=torch.uint8), Images(1, 2, 1)).save(tmp_path / "x.png")
    with pytest.raises(Unusable, match="all was known"):
        Growth(Images(1, 2, 1)).save(tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []
