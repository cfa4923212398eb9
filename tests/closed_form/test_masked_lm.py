"""The masked language model against enumeration: of observations, of masks and of orders."""

import itertools
import math

import pytest
import torch

from pofx.conditions import Classes
from pofx.data.dataset import Data, Rows
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.evaluate.likelihood import likelihood_scores, per_observation
from pofx.evaluate.pace import Clock
from pofx.evaluate.score import Score
from pofx.models.autoregressive.masked_lm import MaskedLM
from pofx.randomness import seeded_init, stream
from pofx.testing.specimens import every_observation, lattice
from pofx.testing.verdicts import ensure_counts_fit

TOKENS, RECORDS = Tokens(3, 3), Tokens(3, 3, end=1)
COLOURS = Images(2, 1, 2, levels=2)
TWO = Classes(("a", "b"), (0.3, 0.7))


def masked(domain, condition=None, **arguments) -> MaskedLM:
    """A tiny one, its weights away from zero and from what any symmetry would give."""
    with seeded_init(0):
        model = MaskedLM(domain, condition=condition, **{"width": 8, "layers": 2, "heads": 2, **arguments})
    g = stream(1, "init")
    for p in model.parameters():
        p.data.add_(torch.randn(p.shape, generator=g), alpha=0.5)
    return model.double()


def ensure_fit(domain, draws, log_p, *, given=None, known=None) -> None:
    """Draws against log p of every observation, or of those that agree with what is known."""
    space = lattice(domain, given=given, known=known)
    ensure_counts_fit(space.counts(draws), space.probabilities(log_p), "draws are off their law")


@torch.no_grad()
def log_p_of_order(model, x, order, known=(), c=None):
    """sum_i log p(x_t(i) | x_known, x_t(1), ..., x_t(i-1)), as the model gives it one symbol at a time."""
    s, total = model.sequence.read(x).long(), 0.0
    shown = torch.zeros_like(s, dtype=torch.bool)
    shown[:, list(known)] = True
    for t in order:
        total = total + model._log_p(s, shown, c, torch.full_like(s[:, :1], t))[:, 0]
        shown[:, t] = True
    return total


def log_p_of_orders(model, x, unknown, known=(), c=None):
    """The mean over all orders."""
    terms = [log_p_of_order(model, x, order, known, c) for order in itertools.permutations(unknown)]
    return torch.stack(terms).logsumexp(0) - math.log(len(terms))


@pytest.mark.parametrize("domain", [TOKENS, RECORDS, COLOURS])
@pytest.mark.parametrize("architecture", [{}, {"position": "learned", "norm": "layer", "bias": True}])
def test_each_conditional_sums_to_one(domain, architecture):
    """Over the values of one symbol, the others fixed: whatever is known on both sides of it."""
    model, x = masked(domain, **architecture), every_observation(domain)
    s = model.sequence.read(x)
    log_p = model.conditionals(x).detach()
    for t in range(s.shape[1]):
        others = [tuple(row[:t] + row[t + 1 :]) for row in s.tolist()]
        for rest in set(others):
            rows = [i for i, other in enumerate(others) if other == rest]
            assert float(log_p[rows, t].exp().sum()) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(model.pseudo_log_prob(x), log_p.sum(1))


def test_a_symbol_is_predicted_from_both_sides_and_not_from_itself():
    model = masked(Tokens(3, 5), layers=1)
    s = torch.tensor([[0, 1, 2, 0, 1]])
    embedded = model.symbols(s).detach().requires_grad_()
    model.symbols.forward = lambda s: embedded
    for t in range(5):
        shown = torch.ones(1, 5, dtype=torch.bool)
        shown[0, t] = False
        logits = model._logits(s, shown, None, torch.tensor([[t]]))
        (g,) = torch.autograd.grad(logits.square().sum(), embedded)
        assert (g[0].abs().sum(1) > 0).tolist() == [i != t for i in range(5)]


