"""VQ-VAE: its bound against the sum over all codes, its codes as observations of a domain, its use of the codebook."""

import math
from collections import Counter

import pytest
import torch

from pofx import data as sources
from pofx.catalogue import find
from pofx.conditions import Classes
from pofx.data.dataset import Rows
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.evaluate.codes import code_scores
from pofx.evaluate.pace import Clock
from pofx.models.autoencoders.vq_vae import VQVAE
from pofx.randomness import seeded_init, stream
from pofx.samplers.latents import interpolate, reconstruct
from pofx.testing.specimens import every_observation, tiny_data
from pofx.train.loop import Trainer
from pofx.train.settings import Settings

CLASSES = Classes(("a", "b", "c"), (0.5, 0.3, 0.2))
SMALL = {"codes": 4, "code_dim": 3, "width": 4, "blocks": 1, "hidden": (8,)}
WAYS = [
    {},
    {"update": "gradient", "gradient": "rotation"},
    {"depth": 2},
    {"normalise": True},
    {"quantiser": "scalar", "levels": (2, 3)},
    {"quantiser": "gumbel"},
]
DOMAINS = [
    Images(1, 8, 8, levels=17),
    Images(3, 19, 17, levels=256),
    Images(1, 5, 6, levels=2),
    Images(2, 4, 4, levels=None),
    Vectors(3),
    Tokens(5, 7),
    Tokens(5, 6, end=4),
]


def build(domain, **arguments):
    with seeded_init(0):
        return VQVAE(domain, **{**SMALL, **arguments})


def observations(domain, n=32):
    if isinstance(domain, Tokens):
        return tiny_data(domain, None, n)[0]
    y = torch.randn(n, *domain.shape, generator=stream(0, "x"))
    return domain.quantise(y.tanh()) if isinstance(domain, Images) else y


@pytest.mark.parametrize("arguments", WAYS, ids=str)
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_every_domain_and_quantiser(domain, arguments):
    """Codes are observations of the latent domain, there and back; each parameter has a part in the loss."""
    model = build(domain, condition=CLASSES, **arguments)
    x, c = observations(domain), CLASSES.sample(32, generator=stream(0, "c"))
    model.adapt(x, c, generator=stream(0, "adapt"))
    model.loss(x, c, generator=stream(3, "loss")).total.backward()
    learnt = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, grad in learnt if grad is None or not grad.abs().sum() > 0] == []
    for generator in (None, stream(0, "z")):
        model.latent_domain.check(model.encode(x, c, generator=generator))
    domain.check(model.sample(4, c[:1], generator=stream(0, "sample")))
    domain.check(reconstruct(model, x[:4], c[:4]))
    assert model.features(x).shape == (32, model.latent_dim)
    assert torch.isfinite(model.elbo(x[:4], c[:4], samples=3, generator=stream(0, "z"))).all()
    assert 0 < float(model.meters(x, c)["codes_used"]) <= 1


@pytest.mark.parametrize(
    ("domain", "arguments", "shape"),
    [
        (Images(1, 28, 28), {}, (512, 49)),
        (Images(3, 32, 32), {"depth": 4}, (512, 256)),
        (Images(1, 8, 8, levels=17), {}, (64, 16)),
        (Images(1, 30, 27), {"halve": 3}, (512, 16)),
        (Images(1, 8, 8), {"halve": 0, "codes": 2}, (2, 64)),
        (Images(1, 8, 8), {"quantiser": "scalar", "levels": (8, 5, 5)}, (200, 16)),
        (Vectors(9), {"slots": 3}, (64, 3)),
        (Tokens(9, 21), {}, (512, 6)),
    ],
)
def test_the_grid_has_a_place_for_each_part_of_x(domain, arguments, shape):
    latent = VQVAE(domain, width=4, **arguments).latent_domain
    assert (latent.vocabulary, latent.length) == shape


@pytest.mark.parametrize("arguments", [{"codes": 3}, {"codes": 2, "depth": 2}, {"quantiser": "scalar", "levels": (3,)}])
def test_the_bound_is_one_term_of_the_sum_over_codes(arguments):
    """log p(x) = log sum_z p(x|z) K^-T; the bound is the term of x's own code."""
    model = build(Images(1, 2, 2, levels=3), **arguments).double()
    x = every_observation(Images(1, 2, 2, levels=3))
    codes = every_observation(model.latent_domain)
    terms = torch.stack([model.decode(z.expand(len(x), -1)).log_prob(x) + model.log_prior(z[None]) for z in codes])
    own = (codes[:, None] == model.encode(x)).all(-1)
    bound = model.elbo(x, generator=stream(0, "z"))
    torch.testing.assert_close(bound, terms[own.int().argmax(0), torch.arange(len(x))])
    assert bool((bound < terms.logsumexp(0)).all())
    log_q = torch.stack([model.posterior(x).log_prob(z.expand(len(x), -1)) for z in codes])
    assert torch.equal(log_q.exp(), own.double())


