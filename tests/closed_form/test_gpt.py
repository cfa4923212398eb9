"""GPT against enumeration: every observation of a tiny domain, so that all probabilities are known."""

import itertools
import math
import subprocess
import sys

import pytest
import torch

from pofx.conditions import Classes, TextCondition, VectorCondition
from pofx.distributions.conditional import draw, sharpen
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoregressive.gpt import GPT
from pofx.nn.attention import rms_norm
from pofx.randomness import seeded_init, stream

TOKENS = Tokens(3, 4)
RECORDS = Tokens(3, 4, end=1)
PICTURES = Images(1, 2, 3, levels=2)
COLOURS = Images(2, 1, 2, levels=3)
DOMAINS = [TOKENS, RECORDS, PICTURES, COLOURS]
TWO = Classes(("a", "b"), (0.3, 0.7))


def gpt(domain, condition=None, *, train: bool = True, **size) -> GPT:
    """A tiny one, its weights away from zero and from what any symmetry would give."""
    with seeded_init(0):
        model = GPT(domain, condition=condition, **{"width": 8, "layers": 2, "heads": 2, "grams": 1, **size})
    if train:
        g = stream(1, "init")
        for p in model.parameters():
            p.data.add_(torch.randn(p.shape, generator=g), alpha=0.5)
    return model.double()


def everything(domain) -> torch.Tensor:
    """Every observation of the domain, the impossible ones included."""
    values = range(domain.vocabulary if isinstance(domain, Tokens) else domain.levels)
    rows = torch.tensor(list(itertools.product(values, repeat=domain.dims)))
    return rows.view(-1, *domain.shape).to(domain.dtype)


def chi_square(x: torch.Tensor, support: torch.Tensor, log_p: torch.Tensor) -> tuple[float, int]:
    """Of the draws x against the probabilities of the support, cells of fewer than 5 put together."""
    keys = {tuple(row.flatten().tolist()): i for i, row in enumerate(support)}
    seen = torch.bincount(torch.tensor([keys[tuple(row.flatten().tolist())] for row in x]), minlength=len(support))
    expected = log_p.detach().exp().double() * len(x)
    assert int(seen[expected == 0].sum()) == 0
    common = expected >= 5
    rare = seen[~common].sum()[None], expected[~common].sum()[None] + 1e-9
    s, e = torch.cat([seen[common], rare[0]]), torch.cat([expected[common], rare[1]])
    s, e = (s, e) if e[-1].item() >= 5 else (s[:-1], e[:-1])
    return ((s - e) ** 2 / e).sum().item(), len(e) - 1


def assert_fits(x, support, log_p) -> None:
    from scipy.stats import chi2

    value, freedom = chi_square(x, support, log_p)
    assert chi2.sf(value, freedom) > 1e-4, (value, freedom)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("train", [False, True])
