"""The U-Net: its attention against torch's, its shapes and its reach."""

import pytest
import torch
from torch import nn

from pofx.nn.unet import Attention, UNet
from pofx.randomness import seeded_init, stream


def test_attention_agrees_with_multihead_attention():
    with seeded_init(0):
        ours, theirs = Attention(64), nn.MultiheadAttention(64, 2, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data[:, :, 0, 0], ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data[:, :, 0, 0], ours.out.bias.data
    x = torch.randn(3, 64, 4, 5, generator=stream(0, "x"))
    places = ours.norm(x).flatten(2).transpose(1, 2)
    expected = x + theirs(places, places, places)[0].transpose(1, 2).view_as(x)
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize(("shape", "fold"), [((1, 5, 7), 1), ((1, 8, 8), 1), ((3, 28, 28), 2), ((1, 33, 64), 2)])
def test_every_size_comes_back_and_every_pixel_reaches_every_other(shape, fold):
    with seeded_init(0):
        net = UNet(shape, width=8, context=4)
    x = torch.randn(2, *shape, generator=stream(0, "x"), requires_grad=True)
    y = net(x, torch.randn(1, 4, generator=stream(1, "x")))
    assert y.shape == x.shape
    assert net.fold == fold
    (reach,) = torch.autograd.grad(y[0, 0, 0, 0], x)
    assert (reach[0] != 0).all()
    assert not reach[1].any()
