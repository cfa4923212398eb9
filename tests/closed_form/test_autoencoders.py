"""Autoencoders of one code against what is known: principal components, the Wiener filter, Jacobians, distances."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from pofx import fitting
from pofx.conditions import Classes
from pofx.divergences import inverse_multiquadratics, mmd_squared, wasserstein_1d
from pofx.domains import Images, Tokens, Vectors, are_symbols
from pofx.errors import Unusable
from pofx.models import RAE, WAE, Autoencoder
from pofx.models.autoencoders.corruption import corrupted, corrupted_symbols
from pofx.protocols import Bounds, Decodes, Encodes, Infers, Represents, Samples, Scores, Watched, capabilities
from pofx.randomness import Shared, seeded_init, stream
from pofx.samplers.latents import reconstruct
from pofx.testing import failures
from pofx.testing.specimens import tiny_data

CLASSES = Classes(("a", "b", "c"), (0.5, 0.3, 0.2))
PALETTE = Images(1, 4, 4, levels=3, palette=((0, 0, 0), (200, 0, 0), (255, 255, 255)))


def normal(*shape, role="x"):
    return torch.randn(*shape, generator=stream(0, role), dtype=torch.float64)


def build(kind, domain, **arguments):
    with seeded_init(0):
        return kind(domain, **arguments).double()


def networks_of(model):
    """All that the value of the loss depends on."""
    return [p for p in model.parameters() if p is not model.spread]


def descend(model, x, *, steps=15):
    """The loss on x with its noise held, to a minimum, by a method of second order."""
    weights = networks_of(model)
    search = torch.optim.LBFGS(
        weights, max_iter=20, history_size=50, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=0
    )

    def closure():
        search.zero_grad()
        total = model.loss(x, generator=stream(0, "held")).total
        total.backward(inputs=weights)
        return total

    for _ in range(steps):
        search.step(closure)
    return model


# ---- reconstruction alone


def pictures(n=300):
    """256 levels, 3 x 4, of three orthogonal patterns whose variances halve, and a little noise."""
    basis = torch.linalg.qr(normal(12, 12, role="basis"))[0]
    y = (normal(n, 12) * torch.tensor([0.8, 0.5, 0.3] + [0.05] * 9)) @ basis.T / 2
    domain = Images(1, 3, 4, levels=256)
    return domain, domain.quantise(y.view(n, 1, 3, 4)), lambda x: domain.centre(x).flatten(1).double().numpy()


def vectors(n=300):
    """Three directions that most columns share, in units far from the standard ones."""
    mixing = torch.cat([torch.eye(3).repeat(1, 3)[:, :8], torch.zeros(0, 8)]) * torch.tensor([3.0, 1.5, 0.8])[:, None]
    x = normal(n, 3).float() @ mixing + 0.2 * normal(n, 8, role="noise").float()
    x = x * torch.logspace(-1, 2, 8) + 5
    return Vectors(8), x, lambda x: ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()


@pytest.mark.parametrize("data", [pictures, vectors])
def test_linear_maps_find_the_principal_components(data):
    """The decoder's columns span what scikit-learn's PCA of the networks' units finds, where variances differ."""
    domain, x, seen = data()
    pca = PCA(8 if data is vectors else 12).fit(seen(x))
    dim = 2 if data is vectors else 3
    assert pca.explained_variance_[dim - 1] > 2 * pca.explained_variance_[dim] or data is vectors
    model = build(Autoencoder, domain, latent_dim=dim, hidden=())
    model.adapt(x, generator=stream(0, "adapt"))
    descend(model, x)
    spanned = model.decoder.head.weight.detach().numpy()
    assert subspace_angles(spanned, pca.components_[:dim].T).max() < 1e-3
    left = 0.5 * pca.explained_variance_[dim:].sum() * (len(x) - 1) / len(x)
    assert model.loss(x, generator=stream(0, "x")).total.item() == pytest.approx(left, rel=1e-4)


