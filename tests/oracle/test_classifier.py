"""The judge, against scikit-learn, the Bayes rule, and what its cache promises."""

import dataclasses
import math

import pytest
import torch

from pofx.conditions import Classes
from pofx.data.dataset import Data, Rows
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.evaluate import classifier
from pofx.evaluate.classifier import cached_judge, judge_accuracy, train_classifier
from pofx.randomness import stream

TWO = Classes(("a", "b"), (0.5, 0.5))


def digits():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, c = torch.from_numpy(bunch.images).to(torch.uint8)[:, None], torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(x), generator=stream(0, "test"))
    return Rows(x[order[:1400]], c[order[:1400]]), Rows(x[order[1400:]], c[order[1400:]])


def normals(n, seed=0):
    """Two normals, 2 apart: the Bayes rule is right with probability Phi(1)."""
    g = stream(seed, "test")
    c = torch.randint(2, (n,), generator=g)
    return Rows(100 + 5 * (torch.randn(n, 2, generator=g) + torch.stack([2.0 * c, 0.0 * c], 1)), c)


def data():
    return Data("normals", Vectors(2), normals(400), normals(100, 1), normals(300, 2), TWO)


def test_on_digits_it_is_no_worse_than_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    train, test = digits()
    judge = train_classifier(train, Images(1, 8, 8, 17), Classes(tuple("0123456789"), (0.1,) * 10), seed=0, steps=60)
    other = LogisticRegression(max_iter=200).fit(train.x.flatten(1).numpy() / 16, train.c.numpy())
    accuracy = judge_accuracy(judge, test)
    assert accuracy >= 0.97
    assert accuracy >= other.score(test.x.flatten(1).numpy() / 16, test.c.numpy())


def test_on_normals_it_meets_the_bayes_rule():
    judge = train_classifier(normals(4000), Vectors(2), TWO, seed=0, steps=150)
    bayes = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert judge_accuracy(judge, normals(10_000, seed=1)) == pytest.approx(bayes, abs=0.015)


def test_texts_are_told_apart_by_the_order_of_their_symbols_and_not_by_what_follows_the_end():
    """Both classes use each symbol equally often: 0 1 2 0 1 2 ... against 0 2 1 0 2 1 ..."""
    g = stream(0, "test")
    c = torch.randint(2, (600,), generator=g)
    start = torch.randint(3, (600, 1), generator=g)
    x = (start + torch.arange(12) * torch.where(c == 1, 2, 1)[:, None]) % 3
    x[:, 9:] = 3
    judge = train_classifier(Rows(x[:500], c[:500]), Tokens(4, 12, end=3), TWO, seed=0, steps=60)
    assert judge_accuracy(judge, Rows(x[500:], c[500:])) == 1.0
    junk = x[500:].clone()
    junk[:, 10:] = torch.randint(3, (100, 2), generator=g)
    torch.testing.assert_close(judge.network(junk), judge.network(x[500:]))


@pytest.mark.parametrize("domain", [Images(3, 20, 12, 256), Images(1, 1, 1, 2), Images(1, 16, 16, 65536)])
def test_pictures_of_any_size(domain):
    g = stream(0, "test")
    c = torch.arange(64) % 2
    x = (
        (torch.rand(64, *domain.shape, generator=g) + c.view(-1, 1, 1, 1))
        .mul(domain.levels / 2)
        .long()
        .to(domain.dtype)
    )
    judge = train_classifier(Rows(x, c), domain, TWO, seed=0, steps=30)
    assert judge_accuracy(judge, Rows(x, c)) >= 0.95


def test_equal_seeds_give_equal_judges_and_leave_the_global_state_alone():
    before = torch.random.get_rng_state()
    first, second, other = (train_classifier(normals(200), Vectors(2), TWO, seed=s, steps=5) for s in (0, 0, 1))
    x = normals(50).x
    assert first.network(x).equal(second.network(x))
    assert not first.network(x).equal(other.network(x))
    assert torch.random.get_rng_state().equal(before)


def test_the_cache_keeps_a_judge_and_its_accuracy(tmp_path, monkeypatch):
    monkeypatch.setenv("POFX_CACHE", str(tmp_path))
    made = cached_judge(data(), seed=0, seconds=0.1)
    assert made.accuracy == judge_accuracy(made, data().test)
    monkeypatch.setattr(classifier, "train_classifier", None)  # from here on it can only be read
    kept = cached_judge(data(), seed=0, seconds=0.1)
    assert (kept.accuracy, kept.steps) == (made.accuracy, made.steps)
    assert kept.network(data().test.x).equal(made.network(data().test.x))


@pytest.mark.parametrize("spoil", ["broken", "too short", "other data"])
def test_a_kept_judge_that_does_not_serve_is_trained_again(tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("POFX_CACHE", str(tmp_path))
    cached_judge(data(), seed=0, seconds=0.02)
    (file,) = (tmp_path / "judges").iterdir()
    before = file.stat().st_mtime_ns
    if spoil == "broken":
        file.write_bytes(b"not a safetensors file")
        assert cached_judge(data(), seed=0, seconds=0.02).accuracy > 0.6
    elif spoil == "too short":
        cached_judge(data(), seed=0, seconds=0.05)
        assert file.stat().st_mtime_ns > before
    else:
        cached_judge(dataclasses.replace(data(), train=normals(300, 5)), seed=0, seconds=0.02)
        assert len(list((tmp_path / "judges").iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "file"))
    assert cached_judge(data(), seed=0, seconds=0.1).accuracy > 0.6


def test_what_cannot_be_judged_is_refused_in_one_line():
    with pytest.raises(Unusable, match="no classes to judge by"):
        cached_judge(dataclasses.replace(data(), condition=None), seed=0, seconds=1)
    with pytest.raises(Unusable, match="a class for each observation"):
        train_classifier(Rows(torch.zeros(4, 2)), Vectors(2), TWO, seed=0, steps=1)
    with pytest.raises(Unusable, match="seconds or steps above 0"):
        train_classifier(normals(10), Vectors(2), TWO, seed=0)
    with pytest.raises(Unusable, match="observations with classes"):
        judge_accuracy(train_classifier(normals(20), Vectors(2), TWO, seed=0, steps=1), Rows(torch.zeros(4, 2)))