@pytest.mark.parametrize("domain", [TOKENS, RECORDS, COLOURS])
@pytest.mark.parametrize("condition", [None, TWO])
def test_samples_are_the_mean_over_orders(domain, condition):
    model, x = masked(domain, condition), every_observation(domain)
    c = None if condition is None else torch.tensor([1])
    draws = model.sample(4000, c, generator=stream(0, "eval"))
    rows = None if c is None else c.expand(len(x))
    ensure_fit(domain, draws, log_p_of_orders(model, x, range(domain.dims), c=rows))


@pytest.mark.parametrize("domain", [TOKENS, RECORDS, COLOURS])
@pytest.mark.parametrize("known", [[1], [0, 2]])
def test_completes_any_mask_by_the_mean_over_orders(domain, known):
    model, x = masked(domain), every_observation(domain)
    s = model.sequence.read(x).long()
    mask = torch.isin(torch.arange(domain.dims), torch.tensor(known))
    whole = model.sequence.write(mask.long()[None])[0].bool()
    assert model.completes(whole)
    agrees = (s[:, known] == s[-1:, known]).all(1)
    rest = [t for t in range(domain.dims) if t not in known]
    draws = model.complete(x[-1:].expand(3000, *domain.shape), whole, generator=stream(0, "eval"))
    ensure_fit(domain, draws, log_p_of_orders(model, x[agrees], rest, known), given=x[-1], known=whole)


def test_symbols_of_one_round_are_independent():
    model, x = masked(TOKENS), every_observation(TOKENS)
    with torch.no_grad():
        shown = torch.zeros(27, 3, dtype=torch.bool)
        log_p = model._log_p(x, shown, None, torch.arange(3).expand(27, 3)).sum(1)
    ensure_fit(TOKENS, model.sample(4000, generator=stream(0, "eval"), steps=1), log_p)


@pytest.mark.parametrize(("rate", "counts"), [(None, [1 / 3, 1 / 3, 1 / 3]), (0.5, [0.5, 0.375, 0.125])])
def test_loss_is_the_mean_over_masks(rate, counts):
    """``counts``: the probabilities that one, two and three of the three symbols are hidden."""
    model, x = masked(TOKENS, mask_rate=rate), torch.tensor([[0, 2, 1]])
    expected = 0.0
    for hidden in range(1, 4):
        masks = list(itertools.combinations(range(3), hidden))
        for mask in masks:
            shown = torch.tensor([[t not in mask for t in range(3)]])
            log_p = model._log_p(x, shown, None, torch.arange(3)[None]).detach()
            expected -= counts[hidden - 1] / len(masks) * float(log_p[~shown].mean())
    loss = model.loss(x.expand(20_000, 3), generator=stream(0, "noise"))
    assert float(loss.total.detach()) == pytest.approx(expected, abs=0.02)
    assert float(loss.parts["masked_nll"].detach()) == pytest.approx(3 * float(loss.total.detach()))


def test_the_loss_is_the_expected_nll_of_a_random_order():
    model, x = masked(TOKENS), torch.tensor([[0, 2, 1]])
    orders = list(itertools.permutations(range(3)))
    expected = -sum(float(log_p_of_order(model, x, order)) for order in orders) / len(orders)
    loss = model.loss(x.expand(20_000, 3), generator=stream(0, "noise"))
    assert float(loss.parts["masked_nll"].detach()) == pytest.approx(expected, abs=0.05)


def test_learns_a_known_distribution():
    """Two symbols that always agree, p(00) = 1/4: alone each is 0 a quarter of the time, and one tells the other."""
    with seeded_init(0):
        model = MaskedLM(Tokens(2, 2), width=8, layers=1, heads=2)
    x = torch.tensor([[0, 0], [1, 1], [1, 1], [1, 1]]).repeat(16, 1)
    optimiser, g = torch.optim.Adam(model.parameters(), 0.03), stream(0, "noise")
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(x, generator=g).total.backward()
        optimiser.step()
    assert float(model.pseudo_log_prob(x).detach().exp().min()) > 0.97
    zeros = float((model.sample(4000, generator=g) == 0).double().mean())
    assert zeros == pytest.approx(0.25, abs=0.05)