def test_the_spread_becomes_the_error_and_moves_nothing_else():
    """Its gradient is that of the normal's -log p per value; the networks' are those of squared error alone."""
    domain, x, _ = pictures()
    model = build(Autoencoder, domain, latent_dim=2, hidden=(6,))
    model.adapt(x, generator=stream(0, "adapt"))
    loss = model.loss(x, generator=stream(0, "loss"))
    told = model.told(model.encode(x))[:, 0]
    squared = (domain.centre(x).double() - told).square()
    by_hand = 0.5 * squared.flatten(1).sum(1).mean()
    torch.testing.assert_close(loss.total, by_hand)
    weights = networks_of(model)
    for a, b in zip(torch.autograd.grad(by_hand, weights), torch.autograd.grad(loss.total, weights, retain_graph=True)):
        torch.testing.assert_close(a, b)
    optimiser = torch.optim.Adam([model.spread], lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        model.loss(x, generator=stream(0, "loss")).total.backward(inputs=[model.spread])
        optimiser.step()
    assert model.log_var.exp().item() == pytest.approx(squared.mean().item(), rel=1e-3)


def test_what_is_decoded_is_a_law_whose_mode_is_the_decoders_output():
    domain, x, _ = pictures(20)
    model = build(Autoencoder, domain, latent_dim=2, hidden=(6,))
    model.adapt(x, generator=stream(0, "adapt"))
    z = normal(2, 20, 2)
    p = model.decode(z)
    assert torch.equal(p.mode, domain.quantise(model.told(z)[:, :, 0]))
    assert p.log_prob(x).shape == (2, 20)
    assert not torch.equal(p.sample(generator=stream(0, "draw")), p.mode)


@pytest.mark.parametrize(
    ("domain", "arguments", "part"),
    [
        (Vectors(3), {}, "half_squared_error"),
        (Images(1, 4, 4, levels=None), {}, "half_squared_error"),
        (Images(1, 4, 4, levels=17), {}, "half_squared_error"),
        (Images(3, 20, 17, levels=256), {"width": 4}, "half_squared_error"),
        (Images(1, 4, 4, levels=17), {"likelihood": "logistic"}, "reconstruction"),
        (Images(1, 4, 4, levels=17), {"likelihood": "normal"}, "reconstruction"),
        (Images(1, 4, 4, levels=2), {}, "reconstruction"),
        (PALETTE, {}, "reconstruction"),
        (Vectors(3), {"likelihood": "normal"}, "reconstruction"),
        (Tokens(5, 6, end=4), {}, "reconstruction"),
    ],
)
@pytest.mark.parametrize("kind", [Autoencoder, WAE, RAE])
@pytest.mark.parametrize("condition", [None, CLASSES])
def test_every_domain_and_condition(kind, domain, arguments, part, condition):
    """Learns by each parameter, encodes to one code, decodes to canonical observations, and says what it minimises."""
    with seeded_init(0):
        model = kind(domain, condition=condition, **{"hidden": (16, 8)} | arguments)
    y = normal(32, *domain.shape).float()
    x = domain.quantise(y.tanh()) if isinstance(domain, Images) else y
    x = tiny_data(domain, None, 32)[0] if isinstance(domain, Tokens) else x
    c = None if condition is None else condition.sample(32, generator=stream(0, "c"))
    model.adapt(x, c, generator=stream(0, "adapt"))
    loss = model.loss(x, c, generator=stream(3, "loss"))
    assert part in loss.parts
    loss.total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    z = model.encode(x, c)
    assert torch.equal(z, model.encode(x, c, generator=stream(0, "unused")))
    assert z.shape == (32, model.latent_domain.dim)
    domain.check(reconstruct(model, x, c))
    domain.check(reconstruct(model, x, c, generator=stream(0, "draw")))
    with torch.no_grad():
        assert torch.isfinite(model.loss(x, c, generator=stream(3, "loss")).total)


def test_what_each_can_do():
    """None has a likelihood; a code without a law has no samples."""
    assert {Encodes, Decodes, Represents, Watched} <= capabilities(Autoencoder) & capabilities(RAE) & capabilities(WAE)
    assert not {Scores, Bounds, Infers} & (capabilities(Autoencoder) | capabilities(RAE) | capabilities(WAE))
    assert [Samples in capabilities(kind) for kind in (Autoencoder, RAE, WAE)] == [False, False, True]


def test_meters_count_the_units_that_move():
    model = build(Autoencoder, Vectors(4), latent_dim=3, hidden=())
    with torch.no_grad():
        model.encoder.head.weight.copy_(torch.eye(3, 4) * torch.tensor([1.0, 0.5, 1e-3])[:, None])
    meters = model.meters(normal(100, 4))
    assert float(meters["active_units"]) == 2
    assert float(meters["active_share"]) == pytest.approx(2 / 3)


def test_symbols_are_not_measured():
    """Colours of a palette are names, as symbols are; squared error is for the others, where there are shades."""
    named, shades = [PALETTE, Tokens(3, 5)], [Vectors(3), Images(1, 2, 2, levels=None), Images(1, 2, 2, levels=3)]
    assert all(map(are_symbols, named))
    assert not any(map(are_symbols, [*shades, Images(1, 2, 2, levels=2)]))
    assert all(Autoencoder(domain).spread is not None for domain in shades)
    assert all(Autoencoder(domain).spread is None for domain in [*named, Images(1, 2, 2, levels=2)])


@pytest.mark.parametrize("domain", [Vectors(2), Images(1, 2, 2, levels=None), Images(1, 2, 2, levels=8)])
def test_the_law_has_the_variance_that_was_learnt_however_small(domain):
    """Down to the bound of exp(-12), where what is calibrated and what is decoded bend alike."""
    model = build(Autoencoder, domain, latent_dim=2, hidden=())
    with torch.no_grad():
        model.spread.fill_(-1.22)
    assert -12 < model.log_var < -11
    law = model.decode(torch.zeros(1, 2, dtype=torch.float64)).base
    torch.testing.assert_close(law.log_var, model.log_var.expand_as(law.log_var))


def test_meters_of_many_rows_are_encoded_in_batches():
    model, seen = build(Autoencoder, Vectors(4), latent_dim=3, hidden=()), []
    x = normal(1000, 4)
    variance = model.encode(x).var(0, correction=0)
    model.encoder.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    active = float((variance > 0.01 * variance.mean()).sum())
    assert float(model.meters(x)["active_units"]) == active
    assert sum(seen) == 1000
    assert max(seen) <= 256


# ---- corruption


def test_a_linear_denoiser_is_the_wiener_filter():
    """x ~ N(0, S) with noise of variance s^2: the mean of x given what is seen is S (S + s^2 I)^-1 of it."""
    noise, n = 0.7, 40_000
    root = torch.tensor([[1.0, 0, 0], [0.9, 0.4, 0], [-0.5, 0.3, 0.8]], dtype=torch.float64)
    root = root / root.norm(dim=1, keepdim=True)  # standard deviations of one: what the networks read is x itself
    x = normal(n, 3) @ root.T
    model = build(Autoencoder, Vectors(3), latent_dim=3, hidden=(), corruption="gaussian", corruption_rate=noise)
    model.adapt(x, generator=stream(0, "adapt"))
    descend(model, x, steps=6)
    learnt = model.decoder.head.weight @ model.encoder.head.weight
    covariance = root @ root.T
    wiener = covariance @ torch.linalg.inv(covariance + noise**2 * torch.eye(3))
    torch.testing.assert_close(learnt, wiener, atol=0.02, rtol=0)
    left = 0.5 * (covariance - wiener @ covariance).trace()
    torch.testing.assert_close(model.loss(x, generator=stream(9, "fresh")).total, left, atol=0.02, rtol=0)


def test_corruption_does_what_it_says():
    grey = Images(1, 4, 4, levels=4)
    y = torch.full((2000, 16), 0.25, dtype=torch.float64)

    def spoilt(kind, domain=grey, rate=0.3):
        return corrupted(y, domain, kind, rate, generator=stream(0, "spoil"))

    noise = spoilt("gaussian") - y
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    for kind, domain, values, shares in [
        ("masking", grey, [-0.75], [0.3]),
        ("masking", Vectors(16), [0.0], [0.3]),
        ("masking", Images(1, 4, 4, levels=None), [0.0], [0.3]),
        ("salt-and-pepper", grey, [-0.75, 0.75], [0.15, 0.15]),
    ]:
        found = spoilt(kind, domain)
        for value, share in zip(values, shares):
            assert (found == value).double().mean().item() == pytest.approx(share, abs=0.01)
        assert (found == 0.25).double().mean().item() == pytest.approx(0.7, abs=0.01)


def test_symbols_are_replaced_by_any():
    x = torch.zeros(3000, 5, dtype=torch.int64)
    found = corrupted_symbols(x, 4, 0.4, generator=stream(0, "spoil"))
    shares = torch.bincount(found.flatten(), minlength=4) / found.numel()
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.1, 0.1, 0.1]), atol=0.01, rtol=0)
    whole = corrupted_symbols(x[:8], 4, 0.4, generator=stream(0, "spoil"))
    shares = [corrupted_symbols(x[:4], 4, 0.4, generator=Shared.of(stream(0, "spoil"), i, 2)) for i in (0, 1)]
    assert torch.equal(torch.cat(shares), whole)


