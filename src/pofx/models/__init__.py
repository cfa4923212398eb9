"""One file per model, one folder per family; each file reads top to bottom as the method's story.

>>> import pofx
>>> pofx.models.VAE.__module__
'pofx.models.autoencoders.vae'
"""

import importlib
from typing import Any

_HOMES = {
    "GPT": "autoregressive.gpt",
    "MaskedLM": "autoregressive.masked_lm",
    "MADE": "autoregressive.made",
    "RNN": "autoregressive.rnn",
    "PixelCNN": "autoregressive.pixelcnn",
    "VAE": "autoencoders.vae",
    "Autoencoder": "autoencoders.autoencoder",
    "WAE": "autoencoders.wae",
    "RAE": "autoencoders.rae",
    "MaskedAutoencoder": "autoencoders.masked_autoencoder",
    "VQVAE": "autoencoders.vq_vae",
    "SparseAutoencoder": "autoencoders.sparse_autoencoder",
    "LadderVAE": "autoencoders.ladder_vae",
    "GAN": "adversarial.gan",
    "UnrolledGAN": "adversarial.unrolled_gan",
    "FlowMatching": "diffusion.flow_matching",
    "W2GAN": "transport.w2_gan",
    "Latent": "composed.latent",
    "Marginals": "baselines.marginals",
    "Gaussian": "baselines.gaussian",
    "NGram": "baselines.ngram",
    "Copy": "baselines.copy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pofx.models' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(f"pofx.models.{_HOMES[name]}"), name)
