"""The verdict against its rules, and the page's pictures against other libraries."""

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from pofx.conditions import Classes
from pofx.data.dataset import Data, Rows
from pofx.domains import Images, Tokens, Vectors
from pofx.evaluate.score import Score
from pofx.randomness import stream
from pofx.report.figures import Series, curves, nearest, plane, scatter, tiles
from pofx.report.page import Subject, layout, render
from pofx.report.rows import Row, pooled
from pofx.report.table import headline
from pofx.report.uses import good_for
from pofx.report.verdict import memorises, relation, verdict

DIGITS = Images(1, 8, 8, levels=17)
BIT = 64 * math.log(2)


def bits(value, kind="exact", *, stderr=0.02, n=2000, bias=None, given=""):
    """A likelihood of so many bits/dim on 8x8 pictures."""
    return Score("log p(x)", -value * BIT, kind, "nats", n, stderr * BIT, bias and bias * BIT, given)


def distance(value, *, stderr=0.1, n=2000, floor=0.5):
    return Score("frechet", value, "statistic", "", n, stderr, better="lower", floor=floor)


def ratio(value):
    return Score("memorisation", value, "statistic", "", 1000, better="near reference", floor=1.0)


def coverage(value):
    return Score("coverage", value, "statistic", "", 1000, 0.01, floor=0.95)


def row(name, *scores, family="autoregressive", **more):
    return Row(name, family, by_seed=(tuple(scores),), **more)


def said(*rows, domain=DIGITS):
    return " ".join(verdict(rows, domain))


def test_a_winner_needs_twice_the_combined_standard_error():
    near, far = bits(1.64, stderr=0.02), bits(1.64 + 1.9 * math.hypot(0.02, 0.03), stderr=0.03)
    assert relation((row("a", near), near), (row("b", far), far)) == "close"
    farther = bits(1.64 + 2.1 * math.hypot(0.02, 0.03), stderr=0.03)
    assert relation((row("a", near), near), (row("b", farther), farther)) == "better"
    assert "a and b are too close to tell" in said(row("a", near), row("b", far))
    assert "By likelihood, a is best" in said(row("a", near), row("b", farther))


def test_the_spread_of_the_seeds_counts_too():
    steady = Row("steady", by_seed=tuple((bits(v, stderr=0.001),) for v in (1.60, 1.61, 1.62)))
    wild = Row("wild", by_seed=tuple((bits(v, stderr=0.001),) for v in (1.30, 1.90, 1.75)))
    assert relation((steady, steady.scores[0]), (wild, wild.scores[0])) == "close"


def test_pooling_over_seeds_meets_numpy():
    values, errors = np.array([1.6, 1.7, 1.75, 1.9]), np.array([0.02, 0.03, 0.02, 0.01])
    score = pooled([bits(v, stderr=e, n=n) for v, e, n in zip(values, errors, (9, 8, 7, 6))])
    assert score.value == pytest.approx(-values.mean() * BIT)
    assert score.stderr == pytest.approx(BIT * np.hypot(errors.mean(), values.std(ddof=1) / 2))
    assert score.n == 6


def test_a_bound_above_an_exact_value_proves_and_below_it_does_not():
    bound, exact = row("vae", bits(1.5, "lower bound")), row("gpt", bits(1.7))
    assert "vae's bound alone proves it better than gpt" in said(bound, exact)
    loose = said(row("vae", bits(1.9, "lower bound")), exact)
    assert "By likelihood, gpt is ahead, which is not proven against vae" in loose
    assert "a bound may be loose, so the two are not ranked" in loose
    near = said(row("vae", bits(1.69, "lower bound")), exact)
    assert "gpt is 0.010 bits/dim behind, but the gap is within the noise" in near
    assert "proves" not in said(row("flow", bits(1.5, "estimate of a lower bound")), exact)


def test_no_ranking_when_the_bias_exceeds_the_noise():
    text = said(row("gpt", bits(1.7, "estimate")), row("flow", bits(1.9, "estimate", bias=0.05)))
    assert "a numerical bias of 0.050 exceeds the noise" in text
    assert "is better" not in text


def test_given_a_class_is_another_question():
    text = said(row("a", bits(1.6, given="classes")), row("b", bits(1.9)))
    assert "Held-out log p(x): b" in text
    assert "Held-out log p(x | classes): a" in text
    assert "behind" not in text
    assert "better" not in text


