"""Decoding a few places at a time against the transformer itself, which reads them all at once."""

import pytest
import torch

from pofx.nn.attention import Architecture, Transformer, rotation
from pofx.nn.decoder import Decoder, Normed
from pofx.randomness import seeded_init, stream

ARCHITECTURES = {
    "the default": Architecture(),
    "GPT-2": Architecture("learned", "layer", qk_norm=False, activation="gelu-tanh", bias=True, zero_init=False),
    "gated": Architecture(activation="swiglu", bias=True),
    "rotary, layer": Architecture(norm="layer", activation="gelu", qk_norm=False),
}


def trunk(architecture: Architecture, dtype=torch.float64) -> Transformer:
    with seeded_init(0):
        model = Transformer(16, 3, 2, pattern="causal", architecture=architecture)
    g = stream(1, "init")
    for p in model.parameters():
        p.data.normal_(std=0.3, generator=g)
    return model.to(dtype)


def states(dtype=torch.float64) -> torch.Tensor:
    return torch.randn(3, 7, 16, generator=stream(0, "data")).to(dtype)


def turns(architecture: Architecture, dtype=torch.float64) -> torch.Tensor | None:
    return rotation(torch.arange(7)[:, None], 4).to(dtype) if architecture.position == "rotary" else None


def decoded(model: Transformer, h: torch.Tensor, turn: torch.Tensor | None, pieces: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        decoder = Decoder(model, len(h), h.shape[1], turn)
        return torch.cat([decoder(part) for part in h.split(pieces, dim=1)], 1).clone()


@pytest.mark.parametrize("pieces", [(1,) * 7, (4, 1, 2), (7,), (2, 5)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_states(name, pieces):
    architecture = ARCHITECTURES[name]
    model, h, turn = trunk(architecture), states(), turns(architecture)
    torch.testing.assert_close(decoded(model, h, turn, pieces), model(h, turn), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@torch.no_grad()
def test_the_same_states_in_less_precision(dtype, tolerance):
    """Those of the same rounded weights in doubles; the error as a share of the largest state."""
    h, turn, model = states(dtype), turns(Architecture(), dtype), trunk(Architecture(), dtype)
    found = decoded(model, h, turn, (3, 1, 1, 2)).double()
    exact = model.double()(h.double(), turn.double())
    assert float((found - exact).abs().max() / exact.abs().max()) < tolerance


def test_rows_do_not_touch_each_other():
    model, h, turn = trunk(Architecture()), states(), turns(Architecture())
    alone = torch.cat([decoded(model, row[None], turn, (1,) * 7) for row in h])
    torch.testing.assert_close(alone, decoded(model, h, turn, (1,) * 7))


def test_what_is_read_is_not_written_over():
    model, h, turn = trunk(Architecture()), states(), turns(Architecture())
    decoded(model, h, turn, (7,))
    assert torch.equal(h, states())


@pytest.mark.parametrize("norm", [torch.nn.RMSNorm(16), torch.nn.LayerNorm(16), torch.nn.LayerNorm(16, bias=False)])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_a_norm_folded_into_a_layer(norm, bias):
    """Small inputs too, where the norm's epsilon counts."""
    norm, layer = norm.double(), torch.nn.Linear(16, 5, bias=bias).double()
    for p in norm.parameters():
        p.normal_(generator=stream(2, "init"))
    h = states()[0] * torch.logspace(-12, 2, 7)[:, None]
    torch.testing.assert_close(Normed(norm, layer.weight, layer.bias)(h), layer(norm(h)))
