"""Autoencoders whose code is a grid of symbols: VQ-VAE, residual VQ-VAE, FSQ-VAE and the discrete VAE of DALL-E 1."""

import math
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, rows_for
from pofx.distributions import Independent, Kind, PointMass, Symbols
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.models.autoencoders.bounds import bounded, mean_weight
from pofx.models.autoencoders.grids import GridDecoder, GridEncoder, Size
from pofx.models.autoencoders.vector_latent import SYMBOL, VectorLatent, one_of
from pofx.nn.codebooks import Estimator, Update, VectorQuantiser
from pofx.nn.conv import halvings
from pofx.nn.mlp import MLP
from pofx.nn.quantise import FiniteScalar, Gumbel, Quantiser, code_shares
from pofx.protocols import Loss, Turn

_CHUNK = 2**24  # numbers drawn, or put out by the decoder, at once, of a bound of many samples
_STARTS = 2**14  # vectors that a codebook starts from, or twice as many as it has codes
_ROWS = 1024  # encoded at once, for these
_READ = {  # arguments that a quantiser reads
    "vector": ("codes", "code_dim", "depth", "update", "gradient", "decay", "commitment", "revive", "normalise"),
    "scalar": ("levels",),
    "gumbel": ("codes", "code_dim", "coldest"),
}


