"""The network that the benchmarks beside pythae train and score: its default VAE of vectors, and ours of that shape.

784-512-20 and back, ReLU, Bernoulli pixels. ``carried`` gives pythae's the weights of ours.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))  # its loops, its clock and what it has of peers

import by_hand
from workloads import Workload, pictures

from pofx.domains import Images
from pofx.models.autoencoders.vae import VAE

HIDDEN, LATENT = 512, 20
BINARY = Images(1, 28, 28, levels=2)


def ours(**arguments):
    """pofx's VAE."""
    given = {"hidden": (HIDDEN,), "latent_dim": LATENT, "activation": "relu"} | arguments
    return VAE(BINARY, network="mlp", prior="normal", **given)


def workload(batch):
    """To be trained; as many pictures as MNIST has, synthetic ones."""
    written = partial(by_hand.bernoulli_vae, HIDDEN, LATENT, F.relu)
    return Workload(f"batch {batch}", ours, pictures(28, 2), batch, written)


@torch.no_grad()
def carried(model):
    """pythae's VAE with the weights of ours, whose encoder reads x shifted and whose pixels have a bias more."""
    from with_pythae import pythae_vae

    peer = pythae_vae(BINARY.shape, LATENT)
    weight, bias = _linear(model.encoder.layers[0])
    shift = model.inside(torch.zeros(1, *BINARY.shape, dtype=BINARY.dtype))[0]
    _copy(peer.encoder.layers[0][0], weight, bias + weight @ shift)
    weight, bias = _linear(model.encoder.head)
    for layer, rows in ((peer.encoder.embedding, slice(LATENT)), (peer.encoder.log_var, slice(LATENT, None))):
        _copy(layer, weight[rows], bias[rows])
    _copy(peer.decoder.layers[0][0], *_linear(model.decoder.layers[0]))
    _copy(peer.decoder.layers[1][0], model.decoder.head.weight, model.decoder.head.bias + model.bias)
    return peer


def _linear(layer):
    return layer.weight, layer.bias


def _copy(layer, weight, bias):
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
