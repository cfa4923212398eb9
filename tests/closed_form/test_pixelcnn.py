"""PixelCNN against enumeration, and what each pixel sees against what it may and must see."""

import pytest
import torch
from scipy.stats import chi2

from pofx.conditions import Classes
from pofx.distributions.conditional import Level, Symbol
from pofx.domains import Images, Vectors
from pofx.errors import Unusable
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.randomness import seeded_init, stream
from pofx.testing.specimens import every_observation

BINARY = Images(1, 2, 2, levels=2)
COLOURS = Images(2, 1, 2, levels=3)
DOMAINS = [(BINARY, {}), (COLOURS, {}), (COLOURS, {"mixtures": 2})]
TWO = Classes(("a", "b"), (0.3, 0.7))


def pixelcnn(domain, condition=None, **size) -> PixelCNN:
    """A tiny one, its weights away from zero and from what any symmetry would give."""
    with seeded_init(0):
        model = PixelCNN(domain, condition=condition, **{"width": 8, "layers": 2, **size})
    g = stream(1, "init")
    for p in model.parameters():
        p.data.add_(torch.randn(p.shape, generator=g), alpha=0.3)
    return model.double()


def drawn(domain, n: int = 3) -> torch.Tensor:
    return torch.randint(domain.levels, (n, *domain.shape), generator=stream(0, "data")).to(domain.dtype)


def assert_fits(x, support, log_p) -> None:
    seen = (x.flatten(1)[:, None] == support.flatten(1)[None]).all(2).sum(0)
    expected = log_p.detach().exp() * len(x)
    common = expected >= 5
    assert int(seen[expected == 0].sum()) == 0
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    assert chi2.sf(float(statistic), int(common.sum())) > 1e-4


@pytest.mark.parametrize(("domain", "size"), DOMAINS)
def test_sums_to_one_given_each_class_none_and_as_marginal(domain, size):
    x, model = every_observation(domain), pixelcnn(domain, TWO, **size)
    given = [model.log_prob(x, torch.tensor([k])).detach() for k in range(3)]
    for log_p in (*given, model.log_prob(x)):
        assert float(log_p.detach().logsumexp(0)) == pytest.approx(0, abs=1e-6)
    assert float((given[0] - given[1]).abs().max()) > 0.05


@pytest.mark.parametrize(("domain", "size"), DOMAINS)
def test_samples_and_completions_meet_the_density(domain, size):
    """The class summed out; one pixel and, where there are two, one channel of the next known."""
    support, model = every_observation(domain), pixelcnn(domain, TWO, **size)
    assert_fits(model.sample(3000, generator=stream(0, "eval")), support, model.log_prob(support))
    first = torch.arange(domain.dims) < domain.channels + 1
    known = model.sequence.write(first.long()[None])[0].bool()
    x = support[-1:]
    log_p = model.log_prob(support).masked_fill(((support != x) & known).flatten(1).any(1), -torch.inf)
    draws = model.complete(x.expand(3000, *domain.shape), known, generator=stream(0, "eval"))
    assert_fits(draws, support, log_p.log_softmax(0))


@pytest.mark.parametrize("size", [{"layers": 4}, {"layers": 2, "kernel": 5}])
def test_each_value_sees_all_before_it_and_nothing_after(size):
    """No blind spot: within reach, the gradient of an output by each earlier value is not zero; by any other it is."""
    domain = Images(2, 5, 5, levels=4)
    model = pixelcnn(domain, **size)
    s = model.sequence.read(drawn(domain, 1))
    e = model._values(s).detach().requires_grad_()
    model._values = lambda s: e
    out = model.outputs(s, None)
    for t in range(domain.dims):
        (gradient,) = torch.autograd.grad(out[0, t].square().sum(), e, retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        assert torch.equal(seen, torch.arange(domain.dims) < t), t


def test_a_row_above_is_seen_as_far_as_the_layers_reach():
    """L layers of kernel 3: L + 1 rows up, L columns to each side of the row above, L + 1 pixels to the left."""
    domain = Images(1, 9, 9, levels=4)
    for layers in (1, 2):
        model = pixelcnn(domain, layers=layers)
        s = model.sequence.read(drawn(domain, 1))
        e = model._values(s).detach().requires_grad_()
        model._values = lambda s, e=e: e
        (gradient,) = torch.autograd.grad(model.outputs(s, None)[0, 40].square().sum(), e)
        seen = (gradient[0].abs().sum(-1) > 0).view(9, 9)
        rows, columns = torch.arange(9)[:, None] - 4, torch.arange(9) - 4
        assert torch.equal(seen.any(1), (rows[:, 0] >= -layers - 1) & (rows[:, 0] <= 0))
        assert torch.equal(seen[3], columns.abs() <= layers)
        assert torch.equal(seen[4], (columns >= -layers - 1) & (columns < 0))


@pytest.mark.parametrize(
    ("domain", "size"),
    [
        (Images(1, 6, 5, levels=2), {}),
        (Images(3, 3, 4, levels=6), {"kernel": 5}),
        (Images(2, 4, 3, levels=256), {}),
        (Images(1, 1, 1, levels=2), {}),
    ],
)
def test_cached_outputs_are_those_of_the_whole(domain, size):
    """In single precision, from the first place and from the middle of a pixel."""
    model, x = pixelcnn(domain, TWO, **size).float(), drawn(domain)
    s, c = model.sequence.read(x), torch.tensor([0, 1, 2])
    whole = model.outputs(s, c)
    for first in (0, domain.dims // 2 + 1):
        outputs = model.stepper(len(s), c, cached=True)
        for t in range(first, domain.dims):
            so_far = s.masked_fill(torch.arange(domain.dims) >= t, 0)
            torch.testing.assert_close(outputs(so_far, t), whole[:, t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5, "top_k": 3}, {"temperature": 0.0}])
def test_cached_samples_equal_uncached(how):
    model = pixelcnn(Images(3, 2, 3, levels=6), TWO)
    a, b = (model.sample(8, generator=stream(0, "eval"), cached=cached, **how) for cached in (True, False))
    assert torch.equal(a, b)


def test_many_levels_are_ordered_unless_told():
    assert isinstance(PixelCNN(Images(1, 2, 2, levels=256)).conditional, Level)
    assert not isinstance(PixelCNN(Images(1, 2, 2, levels=32)).conditional, Level)
    assert PixelCNN(Images(1, 2, 2, levels=256), mixtures=0).conditional == Symbol(256)
    assert PixelCNN(BINARY, mixtures=3).conditional == Level(2, 3)


@pytest.mark.parametrize(
    ("domain", "size", "words"),
    [
        (BINARY, {"width": 0}, "at least 1"),
        (BINARY, {"layers": 0}, "at least 1"),
        (BINARY, {"kernel": 4}, "odd kernel"),
        (BINARY, {"mixtures": -1}, "mixtures must be at least 1"),
        (Images(1, 2, 2, levels=None), {}, "integer levels"),
        (Vectors(2), {}, "pixelcnn"),
    ],
)
def test_refuses_what_it_cannot_be(domain, size, words):
    with pytest.raises(Unusable, match=words):
        PixelCNN(domain, **size)
