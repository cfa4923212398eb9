"""The code of an exact model has the length that its likelihood says, and gives back what was coded, or one line."""

import math
import sys
from functools import partial

import pytest
import torch

from pofx import packed
from pofx.catalogue import entries, find
from pofx.coding import Message, batch_rows, decode, encode, information
from pofx.conditions import VectorCondition
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.protocols import Chains, capabilities
from pofx.testing import TINY, TWO_CLASSES
from pofx.testing.specimens import shaken, specimen, tiny_data

CODED = [
    pytest.param(entry, domain, condition, id=f"{entry.name}-{domain.kind}{i}-{'classes' if condition else 'nothing'}")
    for entry in entries().values()
    if Chains in capabilities(entry.load())
    for kind in entry.tiny
    if kind != "vectors"
    for i, domain in enumerate(TINY[kind])
    for condition in (None, TWO_CLASSES)
]


def model_of(entry, domain, condition=None):
    return shaken(
        specimen(partial(entry.build, domain, condition=condition, **entry.tiny[domain.kind]), domain, condition)
    )


def uniform(domain):
    """The model that knows nothing: every symbol is as likely as any."""
    return find("marginals").build(domain).eval()


@pytest.mark.parametrize(("entry", "domain", "condition"), CODED)
def test_the_code_is_as_long_as_the_likelihood_says_and_comes_back(entry, domain, condition):
    model = model_of(entry, domain, condition)
    x, c = tiny_data(domain, condition, 2000)
    message = Message(x, c, domain.dims)
    code = encode(model, message, batch=256)
    back = decode(model, code, len(x), last=domain.dims, classes=c is not None, batch=256)
    assert back.x.dtype == x.dtype
    assert torch.equal(back.x, x)
    assert c is None or torch.equal(back.classes, c)
    log_p = model.log_prob(x, c).double().sum()
    log_p += 0 if c is None else torch.tensor(TWO_CLASSES.frequencies).double().log()[c].sum()
    bits = -float(log_p.detach()) / math.log(2)
    assert information(model, message, batch=100) == pytest.approx(bits, rel=1e-5)
    # A symbol less likely than 2^-24, as shaken weights have them, costs 24 bits all the same.
    dearer = float((model.conditionals(x, c).detach().double() / math.log(2) + 24).clamp(max=0).sum())
    assert 0.99 * (bits + dearer) < 8 * len(code) < 1.01 * (bits + dearer)


def test_a_uniform_model_takes_log2_of_the_levels():
    domain = Images(3, 4, 4, levels=16)
    x = torch.randint(0, 16, (50, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert 0 <= len(encode(uniform(domain), Message(x, None, 48), batch=7)) - 50 * 48 * 4 // 8 <= 8


def test_nothing_is_paid_for_what_follows_an_end_or_does_not_count():
    short = torch.tensor([[1, 3, 3, 3], [3, 3, 3, 3]]).repeat(200, 1)
    model = uniform(Tokens(4, 4, end=3))
    assert 0 <= len(encode(model, Message(short, None, 4), batch=256)) - 200 * 3 * 2 // 8 <= 8
    window = Message(torch.zeros(100, 400, dtype=torch.int64), None, 40)
    assert 0 <= len(encode(uniform(Tokens(4, 400)), window, batch=64)) - (99 * 400 + 40) * 2 // 8 <= 8
    assert window.values(None) == 99 * 400 + 40
    assert Message(short, None, 4).values(3) == 600


def test_what_is_impossible_can_be_coded_too():
    model = uniform(Tokens(2, 3))
    model.log_p[...] = torch.tensor([0.0, -torch.inf])
    x = torch.tensor([[0, 1, 0]] * 9)
    message = Message(x, None, 3)
    code = encode(model, message, batch=4)
    assert torch.equal(decode(model, code, 9, last=3, classes=False, batch=4).x, x)
    assert 27 <= len(code) <= 36  # nine symbols of 24 bits
    assert information(model, message, batch=4) == math.inf


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_and_an_alphabet_of_one(n):
    x = torch.zeros(n, 5, dtype=torch.int64)
    code = encode(uniform(Tokens(1, 5)), Message(x, None, 5), batch=2)
    assert len(code) <= 4
    assert torch.equal(decode(uniform(Tokens(1, 5)), code, n, last=5, classes=False, batch=2).x, x)


def test_batches_are_bounded():
    assert [batch_rows(dims) for dims in (1, 64, 784, 10**6)] == [256, 256, 83, 1]


# ---- texts

ALPHABET = Tokens(4, 5, encoding="characters", symbols=("\r", "a", "b", "é"))
LINES = Tokens(4, 5, end=3, encoding="characters", symbols=("a", "b", "é", ""))
BYTES = Tokens(256, 7, encoding="bytes")


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        *((ALPHABET, text) for text in ("", "a", "ababé", "ab\réa\rb", "é" * 51)),
        *(
            (LINES, text)
            for text in ("", "\n", "\n\n", "a", "ab\n", "ab\n\nba", "aaaaa\nb", "aaaaab\n", "é" * 15 + "\n")
        ),
        *((BYTES, text) for text in (b"", b"\r\n\xff\x00", bytes(range(256)))),
    ],
)
def test_a_text_comes_back_byte_for_byte(domain, text):
    data = text if isinstance(text, bytes) else text.encode()
    model = model_of(find("gpt"), domain)
    file = packed.pack(model, packed.content_of(data, None, domain, None), run=b"12345678", threads=1)
    content = packed.unpack(model, file, run=b"12345678")
    assert content.text
    assert packed.text_of_message(content.message, domain) == data


