"""pythae's BaseTrainer on a VAE of its own of the same shape: its data are floats, it has no clipping and no cosine."""

import logging
import tempfile

import torch
from held import Held
from measure import Advance
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import nn
from workloads import Workload


def pythae_loop(workload: Workload, *, fused: bool, default: bool = False) -> Advance:
    """Its trainer; ``default``: on the networks that it builds unless it is given some, and else on ours."""
    logging.disable(logging.INFO)  # each of its modules sets a level of its own
    ours = workload.model()
    settings = workload.settings(ours)
    sizes = workload.x[0].numel(), ours.encoder.layers[0].out_features, ours.latent_dim
    shape = tuple(workload.x.shape[1:])

    def run(tick):
        networks = {} if default else {"encoder": Encoder(*sizes), "decoder": Decoder(*sizes)}
        model = pythae_vae(shape, ours.latent_dim, **networks)
        data = BaseDataset(workload.x, torch.zeros(len(workload.x)))
        with tempfile.TemporaryDirectory() as folder:
            training = BaseTrainerConfig(
                output_dir=folder, num_epochs=10_000, learning_rate=settings.learning_rate, no_cuda=True,
                per_device_train_batch_size=settings.batch_size, optimizer_params={"fused": True} if fused else None,
            )  # fmt: skip
            BaseTrainer(model, data, training_config=training, callbacks=[Ticking(tick)]).train()

    return Held(run).advance


def pythae_vae(shape: tuple[int, ...], latent: int, **networks: nn.Module) -> VAE:
    """Its VAE of binary pictures."""
    return VAE(VAEConfig(input_dim=shape, latent_dim=latent, reconstruction_loss="bce"), **networks)


class Ticking(TrainingCallback):
    def __init__(self, tick):
        self.tick = tick

    def on_train_step_end(self, training_config, **given):
        self.tick()


class Encoder(BaseEncoder):
    def __init__(self, inputs, hidden, latent):
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.SiLU())
        self.mu, self.log_var = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x):
        h = self.layer(x)
        return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self, inputs, hidden, latent):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.SiLU(), nn.Linear(hidden, inputs), nn.Sigmoid())

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))