def test_a_model_worse_than_a_baseline_is_said_to_be_so():
    bar = row("gaussian", bits(1.8), family="baselines")
    text = said(row("gpt", bits(2.2)), row("vae", bits(1.9, "lower bound")), row("big", bits(1.5)), bar)
    assert "gaussian (1.800 +- 0.020 bits/dim): gpt is worse; vae does not reach it, as a bound may be loose" in text
    assert "big is better" in text
    assert "gaussian is best" not in text


def test_a_memoriser_is_named_and_left_out_of_the_ranking():
    copy = row("copy", ratio(0.0), coverage(0.94), distance(0.4), family="baselines")
    thief = row("thief", ratio(0.1), coverage(0.94), distance(0.4))
    fair = row("fair", ratio(0.97), coverage(0.8), distance(3.0))
    rows = (thief, fair, copy)
    assert [memorises(r, rows) for r in rows] == [True, False, True]
    text = said(*rows)
    assert "thief memorises: its samples lie at 0.10" in text
    assert "with the coverage of a copy of the training set" in text
    assert "Fréchet distance: fair has 3" in text
    _, body = headline(rows, DIGITS)
    assert not any(cell.leads for cell in body[0])
    assert "repeat training data" in good_for(thief, rows, DIGITS)
    few = row("few", ratio(0.4), coverage(0.3))
    assert not memorises(few, (few, copy))
    assert memorises(replace(few, by_seed=((ratio(0.1), coverage(0.3)),)), (copy,))
    assert memorises(replace(few, by_seed=((ratio(0.4), coverage(0.93)),)), (copy,))


def test_samples_are_compared_at_like_n_and_beside_their_floor():
    a, b = distance(0.6), replace(distance(2.0), n=300)
    text = said(row("a", a), row("b", b))
    assert "not ranked against b, whose n differs" in text
    assert "at n = 2000 these samples cannot be told from data" in text
    assert "ahead of b beyond the noise" in said(row("a", a), row("b", replace(b, n=1900)))


def test_too_few_are_said_to_be_few():
    assert "n = 180 (a) is few: gaps in log p under about 0.057 bits/dim" in said(row("a", bits(1.6, n=180)))
    assert "n = 8" in said(row("a", bits(1.6), distance(2.0)), row("b", bits(1.6), replace(distance(1.0), n=8)))


def test_what_a_model_is_good_for_comes_from_its_figures_and_abilities():
    gpt = row("gpt", bits(1.6), able=frozenset({"Scores", "Completes"}))
    gan = row("gan", distance(1.0), able=frozenset({"Samples"}))
    png = row("png", bits(4.8, "lower bound"), family="codecs")
    rows = (gpt, gan, png)
    assert "3 times smaller than png" in good_for(gpt, rows, DIGITS)
    assert "completes what is partly known" in good_for(gpt, rows, DIGITS)
    assert "no likelihood: it can neither score nor compress" in good_for(gan, rows, DIGITS)
    failed = Row("vae", status="failed", reason="out of memory")
    assert good_for(failed, rows, DIGITS) == "Not known: out of memory."


def test_training_scores_are_no_evidence():
    score = replace(bits(0.1), split="train", better="reference")
    assert "0.1" not in said(row("a", score, bits(1.6)), row("b", bits(1.9)))


def pictures(n, seed=0):
    return torch.randint(17, (n, 1, 8, 8), generator=stream(seed, "test")).to(torch.uint8)


