"""The transformer trunk against attention written out by hand, and against itself with a cache."""

import math

import pytest
import torch

from pofx.errors import Unusable
from pofx.nn.attention import Architecture, Attention, Block, Transformer, rms_norm, rotate, rotation
from pofx.randomness import seeded_init, stream


def trunk(pattern: str, *, layers: int = 2) -> Transformer:
    """With output projections away from zero, so that something is computed."""
    with seeded_init(0):
        model = Transformer(16, layers, 2, pattern=pattern)
    for p in model.parameters():
        p.data.normal_(std=0.3, generator=stream(1, "init"))
    return model.double()


def states(batch: int = 3, length: int = 7) -> torch.Tensor:
    return torch.randn(batch, length, 16, generator=stream(0, "data")).double()


def turns(length: int = 7) -> torch.Tensor:
    return rotation(torch.arange(length)[:, None], 4).double()


@pytest.mark.parametrize("pattern", ["causal", "full"])
def test_attention_equals_loops(pattern):
    attention: Attention = trunk(pattern).blocks[0].attention
    x, angle = states(1, 5), torch.arange(5)[:, None] * 10000.0 ** -(torch.arange(4) / 4)
    expected = torch.zeros(5, 16).double()

    def turned(u, t):
        pairs = torch.complex(u[:4], u[4:]) * torch.polar(torch.ones(4), angle[t]).to(torch.complex128)
        return torch.cat([pairs.real, pairs.imag])

    def unit(u):
        return u / u.square().mean().sqrt()

    for head in (slice(0, 8), slice(8, 16)):
        q, k, v = ((x[0] @ f.weight.T)[:, head] for f in (attention.q, attention.k, attention.v))
        for t in range(5):
            seen = range(t + 1) if pattern == "causal" else range(5)
            scores = torch.stack([turned(unit(q[t]), t) @ turned(unit(k[i]), i) / math.sqrt(8) for i in seen])
            expected[t, head] = scores.softmax(0) @ v[list(seen)]
    torch.testing.assert_close(attention(x, turns(5))[0], expected @ attention.out.weight.T, atol=1e-6, rtol=1e-6)


def test_products_of_turned_vectors_know_only_the_offset():
    q, k = torch.randn(2, 1, 1, 1, 8, generator=stream(0, "data"), dtype=torch.float64)
    places = torch.tensor([[0, 0], [3, 1], [5, 5], [8, 6]])
    q, k = (rotate(u.expand(1, 1, 4, 8), rotation(places, 4)) for u in (q, k))
    torch.testing.assert_close(q[0, 0, 1] @ k[0, 0, 0], q[0, 0, 3] @ k[0, 0, 2], atol=1e-6, rtol=1e-6)
    assert abs(float(q[0, 0, 1] @ k[0, 0, 0] - q[0, 0, 2] @ k[0, 0, 0])) > 1e-3


@pytest.mark.parametrize("pattern", ["causal", "full"])
def test_who_sees_whom(pattern):
    h = states(1).requires_grad_()
    model = trunk(pattern)
    for t in range(7):
        (g,) = torch.autograd.grad(model(h, turns())[0, t].sum(), h)
        seen = g[0].abs().sum(1) > 0
        assert seen.tolist() == [pattern == "full" or i <= t for i in range(7)]


def test_starts_as_the_identity():
    with seeded_init(0):
        model = Transformer(16, 3, 2, pattern="causal").double()
    assert torch.equal(model(states(), turns()), states())


def test_projections_that_do_not_start_at_zero_are_smaller_with_depth():
    spread = {}
    for layers in (2, 8):
        with seeded_init(0):
            first = Transformer(64, layers, 2, pattern="causal", architecture=Architecture(zero_init=False)).blocks[0]
        spread[layers] = torch.cat([first.attention.out.weight.flatten(), 2 * first.down.weight.flatten()]).std()
    assert float(spread[2].detach() / spread[8].detach()) == pytest.approx(2)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu2", lambda m, x: torch.relu(m.up(x)) ** 2),
        ("gelu", lambda m, x: m.up(x) * (1 + torch.erf(m.up(x) / math.sqrt(2))) / 2),
        ("gelu-tanh", lambda m, x: m.up(x) / (1 + torch.exp(-1.5957691 * (m.up(x) + 0.044715 * m.up(x) ** 3)))),
        ("swiglu", lambda m, x: m.gate(x) * torch.sigmoid(m.gate(x)) * m.up(x)),
    ],
)
def test_a_block_by_hand(activation, function):
    """LayerNorm, biases and each activation, written out; attention without QK-norm against torch's own layer."""
    chosen = Architecture("learned", "layer", qk_norm=False, activation=activation, bias=True, zero_init=False)
    with seeded_init(0):
        block = Block(16, 2, pattern="causal", architecture=chosen).double()
        peer = torch.nn.MultiheadAttention(16, 2, batch_first=True).double()
    for p in block.parameters():
        p.data.normal_(std=0.3, generator=stream(1, "init"))
    own = block.attention
    peer.in_proj_weight.data = torch.cat([own.q.weight, own.k.weight, own.v.weight]).detach()
    peer.in_proj_bias.data = torch.cat([own.q.bias, own.k.bias, own.v.bias]).detach()
    peer.out_proj.weight.data, peer.out_proj.bias.data = own.out.weight.detach(), own.out.bias.detach()

    def normed(h, by):
        return (h - h.mean(-1, keepdim=True)) / (
            h.var(-1, keepdim=True, correction=0) + 1e-5
        ).sqrt() * by.weight + by.bias

    h = states()
    x = normed(h, block.first)
    hidden = h + peer(x, x, x, attn_mask=torch.ones(7, 7).triu(1).bool(), need_weights=False)[0]
    expected = hidden + block.down(function(block, normed(hidden, block.second)))
    torch.testing.assert_close(block(h), expected)


def test_rms_norm_has_unit_mean_square():
    torch.testing.assert_close(rms_norm(5 * states()).square().mean(-1), torch.ones(3, 7).double())


@pytest.mark.parametrize("size", [(16, 2, 3), (6, 1, 2), (0, 1, 1), (16, 0, 2), (16, 1, 0)])
def test_refuses_sizes_that_do_not_fit(size):
    with pytest.raises(Unusable, match="multiple of 2"):
        Transformer(*size, pattern="causal")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("position", "learnt", "did you mean 'learned'"),
        ("norm", "batch", "there are: layer, rms"),
        ("activation", "relu", "did you mean 'relu2'"),
    ],
)
def test_refuses_parts_that_there_are_not(name, value, words):
    architecture = Architecture()
    object.__setattr__(architecture, name, value)  # past the types that tests alone check
    with pytest.raises(Unusable, match=words):
        architecture.__post_init__()