def test_a_denoiser_reads_what_is_spoilt_and_gives_back_what_was():
    """Identity maps: the loss is half the noise's variance, per value, whatever x is."""
    model = build(Autoencoder, Vectors(4), latent_dim=4, hidden=(), corruption="gaussian", corruption_rate=0.5)
    with torch.no_grad():
        for network in (model.encoder, model.decoder):
            network.head.weight.copy_(torch.eye(4))
            network.head.bias.zero_()
    loss = model.loss(10 * normal(20_000, 4), generator=stream(0, "loss"))
    assert loss.total.item() == pytest.approx(0.5 * 4 * 0.25, rel=0.02)


# ---- penalties


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_the_contractive_penalty_is_the_exact_jacobian_in_the_mean(latent_dim):
    """For one number each draw is exact; for more, their mean is."""
    domain = Images(1, 2, 3, levels=17)
    arguments = {"latent_dim": latent_dim, "hidden": (7,), "contractive": 2.0}
    model = build(Autoencoder, domain, **arguments)
    x = torch.randint(17, (9, 1, 2, 3), generator=stream(0, "x")).to(torch.uint8)
    y = model.inside(x)
    exact = torch.stack([torch.autograd.functional.jacobian(model.encoder, row).square().sum() for row in y]).mean()
    draws = torch.stack([model.loss(x, generator=stream(i, "loss")).parts["slope"] for i in range(400)]).detach()
    if latent_dim == 1:
        torch.testing.assert_close(draws, (2 * exact).expand(400))
    else:
        assert abs(draws.mean() - 2 * exact) < 4 * draws.std() / 20
        assert draws.std() < exact


