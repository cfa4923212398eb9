"""Name -> model. A static table: nothing is imported until it is asked for."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pofx.errors import Unusable, nearest
from pofx.models.autoregressive.presets import AS_GPT2


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue.

    Args:
        name: what a user types.
        path: "module:Class".
        family: autoregressive, autoencoders, adversarial, diffusion, baselines, ...
        paper: author, year, arXiv id.
        summary: one line.
        domains: the kinds it takes.
        tiny: per domain kind, the arguments of a form small enough to test by enumeration; none for a preset for which
            another entry of its class stands.
        arguments: of the class; what makes a preset.
        flagship: stands for its family in a comparison.
    """

    name: str
    path: str
    family: str
    paper: str
    summary: str
    domains: tuple[str, ...]
    tiny: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    flagship: bool = False

    def load(self) -> type:
        """The model's class."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)

    def hyperparameters(self) -> dict[str, inspect.Parameter]:
        """The class's own keyword arguments, with this entry's as defaults: what the command line makes flags of."""
        signature = inspect.signature(self.load())
        return {
            name: p.replace(default=self.arguments.get(name, p.default))
            for name, p in signature.parameters.items()
            if name not in ("domain", "condition", "source")
        }

    def build(self, domain: Any, *, condition: Any = None, **arguments: Any) -> Any:
        """An untrained model; weights come from torch's global state, so wrap it in ``seeded_init``.

        Raises:
            Unusable: the model does not take the domain, or has no such argument.
        """
        if domain.kind not in self.domains:
            raise Unusable(
                f"{self.name} takes {' or '.join(self.domains)}, but the data are {domain.kind}; "
                f"for these there are: {', '.join(e.name for e in entries().values() if domain.kind in e.domains)}"
            )
        known = self.hyperparameters()
        for name in arguments.keys() - {"source"}:
            if name not in known:
                raise Unusable(f"{self.name} has no argument {name!r}{nearest(name, known)}")
        return self.load()(domain, condition=condition, **{**self.arguments, **arguments})


_TINY_NET = {"hidden": (8,)}
_TINY_TRUNK = {"width": 8, "layers": 1, "heads": 2}
_TINY_CODES: dict[str, dict[str, Any]] = {
    "images": {"codes": 3, "code_dim": 2, "width": 8, "blocks": 1},
    "tokens": {"codes": 2, "code_dim": 2, "width": 8, "blocks": 1},
    "vectors": {"codes": 3, "code_dim": 2, "slots": 2, "hidden": (8,)},
}

_TINY_GAME = {"latent_dim": 2, **_TINY_NET}

_TINY_CODE = {kind: {"latent_dim": 2, **_TINY_NET} for kind in ("images", "vectors", "tokens")}

_TABLE: tuple[Entry, ...] = (
    Entry(
        "gpt",
        "pofx.models.autoregressive.gpt:GPT",
        family="autoregressive",
        paper="Radford et al. 2018; Chen et al. 2020 (image GPT)",
        summary="causal transformer over symbols, pixels or numbers, exact likelihood",
        domains=("tokens", "images", "vectors"),
        tiny={"tokens": {**_TINY_TRUNK, "gram_rows": 7}, "images": _TINY_TRUNK, "vectors": _TINY_TRUNK},
        flagship=True,
    ),
    Entry(
        "gpt-tiny",
        "pofx.models.autoregressive.gpt:GPT",
        family="autoregressive",
        paper="Radford et al. 2018",
        summary="gpt of 2 layers, 64 wide: for a first look",
        domains=("tokens", "images", "vectors"),
        arguments={"width": 64, "layers": 2, "heads": 2},
    ),
    Entry(
        "gpt-small",
        "pofx.models.autoregressive.gpt:GPT",
        family="autoregressive",
        paper="Radford et al. 2018",
        summary="gpt of 6 layers, 384 wide: for a GPU, or an evening",
        domains=("tokens", "images", "vectors"),
        arguments={"width": 384, "layers": 6, "heads": 6},
    ),
    Entry(
        "gpt2",
        "pofx.models.autoregressive.gpt:GPT",
        family="autoregressive",
        paper="Radford et al. 2019",
        summary="the smallest GPT-2: 12 layers, 768 wide, learned positions, LayerNorm, tied symbols",
        domains=("tokens",),
        tiny={"tokens": _TINY_TRUNK},
        arguments={"width": 768, "layers": 12, "heads": 12, "tie": True, **AS_GPT2},
    ),
    Entry(
        "image-gpt",
        "pofx.models.autoregressive.gpt:GPT",
        family="autoregressive",
        paper="Chen et al. 2020",
        summary="GPT-2's blocks over pixels in raster order, places learnt by row and column",
        domains=("images",),
        tiny={"images": _TINY_TRUNK},
        arguments={"width": 64, "layers": 6, "heads": 4, **AS_GPT2},
    ),
    Entry(
        "masked-lm",
        "pofx.models.autoregressive.masked_lm:MaskedLM",
        family="autoregressive",
        paper="Devlin et al. 2019, arXiv:1810.04805",
        summary="transformer that fills in any mask from both sides, pseudo-likelihood",
        domains=("tokens", "images"),
        tiny=dict.fromkeys(("tokens", "images"), _TINY_TRUNK),
    ),
    Entry(
        "rnn",
        "pofx.models.autoregressive.rnn:RNN",
        family="autoregressive",
        paper="Graves 2013, arXiv:1308.0850",
        summary="LSTM or GRU over symbols, pixels or numbers, exact likelihood",
        domains=("tokens", "images", "vectors"),
        tiny={kind: {"width": 8} for kind in ("tokens", "images", "vectors")},
    ),
    Entry(
        "pixelcnn",
        "pofx.models.autoregressive.pixelcnn:PixelCNN",
        family="autoregressive",
        paper="van den Oord et al. 2016, arXiv:1606.05328; Salimans et al. 2017, arXiv:1701.05517",
        summary="gated convolutions over the pixels above and to the left, exact likelihood",
        domains=("images",),
        tiny={"images": {"width": 8, "layers": 2}},
    ),
    Entry(
        "made",
        "pofx.models.autoregressive.made:MADE",
        family="autoregressive",
        paper="Germain et al. 2015, arXiv:1502.03509",
        summary="masked multilayer perceptron, in one order or several, exact likelihood",
        domains=("images", "tokens", "vectors"),
        tiny=dict.fromkeys(("images", "tokens", "vectors"), _TINY_NET),
    ),
    Entry(
        "vae",
        "pofx.models.autoencoders.vae:VAE",
        family="autoencoders",
        paper="Kingma and Welling 2014, arXiv:1312.6114",
        summary="encoder and decoder of a vector with a prior, bound of the likelihood",
        domains=("images", "vectors", "tokens"),
        tiny=_TINY_CODE,
        flagship=True,
    ),
    Entry(
        "autoencoder",
        "pofx.models.autoencoders.autoencoder:Autoencoder",
        family="autoencoders",
        paper="Rumelhart, Hinton and Williams 1986",
        summary="encoder and decoder of a vector, reconstruction alone: a code, no density",
        domains=("images", "vectors", "tokens"),
        tiny=_TINY_CODE,
    ),
    Entry(
        "denoising-autoencoder",
        "pofx.models.autoencoders.autoencoder:Autoencoder",
        family="autoencoders",
        paper="Vincent et al. 2010, JMLR 11",
        summary="autoencoder that reads x with some values hidden, and gives back all",
        domains=("images", "vectors", "tokens"),
        tiny=_TINY_CODE,
        arguments={"corruption": "masking"},
    ),
    Entry(
        "contractive-autoencoder",
        "pofx.models.autoencoders.autoencoder:Autoencoder",
        family="autoencoders",
        paper="Rifai et al. 2011, ICML",
        summary="autoencoder whose code moves little where x moves a little",
        domains=("images", "vectors"),
        tiny={kind: _TINY_CODE[kind] for kind in ("images", "vectors")},
        arguments={"contractive": 0.1},
    ),
    Entry(
        "wae",
        "pofx.models.autoencoders.wae:WAE",
        family="autoencoders",
        paper="Tolstikhin et al. 2018, arXiv:1711.01558",
        summary="autoencoder whose codes together look drawn from a normal: samples, no bound",
        domains=("images", "vectors", "tokens"),
        tiny=_TINY_CODE,
    ),
    Entry(
        "rae",
        "pofx.models.autoencoders.rae:RAE",
        family="autoencoders",
        paper="Ghosh et al. 2020, arXiv:1903.12436",
        summary="autoencoder with a small code and a smooth decoder, made for a density of its codes",
        domains=("images", "vectors", "tokens"),
        tiny=_TINY_CODE,
    ),
    Entry(
        "masked-autoencoder",
        "pofx.models.autoencoders.masked_autoencoder:MaskedAutoencoder",
        family="autoencoders",
        paper="He et al. 2022, arXiv:2111.06377",
        summary="reads a few patches and rebuilds those hidden: features and completions, no likelihood",
        domains=("images", "vectors"),
        tiny={kind: {**_TINY_TRUNK, "decoder_heads": 2, "mask_ratio": 0.5} for kind in ("images", "vectors")},
    ),
    Entry(
        "vq-vae",
        "pofx.models.autoencoders.vq_vae:VQVAE",
        family="autoencoders",
        paper="van den Oord et al. 2017, arXiv:1711.00937",
        summary="autoencoder whose code is a grid of symbols out of a learnt codebook; a prior of them makes samples",
        domains=("images", "vectors", "tokens"),
        tiny=_TINY_CODES,
    ),
    Entry(
        "residual-vq-vae",
        "pofx.models.autoencoders.vq_vae:VQVAE",
        family="autoencoders",
        paper="Lee et al. 2022, arXiv:2203.01941",
        summary="vq-vae of 4 codes a place, each of what those before it leave",
        domains=("images",),
        arguments={"depth": 4},
        tiny={"images": {**_TINY_CODES["images"], "codes": 2, "depth": 2}},
    ),
    Entry(
        "fsq-vae",
        "pofx.models.autoencoders.vq_vae:VQVAE",
        family="autoencoders",
        paper="Mentzer et al. 2023, arXiv:2309.15505",
        summary="vq-vae without a codebook: each number of a vector is rounded to a few levels",
        domains=("images",),
        arguments={"quantiser": "scalar"},
        tiny={"images": {"levels": (2, 3), "width": 8, "blocks": 1}},
    ),
    Entry(
        "discrete-vae",
        "pofx.models.autoencoders.vq_vae:VQVAE",
        family="autoencoders",
        paper="Ramesh et al. 2021, arXiv:2102.12092 (DALL-E)",
        summary="codes drawn from a categorical, relaxed by Gumbel noise while it trains",
        domains=("images",),
        arguments={"quantiser": "gumbel"},
        tiny={"images": _TINY_CODES["images"]},
    ),
    Entry(
        "sparse-autoencoder",
        "pofx.models.autoencoders.sparse_autoencoder:SparseAutoencoder",
        family="autoencoders",
        paper="Gao et al. 2024, arXiv:2406.04093",
        summary="x as a sum of few atoms of a large dictionary: what a network's activations are made of",
        domains=("vectors", "images"),
        tiny={kind: {"dictionary": 6, "k": 2} for kind in ("vectors", "images")},
    ),
    Entry(
        "ladder-vae",
        "pofx.models.autoencoders.ladder_vae:LadderVAE",
        family="autoencoders",
        paper="Sonderby et al. 2016, arXiv:1602.02282; Kingma et al. 2016, arXiv:1606.04934",
        summary="latents at 2 to 6 levels, inferred from the top down, bound of the likelihood",
        domains=("images", "vectors", "tokens"),
        tiny={kind: {"levels": 2, "sizes": (1, 1), **_TINY_NET} for kind in ("images", "vectors", "tokens")},
    ),
    Entry(
        "gan",
        "pofx.models.adversarial.gan:GAN",
        family="adversarial",
        paper="Goodfellow et al. 2014, arXiv:1406.2661; Mescheder et al. 2018, arXiv:1801.04406",
        summary="generator against discriminator, its slope at real points held (R1), no likelihood",
        domains=("images", "vectors"),
        tiny=dict.fromkeys(("images", "vectors"), _TINY_GAME),
        arguments={"r1": 0.1},
    ),
    Entry(
        "wgan-gp",
        "pofx.models.adversarial.gan:GAN",
        family="adversarial",
        paper="Gulrajani et al. 2017, arXiv:1704.00028",
        summary="generator against a critic held near 1-Lipschitz, no likelihood",
        domains=("images", "vectors"),
        tiny=dict.fromkeys(("images", "vectors"), _TINY_GAME),
        arguments={"loss": "wasserstein", "critic_steps": 3, "penalty": 1.0, "penalised": 0.25},
        flagship=True,
    ),
    Entry(
        "wgan",
        "pofx.models.adversarial.gan:GAN",
        family="adversarial",
        paper="Arjovsky et al. 2017, arXiv:1701.07875",
        summary="generator against a critic whose weights are clipped",
        domains=("images", "vectors"),
        arguments={"loss": "wasserstein", "critic_steps": 5, "weight_clip": 0.05},
    ),
    Entry(
        "sngan",
        "pofx.models.adversarial.gan:GAN",
        family="adversarial",
        paper="Miyato et al. 2018, arXiv:1802.05957",
        summary="hinge loss, the critic's weights divided by their spectral norm",
        domains=("images", "vectors"),
        arguments={"loss": "hinge", "spectral_norm": True},
    ),
    Entry(
        "dcgan",
        "pofx.models.adversarial.gan:GAN",
        family="adversarial",
        paper="Radford et al. 2016, arXiv:1511.06434",
        summary="strided convolutions with batch norm in both players",
        domains=("images",),
        tiny={"images": {"width": 8, "r1": 3.0, **_TINY_GAME}},
        arguments={"network": "conv", "norm": "batch"},
    ),
    Entry(
        "lsgan",
        "pofx.models.adversarial.gan:GAN",
        family="adversarial",
        paper="Mao et al. 2017, arXiv:1611.04076",
        summary="least squares in place of cross-entropies: Pearson's chi-squared",
        domains=("images", "vectors"),
        arguments={"loss": "least-squares"},
    ),
    Entry(
        "r3gan",
        "pofx.models.adversarial.gan:GAN",
        family="adversarial",
        paper="Huang et al. 2024, arXiv:2501.05441",
        summary="real and generated points judged in pairs, slopes held at both (R1 + R2)",
        domains=("images", "vectors"),
        tiny=dict.fromkeys(("images", "vectors"), _TINY_GAME),
        arguments={"loss": "relativistic", "r1": 0.1, "r2": 0.1, "width": 16},
    ),
    Entry(
        "unrolled-gan",
        "pofx.models.adversarial.unrolled_gan:UnrolledGAN",
        family="adversarial",
        paper="Metz et al. 2017, arXiv:1611.02163",
        summary="the generator learns against the critic as it will be, some steps ahead",
        domains=("images", "vectors"),
        tiny={kind: {"unrolled": 2, **_TINY_GAME} for kind in ("images", "vectors")},
    ),
    Entry(
        "flow-matching",
        "pofx.models.diffusion.flow_matching:FlowMatching",
        family="diffusion",
        paper="Lipman et al. 2023, arXiv:2210.02747",
        summary="velocity field from noise to data, estimated likelihood by its ODE",
        domains=("images", "vectors"),
        tiny=dict.fromkeys(("images", "vectors"), _TINY_NET),
        flagship=True,
    ),
    Entry(
        "w2-gan",
        "pofx.models.transport.w2_gan:W2GAN",
        family="transport",
        paper="Makkuva et al. 2020, arXiv:1908.10962; Korotin et al. 2021, arXiv:1909.13082",
        summary="the cheapest map from noise, or from another data set, to the data: the gradient of a potential",
        domains=("vectors",),
        tiny={"vectors": _TINY_NET},
        flagship=True,
    ),
    Entry(
        "marginals",
        "pofx.models.baselines.marginals:Marginals",
        family="baselines",
        paper="",
        summary="every dimension on its own",
        domains=("images", "vectors", "tokens"),
        tiny={kind: {} for kind in ("images", "vectors", "tokens")},
    ),
    Entry(
        "gaussian",
        "pofx.models.baselines.gaussian:Gaussian",
        family="baselines",
        paper="",
        summary="one multivariate normal",
        domains=("images", "vectors"),
        tiny={kind: {} for kind in ("images", "vectors")},
    ),
    Entry(
        "gaussian-mixture",
        "pofx.models.baselines.gaussian:Gaussian",
        family="baselines",
        paper="Dempster, Laird and Rubin 1977",
        summary="a mixture of normals, by expectation-maximisation",
        domains=("images", "vectors"),
        tiny={kind: {"components": 2} for kind in ("images", "vectors")},
        arguments={"components": 20},
    ),
    Entry(
        "n-gram",
        "pofx.models.baselines.ngram:NGram",
        family="baselines",
        paper="Witten and Bell 1991",
        summary="each symbol or pixel from the few before it, by counting",
        domains=("tokens", "images"),
        tiny={kind: {"order": 3} for kind in ("tokens", "images")},
    ),
    Entry(
        "copy",
        "pofx.models.baselines.copy:Copy",
        family="baselines",
        paper="",
        summary="the training set itself: perfect-looking samples, nothing learnt",
        domains=("images", "vectors", "tokens"),
        tiny={kind: {} for kind in ("images", "vectors", "tokens")},
    ),
)


@cache
def entries() -> dict[str, Entry]:
    """Every model, ours and those that others register under the entry point ``pofx.models``."""
    theirs = [point.load() for point in entry_points(group="pofx.models")]
    return {entry.name: entry for entry in (*_TABLE, *theirs)}


def find(name: str) -> Entry:
    """The entry of a name; a misspelt one is answered with the nearest."""
    if name not in entries():
        raise Unusable(f"there is no model {name!r}{nearest(name, entries())}")
    return entries()[name]
