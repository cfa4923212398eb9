"""The masked autoencoder: what its encoder reads, what its loss counts, what it fills in."""

import math

import pytest
import torch
import torch.nn.functional as F

from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.models.autoencoders.masked_autoencoder import MaskedAutoencoder, Patches, effective_dims
from pofx.nn.attention import rms_norm
from pofx.randomness import Shared, seeded_init, stream
from pofx.testing import TWO_CLASSES
from pofx.testing.specimens import shaken

GREY = Images(1, 6, 4, levels=5)
COLOUR = Images(3, 4, 4, levels=None)
TABLE = Vectors(5)
SMALL = {"width": 8, "layers": 2, "heads": 2, "decoder_heads": 2}


def data(domain, n=40, seed=0):
    g = stream(seed, "data")
    if isinstance(domain, Images) and domain.levels:
        return torch.randint(domain.levels, (n, *domain.shape), generator=g).to(domain.dtype)
    return 3 + 2 * torch.randn(n, *domain.shape, generator=g)


def masked(domain, condition=None, **arguments):
    """With every weight away from zero, in double precision."""
    with seeded_init(0):
        model = MaskedAutoencoder(domain, condition=condition, **{**SMALL, **arguments})
    model.adapt(data(domain), generator=stream(0, "adapt"))
    return shaken(model.double().eval())


def masks(model, n, seed=0):
    """The hidden patches (n, T) that a loss with this seed hides, as it draws nothing else first."""
    _, gone = model._shuffled(data(model.domain, n), stream(seed, "loss"))
    return torch.zeros(n, model.patches.count, dtype=torch.bool).scatter(1, gone, True)


