"""Texts longer than a window, scored with a full context: against a plain loop, and where one symbol is enough."""

import math

import pytest
import torch

from pofx.data.dataset import Data, Windows
from pofx.domains import Images, Tokens
from pofx.errors import Unusable
from pofx.evaluate.windows import Strided, strided, strided_score
from pofx.models.autoregressive.gpt import GPT
from pofx.randomness import seeded_init, stream

DOMAIN = Tokens(3, 4, encoding="characters", symbols=("a", "b", "é"))
TEXT = torch.randint(3, (23,), generator=stream(0, "data"))


def gpt(domain=DOMAIN) -> GPT:
    with seeded_init(0):
        model = GPT(domain, width=8, layers=2, heads=2)
    for p in model.parameters():
        p.data.add_(torch.randn(p.shape, generator=stream(1, "init")), alpha=0.5)
    return model.double().eval()


class Bigram:
    """p(x_t | x_{t-1}), and uniform where there is none: one symbol of context."""

    domain, table = DOMAIN, torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]]).log()

    def read(self, x):
        return x

    def conditionals(self, x, condition=None):
        first = torch.full_like(x[:, :1], -math.log(3), dtype=torch.float32)
        return torch.cat([first, self.table[x[:, :-1], x[:, 1:]]], 1)

    def walk(self, n, choose, condition=None):
        raise AssertionError


@pytest.mark.parametrize("length", [4, 5, 8, 23])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_each_symbol_once_in_the_first_window_that_holds_it(length, stride):
    model, text = gpt(), TEXT[:length]
    expected, start = model.conditionals(text[None, :4])[0].tolist(), 0
    while len(expected) < length:
        start = min(start + stride, length - 4)
        expected += model.conditionals(text[None, start : start + 4])[0, len(expected) - start :].tolist()
    found = strided(model, text, stride=stride, rows=3)
    assert found.log_p.tolist() == pytest.approx(expected)


def test_every_stride_agrees_where_one_symbol_is_all_that_matters():
    """But for the disjoint windows, whose first symbols are given nothing."""
    whole = Bigram.table[TEXT[:-1], TEXT[1:]].sum().item() - math.log(3)
    for stride in (1, 2, 3):
        assert strided(Bigram(), TEXT, stride=stride).log_p.sum().item() == pytest.approx(whole, abs=1e-4)
    assert strided(Bigram(), TEXT, stride=4).log_p.sum().item() != pytest.approx(whole, abs=1e-2)


def test_a_stride_of_the_window_is_the_disjoint_score():
    model, text = gpt(), TEXT[:20]
    assert strided(model, text, stride=4).log_p.sum().item() == pytest.approx(
        model.log_prob(text.view(5, 4)).sum().item()
    )


def test_units_follow_from_one_number():
    found = Strided(torch.full((8,), -2 * math.log(2)), 10)
    assert (found.bits_per_symbol, found.bits_per_byte, found.perplexity) == pytest.approx((2.0, 1.6, 4.0))


def test_a_score_of_a_split():
    parts = {name: Windows(TEXT, 4) for name in ("train", "validation", "test")}
    data, model = Data("text", DOMAIN, **parts), gpt()
    score = strided_score(model, data, split="test", stride=2)
    found = strided(model, TEXT[:20], stride=2)
    assert score.value == pytest.approx(4 * found.log_p.mean().item())
    assert score.shown(DOMAIN).startswith(f"{found.bits_per_symbol:.3f}")
    assert score.metric == "log p(x), stride 2"
    assert "at least 2 before it" in score.note
    assert f"{found.bits_per_byte:.3f} bits/byte" in score.note
    assert found.size == sum(1 + int(symbol == 2) for symbol in TEXT[:20])


@pytest.mark.parametrize(
    ("model", "text", "stride", "words"),
    [
        (gpt(), TEXT, 0, "lies in 1 to 4"),
        (gpt(), TEXT, 5, "lies in 1 to 4"),
        (gpt(), TEXT[:3], 1, "at least 4 symbols"),
        (gpt(Tokens(3, 4, end=1)), TEXT, 1, "score a text symbol by symbol"),
        (gpt(Images(1, 2, 2, levels=3)), TEXT, 1, "score a text symbol by symbol"),
    ],
)
def test_refuses(model, text, stride, words):
    with pytest.raises(Unusable, match=words):
        strided(model, text, stride=stride)
