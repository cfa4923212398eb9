"""Baselines against enumeration, quadrature, frequencies and scikit-learn."""

import itertools
import warnings

import numpy as np
import pytest
import torch

from pofx.conditions import Classes, VectorCondition
from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.baselines.copy import Copy
from pofx.models.baselines.gaussian import Gaussian
from pofx.models.baselines.marginals import Marginals
from pofx.protocols import Scores, capabilities
from pofx.randomness import stream

CLASSES = Classes(("a", "b"), (0.25, 0.75))
PICTURES = Images(1, 2, 2, levels=3)


def pictures(n=300):
    """Correlated pictures of three levels: noisy copies of one level, which the class shifts."""
    g = stream(0, "pictures")
    c = (torch.rand(n, generator=g) < 0.75).long()
    level = torch.randint(0, 2, (n, 1, 1, 1), generator=g) + c.view(-1, 1, 1, 1)
    noise = torch.randint(-1, 2, (n, 1, 2, 2), generator=g)
    return (level + noise).clamp(0, 2).to(torch.uint8), c


def every_picture():
    rows = torch.tensor(list(itertools.product(range(3), repeat=4)))
    return rows.view(-1, 1, 2, 2).to(torch.uint8)


def fitted(cls, domain, x, c=None, *, condition=None, **arguments):
    model = cls(domain, condition=condition, **arguments).double()
    model.adapt(x, c, generator=stream(0, "adapt"))
    return model


DISCRETE = [
    (Marginals, {}),
    (Gaussian, {}),
    (Gaussian, {"covariance": "diagonal"}),
    (Gaussian, {"components": 3, "covariance": "full"}),
    (Gaussian, {"components": 3}),
]


@pytest.mark.parametrize(("cls", "arguments"), DISCRETE)
def test_probabilities_of_pictures_sum_to_one(cls, arguments):
    """Over all 81, unfitted and fitted, for each class and as the marginal."""
    x, c = pictures()
    blank = cls(PICTURES, **arguments).double()
    given = fitted(cls, PICTURES, x, c, condition=CLASSES, **arguments)
    one = torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(blank.log_prob(every_picture()).exp().sum(), one)
    for row in (None, torch.tensor([0]), torch.tensor([1]), torch.tensor([2])):
        torch.testing.assert_close(given.log_prob(every_picture(), row).exp().sum(), one)


@pytest.mark.parametrize(("cls", "arguments"), DISCRETE)
def test_samples_of_pictures_meet_the_probabilities(cls, arguments):
    x, c = pictures()
    model = fitted(cls, PICTURES, x, c, condition=CLASSES, **arguments)
    n = 20_000
    for row in (None, torch.tensor([0])):
        drawn = PICTURES.check(model.sample(n, row, generator=stream(0, "sample"))).flatten(1).long()
        counts = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81)
        expected = n * model.log_prob(every_picture(), row).exp()
        seen = expected > 3
        chi2 = float(((counts - expected).square() / expected)[seen].sum())
        assert chi2 < 81 + 5 * (2 * 81) ** 0.5
        assert float(counts[~seen].sum()) < float(expected[~seen].sum()) + 40


def test_correlations_count():
    """On correlated pictures a full covariance is worth bits that independent dimensions cannot have."""
    x, _ = pictures(600)
    train, test = x[:300], x[300:]
    full = fitted(Gaussian, PICTURES, train).log_prob(test).mean()
    apart = fitted(Gaussian, PICTURES, train, covariance="diagonal").log_prob(test).mean()
    assert float(full) > float(apart) + 0.1


def test_marginals_are_smoothed_frequencies():
    x = torch.tensor([[0, 1], [0, 2], [1, 2]])
    model = fitted(Marginals, Tokens(3, 2), x, smoothing=3.0)
    p_00, p_12 = (2 + 1) / 6, (2 + 1) / 6
    torch.testing.assert_close(model.log_prob(torch.tensor([[0, 2]])).exp(), torch.tensor([p_00 * p_12]).double())


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [(Marginals, {}), (Marginals, {"quantiles": 3}), (Gaussian, {}), (Gaussian, {"components": 4})],
)
@pytest.mark.parametrize("condition", [None, CLASSES])
def test_densities_of_vectors_integrate_to_one_and_meet_their_samples(cls, arguments, condition):
    x = torch.randn(400, 2, generator=stream(0, "x"), dtype=torch.float64) @ torch.tensor([[2.0, 1], [0, 0.3]]).double()
    c = torch.arange(400) % 2
    model = fitted(cls, Vectors(2), x + 3 * c[:, None], c, condition=condition, **arguments)
    axis = torch.linspace(-18, 22, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    p = (model.log_prob(grid).exp() * float(axis[1] - axis[0]) ** 2).view(401, 401)
    assert float(p.sum()) == pytest.approx(1, abs=1e-3)
    drawn = model.sample(10_000, generator=stream(0, "sample"))
    assert drawn.dtype == torch.float32
    for dim in (0, 1):
        cdf = p.sum(1 - dim).cumsum(0)
        empirical = torch.searchsorted(drawn[:, dim].double().sort().values, axis) / 10_000
        assert float((cdf - empirical).abs().max()) < 0.03


def test_one_normal_has_the_moments_of_the_data():
    x = torch.randn(5000, 3, generator=stream(0, "x"), dtype=torch.float64) * torch.tensor([1.0, 1e-3, 1e3]) + 7
    model = fitted(Gaussian, Vectors(3), x, shrinkage=1e-6)
    truth = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov(correction=0))
    torch.testing.assert_close(model.log_prob(x[:50]), truth.log_prob(x[:50]), atol=1e-4, rtol=0)