def test_the_contractive_penalty_has_the_exact_ones_gradient():
    """Of one number, of which each draw is exact."""
    model = build(Autoencoder, Vectors(3), latent_dim=1, hidden=(5,), contractive=1.0)
    x, weights = normal(4, 3), [p for p in model.encoder.parameters() if p.ndim > 1]
    jacobian = torch.func.vmap(torch.func.jacrev(model.encoder))
    exact = torch.autograd.grad(jacobian(x).square().sum((1, 2)).mean(), weights)
    slope = model.loss(x, generator=stream(0, "loss")).parts["slope"]
    for found, known in zip(torch.autograd.grad(slope, weights), exact, strict=True):
        torch.testing.assert_close(found, known)


def test_the_slopes_leave_the_callers_tensor_alone():
    """Of continuous pictures and convolutions, what the encoder reads is x itself."""
    domain = Images(1, 18, 18, levels=None)
    with seeded_init(0):
        model = Autoencoder(domain, latent_dim=2, width=4, contractive=1.0)
    x = normal(3, 1, 18, 18).float()
    assert model.inside(x) is x
    model.loss(x, generator=stream(0, "loss"))
    assert not x.requires_grad


def test_penalties_compose():
    """The total is the sum of its parts, the spread aside."""
    arguments = {"corruption": "masking", "contractive": 0.3, "l1": 0.2}
    model = build(Autoencoder, Vectors(3), latent_dim=5, hidden=(6,), **arguments)
    x = normal(10, 3)
    loss = model.loss(x, generator=stream(0, "loss"))
    assert loss.parts.keys() == {"half_squared_error", "spread", "slope", "l1"}
    torch.testing.assert_close(loss.total, sum(v for name, v in loss.parts.items() if name != "spread"))
    plain = build(Autoencoder, Vectors(3), latent_dim=2, hidden=(6,), l1=0.2)
    size = plain.loss(x, generator=stream(0, "loss")).parts["l1"]
    torch.testing.assert_close(size, 0.2 * plain.encode(x).abs().sum(1).mean())


@pytest.mark.parametrize("arguments", [{}, {"likelihood": "logistic"}, {"likelihood": "categorical"}])
def test_the_raes_gradient_penalty_is_the_exact_jacobian_in_the_mean(arguments):
    model = build(RAE, Images(1, 2, 2, levels=5), latent_dim=2, hidden=(6,), smooth=3.0, code=0.5, **arguments)
    x = torch.randint(5, (6, 1, 2, 2), generator=stream(0, "x")).to(torch.uint8)
    z = model.encode(x).detach()
    exact = torch.stack([torch.autograd.functional.jacobian(model.decoder, row).square().sum() for row in z]).mean()
    losses = [model.loss(x, generator=stream(i, "loss")) for i in range(400)]
    draws = torch.stack([loss.parts["slope"] for loss in losses]).detach()
    assert abs(draws.mean() - 3 * exact) < 4 * draws.std() / 20
    torch.testing.assert_close(losses[0].parts["code"], 0.25 * z.square().sum(1).mean())


