"""MADE against enumeration, quadrature and the Jacobian, in every ordering."""

import math

import pytest
import torch
from torch.nn.functional import linear

from pofx.conditions import Classes
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoregressive.made import MADE
from pofx.randomness import seeded_init, stream
from pofx.testing import failures
from pofx.testing.specimens import every_observation, lattice
from pofx.testing.verdicts import ensure_counts_fit

PICTURES = Images(1, 2, 3, levels=2)
COLOURS = Images(2, 1, 2, levels=3)
TOKENS = Tokens(3, 4)
RECORDS = Tokens(3, 4, end=1)
TWO = Classes(("a", "b"), (0.3, 0.7))


def made(domain, condition=None, **arguments) -> MADE:
    """A tiny one, its weights away from zero."""
    with seeded_init(0):
        model = MADE(domain, condition=condition, **{"hidden": (12, 8), **arguments})
    g = stream(1, "init")
    for p in model.parameters():
        p.data.add_(torch.randn(p.shape, generator=g), alpha=0.5)
    return model.double()


def by_order(model, x) -> torch.Tensor:
    """log p_o(x) of each ordering o (K, B), by one model of a single ordering each."""
    terms = []
    for order in model.orders:
        alone = made(model.domain, model.condition, shuffled=True)
        alone.load_state_dict({**model.state_dict(), "orders": order[None]})
        terms.append(alone.log_prob(x).detach())
    return torch.stack(terms)


@pytest.mark.parametrize("hidden", [(40,), (60, 40)])
@pytest.mark.parametrize("k", range(3))
def test_what_is_put_out_depends_on_all_values_before_and_on_no_other(hidden, k):
    model = made(Vectors(5), orderings=3, hidden=hidden)
    order = model.orders[k]
    s = torch.randn(30, 5, generator=stream(0, "data")).double().requires_grad_()
    told = model.conditional.log_prob(model.outputs_in(order, s[:, order], None), torch.zeros(30, 5).double())
    slopes = torch.stack([torch.autograd.grad(told[:, t].sum(), s, retain_graph=True)[0] for t in range(5)])
    depends = (slopes.abs().amax(1) > 0)[:, order]  # (value told, value read), both in the order of reading
    assert torch.equal(depends, torch.ones(5, 5).tril(-1).bool())


@pytest.mark.parametrize("domain", [PICTURES, COLOURS, TOKENS])
@pytest.mark.parametrize("condition", [None, TWO])
def test_each_ordering_sums_to_one_and_so_does_their_mean(domain, condition):
    x, model = every_observation(domain), made(domain, condition, orderings=3)
    each = by_order(model, x)
    torch.testing.assert_close(each.logsumexp(1), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.log_prob(x), each.logsumexp(0) - math.log(3))
    assert float((each[0] - each[1]).abs().max()) > 0.1


def test_records_sum_to_one():
    log_p = made(RECORDS).log_prob(every_observation(RECORDS))
    assert float(log_p.detach().logsumexp(0)) == pytest.approx(0, abs=1e-9)


def test_averaging_logits_would_be_no_distribution():
    """What this model does not do: each averaged conditional has seen nearly every other pixel."""
    x, model = every_observation(PICTURES), made(PICTURES, orderings=8)
    s = model.sequence.read(x)
    outputs = [model.outputs_in(order, s[:, order], None)[:, order.argsort()] for order in model.orders]
    wrong = model.conditional.log_prob(torch.stack(outputs).mean(0), s).sum(1)
    assert abs(float(wrong.detach().logsumexp(0))) > 1e-3
    assert float(model.log_prob(x).detach().logsumexp(0)) == pytest.approx(0, abs=1e-9)


def test_loss_is_the_mean_over_orderings():
    x, model = every_observation(PICTURES)[::3], made(PICTURES, orderings=3)
    g = stream(0, "noise")
    drawn = {round(float(model.loss(x, generator=g).parts["nll"].detach()), 6) for _ in range(40)}
    assert drawn == {round(-float(log_p.mean()), 6) for log_p in by_order(model, x)}


