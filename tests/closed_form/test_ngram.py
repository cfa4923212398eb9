"""The n-gram against enumeration and against counting by hand."""

import itertools
from collections import Counter

import pytest
import torch

from pofx.conditions import Classes, VectorCondition
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.baselines.ngram import NGram
from pofx.randomness import stream

TOKENS = Tokens(3, 5)
RECORDS = Tokens(3, 5, end=1)
PICTURES = Images(1, 3, 3, levels=2)
COLOURS = Images(2, 2, 1, levels=3)
DOMAINS = [TOKENS, RECORDS, PICTURES, COLOURS]
TWO = Classes(("a", "b"), (0.25, 0.75))


def everything(domain) -> torch.Tensor:
    values = range(domain.vocabulary if isinstance(domain, Tokens) else domain.levels)
    rows = torch.tensor(list(itertools.product(values, repeat=domain.dims)))
    return rows.view(-1, *domain.shape).to(domain.dtype)


def fitted(domain, condition=None, n: int = 40, **settings) -> NGram:
    """Fitted to n observations that repeat themselves, so that contexts matter."""
    model = NGram(domain, condition=condition, **settings)
    s = torch.randint(3 if domain in (TOKENS, RECORDS, COLOURS) else 2, (n, domain.dims), generator=stream(0, "data"))
    s[:, 1::2] = s[:, :-1:2]
    c = None if condition is None else torch.arange(n) % 2
    if condition is not None:
        s[c == 0, 0] = 0
    if domain == RECORDS:
        s = s.masked_fill(model.sequence.ended(s), 1)
    model.adapt(model.sequence.write(s), c, generator=stream(0, "noise"))
    return model


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("order", [1, 2, 4])
def test_sums_to_one(domain, order):
    for model in (fitted(domain, order=order), NGram(domain, order=order)):
        assert float(model.log_prob(everything(domain)).double().logsumexp(0)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
def test_sums_to_one_given_each_class_none_and_as_marginal(domain):
    model, x = fitted(domain, TWO), everything(domain)
    given = [model.log_prob(x, torch.tensor([k])) for k in range(3)]
    for log_p in (*given, model.log_prob(x)):
        assert float(log_p.double().logsumexp(0)) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(model.log_prob(x).exp(), 0.25 * given[0].exp() + 0.75 * given[1].exp())
    assert float((given[0] - given[1]).nan_to_num().abs().max()) > 0.1


def test_counts_as_by_hand():
    """Order 3 on strings: each level's counts, and u(h), from dictionaries."""
    texts = ["abcab", "abaab", "bcabc", "aabbc"]
    rows = [[ord(ch) - ord("a") for ch in text] for text in texts]
    model, b = NGram(TOKENS, order=3, backoff=2.5), 2.5
    model.adapt(torch.tensor(rows), generator=stream(0, "noise"))
    seen = [Counter() for _ in range(3)]
    for row in rows:
        padded = [3, 3, *row]
        for t in range(2, 7):
            for k in range(3):
                seen[k][tuple(padded[t - k : t]), padded[t]] += 1

    def p(context, symbol, k=2):
        if k < 0:
            return 1 / 3
        h = tuple(context[2 - k :])
        followed = [n for (g, _), n in seen[k].items() if g == h]
        lower = p(context, symbol, k - 1)
        return (
            (seen[k][h, symbol] + b * len(followed) * lower) / (sum(followed) + b * len(followed))
            if followed
            else lower
        )

    for row in ([0, 1, 2, 0, 1], [2, 2, 2, 2, 2], [1, 0, 0, 1, 2]):
        padded, expected = [3, 3, *row], 1.0
        for t in range(2, 7):
            expected *= p(padded[t - 2 : t], padded[t])
        assert float(model.log_prob(torch.tensor([row])).exp()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("condition", [None, TWO])
def test_samples_meet_the_density(domain, condition):
    from scipy.stats import chisquare

    model, x = fitted(domain, condition), everything(domain)
    draws = model.sample(4000, generator=stream(0, "eval"))
    domain.check(draws)
    places = {tuple(row.flatten().tolist()): i for i, row in enumerate(x)}
    seen = torch.bincount(torch.tensor([places[tuple(row.flatten().tolist())] for row in draws]), minlength=len(x))
    expected = model.log_prob(x).double().exp() * 4000
    assert int(seen[expected == 0].sum()) == 0
    common = expected >= 5
    s, e = (torch.cat([v[common], v[~common].sum()[None]]) for v in (seen, expected))
    assert chisquare(s, e * s.sum() / e.sum()).pvalue > 1e-4


def test_a_picture_reads_left_above_and_corners():
    """Pixel (1, 1): left, above, above-left, above-right; outside where there is none."""
    neighbours = torch.stack(NGram(PICTURES, order=5)._neighbours(), 1)
    assert neighbours[4].tolist() == [3, 1, 0, 2]
    assert neighbours[3].tolist() == [9, 0, 9, 1]
    assert neighbours[0].tolist() == [9, 9, 9, 9]


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_symbol_depends_on_a_later_one(domain):
    model = fitted(domain)
    x = everything(domain)[:1]
    s = model.read(x)
    for t in range(domain.dims):
        changed = s.clone()
        changed[:, t] = (s[:, t] + 1) % 2
        other = model.conditionals(model.sequence.write(changed))
        assert torch.equal(other[:, :t], model.conditionals(x)[:, :t])


def test_a_longer_context_learns_what_a_shorter_cannot():
    """Every second symbol repeats the one before."""
    short, long = (fitted(TOKENS, order=order, n=400) for order in (1, 2))
    x = torch.tensor([[0, 0, 2, 2, 2]])
    assert float(long.log_prob(x) - short.log_prob(x)) > 1


def test_tables_are_restored():
    model, empty = fitted(PICTURES, TWO), NGram(PICTURES, condition=TWO)
    empty.load_state_dict(model.state_dict())
    x = everything(PICTURES)
    assert torch.equal(empty.log_prob(x), model.log_prob(x))
    a, b = (m.sample(9, generator=stream(0, "eval")) for m in (empty, model))
    assert torch.equal(a, b)


def test_counts_a_part_of_too_many(monkeypatch):
    monkeypatch.setattr("pofx.models.baselines.ngram.MOST_SYMBOLS", 50)
    assert int(fitted(TOKENS).levels[0].before[-1]) == 50


@pytest.mark.parametrize(
    ("domain", "settings", "words"),
    [
        (Vectors(2), {}, "n-gram takes tokens or images"),
        (Images(1, 2, 2, levels=None), {}, "integer levels"),
        (TOKENS, {"order": 0}, "order of 1"),
        (PICTURES, {"order": 99}, "order of 1"),
        (TOKENS, {"backoff": 0.0}, "backoff above 0"),
        (TOKENS, {"condition": VectorCondition((2,))}, "counts per class"),
    ],
)
def test_refuses_what_it_cannot_be(domain, settings, words):
    with pytest.raises(Unusable, match=words):
        NGram(domain, **settings)