def test_the_raes_weights_are_the_decoders():
    model = build(RAE, Vectors(3), latent_dim=2, hidden=(6,), regularise="l2", smooth=0.1)
    parts = model.loss(normal(5, 3), generator=stream(0, "loss")).parts
    expected = 0.1 * sum(p.square().sum() for p in model.decoder.parameters())
    torch.testing.assert_close(parts["weights"], expected)
    bare = build(RAE, Vectors(3), latent_dim=2, hidden=(6,), regularise="none")
    assert bare.loss(normal(5, 3), generator=stream(0, "loss")).parts.keys() == {"half_squared_error", "spread", "code"}


# ---- the Wasserstein autoencoder


@pytest.mark.parametrize("domain", [Vectors(2), Images(1, 2, 2, levels=32)])
def test_samples_have_the_noise_of_the_likelihood(domain):
    """A decoder that says 0 whatever z is, with noise of a known variance; ``mean`` leaves it out."""
    model = build(WAE, domain, latent_dim=2, hidden=())
    with torch.no_grad():
        model.decoder.head.weight.zero_()
        model.spread.fill_(-0.4)
    x = model.measured(model.sample(4000, generator=stream(0, "samples")))
    assert x.var(0).mean().item() == pytest.approx(math.exp(-4), rel=0.08)
    shown = model.sample(4000, generator=stream(0, "samples"), mean=True)
    assert bool((shown == shown[0]).all())


def test_the_divergence_is_that_of_the_codes_and_the_prior():
    x = normal(50, 2)
    model = build(WAE, Vectors(2), latent_dim=2, hidden=(6,), weight=4.0)
    loss = model.loss(x, generator=stream(0, "loss"))
    prior = torch.randn(50, 2, generator=stream(0, "loss"), dtype=torch.float64)
    torch.testing.assert_close(loss.parts["mmd"], mmd_squared(model.encode(x), prior, inverse_multiquadratics))
    torch.testing.assert_close(loss.total, loss.parts["half_squared_error"] + 4 * loss.parts["mmd"])


def test_the_sliced_divergence_of_one_number_is_the_sorted_distance():
    x = normal(50, 1)
    model = build(WAE, Vectors(1), latent_dim=1, hidden=(6,), divergence="sliced")
    loss = model.loss(x, generator=stream(0, "loss"))
    prior = torch.randn(50, 1, generator=stream(0, "loss"), dtype=torch.float64)
    expected = wasserstein_1d(model.encode(x), prior).square().squeeze()
    torch.testing.assert_close(loss.parts["sliced"], expected)


@pytest.mark.parametrize("divergence", ["mmd", "sliced"])
def test_codes_become_normal_and_samples_the_data(divergence):
    """Of a narrow normal, codes that are N(0, I) together, and samples with the moments of the data."""
    x = (normal(800, 2) @ torch.tensor([[2.0, 1.8], [0.0, 0.8]], dtype=torch.float64) + 3).float()
    model = build(WAE, Vectors(2), hidden=(16,), divergence=divergence).float()
    model.adapt(x, generator=stream(0, "adapt"))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    g = stream(0, "train")
    for _ in range(200):
        optimiser.zero_grad()
        model.loss(x[torch.randint(800, (128,), generator=g)], generator=g).total.backward()
        optimiser.step()
    z = model.encode(x).detach()
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.2, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(2), atol=0.25, rtol=0)
    drawn = model.sample(4000, generator=stream(0, "draw"))
    torch.testing.assert_close(drawn.mean(0), x.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), x.T.cov(), atol=0, rtol=0.25)


def test_the_sliced_divergence_keeps_the_contract():
    """The catalogue's tiny form has the other."""
    domain = Images(1, 1, 2, levels=3)
    assert failures(lambda: WAE(domain, latent_dim=2, hidden=(8,), divergence="sliced"), domain) == {}