def pixels(model, mask):
    """Which values lie in some patches, of x's shape."""
    values = mask[..., None].expand(-1, -1, model.domain.dims // model.patches.count).double()
    return model.patches.join(values)[:, 0].bool()


@pytest.mark.parametrize(("domain", "patch"), [(GREY, 2), (COLOUR, 2), (COLOUR, 1), (TABLE, None)])
def test_patches_are_squares_of_the_picture_and_join_to_it_again(domain, patch):
    patches, x = Patches(domain, patch), data(domain)
    cut = patches.split(x)
    assert cut.shape == (40, patches.count, domain.dims // patches.count)
    assert torch.equal(patches.join(cut.double())[:, 0], x.double())
    if isinstance(domain, Images):
        squares = F.unfold(x.double(), patches.side, stride=patches.side).transpose(1, 2)
        assert torch.equal(cut.double(), squares), "in raster order, channel by channel"


def test_what_is_told_of_a_patch_stands_in_its_place():
    """N numbers for each value, told by the patch, become (N, C, H, W) with the patch's values in its square."""
    patches = Patches(COLOUR, 2)
    several = torch.stack([data(COLOUR, seed=s) for s in range(3)], dim=1)
    told = torch.stack([patches.split(several[:, i]) for i in range(3)], dim=2).flatten(2)
    assert torch.equal(patches.join(told), several)


@pytest.mark.parametrize("arguments", [{}, {"normalise": True}])
def test_no_hidden_value_is_read_and_only_they_are_scored(arguments):
    """The gradient of what is told by values that are hidden is exactly zero; by those visible it is not."""
    model, x = masked(COLOUR, **arguments), data(COLOUR, 8).requires_grad_()
    seen, gone = model._shuffled(x, stream(0, "loss"))
    told = model.decoder(model._encoded(model._inside(x), seen), seen, None)
    (slope,) = torch.autograd.grad(told.square().sum(), x)
    hidden = pixels(model, masks(model, 8))
    assert seen.shape[1] + gone.shape[1] == model.patches.count
    assert not slope[hidden].any()
    assert slope[~hidden].all()


@pytest.mark.parametrize("domain", [GREY, COLOUR, TABLE])
def test_loss_is_the_mean_over_hidden_values(domain):
    """By the likelihood of whole observations that are told in place of the hidden part alone."""
    model, x = masked(domain), data(domain, 8)
    loss = model.loss(x, generator=stream(0, "loss"))
    mask = masks(model, 8)
    seen = (~mask).nonzero()[:, 1].view(8, -1)
    p = model._likelihood(model.decoder(model._encoded(model._inside(x), seen), seen, None))
    each = p.base.log_prob(x)[pixels(model, mask)]
    assert len(each) == 8 * model.hidden * domain.dims // model.patches.count
    assert float(loss.total.detach()) == pytest.approx(-float(each.detach().mean()), rel=1e-6)
    assert float((loss.parts["masked_nll"] / loss.total).detach()) == pytest.approx(domain.dims)


def test_normalised_patches_have_mean_zero_and_variance_one():
    model, x = masked(GREY, normalise=True), data(GREY, 8)
    mask = masks(model, 8)
    seen = (~mask).nonzero()[:, 1].view(8, -1)
    told = model.decoder(model._encoded(model._inside(x), seen), seen, None)
    y = model._inside(x)
    target = (y - y.mean(-1, keepdim=True)) / y.std(-1, keepdim=True).clamp(min=1e-9)
    expected = (told - target).square()[mask].mean()
    loss = model.loss(x, generator=stream(0, "loss"))
    assert float(loss.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    flat = torch.full((3, 1, 6, 4), 2, dtype=torch.uint8)
    assert model.loss(flat, generator=stream(0, "loss")).total.isfinite(), "a patch without variance"


def slowly(encoder, values, mask):
    """Every patch goes in, and no attention is paid to those hidden: the same states, at four times the cost."""
    n = len(values)
    h = torch.cat([encoder.extra.expand(n, 1, -1), encoder.read(values) + encoder.places], dim=1)
    h, bars = rms_norm(h), torch.cat([torch.zeros(n, 1, dtype=torch.bool), mask], dim=1)
    for block in encoder.trunk.blocks:
        q, k, v = (
            f(block.first(h)).unflatten(-1, (block.attention.heads, -1)).transpose(1, 2)
            for f in (block.attention.q, block.attention.k, block.attention.v)
        )
        logits = rms_norm(q) @ rms_norm(k).transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = logits.masked_fill(bars[:, None, None], -torch.inf).softmax(-1)
        h = h + block.attention.out((weights @ v).transpose(1, 2).flatten(2))
        h = h + block.down(block.activation(block.up(block.second(h))))
    return rms_norm(h)[:, 1:]


def test_fewer_tokens_are_those_of_masked_attention():
    model, x = masked(GREY), data(GREY, 8)
    mask = masks(model, 8)
    seen = (~mask).nonzero()[:, 1].view(8, -1)
    values = model._inside(x)
    expected = slowly(model.encoder, values, mask)[~mask].view(8, seen.shape[1], -1)
    torch.testing.assert_close(model._encoded(values, seen), expected)


def test_the_share_of_hidden_patches():
    picture = Images(1, 28, 28)
    assert MaskedAutoencoder(picture).hidden == 37
    assert MaskedAutoencoder(picture, mask_ratio=0.5).hidden == 24
    assert MaskedAutoencoder(Vectors(2)).hidden == 1
    assert MaskedAutoencoder(Images(1, 1, 2), **SMALL).hidden == 1, "one is visible by default"
    hidden = masks(masked(GREY), 4000).double()
    assert torch.equal(hidden.sum(1), torch.full((4000,), 4.0, dtype=torch.float64)), "equally many in every row"
    torch.testing.assert_close(hidden.mean(0), torch.full((6,), 4 / 6, dtype=torch.float64), atol=0.03, rtol=0)


def test_a_batch_in_pieces_hides_what_the_whole_would():
    model, x, g = masked(GREY), data(GREY, 8), stream(0, "loss")
    whole, _ = model._shuffled(x, stream(0, "loss"))
    pieces = [model._shuffled(part, Shared.of(g, i, 2))[0] for i, part in enumerate(x.chunk(2))]
    assert torch.equal(torch.cat(pieces), whole)


def test_default_patches():
    sides = {(28, 28): 4, (32, 32): 4, (8, 8): 2, (64, 64): 8, (28, 20): 4, (2, 2): 1, (7, 7): 1}
    for (height, width), side in sides.items():
        assert Patches(Images(1, height, width), None).side == side


@pytest.mark.parametrize("domain", [GREY, COLOUR, TABLE])
def test_completing_keeps_what_is_known_and_reads_nothing_else(domain):
    """Masks that differ from row to row and cut through patches; what is unknown could be anything."""
    model, x = masked(domain), data(domain, 30)
    known = torch.rand(x.shape, generator=stream(0, "mask")) < 0.5
    places = torch.randint(model.patches.count, (30, 1), generator=stream(0, "whole"))
    whole = torch.zeros(30, model.patches.count, dtype=torch.bool).scatter(1, places, True)
    whole[::2, :-1] = True
    known |= pixels(model, whole)
    assert len(set(model._whole(known).sum(1).tolist())) > 1, "rows with different numbers of visible patches"
    filled = model.complete(x, known, generator=stream(0, "draw"))
    assert torch.equal(filled[known], x[known])
    other = torch.where(known, x, data(domain, 30, seed=1))
    assert torch.equal(model.complete(other, known, generator=stream(0, "draw")), filled)
    alone = model._told(x[:1], model._whole(known)[:1], None)
    torch.testing.assert_close(model._told(x, model._whole(known), None)[:1], alone)


def test_completions_are_drawn_from_what_is_told():
    model, x = masked(GREY), data(GREY, 1).expand(4000, -1, -1, -1)
    known = torch.zeros(GREY.shape, dtype=torch.bool)
    known[:, :2] = True
    drawn = model.complete(x, known, generator=stream(0, "draw"))
    p = model._likelihood(model._told(x[:1], model._whole(known), None))
    for level in range(5):
        expected = p.base.log_prob(torch.full((1, *GREY.shape), level)).exp()[0]
        share = (drawn == level).double().mean(0)
        torch.testing.assert_close(share[~known], expected[~known].detach(), atol=0.04, rtol=0)
    mode = model.complete(x[:2], known, generator=stream(0, "draw"), mode=True)
    assert torch.equal(mode[0], mode[1])
    assert torch.equal(mode[0][~known], p.mode[0][~known])


def test_it_learns_what_the_visible_say_about_the_hidden():
    """Two columns that are equal up to a little noise: each is told from the other, where the marginals say little."""
    x = torch.randn(500, 1, generator=stream(0, "data")) * torch.tensor([1.0, 10.0])
    x = x + 0.05 * torch.tensor([1.0, 10.0]) * torch.randn(500, 2, generator=stream(1, "data"))
    with seeded_init(0):
        model = MaskedAutoencoder(Vectors(2), width=16, layers=1, heads=2, decoder_heads=2)
    model.adapt(x, generator=stream(0, "adapt"))
    optimiser, g = torch.optim.Adam(model.parameters(), 1e-2), stream(0, "noise")
    for _ in range(300):
        optimiser.zero_grad()
        model.loss(x, generator=g).total.backward()
        optimiser.step()
    known = torch.tensor([True, False])
    told = model.complete(x, known, generator=g, mode=True)[:, 1]
    assert float((told - 10 * x[:, 0]).std()) < 2.0, "of a standard deviation of 10"


def test_a_condition_changes_what_is_filled_in_but_not_the_features():
    model, x = masked(GREY, TWO_CLASSES), data(GREY, 8)
    whole = torch.zeros(8, 6, dtype=torch.bool)
    whole[:, 0] = True
    a, b, none = (
        model._told(x, whole, c) for c in (torch.zeros(8, dtype=torch.int64), torch.ones(8, dtype=torch.int64), None)
    )
    assert min(float((a - b).detach().abs().max()), float((a - none).detach().abs().max())) > 1e-3
    assert torch.equal(model.encode(x, torch.tensor([1])), model.features(x))


def test_features_of_any_layer():
    model, x = masked(GREY), data(GREY, 8)
    layers = [model.features(x, layer=layer) for layer in range(3)]
    assert torch.equal(layers[2], model.features(x))
    assert layers[2].shape == (8, model.latent_domain.dim)
    assert float((layers[0] - layers[1]).detach().abs().max()) > 1e-3
    with pytest.raises(Unusable, match="layer lies in 0"):
        model.features(x, layer=3)


def test_colours_of_a_palette_are_read_as_colours():
    """Two numbers of one colour are one to the encoder, though the likelihood tells them apart."""
    palette = ((0, 0, 0), (200, 0, 0), (200, 0, 0))
    model = masked(Images(1, 4, 4, levels=3, palette=palette))
    ones, twos = (torch.full((1, 1, 4, 4), k, dtype=torch.uint8) for k in (1, 2))
    assert torch.equal(model.features(ones), model.features(twos))
    assert model.p.kind == "categorical"


def test_meters_of_many_rows_are_encoded_in_batches():
    model, seen, x = masked(GREY), [], data(GREY, 600)
    known = effective_dims(model.features(x))
    model.encoder.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    torch.testing.assert_close(model.meters(x)["feature_dims"], known.detach())
    assert sum(seen) == 600
    assert max(seen) <= 256


def test_effective_dimensions():
    axes = torch.cat([torch.eye(7), -torch.eye(7)])[:, :7]
    assert float(effective_dims(axes)) == pytest.approx(7)
    assert float(effective_dims(axes[:, :1] * torch.ones(1, 4))) == pytest.approx(1)
    assert float(effective_dims(torch.ones(5, 3))) == 0


@pytest.mark.parametrize(
    ("domain", "arguments", "words"),
    [
        (Tokens(3, 4), {}, "for these take masked-lm"),
        (Images(1, 28, 28), {"patch": 5}, "28 and 28, got 5; choose one of 1, 2, 4, 7, 14, 28"),
        (Images(1, 28, 28), {"patch": 0}, "patch must divide"),
        (Images(1, 28, 28), {"patch": 28}, "take a smaller patch"),
        (Vectors(1), {}, "take a smaller patch, or data of more values"),
        (TABLE, {"patch": 2}, "one column, got patch 2"),
        (TABLE, {"normalise": True}, "no variance"),
        (GREY, {"mask_ratio": 0.0}, "got 0.0; choose 0.17 to 0.83"),
        (GREY, {"mask_ratio": 1.0}, "leave one visible, got 1.0"),
        (GREY, {"mask_ratio": 0.05}, "hide at least one of the 6 patches"),
        (GREY, {"mask_ratio": 0.95}, "leave one visible, got 0.95"),
        (GREY, {"mask_ratio": float("nan")}, "got nan"),
        (GREY, {"drop": 1.0}, "drop must be in"),
        (GREY, {"width": 9}, "multiple of heads"),
        (GREY, {"likelihood": "bernoulli"}, "likelihood of pictures of 5 levels"),
    ],
)
def test_refuses_what_it_cannot_be(domain, arguments, words):
    with pytest.raises(Unusable, match=words):
        MaskedAutoencoder(domain, **{**SMALL, **arguments})


def test_refuses_what_it_cannot_complete():
    x, g = data(GREY, 3), stream(0, "draw")
    everything, corners = torch.ones(GREY.shape, dtype=torch.bool), torch.zeros(GREY.shape, dtype=torch.bool)
    corners[:, ::2, ::2] = True
    assert not masked(GREY).completes(corners)
    assert not masked(GREY, normalise=True).completes(everything)
    for model, known, words in (
        (masked(GREY), corners, r"known whole \(2 x 2 pixels\)"),
        (masked(GREY, normalise=True), everything, "fit without normalise"),
        (masked(GREY, TWO_CLASSES, drop=0.0), everything, "give the condition"),
        (masked(GREY), everything[:, :2], "a mask is boolean"),
    ):
        with pytest.raises(Unusable, match=words):
            model.complete(x, known, generator=g)