def test_its_score_says_that_it_is_no_likelihood():
    x, c = every_observation(TOKENS), torch.arange(27) % 2
    rows = Rows(x, c)
    model = masked(TOKENS, TWO)
    data = Data("all", TOKENS, rows, rows, rows, condition=TWO)
    given = {"split": "test", "clock": Clock.of(5), "seed": 0, "device": "cpu", "watch": lambda line: None}
    scores = likelihood_scores(model, data, **given)
    assert {s.kind for s in scores} == {"pseudo-likelihood"}
    assert {s.given for s in scores} == {"classes"}, "the marginal is not a sum over classes"
    mean = float(model.pseudo_log_prob(x, c).detach().mean())
    assert scores[0].value == pytest.approx(mean)
    assert scores[0].shown(TOKENS).startswith("pseudo ")
    exact = Score("log p(x)", -3.0, "exact", "nats", 27, 0.1, given="classes")
    assert not scores[0].comparable(exact)
    scored = per_observation(model, (x, c))
    assert scored.kind == "pseudo-likelihood"
    torch.testing.assert_close(scored.value, model.pseudo_log_prob(x, c).detach())


def test_features_of_any_layer():
    model, x = masked(TOKENS, layers=3), every_observation(TOKENS)
    layers = [model.features(x, layer=layer) for layer in range(4)]
    assert torch.equal(layers[2], model.features(x))
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in itertools.combinations(layers, 2))
    with pytest.raises(Unusable, match="layer lies in 0"):
        model.features(x, layer=4)


def test_rounds_by_length():
    """One a symbol where that is affordable or where the end must be seen."""
    lengths = {Tokens(3, 64): 64, Tokens(3, 65): 32, Tokens(3, 65, end=0): 65, Images(1, 9, 9, levels=2): 32}
    for domain, rounds in lengths.items():
        assert masked(domain)._rounds(None) == rounds
    x = masked(Tokens(3, 65)).sample(2, generator=stream(0, "eval"))
    Tokens(3, 65).check(x)


@pytest.mark.parametrize(
    ("domain", "arguments", "words"),
    [
        (Vectors(2), {}, "masked-lm takes tokens or images"),
        (Images(1, 2, 2, levels=None), {}, "integer levels"),
        (TOKENS, {"width": 9}, "multiple of 2"),
        (TOKENS, {"mask_rate": 0.0}, "mask_rate must lie above 0"),
        (TOKENS, {"mask_rate": 1.5}, "mask_rate must lie above 0"),
    ],
)
def test_refuses_what_it_cannot_be(domain, arguments, words):
    with pytest.raises(Unusable, match=words):
        MaskedLM(domain, **arguments)


def test_refuses_what_it_cannot_do():
    x, g = every_observation(TOKENS), stream(0, "eval")
    none = torch.zeros(3, dtype=torch.bool)
    for ask in (lambda m: m.pseudo_log_prob(x), lambda m: m.complete(x, none, generator=g)):
        with pytest.raises(Unusable, match="fitted with a condition"):
            ask(masked(TOKENS, TWO))
    for domain, steps in ((TOKENS, 0), (TOKENS, 4), (RECORDS, 2)):
        with pytest.raises(Unusable, match="steps, got"):
            masked(domain).sample(2, generator=g, steps=steps)
    with pytest.raises(Unusable, match="a mask is boolean"):
        masked(TOKENS).completes(torch.zeros(2, dtype=torch.bool))
    with pytest.raises(Unusable, match="top_k"):
        masked(TOKENS).sample(2, generator=g, top_k=9)