def test_sums_to_one(domain, train):
    x, model = everything(domain), gpt(domain, train=train)
    assert float(model.log_prob(x).detach().logsumexp(0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("domain", DOMAINS)
def test_sums_to_one_given_each_class_none_and_as_marginal(domain):
    x, model = everything(domain), gpt(domain, TWO)
    given = [model.log_prob(x, torch.tensor([k])) for k in range(3)]
    for log_p in (*given, model.log_prob(x)):
        assert float(log_p.detach().logsumexp(0)) == pytest.approx(0, abs=1e-6)
    mixture = 0.3 * given[0].exp() + 0.7 * given[1].exp()
    torch.testing.assert_close(model.log_prob(x).exp(), mixture, atol=1e-6, rtol=1e-6)
    assert float((given[0] - given[1]).detach().nan_to_num().abs().max()) > 0.1


ARCHITECTURES = [
    {"position": "learned"},
    {"norm": "layer"},
    {"qk_norm": False},
    {"activation": "gelu"},
    {"activation": "gelu-tanh"},
    {"activation": "swiglu"},
    {"bias": True, "norm": "layer"},
    {"tie": True},
    {"zero_init": False},
    {"soft_cap": 1.5},
    {"grams": 3, "gram_rows": 7},
    {"position": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu-tanh", "bias": True, "tie": True},
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("domain", [RECORDS, COLOURS])
def test_architectures_sum_to_one_and_change_the_law(domain, architecture):
    x, model = everything(domain), gpt(domain, TWO, **architecture)
    for c in (torch.tensor([0]), None):
        assert float(model.log_prob(x, c).detach().logsumexp(0)) == pytest.approx(0, abs=1e-6)
    plain = gpt(domain, TWO)
    own = plain.state_dict()
    plain.load_state_dict(own | {k: v for k, v in model.state_dict().items() if k in own and v.shape == own[k].shape})
    changed = float((plain.log_prob(x) - model.log_prob(x)).detach().nan_to_num().abs().max()) > 1e-3
    assert changed == ("zero_init" not in architecture), "all but first weights are in the law itself"


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("domain", [TOKENS, COLOURS])
def test_architectures_read_no_later_symbol(domain, architecture):
    """By the gradient of each position's logits with respect to what each position reads."""
    model = gpt(domain, **architecture)
    h = torch.randn(1, 4, 8, generator=stream(0, "data")).double().requires_grad_()
    model._inputs = lambda *_: h
    logits = model._outputs(torch.zeros(1, 4).long(), None, 4)
    for t in range(4):
        (g,) = torch.autograd.grad(logits[0, t].square().sum(), h, retain_graph=True)
        assert (g[0].abs().sum(1) > 0).tolist() == [i <= t for i in range(4)]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("domain", [Tokens(4, 12, end=0), Images(3, 2, 3, levels=6)])
def test_architectures_sample_the_same_with_a_cache(domain, architecture):
    model = gpt(domain, TWO, **architecture)
    a, b = (model.sample(8, generator=stream(0, "eval"), cached=cached) for cached in (True, False))
    assert torch.equal(a, b)


def test_starts_uniform_where_the_last_layer_starts_at_zero():
    x = everything(TOKENS)
    uniform = torch.full((len(x),), -4 * math.log(3)).double()
    torch.testing.assert_close(gpt(TOKENS, train=False).log_prob(x), uniform)
    for other in ({"zero_init": False}, {"tie": True}):
        assert not torch.allclose(gpt(TOKENS, train=False, **other).log_prob(x), uniform)


def test_soft_cap_bounds_the_logits():
    """cap tanh(logits / cap)."""
    s = torch.tensor([[0, 1, 2, 0]])
    logits = gpt(TOKENS)._outputs(s, None, 4)
    torch.testing.assert_close(gpt(TOKENS, soft_cap=0.7)._outputs(s, None, 4), 0.7 * torch.tanh(logits / 0.7))


@pytest.mark.parametrize("position", ["rotary", "learned"])
@pytest.mark.parametrize("domain", [Tokens(3, 5), Images(1, 5, 1, levels=3)])
def test_the_place_is_read(domain, position):
    """The first two symbols read are equal, the place alone tells their predictions apart."""
    model = gpt(domain, position=position, layers=1, width=32)
    with torch.no_grad():
        model.start.copy_(model.values.weight[0])
    logits = model._outputs(torch.zeros(1, 5).long(), None, 2)[0].detach()
    assert torch.allclose(*logits) == (position == "rotary" and isinstance(domain, Tokens))


def test_grams_are_looked_up_by_the_symbols_before():
    """Row sum_i s_{t-i} PRIME^(i-1) mod rows; a symbol more, V, stands before the beginning."""
    model = gpt(TOKENS, grams=3, gram_rows=11)
    s, rows = torch.tensor([[2, 0, 1, 1]]), [3, 3, 3, 2, 0, 1]
    read = model.grams(s, 0, 4)[0]
    for t in range(4):
        pair, triple = (sum(rows[t + 3 - i] * 1_000_003 ** (i - 1) for i in range(1, n + 1)) % 11 for n in (2, 3))
        expected = torch.cat([model.grams.tables[0].weight[pair], model.grams.tables[1].weight[triple]])
        torch.testing.assert_close(read[t], expected)
    torch.testing.assert_close(model.grams(s, 2, 4)[0], read[2:])
    assert not gpt(TOKENS, train=False, grams=3, zero_init=False).grams(s, 0, 4).any(), "nothing at first"


@pytest.mark.parametrize(
    ("domain", "size", "tables"),
    [
        (Tokens(65, 8), {}, 4),
        (Tokens(65, 8), {"width": 6, "heads": 1}, 2),
        (Tokens(65, 8), {"width": 5, "heads": 1, "position": "learned"}, 1),
        (Tokens(65, 8), {"grams": 1}, 0),
        (Tokens(5000, 8), {}, 0),
        (PICTURES, {}, 0),
        (Vectors(2), {}, 0),
    ],
)
def test_characters_are_read_with_grams_by_default(domain, size, tables):
    model = GPT(domain, **size)
    assert (0 if model.grams is None else len(model.grams.tables)) == tables


def test_tied_vectors_are_one_parameter():
    tied, free = gpt(TOKENS, tie=True), gpt(TOKENS)
    assert {*free.state_dict()} - {*tied.state_dict()} == {"head.weight"}
    h = torch.randn(1, 4, 8, generator=stream(0, "data")).double()
    tied.trunk.forward = lambda *_, **__: h
    expected = torch.nn.functional.rms_norm(h, (8,)) @ tied.values.weight.T
    torch.testing.assert_close(tied._outputs(torch.zeros(1, 4).long(), None, 4), expected)


def test_learns_a_known_distribution():
    """Two symbols that always agree: p(00) = 1/4, p(11) = 3/4."""
    model = gpt(Tokens(2, 2), train=False).float()
    x = torch.tensor([[0, 0], [1, 1], [1, 1], [1, 1]])
    optimiser = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(80):
        optimiser.zero_grad()
        model.loss(x, generator=stream(0, "noise")).total.backward()
        optimiser.step()
    torch.testing.assert_close(model.log_prob(x[:2]).exp(), torch.tensor([0.25, 0.75]), atol=0.02, rtol=0)
    assert float(model.log_prob(everything(Tokens(2, 2))).detach().logsumexp(0)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
def test_loss_is_nats_per_symbol(domain):
    x, model = everything(domain), gpt(domain)
    x = x[model.log_prob(x).isfinite()]
    counted = len(x) * domain.dims
    if domain == RECORDS:
        counted = sum(([*row, 1].index(1) + 1 if 1 in row[:-1] else 4) for row in x.tolist())
    loss = model.loss(x, generator=stream(0, "noise"))
    assert float(loss.total.detach()) == pytest.approx(-float(model.log_prob(x).detach().sum()) / counted)
    assert float(loss.parts["nll"].detach()) == pytest.approx(-float(model.log_prob(x).detach().mean()))


def test_after_the_end_only_padding_has_probability():
    log_p = gpt(RECORDS).log_prob(torch.tensor([[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 2]]))
    assert log_p.isfinite().tolist() == [True, False, False]


@pytest.mark.parametrize("domain", [TOKENS, PICTURES, COLOURS])
def test_no_symbol_depends_on_a_later_one(domain):
    """The order of a picture: row, column, channel."""
    model, x = gpt(domain), everything(domain)[:1]
    s = model.sequence.read(x).long()
    before = model._log_p(s, None)
    for t in range(domain.dims):
        changed = s.clone()
        changed[:, t] = (s[:, t] + 1) % 2
        after = model._log_p(changed, None)
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).all()


def test_reading_order_is_row_column_channel():
    model = gpt(Images(2, 2, 2, levels=8))
    x = torch.tensor([[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]], dtype=torch.uint8)
    assert model.sequence.read(x)[0].tolist() == list(range(8))
    assert torch.equal(model.sequence.write(torch.arange(8)[None]), x)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("condition", [None, TWO])
def test_samples_meet_the_density(domain, condition):
    model, x = gpt(domain, condition), everything(domain)
    draws = model.sample(3000, generator=stream(0, "eval"))
    domain.check(draws)
    assert_fits(draws, x, model.log_prob(x))


def test_samples_meet_the_density_given_a_class():
    model, x, c = gpt(PICTURES, TWO), everything(PICTURES), torch.tensor([1])
    assert_fits(model.sample(3000, c, generator=stream(0, "eval")), x, model.log_prob(x, c))


@pytest.mark.parametrize("domain", [Tokens(7, 12), Tokens(4, 12, end=0), Images(3, 2, 3, levels=6)])
@pytest.mark.parametrize("how", [{}, {"temperature": 0.5, "top_k": 3}, {"top_p": 0.7}, {"temperature": 0.0}])
def test_cached_equals_uncached(domain, how):
    model = gpt(domain, TWO)
    a, b = (model.sample(8, generator=stream(0, "eval"), cached=cached, **how) for cached in (True, False))
    assert torch.equal(a, b)
    if domain == Tokens(4, 12, end=0):
        assert model.log_prob(a).isfinite().all()


@pytest.mark.parametrize("domain", [TOKENS, COLOURS, Vectors(3)])
@torch.no_grad()
def test_cached_outputs_are_the_uncached_ones(domain):
    """In single precision, each place, for a batch and for its rows alone, from the start and after a known part."""
    model = gpt(domain, TWO).float()
    x = (torch.arange(4 * domain.dims).view(4, *domain.shape) % 2).to(domain.dtype)
    s, c = model.sequence.read(x), torch.arange(4) % 2
    slow = model.outputs(s, c)
    for rows in (slice(0, 4), slice(1, 2)):
        for first in (0, domain.dims - 1):
            step = model.stepper(len(s[rows]), c[rows], cached=True)
            for t in range(first, domain.dims):
                torch.testing.assert_close(step(s[rows], t), slow[rows, t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [3, 4, 5, 11])
def test_text_longer_than_the_context(length):
    """Cached, uncached, alone and in a batch; each symbol is the likeliest given its window, found by a plain loop."""
    model, how = gpt(Tokens(5, 4)), {"temperature": 0.0, "length": length}
    x = model.sample(2, generator=stream(0, "eval"), **how)
    text = []
    while len(text) < length:
        start = 0 if len(text) < 4 else (len(text) - 4) // 2 * 2 + 2
        window = torch.tensor([text[start:] + [0] * (4 - len(text) + start)])
        text.append(int(model.outputs(window, None)[0, len(text) - start].argmax()))
    assert x.tolist() == [text, text]
    assert model.sample(1, generator=stream(0, "eval"), cached=False, **how)[0].tolist() == text
    draws = [model.sample(6, generator=stream(3, "eval"), length=length, cached=cached) for cached in (True, False)]
    assert torch.equal(*draws)


def test_goes_on_from_a_beginning():
    model, known = gpt(Tokens(5, 4)), torch.tensor([True, True, True, False])
    x = torch.tensor([[1, 4, 2, 0], [3, 3, 0, 0]])
    seen = []
    kept = {"length": 9, "watch": lambda x, t: seen.append((x[:, :t].clone(), t))}
    out, slow = (
        model.complete(x, known, generator=stream(0, "eval"), cached=cached, **kept) for cached in (True, False)
    )
    assert torch.equal(out, slow)
    assert torch.equal(out[:, :3], x[:, :3])
    assert out.shape == (2, 9)
    assert [t for _, t in seen] == 2 * [4, 5, 6, 7, 8, 9]
    assert all(torch.equal(grown, out[:, :t]) for grown, t in seen)


@pytest.mark.parametrize(("domain", "length"), [(RECORDS, 9), (PICTURES, 9), (Vectors(2), 9), (TOKENS, 0)])
def test_refuses_lengths(domain, length):
    with pytest.raises(Unusable, match="length"):
        gpt(domain).sample(1, generator=stream(0, "eval"), length=length)


def test_new_weights_are_seen():
    model = gpt(TOKENS)
    first = model.sample(50, generator=stream(0, "eval"))
    with torch.no_grad():
        model.trunk.blocks[0].attention.v.weight.neg_()
        model.values.weight.neg_()
    now, slow = (model.sample(50, generator=stream(0, "eval"), cached=cached) for cached in (True, False))
    assert torch.equal(now, slow)
    assert not torch.equal(now, first)


def test_samples_may_be_learnt_from():
    model = gpt(TOKENS)
    model.loss(model.sample(2, generator=stream(0, "eval")), generator=stream(0, "noise")).total.backward()


def test_no_symbol_of_probability_zero_is_drawn():
    """Nor does a tiny one go missing: its share is met."""
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, -12.0, -torch.inf]]).expand(2_000_000, -1)
    counts = torch.bincount(draw(logits, generator=stream(0, "eval")), minlength=5).tolist()
    assert counts[0] == counts[2] == counts[4] == 0
    assert counts[3] == pytest.approx(2e6 * math.exp(-12), abs=4 * math.sqrt(2e6 * math.exp(-12)))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("condition", [None, TWO])
def test_completes_by_the_exact_conditional(domain, condition):
    """p(rest | known) from enumeration, the class summed out where there is one."""
    model, support = gpt(domain, condition), everything(domain)
    s = model.sequence.read(support).long()
    known = model.sequence.write((torch.arange(domain.dims) < 2).long()[None])[0].bool()
    assert model.completes(known)
    x = support[s[:, :2].eq(torch.tensor([0, 1] if domain != RECORDS else [0, 2])).all(1)][:1]
    log_p = model.log_prob(support)
    log_p[((support == x) | ~known).flatten(1).logical_not().any(1)] = -torch.inf
    draws = model.complete(x.expand(2000, *domain.shape), known, generator=stream(0, "eval"))
    assert torch.equal(draws[:, known], x[:, known].expand(2000, -1))
    assert_fits(draws, support, log_p.log_softmax(0))


def test_completes_beginnings_of_different_lengths():
    model, x = gpt(Tokens(5, 6)), torch.full((2, 6), 3)
    known = torch.tensor([[True] * 2 + [False] * 4, [True] * 5 + [False]])
    out = model.complete(x, known, generator=stream(0, "eval"))
    assert model.completes(known)
    assert (out[known] == 3).all()
    assert not model.completes(~known)
    assert not GPT(PICTURES).completes(torch.tensor([[[True, False, True], [False] * 3]]))


def test_refuses_to_complete_what_is_known_last():
    with pytest.raises(Unusable, match="known beginning"):
        gpt(TOKENS).complete(torch.zeros(1, 4).long(), torch.tensor([False] * 3 + [True]), generator=stream(0, "eval"))


def test_sharpened_distributions():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    torch.testing.assert_close(sharpen(logits, top_k=2).softmax(1), torch.tensor([[0, 4 / 7, 0, 3 / 7]]))
    torch.testing.assert_close(sharpen(logits, top_p=0.7).softmax(1), torch.tensor([[0, 4 / 7, 0, 3 / 7]]))
    torch.testing.assert_close(sharpen(logits, top_p=0.71).softmax(1), torch.tensor([[0, 4 / 9, 2 / 9, 3 / 9]]))
    squares = torch.tensor([[0.01, 0.16, 0.04, 0.09]])
    torch.testing.assert_close(sharpen(logits, temperature=0.5).softmax(1), squares / squares.sum())
    torch.testing.assert_close(sharpen(logits, top_k=4, top_p=1.0).softmax(1), logits.exp())


def test_greedy_takes_the_likeliest_symbol():
    model, s = gpt(TOKENS), torch.zeros(1, 4).long()
    for t in range(4):
        s[:, t] = model.outputs(s, None)[:, t].argmax(-1)
    draws = model.sample(5, generator=stream(0, "eval"), temperature=0.0)
    assert torch.equal(draws, s.expand(5, -1))


@pytest.mark.parametrize(
    "how",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_k": 4}, {"top_p": 0.0}, {"top_p": 1.1}],
)
def test_refuses_bad_decoding(how):
    with pytest.raises(Unusable, match=next(iter(how))):
        gpt(TOKENS).sample(2, generator=stream(0, "eval"), **how)


@pytest.mark.parametrize(
    ("domain", "size", "words"),
    [
        (TOKENS, {"mixtures": 3}, "mixtures are of numbers"),
        (PICTURES, {"mixtures": 0}, "mixtures must be at least 1"),
        (Images(1, 2, 2, levels=None), {}, "integer levels"),
        (TOKENS, {"width": 9}, "multiple of 2"),
        (TOKENS, {"layers": 0}, "at least 1"),
        (TOKENS, {"heads": 0}, "at least 1"),
        (TOKENS, {"width": 9, "position": "learned"}, "multiple of heads"),
        (TOKENS, {"soft_cap": 0.0}, "above 0"),
        (TOKENS, {"grams": 0}, "got grams 0"),
        (TOKENS, {"grams": 4, "width": 8, "heads": 2}, "multiple of grams - 1"),
        (TOKENS, {"grams": 2, "gram_rows": 0}, "gram_rows 0"),
        (Vectors(2), {"tie": True}, "tie is of symbols"),
        (PICTURES, {"tie": True, "mixtures": 2}, "tie is of symbols"),
        (Vectors(2), {"grams": 2}, "grams are of symbols"),
    ],
)
def test_refuses_what_it_cannot_be(domain, size, words):
    with pytest.raises(Unusable, match=words):
        GPT(domain, **size)


@pytest.mark.parametrize(
    "condition",
    [
        VectorCondition((2,), examples=((0.0, 1.0), (2.0, -1.0))),
        TextCondition((3,), examples=((1, 2, 0),), names=("a", "b")),
    ],
)
def test_takes_conditions_of_other_kinds(condition):
    model, x = gpt(TOKENS, condition), everything(TOKENS)
    for c in (condition.sample(1, generator=stream(0, "data")), condition.null(1)):
        assert float(model.log_prob(x, c).detach().logsumexp(0)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(Unusable, match="only classes"):
        model.log_prob(x)


def test_sampling_depends_on_the_generator_alone():
    model = gpt(PICTURES)
    state = torch.get_rng_state()
    a, b, c = (model.sample(8, generator=stream(seed, "eval")) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


def test_features_tell_observations_apart():
    """All but the last symbol, which predicts nothing, are read."""
    features = gpt(PICTURES, TWO).features(everything(PICTURES)[::2])
    assert features.shape == (32, 8)
    assert float((torch.cdist(features, features) + torch.eye(32)).min()) > 1e-4


def test_features_of_any_layer():
    model, x = gpt(TOKENS, layers=3), everything(TOKENS)
    layers = [model.features(x, layer=layer) for layer in range(4)]
    assert torch.equal(layers[2], model.features(x))
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in itertools.combinations(layers, 2))
    s = model.sequence.read(x)
    torch.testing.assert_close(layers[0], rms_norm(model._inputs(s, None, 0, 4)).mean(1).detach())
    for layer in (-1, 4):
        with pytest.raises(Unusable, match="layer lies in 0"):
            model.features(x, layer=layer)


COMPILE = """
import torch
from pofx.conditions import Classes
from pofx.domains import Images
from pofx.models.autoregressive.gpt import GPT
model = GPT(Images(2, 1, 2, levels=3), condition=Classes(("a", "b"), (0.3, 0.7)), width=8, layers=1, heads=2)
torch.nn.init.normal_(model.head.weight)
x, c, g = torch.tensor([[[[0, 1]], [[2, 0]]]], dtype=torch.uint8), torch.tensor([1]), torch.Generator()
compiled = torch.compile(model.loss, backend="eager", fullgraph=True)
torch.testing.assert_close(compiled(x, c, generator=g).total, model.loss(x, c, generator=g).total)
"""


def test_loss_compiles_as_one_graph():
    """In a process of its own: run-time type checks would break the graph."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_gaps_of_a_table_may_be_anything():
    """What is not known is not read, NaN neither, where the class is inferred too."""
    model = gpt(Vectors(2), TWO)
    x, known = torch.tensor([[0.5, float("nan")]]).double(), torch.tensor([True, False])
    filled = model.complete(x, known, generator=stream(0, "gaps"))
    other = model.complete(torch.tensor([[0.5, 7.0]]).double(), known, generator=stream(0, "gaps"))
    assert filled.isfinite().all()
    assert torch.equal(filled, other)


def test_an_untold_condition_is_the_mean_of_the_classes():
    model = gpt(TOKENS, TWO)
    rows = model.given(torch.tensor([0, 1]))
    torch.testing.assert_close(model.given.absent(), 0.3 * rows[:1] + 0.7 * rows[1:])
    with pytest.raises(Unusable, match="give the condition"):
        model.conditionals(everything(TOKENS))


def test_what_is_watched_can_be_kept_and_learnt_from():
    seen = []
    model = gpt(TOKENS)
    drawn = model.sample(2, generator=stream(0, "watch"), watch=lambda x, values: seen.append((x, values)))
    assert [values for _, values in seen] == [1, 2, 3, 4]
    assert torch.equal(seen[-1][0], drawn)
    (-model.log_prob(seen[-1][0]).sum()).backward()
    assert model.head.weight.grad is not None
