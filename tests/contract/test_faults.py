"""Ten faults that are easily made and hardly seen, planted one by one: each breaks a promise, named beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from pofx.catalogue import entries
from pofx.distributions import DiagonalNormal, Independent, standard_normal_log_prob
from pofx.distributions.normal import Normal
from pofx.domains import Domain
from pofx.models.autoencoders.vae import VAE
from pofx.models.autoregressive.gpt import GPT
from pofx.protocols import Loss
from pofx.randomness import stream
from pofx.testing import TINY, failures


def sign_of_the_kl(patch):
    right = VAE.loss

    def loss(self, x, condition=None, *, generator):
        parts = right(self, x, condition, generator=generator).parts
        return Loss(parts["reconstruction"] - parts["rate"], parts)

    patch.setattr(VAE, "loss", loss)


def kl_dropped_from_the_loss(patch):
    right = VAE.loss

    def loss(self, x, condition=None, *, generator):
        parts = right(self, x, condition, generator=generator).parts
        return Loss(parts["reconstruction"], parts)

    patch.setattr(VAE, "loss", loss)


def kl_dropped_from_the_bound(patch):
    def elbo(self, x, condition=None, *, samples=1, generator):
        z = self.posterior(x, condition).rsample(samples, generator=generator)
        return self.decode(z, condition).log_prob(x).mean(0)

    patch.setattr(VAE, "elbo", elbo)


def sign_of_the_bound(patch):
    right = VAE.elbo
    patch.setattr(
        VAE,
        "elbo",
        lambda self, x, condition=None, *, samples=1, generator: (
            -right(self, x, condition, samples=samples, generator=generator)
        ),
    )


def sign_of_log_prob(patch):
    right = GPT.log_prob
    patch.setattr(GPT, "log_prob", lambda self, x, condition=None: -right(self, x, condition))


def mean_over_dimensions(patch):
    def log_prob(self, x, *, last=False):
        return self.base.log_prob(x).flatten(-len(self.domain.shape)).mean(-1)

    patch.setattr(Independent, "log_prob", log_prob)


def sum_over_the_batch(patch):
    right = VAE.loss

    def loss(self, x, condition=None, *, generator):
        loss = right(self, x, condition, generator=generator)
        return Loss(loss.total * len(x), loss.parts)

    patch.setattr(VAE, "loss", loss)


def global_randomness_in_sample(patch):
    def sample(self, n, condition=None, *, generator):
        z = torch.randn(n, self.latent_dim, dtype=self.bias.dtype)
        return self.decode(z, condition).sample(generator=generator)

    patch.setattr(VAE, "sample", sample)


def own_seed_in_sample(patch):
    right = VAE.sample
    patch.setattr(
        VAE, "sample", lambda self, n, condition=None, *, generator: right(self, n, generator=stream(0, "own"))
    )


def leaking_mask(patch):
    def attend(q, k, v, *, scale=None):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)

    patch.setattr("pofx.nn.attention.attend", attend)


def mean_for_sum_in_log_prob(patch):
    right = GPT.log_prob
    patch.setattr(GPT, "log_prob", lambda self, x, condition=None: right(self, x, condition) / self.sequence.length)


def detached_latent(patch):
    right = DiagonalNormal.rsample

    def rsample(self, samples, *, generator):
        return right(self, samples, generator=generator).detach()

    patch.setattr(DiagonalNormal, "rsample", rsample)


def doubled_noise_in_the_latent(patch):
    right = DiagonalNormal.rsample

    def rsample(self, samples, *, generator):
        return self.mu + 2 * (right(self, samples, generator=generator) - self.mu)

    patch.setattr(DiagonalNormal, "rsample", rsample)


def doubled_noise_in_the_samples(patch):
    right = Normal.sample

    def sample(self, *, generator):
        return self.mu + 2 * (right(self, generator=generator) - self.mu)

    patch.setattr(Normal, "sample", sample)


@dataclass(frozen=True)
class Fault:
    plant: Callable[[pytest.MonkeyPatch], None]
    model: str
    domain: Domain
    breaks: str


PICTURE, RECORD, VECTOR = TINY["images"][1], TINY["tokens"][1], TINY["vectors"][0]
FAULTS = [
    Fault(sign_of_the_kl, "vae", PICTURE, "loss_is_the_bound"),
    Fault(kl_dropped_from_the_loss, "vae", PICTURE, "loss_is_the_bound"),
    Fault(kl_dropped_from_the_bound, "vae", PICTURE, "bound_is_below_the_truth"),
    Fault(sign_of_the_bound, "vae", PICTURE, "bound_is_below_the_truth"),
    Fault(sign_of_log_prob, "gpt", RECORD, "density_sums_to_one"),
    Fault(mean_over_dimensions, "vae", PICTURE, "bound_has_no_mass_above_one"),
    Fault(sum_over_the_batch, "vae", PICTURE, "loss_is_a_mean_over_the_batch"),
    Fault(global_randomness_in_sample, "vae", PICTURE, "randomness_is_the_generator"),
    Fault(own_seed_in_sample, "vae", PICTURE, "another_generator_gives_other_samples"),
    Fault(leaking_mask, "gpt", RECORD, "density_sums_to_one"),
    Fault(mean_for_sum_in_log_prob, "gpt", RECORD, "density_sums_to_one"),
    Fault(kl_dropped_from_the_bound, "vae", PICTURE, "bound_meets_plain_monte_carlo"),
    Fault(detached_latent, "vae", PICTURE, "gradient_meets_finite_differences"),
    Fault(doubled_noise_in_the_latent, "vae", PICTURE, "bound_meets_quadrature"),
    Fault(doubled_noise_in_the_samples, "vae", VECTOR, "samples_meet_the_bound"),
]


def broken(fault: Fault) -> set[str]:
    entry = entries()[fault.model]
    build = partial(entry.build, fault.domain, **entry.tiny[fault.domain.kind])
    return set(failures(build, fault.domain, only=(fault.breaks,)))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.plant.__name__}-{fault.breaks}")
def test_a_planted_fault_is_caught(fault, monkeypatch):
    assert broken(fault) == set()
    fault.plant(monkeypatch)
    assert broken(fault) == {fault.breaks}


def test_the_prior_that_the_checks_assume_is_the_models():
    z = torch.randn(5, 2, generator=stream(0, "z"))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(standard_normal_log_prob(z), expected)