def test_blocks_are_the_whole_masked_product():
    """Wide enough that only the lower staircase of each matrix is multiplied."""
    with seeded_init(0):
        model = MADE(Images(1, 24, 24, levels=2), condition=TWO, hidden=(700, 500))
    x, context = torch.randn(5, 576, generator=stream(0, "data")), torch.randn(5, 64, generator=stream(1, "data"))
    for layer, inputs in ((model.layers[0], x), (model.layers[1], x.repeat(1, 2)[:, :700]), (model.head, x[:, :500])):
        layer.weight.data.normal_(generator=stream(2, "data"))
        assert len(layer.rows) > 1
        whole = linear(inputs, layer.weight * layer.mask, layer.bias) + layer.context(context)
        torch.testing.assert_close(layer(inputs, None, context), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("domain", [PICTURES, COLOURS, RECORDS, Vectors(4)])
@pytest.mark.parametrize("first", [0, 2])
def test_place_by_place_as_at_once(domain, first):
    """Also from the middle, where what is known comes first."""
    model = made(domain, TWO)
    c = TWO.sample(7, generator=stream(0, "data"))
    s = model.sequence.read(model.sample(7, c, generator=stream(0, "eval")))
    step, whole = model.stepper(7, c, cached=True), model.outputs(s, c)
    for t in range(first, domain.dims):
        torch.testing.assert_close(step(s, t), whole[:, t])


@pytest.mark.parametrize("domain", [PICTURES, COLOURS])
@pytest.mark.parametrize("condition", [None, TWO])
def test_samples_meet_the_mean_over_orderings(domain, condition):
    model, space = made(domain, condition, orderings=3), lattice(domain)
    x = model.sample(4000, generator=stream(0, "eval"))
    ensure_counts_fit(space.counts(x), space.probabilities(model.log_prob(space.points).detach()), "samples")


@pytest.mark.parametrize("condition", [None, TWO])
def test_completes_what_comes_first_in_every_ordering(condition):
    """p(rest | known): how likely an ordering is, too, depends on what is known."""
    model = made(PICTURES, condition, orderings=3)
    model.orders.copy_(torch.tensor([[0, 4, 1, 2, 3, 5], [4, 0, 5, 3, 2, 1], [4, 0, 2, 1, 5, 3]]))
    known = torch.tensor([[[True, False, False], [False, True, False]]])
    assert model.completes(known)
    assert not model.completes(torch.tensor([[[True, True, False], [False] * 3]]))
    x = torch.tensor([[[1, 0, 0], [0, 0, 0]]], dtype=torch.uint8)
    space = lattice(PICTURES, given=x, known=known)
    log_p = model.log_prob(space.points).detach()
    filled = model.complete(x.expand(4000, 1, 2, 3), known, generator=stream(0, "eval"))
    ensure_counts_fit(space.counts(filled), space.probabilities(log_p.log_softmax(0)), "completions")


def test_conditionals_and_walk_go_by_the_first_ordering():
    """What is told while walking along x are the terms of log p_1(x)."""
    model = made(COLOURS, orderings=2, shuffled=True)
    x = every_observation(COLOURS)
    terms, s = model.conditionals(x).detach(), model.read(x)
    told = []

    def choose(log_p, t):
        told.append(log_p.gather(1, s[:, t : t + 1])[:, 0])
        return s[:, t]

    assert torch.equal(model.walk(len(x), choose), x)
    torch.testing.assert_close(torch.stack(told, 1), terms)
    assert float(terms.sum(1).logsumexp(0)) == pytest.approx(0, abs=1e-9)


def test_conditionals_of_numbers_are_ratios_of_integrals():
    """p(b | a) = p(a, b) / integral p(a, b) db, in the data's own units, b read after a whatever the column."""
    model = made(Vectors(2), shuffled=True)
    model.orders.copy_(torch.tensor([[1, 0]]))
    model.sequence.standardise.mean.copy_(torch.tensor([5.0, -1.0]))
    model.sequence.standardise.scale.copy_(torch.tensor([3.0, 0.2]))
    step = 0.02
    first = torch.arange(-300, 300, step).double()
    for second in (-1.2, -0.9):
        x = torch.stack([first, torch.full_like(first, second)], dim=1)
        joint, terms = model.log_prob(x).exp(), model.conditionals(x)
        mass = joint.sum() * step
        torch.testing.assert_close(terms[:, 0].exp(), mass.expand(len(x)), rtol=1e-4, atol=0)
        torch.testing.assert_close(terms[:, 1].exp(), joint / mass, rtol=1e-4, atol=1e-9)


def test_learns_a_known_distribution_in_a_random_order():
    """Two bits that always agree: p(00) = 1/4, p(11) = 3/4."""
    with seeded_init(0):
        model = MADE(Images(1, 1, 2, levels=2), hidden=(8,), orderings=2)
    x = torch.tensor([0, 1, 1, 1], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 1, 2)
    optimiser, g = torch.optim.Adam(model.parameters(), 0.1), stream(0, "noise")
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(x, generator=g).total.backward()
        optimiser.step()
    torch.testing.assert_close(model.log_prob(x[:2]).exp(), torch.tensor([0.25, 0.75]), atol=0.02, rtol=0)


@pytest.mark.parametrize("domain", [PICTURES, COLOURS])
def test_starts_from_the_frequencies_of_each_pixel(domain):
    """An adapted model that has learnt nothing else is the product of the marginals, in any ordering."""
    with seeded_init(0):
        model = MADE(domain, hidden=(8,), orderings=2)
    x = torch.randint(domain.levels, (5000, 1), generator=stream(0, "data")) * torch.ones(1, domain.dims).long()
    x = (x * torch.randint(2, x.shape, generator=stream(1, "data"))).view(-1, *domain.shape).to(domain.dtype)
    model.adapt(x, generator=stream(0, "adapt"))
    expected = sum((x == level).double().mean(0).log() * (x[:9] == level) for level in range(domain.levels))
    torch.testing.assert_close(model.log_prob(x[:9]).double(), expected.flatten(1).sum(1), atol=0.01, rtol=0)


@pytest.mark.parametrize(("domain", "condition"), [(Images(1, 2, 2, levels=2), TWO), (Vectors(2), None)])
def test_every_promise_holds_in_several_orderings(domain, condition):
    """But that its chain, which is the first ordering's, is the mixture's."""
    broken = failures(lambda: MADE(domain, condition=condition, hidden=(8,), orderings=2), domain, condition)
    assert broken.keys() <= {"chain_is_the_density"}


@pytest.mark.parametrize(
    ("domain", "arguments", "words"),
    [
        (PICTURES, {"hidden": ()}, "hidden must be positive"),
        (PICTURES, {"hidden": (8, 0)}, "hidden must be positive"),
        (PICTURES, {"orderings": 0}, "orderings must be at least 1"),
        (RECORDS, {"orderings": 2}, "read from their beginning"),
        (RECORDS, {"shuffled": True}, "read from their beginning"),
        (TOKENS, {"mixtures": 2}, "mixtures are of numbers"),
        (Images(1, 2, 2, levels=None), {}, "integer levels"),
    ],
)
def test_refuses_what_it_cannot_be(domain, arguments, words):
    with pytest.raises(Unusable, match=words):
        MADE(domain, **arguments)


def test_a_picture_of_many_levels_is_a_mixture():
    model = MADE(Images(1, 4, 4, levels=256))
    assert model.conditional.outputs == 15
    assert model.log_prob(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).isfinite().all()


def test_features_are_the_last_hidden_layer():
    features = made(PICTURES, TWO, orderings=2).features(every_observation(PICTURES)[::2])
    assert features.shape == (32, 8)
    assert float(features.var(0).max()) > 0.01
