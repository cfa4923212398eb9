"""RNN against enumeration, against its own equation step by step, and its state against reading all anew."""

import jaxtyping
import pytest
import torch

from pofx.conditions import Classes
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoregressive.rnn import RNN
from pofx.randomness import seeded_init, stream
from pofx.testing.specimens import every_observation

TOKENS = Tokens(3, 4)
PICTURES = Images(2, 1, 2, levels=3)
TWO = Classes(("a", "b"), (0.3, 0.7))
CELLS = ["lstm", "gru"]


def rnn(domain, condition=None, **size) -> RNN:
    """A tiny one, its weights away from zero and from what any symmetry would give."""
    with seeded_init(0):
        model = RNN(domain, condition=condition, **{"width": 6, **size})
    g = stream(1, "init")
    for p in model.parameters():
        p.data.add_(torch.randn(p.shape, generator=g), alpha=0.5)
    return model.double()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("domain", [TOKENS, Tokens(3, 4, end=1), PICTURES])
def test_sums_to_one_given_each_class_none_and_as_marginal(domain, cell):
    x, model = every_observation(domain), rnn(domain, TWO, cell=cell, layers=2)
    given = [model.log_prob(x, torch.tensor([k])).detach() for k in range(3)]
    for log_p in (*given, model.log_prob(x).detach()):
        assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-6)
    assert float((given[0] - given[1]).abs().max()) > 0.05


def test_is_the_lstm_of_the_equations():
    """i, f, g, o = W x + U h + b; c' = f c + i g; h' = o tanh c'."""
    model, s = rnn(TOKENS), torch.tensor([[2, 0, 1, 1]])
    weights = [p.detach() for p in model.cells.parameters()]
    h = c = torch.zeros(1, 6, dtype=torch.float64)
    for t in range(4):
        x = model.start[None] if t == 0 else model.values(s[:, t - 1])
        i, f, g, o = (x @ weights[0].T + h @ weights[1].T + weights[2] + weights[3]).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        torch.testing.assert_close(model.outputs(s, None)[:, t], model.head(h))


@pytest.mark.parametrize("domain", [TOKENS, PICTURES])
def test_no_value_depends_on_a_later_one(domain):
    model = rnn(domain)
    s = model.sequence.read(every_observation(domain)[:1])
    before = model.conditionals(model.sequence.write(s))
    for t in range(domain.dims):
        changed = s.clone()
        changed[:, t] = (s[:, t] + 1) % 2
        after = model.conditionals(model.sequence.write(changed))
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("domain", [Tokens(7, 20), Images(3, 2, 3, levels=6), Vectors(5)])
def test_the_state_stands_for_all_that_was_read(domain, cell):
    """In single precision, from the first place and from the middle."""
    model = rnn(domain, TWO, cell=cell, layers=2).float()
    c, g = torch.tensor([0, 1, 2]), stream(0, "data")
    s = torch.randn(3, 5, generator=g) if domain == Vectors(5) else torch.randint(6, (3, domain.dims), generator=g)
    whole = model.outputs(s, c)
    for first in (0, domain.dims // 2):
        outputs = model.stepper(3, c, cached=True)
        for t in range(first, domain.dims):
            so_far = s.masked_fill(torch.arange(domain.dims) >= t, 0)
            torch.testing.assert_close(outputs(so_far, t), whole[:, t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5, "top_k": 3}, {"temperature": 0.0}])
def test_cached_samples_equal_uncached(how):
    model = rnn(Tokens(4, 12, end=0), TWO)
    a, b = (model.sample(8, generator=stream(0, "eval"), cached=cached, **how) for cached in (True, False))
    assert torch.equal(a, b)
    assert model.log_prob(a).isfinite().all()


@pytest.mark.parametrize(
    ("size", "words"), [({"width": 0}, "at least 1"), ({"layers": 0}, "at least 1"), ({"cell": "elman"}, "lstm or gru")]
)
def test_refuses_what_it_cannot_be(size, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no run-time checks of types
    with pytest.raises(Unusable, match=words):
        RNN(TOKENS, **size)