def decoded(address):
    assert address.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def test_tiles_hold_every_picture_where_it_belongs():
    x = pictures(7)
    sheet = decoded(tiles(x, DIGITS, columns=3))
    assert sheet.shape == (3 * 9 - 1, 3 * 9 - 1, 4)
    for i in range(7):
        tile = sheet[9 * (i // 3) :, 9 * (i % 3) :][:8, :8]
        grey = (x[i, 0].numpy() + 0.5) * 255 / 17
        assert np.abs(tile[..., 0] - grey).max() <= 0.5 + 1e-4
        assert (tile[..., 3] == 255).all()
    assert (sheet[8, :, 3] == 0).all()
    assert (sheet[18:, 9:, 3] == 0).all()


def test_nearest_meets_scikit_learn():
    train, x = pictures(300), pictures(20, seed=1)
    index = NearestNeighbors(n_neighbors=1).fit(train.flatten(1)).kneighbors(x.flatten(1), return_distance=False)
    assert nearest(x, train, DIGITS).equal(train[torch.from_numpy(index[:, 0])])


def test_vectors_are_shown_in_a_plane():
    x = torch.randn(400, 5, generator=stream(0, "test")) * torch.tensor([1.0, 2, 3, 4, 5])
    x[:, 1] = x[:, 0] * 2
    y = plane(x)(x)
    standard = (x.double() - x.double().mean(0)) / x.double().std(0)
    assert y.var(0).sum() == pytest.approx(float(torch.linalg.eigvalsh(torch.cov(standard.T))[-2:].sum()))
    flat = scatter(x[:, :2].double(), x[:, :2].double())
    outside = int(re.search(r"(\d+) outside", flat)[1]) if "outside" in flat else 0
    assert flat.count("h0") == 400 - outside


def test_curves_stay_inside_their_frame():
    points = tuple((float(i), math.exp(-i / 5) * 1000 + 2) for i in range(300))
    plot = curves([Series("loss", points), Series("<b>", points)], x_name="seconds", y_name="nats")
    path = re.search(r'class="line c1" d="M([^"]*)"', plot)[1]
    places = np.array([p.split() for p in path.split("L")], dtype=float)
    assert places.min() >= 0
    assert places[:, 1].max() <= 220
    assert "&lt;b&gt;" in plot
    assert "<b>" not in plot


class Links(HTMLParser):
    """Everything that a browser would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [v for k, v in attributes if k in ("src", "href", "srcset", "data", "poster") and v]
        self.found += [tag] if tag in ("script", "link", "iframe", "object") else []


def page(data, *rows):
    return render(rows, Subject(data, "25s", 1, "pofx compare digits"))


def test_the_page_holds_everything_and_loads_nothing():
    classes = Classes(("<i>zero</i>", "one"), (0.5, 0.5))
    c = torch.arange(60) % 2
    data = Data("<script>alert(1)</script>", DIGITS, *(Rows(pictures(60, s), c) for s in range(3)), classes, ("a < b",))
    history = [{"step": i, "seconds": i / 10, "model/loss": 9.0 / i, "validation": -100.0 / i} for i in range(1, 30)]
    given = layout(classes)[1]
    model = row(
        "gpt", bits(1.6), able=frozenset({"Scores"}), history=history, samples=pictures(len(given)), given=given
    )
    text = page(data, model, Row("vae", "autoencoders", status="failed", reason="out of <memory>"))
    links = Links()
    links.feed(text)
    assert links.found
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    assert not re.findall(r"@import|url\(", text)
    assert "<script>" not in text
    assert "<memory>" not in text
    assert text.count("<figure") >= 5
    assert "Validation" in text


def test_alarms_stand_on_the_card_of_the_model_that_rang_them():
    alarm = {"kind": "alarm", "rule": "overfitting", "step": 120, "line": "fell from <1> to 2", "advice": "more data"}
    events = [{"kind": "rollback", "step": 3}, alarm]
    x = pictures(20)
    text = page(Data("d", DIGITS, *(Rows(x),) * 3), row("ill", bits(1.6), events=events), row("well", bits(1.7)))
    assert text.count("<b>overfitting</b> at step 120: fell from &lt;1&gt; to 2; more data") == 1
    assert text.count('<ul class="problems alarms">') == 1
    ill, well = text.index("</i>ill</h3>"), text.index("</i>well</h3>")
    assert ill < text.index("overfitting</b>") < well


def test_the_page_of_texts_and_of_vectors():
    domain = Tokens(3, 5, encoding="characters", symbols=("a", "b", "<"))
    x = torch.tensor([[0, 1, 2, 0, 1]]).repeat(20, 1)
    text = page(Data("t", domain, Rows(x), Rows(x), Rows(x)), row("gpt", samples=x[:3]))
    assert text.count("<pre>ab&lt;ab</pre>") == 6
    v = torch.randn(50, 2, generator=stream(0, "test"))
    drawn = page(Data("v", Vectors(2), Rows(v), Rows(v), Rows(v)), row("vae", samples=v))
    assert drawn.count('class="plot scatter"') == 2
    classes = Classes(("a", "b"), (0.5, 0.5))
    labelled = [Rows(v, torch.arange(50) % 2) for _ in range(3)]
    drawn = page(Data("v", Vectors(2), *labelled, classes), row("vae", samples=v))
    assert drawn.count("50 points") == 2