def test_a_piece_of_a_batch_has_the_discrepancy_of_its_rows():
    """From the draws that the whole batch has for them; unbiased, as any mean of pieces then is."""
    model, x = build(WAE, Vectors(2), latent_dim=2, hidden=(6,)), normal(32, 2)
    prior = torch.randn(32, 2, generator=stream(0, "loss"), dtype=torch.float64)
    for i in range(4):
        rows = slice(8 * i, 8 * i + 8)
        piece = model.loss(x[rows], generator=Shared.of(stream(0, "loss"), i, 4)).parts["mmd"]
        torch.testing.assert_close(piece, mmd_squared(model.encode(x[rows]), prior[rows], inverse_multiquadratics))


def test_the_sliced_divergence_refuses_pieces_and_one_row_has_no_discrepancy():
    model = build(WAE, Vectors(2), divergence="sliced")
    with pytest.raises(Unusable, match=r"comes in pieces; use --accumulate 1 and one process, or --divergence mmd"):
        model.loss(normal(4, 2), generator=Shared.of(stream(0, "loss"), 0, 2))
    single = build(WAE, Vectors(2)).loss(normal(1, 2), generator=stream(0, "loss"))
    assert float(single.parts["mmd"]) == 0


# ---- what is refused


@pytest.mark.parametrize(
    ("kind", "domain", "arguments", "message"),
    [
        (Autoencoder, Vectors(3), {"latent_dim": 4}, "the 3 values of x, got 4: it would copy; .* or l1"),
        (RAE, Vectors(3), {"latent_dim": 4, "code": 0.0}, "it would copy; .* give code a weight"),
        (WAE, Vectors(3), {"latent_dim": 4, "weight": 0.0}, "it would copy"),
        (Autoencoder, Vectors(3), {"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        (Autoencoder, Vectors(3), {"corruption": "salt-and-pepper"}, "needs a least and a most level"),
        (Autoencoder, Images(1, 2, 2, levels=None), {"corruption": "salt-and-pepper"}, "these data have none"),
        (Autoencoder, Tokens(3, 4), {"corruption": "gaussian"}, "no size to corrupt by 'gaussian'; use masking"),
        (Autoencoder, PALETTE, {"corruption": "salt-and-pepper"}, "colours of a palette, have no size"),
        (Autoencoder, Vectors(3), {"corruption": "masking", "corruption_rate": 1.0}, "below 1, got 1.0"),
        (Autoencoder, Vectors(3), {"corruption": "gaussian", "corruption_rate": 0.0}, "must be above 0, got 0.0"),
        (Autoencoder, Vectors(3), {"corruption": "gaussian", "corruption_rate": math.nan}, "must be above 0, got nan"),
        (Autoencoder, Vectors(3), {"contractive": -1.0}, "contractive must be at least 0, and finite, got -1.0"),
        (Autoencoder, Vectors(3), {"l1": math.nan}, "l1 must be at least 0, and finite, got nan"),
        (Autoencoder, Tokens(3, 4), {"contractive": 1.0}, "no slope to be contractive in; use corruption masking"),
        (Autoencoder, PALETTE, {"contractive": 1.0}, "no slope"),
        (Autoencoder, Vectors(3), {"likelihood": "bernoulli"}, "one of normal"),
        (WAE, Vectors(3), {"weight": -1.0}, "weight must be at least 0, and finite, got -1.0"),
        (RAE, Vectors(3), {"smooth": -1.0}, "smooth must be at least 0, and finite, got -1.0"),
        (RAE, Vectors(3), {"code": math.inf}, "code must be at least 0, and finite, got inf"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(kind, domain, arguments, message):
    with pytest.raises(Unusable, match=message) as refused:
        kind(domain, **arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "held", [{"corruption": "masking"}, {"contractive": 0.1}, {"l1": 0.1}], ids=["corrupted", "contractive", "l1"]
)
def test_a_large_code_is_taken_when_it_is_held(held):
    assert build(Autoencoder, Vectors(3), latent_dim=9, **held).latent_domain == Vectors(9)


@pytest.mark.parametrize("name", ["autoencoder", "rae"])
def test_a_run_without_a_law_of_its_codes_says_how_to_get_one(name, tmp_path):
    run = fitting.fit(name, "moons", out=tmp_path / "run", steps=2, limit=100, device="cpu", hidden=(8,), latent_dim=1)
    with pytest.raises(Unusable) as refused:
        run.sample(3)
    assert str(refused.value) == (
        f"{name} cannot sample; its codes have no law yet, and 'pofx fit gaussian-mixture moons --latent "
        f"{tmp_path}/run' gives them one"
    )
    assert np.isfinite(run.history[-1]["model/loss"])