def test_byte_pairs_come_back():
    pytest.importorskip("tokenizers")
    from pofx.data.text import _learn_bpe

    domain = _learn_bpe(["der Hund, die Hündin\n" * 20], 280).domain(6, end=False)
    for data in ("eine Hündin\r\n\n  \ud7ff😀".encode(), b""):
        assert packed.text_of_message(packed.content_of(data, None, domain, None).message, domain) == data


@pytest.mark.parametrize(
    ("data", "domain", "words"),
    [
        (b"abc\xc3\xa9x", ALPHABET, "the vocabulary has no 'cx'"),
        (b"a\xff", ALPHABET, "the text is not UTF-8 \\(byte 1\\)"),
        (b"a", Images(1, 2, 2, levels=2), "was fitted on images that are no text"),
        (b"a", Tokens(3, 4), "was fitted on tokens that are no text"),
    ],
)
def test_a_text_that_the_model_cannot_spell_is_one_line(data, domain, words):
    with pytest.raises(Unusable, match=words):
        packed.content_of(data, None, domain, None)


# ---- files


@pytest.fixture(scope="module")
def file():
    """A model, its observations with classes, and their file."""
    domain = TINY["images"][0]
    model = model_of(find("gpt"), domain, TWO_CLASSES)
    x, c = tiny_data(domain, TWO_CLASSES, 40)
    return model, x, c, packed.pack(model, packed.content_of(x, c, domain, TWO_CLASSES), run=b"12345678", threads=1)


def test_a_file_has_less_than_128_bytes_beside_the_code(file):
    model, x, c, data = file
    assert len(data) - len(encode(model, Message(x, c, 4), batch=256)) < 128
    back = packed.unpack(model, data, run=b"12345678")
    assert not back.text
    assert torch.equal(back.message.x, x)
    assert torch.equal(back.message.classes, c)


def test_every_spoilt_byte_and_every_cut_is_found(file):
    *_, data = file
    for i in range(len(data)):
        spoilt = bytearray(data)
        spoilt[i] ^= 1 << i % 8
        for broken in (bytes(spoilt), data[:i]):
            with pytest.raises(Unusable) as error:
                packed.opened(broken, named="x.pofx")
            assert str(error.value).startswith("x.pofx ")
            assert "\n" not in str(error.value)


def test_other_weights_are_refused_and_other_numbers_are_found(file):
    model, *_, data = file
    with pytest.raises(Unusable, match="was compressed by the weights 3132333435363738, the run has 3837363534333231"):
        packed.unpack(model, data, run=b"87654321")
    # Weights that differ by a little, under the same name: what another machine's rounding would do, and worse.
    other = model_of(find("gpt"), TINY["images"][0], TWO_CLASSES)
    with torch.no_grad():
        other.head.weight.mul_(1.01)
    with pytest.raises(
        Unusable, match=r"does not decode to what was compressed.*decompress on a machine like that one"
    ):
        packed.unpack(other, data, run=b"12345678")


def test_another_kind_of_device_is_refused(file, monkeypatch):
    model, *_, data = file
    monkeypatch.setattr(packed, "_machine", lambda model: "cuda H x86_64 torch 9 constriction 9")
    with pytest.raises(Unusable, match=r"was compressed on cpu .*; use --device cpu"):
        packed.unpack(model, data, run=b"12345678")


def test_identity_is_of_every_weight_and_value(file):
    model = file[0]
    same = packed.identity(model.state_dict(), {"a": 1})
    assert packed.identity(model_of(find("gpt"), TINY["images"][0], TWO_CLASSES).state_dict(), {"a": 1}) == same
    assert packed.identity(model.state_dict(), {"a": 2}) != same
    other = model_of(find("gpt"), TINY["images"][0], TWO_CLASSES)
    with torch.no_grad():
        other.head.weight[0, 0] += 1e-6
    assert packed.identity(other.state_dict(), {"a": 1}) != same


def test_conditions_are_classes_and_given():
    x, c = tiny_data(TINY["images"][0], TWO_CLASSES, 4)
    with pytest.raises(Unusable, match="is given classes, and here are none"):
        packed.content_of(x, None, TINY["images"][0], TWO_CLASSES)
    with pytest.raises(Unusable, match="only classes are stored, and the model is given a vector"):
        packed.content_of(x, torch.zeros(4, 2), TINY["images"][0], VectorCondition((2,)))
    assert torch.equal(packed.content_of(x, c[:1], TINY["images"][0], TWO_CLASSES).message.classes, c[:1].expand(4))


# ---- what cannot be coded


def test_what_cannot_be_coded_is_one_line(monkeypatch):
    model = uniform(Tokens(3, 3, end=2))
    with pytest.raises(Unusable, match="a record holds nothing but its end symbol after the first one"):
        encode(model, Message(torch.tensor([[0, 2, 1]]), None, 3), batch=8)
    for name in ("marginals", "gpt"):
        numbers = model_of(find(name), Vectors(2))
        with pytest.raises(Unusable, match=f"{name} gives a density over real numbers"):
            encode(numbers, Message(torch.zeros(2, 2), None, 2), batch=8)
    model.log_p[...] = math.nan
    with pytest.raises(Unusable, match="not numbers"):
        encode(model, Message(torch.tensor([[0, 2, 2]]), None, 3), batch=8)
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(Unusable, match=r"pip install 'pofx\[compress\]'"):
        encode(model, Message(torch.tensor([[0, 2, 2]]), None, 3), batch=8)
