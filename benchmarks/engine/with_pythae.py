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
from torch import nn
from workloads import Workload


def pythae_loop(workload: Workload, *, fused: bool) -> Advance:
    logging.disable(logging.INFO)  # each of its modules sets a level of its own
    ours = workload.model()
    settings = workload.settings(ours)
    sizes = workload.x[0].numel(), ours.encoder.layers[0].out_features, ours.latent_dim

    def run(tick):
        config = VAEConfig(input_dim=tuple(workload.x.shape[1:]), latent_dim=sizes[2], reconstruction_loss="bce")
        model = VAE(config, encoder=Encoder(*sizes, tick), decoder=Decoder(*sizes))
        data = BaseDataset(workload.x, torch.zeros(len(workload.x)))
        with tempfile.TemporaryDirectory() as folder:
            training = BaseTrainerConfig(
                output_dir=folder, num_epochs=10_000, learning_rate=settings.learning_rate, no_cuda=True,
                per_device_train_batch_size=settings.batch_size, optimizer_params={"fused": True} if fused else None,
            )  # fmt: skip
            BaseTrainer(model, data, training_config=training).train()

    return Held(run).advance


class Encoder(BaseEncoder):
    def __init__(self, inputs, hidden, latent, tick):
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.SiLU())
        self.mu, self.log_var, self.tick = nn.Linear(hidden, latent), nn.Linear(hidden, latent), [tick]

    def __deepcopy__(self, memo):
        copy = Encoder(self.layer[1].in_features, self.layer[1].out_features, self.mu.out_features, None)
        copy.load_state_dict(self.state_dict())
        return copy

    def forward(self, x):
        self.tick[0]()
        h = self.layer(x)
        return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self, inputs, hidden, latent):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.SiLU(), nn.Linear(hidden, inputs), nn.Sigmoid())

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))
