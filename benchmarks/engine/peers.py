"""Who pofx's loop is compared with besides the bare one. None is a dependency; each is imported where it is measured.

Each does the same work as its own users write it: the same network, batches from a DataLoader over a TensorDataset,
clipping where it offers it, AdamW in its fused form with a cosine unless its name says otherwise. None averages the
weights, so neither does the bare loop that it is paired with.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from loops import bare_loop
from measure import Advance
from torch import nn
from workloads import Workload

from pofx.models.autoencoders.vae import VAE
from pofx.models.autoregressive.gpt import GPT
from pofx.train.loop import turns_of


@dataclass(frozen=True)
class Peer:
    """A loop that is compared.

    Args:
        package: what must be installed, or "".
        module: where its loop is.
        loop: the loop's name there.
        options: of the loop.
        trains: whether it trains a model.
        without: what the bare loop leaves out, because the peer does.
    """

    package: str
    module: str
    loop: str
    options: dict = field(default_factory=dict)
    trains: Callable[[nn.Module], bool] = lambda model: True
    without: dict = field(default_factory=lambda: {"ema": 0.0})

    @property
    def missing(self) -> bool:
        return bool(self.package) and importlib.util.find_spec(self.package) is None

    def build(self, workload: Workload) -> Advance:
        return partial(getattr(importlib.import_module(self.module), self.loop), **self.options)(workload)

    def bare(self, workload: Workload) -> Advance:
        return bare_loop(workload, **self.without)


def _alone(model: nn.Module) -> bool:
    return len(turns_of(model)) == 1


def _binary_mlp_vae(model: nn.Module) -> bool:
    return isinstance(model, VAE) and model.p.kind == "bernoulli"


def _gpt(model: nn.Module) -> bool:
    return isinstance(model, GPT)


_NO_CLIP = {"ema": 0.0, "clip": 0.0}

PEERS = {
    "AdamW not fused": Peer("", "loops", "bare_loop", {"fused": False, "ema": 0.0}, _alone),
    "nanoGPT's loop": Peer("", "nanogpt", "nanogpt_loop", {}, _gpt),
    "accelerate": Peer("accelerate", "with_accelerate", "accelerate_loop"),
    "lightning, all off": Peer("lightning", "with_lightning", "lightning_loop", {"defaults": False}),
    "lightning": Peer("lightning", "with_lightning", "lightning_loop", {"defaults": True}),
    "pythae, fused": Peer("pythae", "with_pythae", "pythae_loop", {"fused": True}, _binary_mlp_vae, _NO_CLIP),
    "pythae": Peer("pythae", "with_pythae", "pythae_loop", {"fused": False}, _binary_mlp_vae, _NO_CLIP),
}
