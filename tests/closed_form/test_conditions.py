"""Conditions: rows, nulls, marginals and embeddings."""

import json
import math

import pytest
import torch

from pofx.conditions import (
    Classes,
    ImageCondition,
    TextCondition,
    VectorCondition,
    condition_from_config,
    condition_to_config,
    drop,
    expand,
    marginal,
    rows_for,
)
from pofx.nn.mlp import ConditionEmbedding
from pofx.randomness import seeded_init, stream

CLASSES = Classes(("cat", "dog"), (0.25, 0.75))
VECTOR = VectorCondition((2,), ((100.0, 0.0), (300.0, 2.0), (200.0, 1.0)), ("height", "age"))
TEXT = TextCondition((6,), ((1, 2, 0, 0, 0, 0), (2, 2, 1, 0, 0, 0)), ("a", "b"))
IMAGE = ImageCondition((1, 2, 2), ((((0.0, 1.0), (0.5, -1.0)),),))
ALL = [CLASSES, VECTOR, TEXT, IMAGE]


@pytest.mark.parametrize("condition", ALL, ids=lambda c: c.kind)
def test_rows_nulls_and_json(condition):
    g = stream(0, "x")
    rows = condition.check(condition.sample(50, generator=g))
    assert not condition.is_null(rows).any()
    assert condition.is_null(condition.null(4)).all()
    dropped = drop(condition, rows.expand(50, *rows.shape[1:]), 0.5, generator=g)
    assert 10 < condition.is_null(dropped).sum() < 40
    assert condition_from_config(json.loads(json.dumps(condition_to_config(condition)))) == condition
    with seeded_init(0):
        embed = ConditionEmbedding(condition, 5)
    out = embed(torch.cat([rows[:3], condition.null(2)]))
    assert out.shape == (5, 5)
    assert out.isfinite().all()
    assert torch.allclose(out[3], out[4])
    assert not torch.allclose(out[0], out[3])


def test_classes_are_drawn_by_frequency():
    share = (CLASSES.sample(20_000, generator=stream(1, "x")) == 1).double().mean().item()
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 20_000))


def test_the_marginal_is_the_weighted_sum():
    tables = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).log()
    x = torch.tensor([0, 1, 1])
    found = marginal(CLASSES, x, lambda c: tables[c, x])
    expected = torch.tensor([0.25 * 0.5 + 0.75 * 0.1, 0.25 * 0.5 + 0.75 * 0.9, 0.25 * 0.5 + 0.75 * 0.9]).log()
    assert torch.allclose(found, expected)
    with pytest.raises(ValueError, match="only classes can be summed over"):
        marginal(VECTOR, x, lambda c: tables[0])


def test_vectors_are_embedded_in_standard_units():
    with seeded_init(0):
        embed = ConditionEmbedding(VECTOR, 5)
    with seeded_init(0):
        raw = ConditionEmbedding(VectorCondition((2,)), 5)
    assert torch.allclose(embed(torch.tensor([[300.0, 2.0]])), raw(torch.tensor([[1.0, 1.0]])), atol=1e-5)


def test_parsing():
    assert CLASSES.parse("dog").tolist() == [1]
    assert CLASSES.parse("0").tolist() == [0]
    assert TEXT.text(TEXT.parse("abba")[0]) == "abba"
    assert VECTOR.parse("1,2.5").tolist() == [[1.0, 2.5]]
    for bad, line in (
        (lambda: CLASSES.parse("dgo"), "did you mean 'dog'"),
        (lambda: TEXT.parse("xyz"), "never seen"),
        (lambda: TEXT.parse("aaaaaaa"), "at most 6"),
        (lambda: VECTOR.parse("one"), "separated by commas"),
    ):
        with pytest.raises(ValueError, match=line):
            bad()


def test_one_row_serves_all_and_none_is_refused_politely():
    assert rows_for(CLASSES, torch.tensor([1]), 3, generator=stream(0, "x")).tolist() == [1, 1, 1]
    assert rows_for(None, None, 3, generator=stream(0, "x")) is None
    with pytest.raises(ValueError, match="trained without a condition"):
        expand(None, torch.tensor([1]), 2)
    with pytest.raises(ValueError, match="one row for all or one per observation"):
        expand(CLASSES, torch.tensor([1, 0]), 3)
    with pytest.raises(ValueError, match="classes lie in 0 to 1"):
        expand(CLASSES, torch.tensor([7]), 1)
