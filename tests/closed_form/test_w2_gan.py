"""The Monge map by a potential, against maps that are known, and what is promised of potentials and conjugates."""

import pytest
import torch

from pofx import fitting
from pofx.catalogue import find
from pofx.data.dataset import Rows
from pofx.divergences.gaussians import frechet
from pofx.domains import Images, Vectors
from pofx.errors import Unusable
from pofx.models import W2GAN
from pofx.models.transport.conjugate import conjugate_point
from pofx.models.transport.potentials import InputConvex, Potential
from pofx.protocols import Samples, Transports, capabilities
from pofx.randomness import seeded_init, stream
from pofx.runs import load
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from


class Normal:
    """Draws of N(mean, L L')."""

    def __init__(self, mean, half):
        self.mean, self.half = torch.tensor(mean), torch.tensor(half)

    def sample(self, n, condition=None, *, generator):
        return torch.randn(n, len(self.mean), generator=generator) @ self.half.T + self.mean

    @property
    def moments(self):
        return self.mean.double(), (self.half @ self.half.T).double()


WIDE = Normal([3.0, -1.0], [[2.0, 0.0], [0.8, 0.7]])
TALL = Normal([-1.0, 2.0], [[0.6, 0.3], [0.0, 1.5]])


def trained(source, target, *, steps=120, **arguments):
    """A model with its averaged weights, from 2^13 rows of the target."""
    x = target.sample(2**13, generator=stream(0, "target"))
    with seeded_init(0):
        model = W2GAN(Vectors(x.shape[1]), source=source, **{"units": "common", "hidden": (32, 32)} | arguments)
    model.adapt(x, generator=stream(0, "adapt"))
    settings = settings_from(model.recipe, {"steps": steps, "batch_size": 256})
    trainer = Trainer(model.train(), Rows(x), settings, planned=steps)
    for _ in range(steps):
        trainer.round()
    with trainer.weights():
        averaged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(averaged)
    return model.eval()


def bures(a, b):
    """The linear map of least cost between centred normals: A = a^-1/2 (a^1/2 b a^1/2)^1/2 a^-1/2."""

    def power(m, p):
        values, vectors = torch.linalg.eigh(m)
        return vectors * values**p @ vectors.T

    return power(a, -0.5) @ power(power(a, 0.5) @ b @ power(a, 0.5), 0.5) @ power(a, -0.5)


@pytest.fixture(scope="module")
def normals():
    return trained(WIDE, TALL)


def test_map_between_normals_is_that_of_bures(normals):
    """L2-UVP, the share of the target's variance that the map misses: 0 is right, and 100 is to map all to the mean."""
    x = WIDE.sample(2**12, generator=stream(1, "fresh")).double()
    (m, a), (n, b) = WIDE.moments, TALL.moments
    y = (x - m) @ bures(a, b) + n
    missed = (normals.transport(x.float()) - y).square().sum(1).mean() / b.trace()
    assert missed < 0.005


def test_dual_is_the_squared_bures_wasserstein_distance(normals):
    y = TALL.sample(2**15, generator=stream(1, "fresh"))
    distance = frechet(*WIDE.moments, *TALL.moments).item()
    assert normals.meters(y)["w2_squared"].item() == pytest.approx(distance, rel=0.02)


def test_inverse_goes_back(normals):
    x = WIDE.sample(500, generator=stream(2, "fresh"))
    torch.testing.assert_close(normals.inverse(normals.transport(x)), x, atol=2e-3, rtol=1e-3)


def test_samples_have_the_moments_of_the_target(normals):
    y = normals.sample(2**14, generator=stream(0, "sample")).double()
    mean, cov = TALL.moments
    assert frechet(y.mean(0), y.T.cov(), mean, cov) < 0.01 * cov.trace()


def test_map_on_a_line_is_monotone_and_matches_quantiles():
    """From N(0, 1) to an exponential, T(x) = -log(1 - F(x)), which no linear map comes near."""

    class Exponential:
        def sample(self, n, condition=None, *, generator):
            return -torch.rand(n, 1, generator=generator).clamp_min(1e-7).log()

    model = trained(None, Exponential())
    x = torch.randn(4096, 1, generator=stream(1, "fresh"))
    y = -(torch.special.log_ndtr(-x.double()))
    assert (model.transport(x) - y).square().mean() < 0.03  # the variance is 1
    on_a_line = model.transport(torch.linspace(-2.5, 2.5, 200)[:, None])
    assert (on_a_line.diff(dim=0) > 0).all()


def test_convex_network_finds_the_map_too():
    model = trained(WIDE, TALL, network="convex")
    x = WIDE.sample(2**12, generator=stream(1, "fresh")).double()
    (m, a), (n, b) = WIDE.moments, TALL.moments
    missed = (model.transport(x.float()) - (x - m) @ bures(a, b) - n).square().sum(1).mean() / b.trace()
    assert missed < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("context", [0, 3])