def test_em_ends_where_scikit_learns_would_stay():
    """After many iterations without a prior, one more of theirs changes next to nothing, and the likelihoods agree."""
    from sklearn.mixture import GaussianMixture

    g = stream(0, "x")
    x = torch.cat([torch.randn(100, 2, generator=g), torch.randn(60, 2, generator=g) + 3]).double()
    model = fitted(Gaussian, Vectors(2), x, components=2, iterations=300, shrinkage=1e-9)
    covariance = (model.factor[0] @ model.factor[0].mT).numpy()
    begin = {
        "weights_init": (model.log_weights[0].double().softmax(0)).numpy(),
        "means_init": model.mu[0].numpy(),
        "precisions_init": np.linalg.inv(covariance),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one iteration is not convergence
        theirs = GaussianMixture(2, max_iter=1, reg_covar=0, tol=1e-3, **begin).fit(x.numpy())
    np.testing.assert_allclose(model.log_weights[0].exp().numpy(), theirs.weights_, atol=5e-3)
    np.testing.assert_allclose(model.mu[0].numpy(), theirs.means_, atol=2e-2)
    np.testing.assert_allclose(covariance, theirs.covariances_, atol=2e-2)
    np.testing.assert_allclose(model.log_prob(x).numpy(), theirs.score_samples(x.numpy()), atol=5e-2)


def test_a_mixture_beats_one_normal_where_there_are_blobs():
    g = stream(0, "x")
    x = torch.randn(500, 2, generator=g) * 0.1 + torch.randint(0, 2, (500, 1), generator=g) * 4
    one, two = (fitted(Gaussian, Vectors(2), x.double(), components=k).log_prob(x.double()).mean() for k in (1, 2))
    assert float(two) > float(one) + 1


def test_constant_and_single_rows_are_survived():
    x = torch.full((1, 2), 5.0)
    for cls, arguments in ((Marginals, {}), (Gaussian, {}), (Gaussian, {"components": 3})):
        assert torch.isfinite(fitted(cls, Vectors(2), x.double(), **arguments).log_prob(x.double())).all()
    blank = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    for cls, arguments in DISCRETE:
        log_p = fitted(cls, PICTURES, blank, **arguments).log_prob(every_picture())
        assert torch.isfinite(log_p).all()


def test_a_level_never_seen_costs_but_not_everything():
    """A pixel that is always dark in training and lit once in the test must not sink the mean."""
    domain = Images(1, 8, 8, levels=256)
    dark = torch.zeros(500, 1, 8, 8, dtype=torch.uint8)
    lit = dark[:1].clone()
    lit[0, 0, 3, 3] = 200
    model = Gaussian(domain)
    model.adapt(dark, generator=stream(0, "adapt"))
    assert -40 < float(model.log_prob(lit)) < -5
    assert float(model.log_prob(dark[:1])) > -1


def test_copy_draws_rows_of_the_class_and_has_no_likelihood():
    x, c = pictures()
    x[:, 0, 0, 0] = torch.where(c == 1, 2, 0).to(torch.uint8)
    model = fitted(Copy, PICTURES, x, c, condition=CLASSES, rows=50)
    assert Scores not in capabilities(model)
    assert (model.sample(40, torch.tensor([1]), generator=stream(0, "s"))[:, 0, 0, 0] == 2).all()
    drawn = model.sample(2000, generator=stream(0, "s"))
    assert float((drawn[:, 0, 0, 0] == 2).double().mean()) == pytest.approx(0.75, abs=0.04)
    known = {tuple(row) for row in x.flatten(1).tolist()}
    assert all(tuple(row) in known for row in drawn.flatten(1).tolist())
    assert len(model.kept) == 50


@pytest.mark.parametrize(
    ("cls", "arguments"), [(Marginals, {}), (Gaussian, {}), (Gaussian, {"components": 3}), (Copy, {"rows": 70})]
)
def test_state_comes_back(cls, arguments):
    x, c = pictures()
    model = fitted(cls, PICTURES, x, c, condition=CLASSES, **arguments)
    other = cls(PICTURES, condition=CLASSES, **arguments).double()
    other.load_state_dict(model.state_dict())
    drawn = [m.sample(20, generator=stream(0, "sample")) for m in (model, other)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("cls", [Marginals, Gaussian, Copy])
def test_a_condition_that_is_no_class_is_refused(cls):
    with pytest.raises(Unusable, match="fitted once per class, got a vector condition"):
        cls(PICTURES, condition=VectorCondition((2,)))


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (Marginals, {"smoothing": 0.0}, "smoothing must be above 0"),
        (Marginals, {"quantiles": 0}, "quantiles must be at least 1"),
        (Gaussian, {"components": 0}, "components and iterations must be at least 1"),
        (Gaussian, {"shrinkage": 0.0}, "shrinkage must be above 0"),
        (Copy, {"rows": 0}, "rows must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(cls, arguments, message):
    with pytest.raises(Unusable, match=message):
        cls(PICTURES, **arguments)