def test_with_drawn_codes_the_bound_meets_the_sum_over_codes():
    model = build(Images(1, 2, 2, levels=3), quantiser="gumbel", codes=3).double()
    x = every_observation(Images(1, 2, 2, levels=3))[::9]
    codes = every_observation(model.latent_domain)
    terms = torch.stack([model.decode(z.expand(len(x), -1)).log_prob(x) + model.log_prior(z[None]) for z in codes])
    bound = model.elbo(x, samples=20_000, generator=stream(0, "z"))
    torch.testing.assert_close(bound, terms.logsumexp(0), atol=0.01, rtol=0)


def test_samples_in_chunks_are_samples_at_once(monkeypatch):
    model = build(Images(1, 2, 2, levels=3), quantiser="gumbel")
    x = every_observation(model.domain)[:5]
    whole = model.elbo(x, samples=50, generator=stream(0, "z"))
    monkeypatch.setattr("pofx.models.autoencoders.vq_vae._CHUNK", 1)
    torch.testing.assert_close(model.elbo(x, samples=50, generator=stream(0, "z")), whole)


def test_meters_count_the_codes():
    """Two codes of four in use, one of them three times as often."""
    model = build(Vectors(1), slots=1)
    model.encode = lambda x, c: torch.tensor([[0], [0], [0], [3]] * 5)
    meters = model.meters(torch.zeros(20, 1))
    assert float(meters["codes_used"]) == 0.5
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(meters["perplexity"]) == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize("arguments", [{"depth": 2}, {"quantiser": "scalar"}])
def test_evaluation_shows_the_use_of_each_codebook(arguments):
    """Counted over the test split, whatever the batches."""
    data = sources.load("digits", limit=300)
    model = build(data.domain, **arguments)
    x, _ = data.test.rows()
    model.adapt(x, generator=stream(0, "adapt"))
    given = {"split": "test", "seed": 0, "device": "cpu", "watch": lambda line: None}
    used, perplexity = code_scores(model, data, clock=Clock.of(60), **given)
    depth, k = model.quantiser.depth, model.quantiser.vocabulary
    counts = [Counter(z) for z in model.encode(x).view(-1, depth).T.tolist()]
    n = len(x) * model.length // depth
    share = [sum(count > n / (10 * k) for count in book.values()) / k for book in counts]
    entropy = [-sum(count / n * math.log(count / n) for count in book.values()) for book in counts]
    assert used.value == pytest.approx(sum(share) / depth)
    assert perplexity.value == pytest.approx(sum(map(math.exp, entropy)) / depth)
    assert used.n == len(x)
    assert code_scores(find("vae").build(data.domain), data, clock=Clock.of(60), **given) == []


def test_training_brings_a_dead_codebook_to_life():
    """All codes but one far from every vector: without revival they stay there, with it they come into use."""
    x = torch.randn(512, 2, generator=stream(0, "x"))
    used = []
    for revive in (0.0, 0.3):
        model = build(Vectors(2), codes=16, decay=0.8, revive=revive)
        model.adapt(x, generator=stream(0, "adapt"))
        with torch.no_grad():
            model.quantiser.books[0].table[1:] += 1000
            model.quantiser.books[0].sums[1:] = 1000 * model.quantiser.books[0].counts[1:, None]
        trainer = Trainer(model, Rows(x), Settings(batch_size=64), planned=40)
        for _ in range(40):
            trainer.round()
        used.append(float(model.meters(x)["codes_used"]))
    assert used[0] == 1 / 16
    assert used[1] > 0.7


@pytest.mark.parametrize(
    ("domain", "arguments", "message"),
    [
        (Images(1, 8, 8), {"codes": 1}, "at least 2 codes, got 1"),
        (Images(1, 8, 8), {"codes": 0}, "at least 2 codes, got 0"),
        (Images(1, 8, 8), {"halve": 4}, "halve must be 0 to 3 for sides of 8 and 8, got 4"),
        (Images(1, 8, 8), {"halve": -1}, "got -1"),
        (Vectors(2), {"slots": 0}, "slots must be at least 1, got 0"),
        (Images(1, 8, 8), {"depth": 2, "quantiser": "gumbel"}, "depth above 1 is for quantiser 'vector'"),
        (Images(1, 8, 8), {"decay": 1.0}, "decay must be in"),
        (Images(1, 8, 8), {"commitment": -1.0}, "commitment must be at least 0"),
        (Images(1, 8, 8), {"width": 0}, "width must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(domain, arguments, message):
    with pytest.raises(Unusable, match=message):
        VQVAE(domain, **arguments)


def test_what_cannot_be_asked_is_refused():
    model = build(Vectors(2))
    x = torch.zeros(2, 2)
    with pytest.raises(Unusable, match="at least 1 sample, got 0"):
        model.elbo(x, samples=0, generator=stream(0, "z"))
    with pytest.raises(Unusable, match="a latent of real numbers"):
        interpolate(model, x, x)