def test_convex_potential_lies_below_its_chords_by_its_strong_convexity(dtype, context):
    """Jensen with the curve alpha: phi(ta + (1-t)b) <= t phi(a) + (1-t) phi(b) - alpha t(1-t)/2 |a - b|^2."""
    alpha, g = 0.3, stream(0, "chords")
    with seeded_init(0):
        network = InputConvex(4, (16, 8, 8), context=context)
        phi = Potential(4, network, context=context, strong_convexity=alpha).to(dtype)
    with torch.no_grad():
        phi.quadratic.zero_()  # what is left is the network's, and alpha
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=dtype))
    a, b = (3 * torch.randn(2000, 4, generator=g, dtype=dtype) for _ in range(2))
    c = torch.randn(2000, context, generator=g, dtype=dtype) if context else None
    t = torch.rand(2000, 1, generator=g, dtype=dtype)
    with torch.no_grad():
        chord = t[:, 0] * phi(a, c) + (1 - t[:, 0]) * phi(b, c)
        below = alpha / 2 * (t * (1 - t) * (a - b).square()).sum(1)
        slack = chord - below - phi(t * a + (1 - t) * b, c)
    assert slack.min() > -1e-4 * (1e-8 if dtype == torch.float64 else 1) * chord.abs().max()
    assert slack.max() > 0.1


def test_conjugate_of_a_quadratic_is_solved():
    """phi = x'Ax/2, so that the maximiser is A^-1 y: in as many steps as dimensions, and a few."""
    g = stream(0, "quadratic")
    half = torch.randn(6, 6, generator=g, dtype=torch.float64)
    a, y = half @ half.T + 0.1 * torch.eye(6), torch.randn(50, 6, generator=g, dtype=torch.float64)
    x = conjugate_point(lambda x: x @ a, y, y.clone(), steps=60)
    torch.testing.assert_close(x, torch.linalg.solve(a, y.T).T, atol=1e-5, rtol=1e-4)


def test_a_start_is_never_made_worse():
    """Of a gradient that turns back on itself, too."""
    y = torch.zeros(100, 2)
    start = 3 * torch.randn(100, 2, generator=stream(0, "start"))

    def gradient(x):
        return x + 4 * (3 * x).sin()

    found = conjugate_point(gradient, y, start, steps=8)
    assert (gradient(found).norm(dim=1) <= gradient(start).norm(dim=1)).all()


def test_distance_is_in_units_of_each_column_or_of_all():
    """Both ends are seen in the columns' own deviations, or in one: the ratio of the two ends is then one number."""
    x = TALL.sample(512, generator=stream(0, "target")) * torch.tensor([1.0, 100.0])
    for units, ratio in (("columns", (x.std(0)[1] / x.std(0)[0]).item()), ("common", 1.0)):
        model = W2GAN(Vectors(2), source=WIDE, units=units)
        model.adapt(x, generator=stream(0, "adapt"))
        for seen in (model.target, model.origin):
            assert (seen.scale[1] / seen.scale[0]).item() == pytest.approx(ratio, rel=1e-4)


def test_a_run_maps_without_its_source_and_draws_only_with_it(tmp_path):
    rows = WIDE.sample(300, generator=stream(0, "rows"))
    path = tmp_path / "wide.csv"
    path.write_text("a,b\n" + "\n".join(",".join(map(str, row)) for row in rows.tolist()) + "\n")
    run = fitting.fit("w2-gan", "moons:limit=300", from_source=str(path), steps=3, hidden=(8,), out=tmp_path / "run",
                      device="cpu")  # fmt: skip
    mapped, drawn = run.model.transport(rows), run.sample(5).x
    assert {Samples, Transports} <= capabilities(run.model)
    path.rename(tmp_path / "elsewhere.csv")
    left = load(run.folder)
    assert left.model.transport(rows).equal(mapped)
    with pytest.raises(Unusable, match="there is no file or folder"):
        left.sample(5)
    (tmp_path / "elsewhere.csv").rename(path)
    assert load(run.folder).sample(5).x.equal(drawn)
    path.write_text("a,b\n" + "\n".join(f"{i},{-i}" for i in range(300)) + "\n")
    with pytest.raises(Unusable, match=r"has changed since it was mapped from"):
        load(run.folder).sample(5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hidden": (0,)}, r"hidden sizes of at least 1, got \(0,\)"),
        ({"hidden": ()}, r"hidden sizes of at least 1, got \(\)"),
        ({"strong_convexity": 0.0}, r"strong_convexity in \(0, 1\), got 0.0"),
        ({"conjugate_steps": 0}, "conjugate_steps of at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(given, said):
    with pytest.raises(Unusable, match=said):
        W2GAN(Vectors(2), **given)


def test_data_that_do_not_fit_are_refused(normals):
    with pytest.raises(Unusable, match="w2-gan takes vectors, but the data are images"):
        find("w2-gan").build(Images(1, 2, 2))
    with pytest.raises(Unusable, match="a source of 2 and a target of 3"):
        W2GAN(Vectors(3), source=WIDE).adapt(torch.zeros(8, 3), generator=stream(0, "adapt"))
    with pytest.raises(Unusable, match="must be finite, got NaN"):
        normals.transport(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(Unusable, match="have shape"):
        normals.transport(torch.zeros(4, 3))