class VQVAE(VectorLatent):
    r"""Vector-quantised autoencoder: x -> vectors -> T symbols z -> p(x|z), with a uniform prior p(z) = K^-T.

    $\log p(x) \ge E_q[\log p(x|z)] - T \log K - E_q[\log q(z|x)]$ in nats per observation; q(z|x) is a point mass, so
    that the last term is 0, but with Gumbel noise a categorical. Trained on this bound plus the quantiser's penalty.

    ``sample`` draws uniform codes, which are no good pictures. A learnt prior makes good ones: ``pofx fit gpt SOURCE
    --latent RUN``.

    Source: van den Oord et al. 2017, arXiv:1711.00937, eq. (3); ``depth``: Lee et al. 2022, arXiv:2203.01941;
    "scalar": Mentzer et al. 2023, arXiv:2309.15505; "gumbel": Ramesh et al. 2021, arXiv:2102.12092.

    An argument that the quantiser does not read is refused.

    Args:
        quantiser: "vector", the nearest of K codes; "scalar", each number rounded to a level; "gumbel", a code drawn.
        codes: K, not of "scalar"; None: 512 for pictures and texts with a side above 16, else 64.
        code_dim: numbers in a code, not of "scalar"; None: 16.
        depth: codes for each vector, each of what those before it leave ("vector" alone); None: 1.
        levels: of each number of a vector ("scalar" alone): K is their product; None: 8, 8, 8.
        slots: vectors that vectors are coded in; pictures and texts have one for each place of a grid.
        halve: how often a picture's or text's sides are halved to a grid; None: once up to 16, else twice.
        hidden: sizes of the MLPs' hidden layers, for vectors; None: 128, 128.
        width: channels of the first convolution.
        blocks: residual blocks of the encoder and of the decoder.
        update: codes of "vector" are running means of what is nearest to them ("ema"), or learnt by "gradient"; None:
            "ema".
        gradient: how it passes "vector", "straight-through" or by "rotation" (Fifty et al. 2024); None:
            "straight-through".
        decay: of the running means; None: 0.95.
        commitment: weight of what holds the encoder to its codes ("vector" alone); None: 0.25.
        revive: codes of "vector" used less than this share of the mean use begin anew; 0: never; None: 0.3.
        normalise: vectors and codes of "vector" have length 1; None: they have not.
        coldest: temperature of "gumbel" at the end; it falls from 1; None: 1/16.
        likelihood: "auto" is Bernoulli for 2 levels, discretised logistics for more, a categorical for symbols and
            colours of a palette, a normal for real numbers.
        mixtures: logistics mixed for each pixel; None: 1 up to 32 levels, else 3.
        spread: of a normal or a single logistic: "each" value's own, "shared" by all and learnt, or "unit".
        beta: weight of the rate, which only "gumbel" can change.
        drop: share of the conditions hidden in training, so that x can be encoded without its condition.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        quantiser: Literal["vector", "scalar", "gumbel"] = "vector",
        codes: int | None = None,
        code_dim: int | None = None,
        depth: int | None = None,
        levels: tuple[int, ...] | None = None,
        slots: int = 4,
        halve: int | None = None,
        hidden: tuple[int, ...] | None = None,
        width: int = 32,
        blocks: int = 2,
        update: Update | None = None,
        gradient: Estimator | None = None,
        decay: float | None = None,
        commitment: float | None = None,
        revive: float | None = None,
        normalise: bool | None = None,
        coldest: float | None = None,
        likelihood: Kind = "auto",
        mixtures: int | None = None,
        spread: Literal["each", "shared", "unit"] = "each",
        beta: float = 1.0,
        drop: float = 0.1,
    ) -> None:
        require("vq-vae", domain, Images, Vectors, Tokens)
        given = {
            "codes": codes, "code_dim": code_dim, "depth": depth, "levels": levels, "update": update,
            "gradient": gradient, "decay": decay, "commitment": commitment, "revive": revive, "normalise": normalise,
            "coldest": coldest,
        }  # fmt: skip
        settings = {name: value for name, value in given.items() if value is not None}
        _check_arguments(quantiser, settings, slots=slots, blocks=blocks, beta=beta)
        sizes = None if isinstance(domain, Vectors) else _sizes(domain, halve)
        coder = _quantiser(quantiser, settings, codes=512 if sizes and max(sizes[0]) > 16 else 64)
        places = slots if sizes is None else math.prod(sizes[-1])
        made = partial(_on_slots, hidden=hidden) if sizes is None else partial(
            _on_grid, sizes=sizes, inputs=coder.width, blocks=blocks, width=width
        )  # fmt: skip
        super().__init__(
            domain, condition=condition, latent_dim=places * coder.width, outputs=1, hidden=hidden,
            network="conv" if isinstance(domain, Images) else "mlp", width=width, activation="silu",
            likelihood=likelihood, mixtures=mixtures, spread=spread, drop=drop, networks=made,
        )  # fmt: skip
        self.quantiser, self.length, self.beta = coder, places * coder.depth, beta
        self.biased_gradient = coder.biased
        self.recipe = _recipe(domain)

    @property
    def surrogate(self) -> str:
        """Why what is minimised is not the bound, or "" where it is."""
        if isinstance(self.quantiser, VectorQuantiser):
            return "the vectors' distance to their codes is added to the bound"
        return "" if self.beta == 1 else "the rate has a weight of its own"

    @property
    def codebooks(self) -> int:
        """D: the symbols of z are of one codebook after the other, in turn."""
        return self.quantiser.depth

    @property
    def latent_domain(self) -> Tokens:
        """What a prior of z models: place by place in raster order, at each place from the coarsest code on."""
        return Tokens(self.quantiser.vocabulary, self.length)

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Also starts a codebook, by k-means of what the untrained encoder puts out for some of the rows."""
        super().adapt(x, condition, generator=generator)
        if not self.quantiser.starts:
            return
        wanted = max(2 * self.quantiser.vocabulary, min(_STARTS, 32 * self.quantiser.vocabulary))
        n = min(len(x), math.ceil(wanted * self.quantiser.depth / self.length))
        rows = torch.randperm(len(x), generator=generator, device=generator.device)[:n].to(x.device)
        y = [
            self.slots(x[some].to(self.bias.device), None if condition is None else condition[some])
            for some in rows.split(_ROWS)
        ]
        self.quantiser.start(torch.cat(y), generator=generator)

    def inside(self, x: Tensor) -> Tensor:
        """What the encoder reads; a text is a picture of one row."""
        if self.symbols is None:
            return super().inside(x)
        return self.symbols(x).transpose(1, 2)[:, :, None]

    def slots(self, x: Tensor, condition: Tensor | None = None) -> Float[Tensor, "B S W"]:
        """What is quantised."""
        return self.encoded(x, condition).unflatten(1, (-1, self.quantiser.width))

    def posterior(self, x: Tensor, condition: Tensor | None = None) -> PointMass | Symbols:
        """q(z|x): (B, T) symbols. A condition that is not given is the null."""
        y = self.slots(x, condition)
        logits = self.quantiser.logits(y)
        return PointMass(self.quantiser.symbols(y)) if logits is None else Symbols(logits)

    def log_prior(self, z: Int[Tensor, "*B T"], condition: Tensor | None = None) -> Float[Tensor, "*B"]:
        """-T log K, nats, whatever the condition."""
        return self.bias.new_full(z.shape[:-1], -self.length * math.log(self.quantiser.vocabulary))

    def decode(self, z: Int[Tensor, "*B T"], condition: Tensor | None = None) -> Independent:
        """p(x|z), with ``log_prob``, ``sample``, ``mode``; a condition has one row for all or one for each in B."""
        return super().decode(self.quantiser.vectors(z).flatten(-2), condition)

    def turns(self) -> tuple[Turn, ...]:
        """One player; the codebook follows it after each step."""
        learnt = tuple(p for p in self.parameters() if p.requires_grad)
        return (Turn("model", learnt, self.loss, after=self.quantiser.after if self.quantiser.follows else None),)

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """The negative bound, nats per observation, and for each value of x the quantiser's penalty.

        In training with Gumbel noise the decoder reads mixtures of codes, and the bound is relaxed.
        """
        c = self.dropped(condition, len(x), generator=generator)
        made = self.quantiser.quantise(self.slots(x, c), generator=generator)
        log_p = super().decode(made.vectors.flatten(1), c).log_prob(x)
        parts = {"reconstruction": -log_p.mean(), "rate": made.rate.mean()}
        total = parts["reconstruction"] + self.beta * parts["rate"]
        if made.penalty is not None:
            parts |= {"bound": parts["reconstruction"] + parts["rate"], "commitment": made.penalty.mean()}
            total = total + self.domain.dims * parts["commitment"]
        return Loss(total, parts, made.carry)

    def elbo(
        self, x: Tensor, condition: Tensor | None = None, *, samples: int | None = None, generator: Generator
    ) -> Float[Tensor, "B"]:
        """log (1/N) sum_n p(x|z_n) p(z_n) / q(z_n|x), N = ``samples``, 1 of a point mass: at most log p(x), nats.

        Without the condition of a model that has classes: log sum_c p(c) exp(elbo(x, c)), a bound of the marginal.

        Raises:
            Unusable: a condition is needed that is not given, or ``samples`` is not positive.
        """
        numbers = max(len(self.bias), self.length * self.quantiser.vocabulary)
        at_once = max(1, _CHUNK // (len(x) * numbers))

        def given(c: Tensor | None, k: int) -> Float[Tensor, "B"]:
            q = self.posterior(x, c)

            def log_w(n: int) -> Float[Tensor, "n B"]:
                z = q.rsample(n, generator=generator)
                return self.decode(z, c).log_prob(x) + self.log_prior(z, c) - q.log_prob(z)

            return mean_weight(log_w, 1 if isinstance(q, PointMass) else k, at_once=at_once)

        return bounded(self, x, condition, samples, given)

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator, mean: bool = False) -> Tensor:
        """n observations of uniform codes, noise of the likelihood included.

        Args:
            condition: None draws it by training frequency.
            mean: show the expected x of each z in place of a draw (not a sample of the model).
        """
        c = rows_for(self.condition, condition, n, generator=generator)
        shape, k = (n, self.length), self.quantiser.vocabulary
        p = self.decode(torch.randint(k, shape, generator=generator, device=self.bias.device), c)
        return p.mean if mean else p.sample(generator=generator)

    def encode(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Int[Tensor, "B T"]:
        """z: a draw of q(z|x), or its mode without a generator."""
        q = self.posterior(x, condition)
        return q.mode if generator is None else q.rsample(1, generator=generator)[0]

    def features(self, x: Tensor) -> Float[Tensor, "B F"]:
        """The vectors that the codes stand for, one after the other, without a condition: what a probe reads."""
        return self.quantiser.vectors(self.encode(x)).flatten(1)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """How the codebook is used: its perplexity, exp of the entropy of the codes, and the share in use."""
        k, places = self.quantiser.vocabulary, len(x) * self.length // self.codebooks
        shares = code_shares(self.encode(x, condition), k, self.codebooks)
        used = (shares > 0).sum(1) / min(k, places)
        return {"codes_used": used.mean(), "perplexity": (-torch.xlogy(shares, shares).sum(1)).exp().mean()}


def _quantiser(kind: str, settings: dict[str, Any], *, codes: int) -> Quantiser:
    """Of the settings that were given; ``codes`` where they say nothing of it."""
    if kind == "scalar":
        return FiniteScalar(**settings)
    made = VectorQuantiser if kind == "vector" else Gumbel
    settings = {"codes": codes, "code_dim": 16} | settings
    return made(settings.pop("codes"), settings.pop("code_dim"), **settings)


def _sizes(domain: Images | Tokens, halve: int | None) -> list[Size]:
    """From the picture's or text's own size down to the grid's."""
    height, width = (1, domain.length) if isinstance(domain, Tokens) else (domain.height, domain.width)
    sizes = halvings(height, width, smallest=1)
    most = len(sizes) - 1
    if halve is not None and not 0 <= halve <= most:
        raise Unusable(f"halve must be 0 to {most} for sides of {height} and {width}, got {halve}")
    default = 1 if max(height, width) <= 16 else 2
    return sizes[: 1 + (min(default, most) if halve is None else halve)]


def _on_grid(
    model: VectorLatent, encoded: int, written: int, *, sizes: list[Size], inputs: int, blocks: int, width: int
) -> tuple[nn.Module, nn.Module]:
    """Convolutions, for pictures and texts: ``inputs`` numbers at each place."""
    domain, shared = model.domain, {"width": width, "blocks": blocks, "context": model.context}
    read, written_each = (domain.channels, domain.channels) if isinstance(domain, Images) else (SYMBOL, 1)
    encoder = GridEncoder(read, inputs, sizes, **shared)
    return encoder, GridDecoder(inputs, written * written_each, sizes, **shared)


def _on_slots(
    model: VectorLatent, encoded: int, written: int, *, hidden: tuple[int, ...] | None
) -> tuple[nn.Module, nn.Module]:
    """MLPs, for vectors."""
    sizes, dims = (128, 128) if hidden is None else hidden, model.domain.dims
    return (
        MLP(dims, sizes, encoded, context=model.context),
        MLP(encoded, sizes[::-1], written * dims, context=model.context),
    )


def _recipe(domain: Domain) -> dict[str, Any]:
    """Training settings that served."""
    if isinstance(domain, Vectors):
        return {"batch_size": 128, "learning_rate": 3e-3, "ema": 0.05}
    return {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.01}


def _check_arguments(quantiser: str, settings: dict[str, Any], *, slots: int, blocks: int, beta: float) -> None:
    one_of("quantiser", quantiser, _READ)
    for name, value in settings.items():
        if name not in _READ[quantiser]:
            readers = " or ".join(repr(kind) for kind, read in _READ.items() if name in read)
            raise Unusable(f"{name} is for quantiser {readers}, got {value} for {quantiser!r}; leave {name} out")
    one_of("update", settings.get("update", "ema"), ("ema", "gradient"))
    one_of("gradient", settings.get("gradient", "straight-through"), ("straight-through", "rotation"))
    if slots < 1:
        raise Unusable(f"slots must be at least 1, got {slots}; leave it out for 4")
    for name, value in {"blocks": blocks, "commitment": settings.get("commitment", 0), "beta": beta}.items():
        if not 0 <= value < math.inf:
            raise Unusable(f"{name} must be at least 0 and finite, got {value}; leave it out for the default")
    for name in ("decay", "revive"):
        if not 0 <= settings.get(name, 0) < 1:
            raise Unusable(f"{name} must be in [0, 1), got {settings[name]}; leave it out for the default")
