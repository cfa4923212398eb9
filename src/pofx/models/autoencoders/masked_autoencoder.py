"""Masked autoencoder: patches of a picture are hidden, an encoder reads the rest, a light decoder rebuilds them."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor, nn

from pofx.conditions import Condition, dropped, expand
from pofx.distributions import Kind, likelihood
from pofx.domains import Domain, Images, Tokens, Vectors, require
from pofx.errors import Unusable
from pofx.nn.attention import Architecture, Transformer, rms_norm, rotation
from pofx.nn.batches import in_batches
from pofx.nn.mlp import ConditionEmbedding
from pofx.nn.sequence import NumberEmbedding, row_mask
from pofx.nn.standardise import Standardise
from pofx.protocols import Loss
from pofx.randomness import rand

BLOCKS = Architecture(position="learned")


class MaskedAutoencoder(nn.Module):
    r"""Learns $p(x_h | x_v, c)$ of hidden patches h from the visible ones v, each value of x_h independent given x_v.

    A row's T patches are shuffled; the encoder is given the first (1 - ``mask_ratio``) T of them and nothing of the
    others. The decoder puts a learnt vector where a patch is hidden, and tells every patch. The loss is of those hidden
    alone. A column of a table is a patch of one value.

    The condition is read by the decoder, so that what the encoder says of x does not depend on it.

    Source: He et al. 2022, arXiv:2111.06377, section 3. Here the decoder tells a likelihood by default, and places are
    learnt, beginning at the paper's sines and cosines.

    Args:
        domain: pictures or vectors; masked-lm is the one for symbols.
        condition: what is given to the decoder.
        patch: side of a patch in pixels, a divisor of height and width; None: the largest up to the root of the
            shorter side.
        mask_ratio: share of the patches that is hidden; None: 0.75, and 0.5 of columns.
        width: E, size of the encoder's states, and of the features; None: 128, for vectors 64.
        layers: blocks of the encoder; None: 4, for vectors 2.
        heads: attention heads of the encoder.
        decoder_width: size of the decoder's states; None: half of ``width``.
        decoder_layers: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        normalise: the loss is the squared error of patches that are each brought to mean 0 and variance 1: for
            features. Such a model cannot complete, as it does not know the mean and variance of what is hidden.
        likelihood: "auto" is Bernoulli for 2 levels, discretised logistics for more, a categorical for colours of a
            palette, a normal for real numbers.
        mixtures: logistics mixed for each value.
        drop: share of the conditions hidden in training, so that x can be completed without one.

    Raises:
        Unusable: a domain it does not take, a patch that does not divide the picture, a ratio that leaves no patch
            visible or none hidden, sizes that do not fit each other.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        condition: Condition | None = None,
        patch: int | None = None,
        mask_ratio: float | None = None,
        width: int | None = None,
        layers: int | None = None,
        heads: int = 4,
        decoder_width: int | None = None,
        decoder_layers: int = 1,
        decoder_heads: int = 4,
        normalise: bool = False,
        likelihood: Kind = "auto",
        mixtures: int = 1,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        if isinstance(domain, Tokens):
            raise Unusable("masked-autoencoder takes images or vectors, got tokens; for these take masked-lm")
        require("masked-autoencoder", domain, Images, Vectors)
        if not 0 <= drop < 1:
            raise Unusable(f"drop must be in [0, 1), got {drop}; leave it out for the default")
        self.domain, self.condition, self.drop, self.normalise = domain, condition, drop, normalise
        self.patches = Patches(domain, patch)
        self.hidden = _hidden(self.patches.count, mask_ratio, 0.75 if isinstance(domain, Images) else 0.5)
        self.standardise = Standardise(domain.dim) if isinstance(domain, Vectors) else None
        self.p = _head(domain, likelihood, mixtures, self.standardise)
        read = self.patches.size * _colours(domain)
        if normalise and read == 1:
            raise Unusable("a patch of one value has no variance to normalise by, got normalise; leave it out")
        told = read if normalise else self.p.outputs * domain.dims // self.patches.count
        size, depth = (128, 4) if isinstance(domain, Images) else (64, 2)
        self.width = size if width is None else width
        inner = max(decoder_heads, self.width // 2) if decoder_width is None else decoder_width
        trunk = Transformer(self.width, depth if layers is None else layers, heads, pattern="full", architecture=BLOCKS)
        self.encoder = _Encoder(read, self.patches, trunk)
        light = Transformer(inner, decoder_layers, decoder_heads, pattern="full", architecture=BLOCKS)
        self.decoder = _Decoder(self.width, told, self.patches, light, condition)
        self.recipe = _recipe(domain)

    @property
    def latent_domain(self) -> Vectors:
        """What a prior of the features models."""
        return Vectors(self.width)

    @torch.no_grad()
    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None:
        """Takes the units of vectors, and where the decoder's outputs start, from the training split."""
        if self.standardise is not None:
            self.standardise.adapt(x)
        if not self.normalise:
            self.decoder.start.copy_(self.patches.split(self.p.initial(x)).transpose(0, 1).flatten(1))

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss:
        """Mean of -log p(x_h | x_v, c) over the hidden values: nats per value; normalised, of the squared error.

        ``masked_nll`` is as many times as much as x has values: nats per observation, as if all were hidden.
        """
        c = dropped(self.condition, condition, len(x), self.drop, generator=generator)
        seen, gone = self._shuffled(x, generator)
        values = self._inside(x)
        told = self.decoder(self._encoded(values, seen), seen, c)
        if self.normalise:
            error = (told - _normalised(values)).square().mean(-1).gather(1, gone).mean()
            return Loss(error, {"masked_mse": error})
        log_p = self.patches.split(self._likelihood(told).base.log_prob(x)).mean(-1)
        nll = -log_p.gather(1, gone).mean()
        return Loss(nll, {"masked_nll": nll * self.domain.dims})

    def completes(self, known: Tensor) -> bool:
        """Any mask under which each row has a patch that is known whole, unless the model was made to normalise."""
        return not self.normalise and bool(self._whole(known).any(1).all())

    @torch.no_grad()
    def complete(
        self, x: Tensor, known: Tensor, condition: Tensor | None = None, *, generator: Generator, mode: bool = False
    ) -> Tensor:
        """Fills in what is not known from p(x_h | x_v, c): a draw, each value independent of the others given x_v.

        A patch that a mask cuts through counts as hidden, and its known values are put back. The model has been trained
        at one share of hidden patches; at others it is as good as it happens to be.

        Args:
            x: (B, ...) canonical.
            known: boolean, of x's shape or of one observation's.
            condition: one row for all or one for each; None: not told.
            generator: of the draw.
            mode: the likeliest value of each in place of a draw: smooth, where draws are grainy.

        Raises:
            Unusable: the model was made to normalise, no patch of a row is known whole, or the model has never been
                without its condition.
        """
        x = self.domain.check(x)
        if self.normalise:
            raise Unusable(
                "a masked-autoencoder that normalises knows no patch's mean and variance, and cannot complete; fit "
                "without normalise"
            )
        if not self.completes(known):
            raise Unusable(
                f"masked-autoencoder completes from patches that are known whole ({self.patches.said}), and a row has "
                "none; let more be known"
            )
        if condition is None and self.condition is not None and not self.drop:
            raise Unusable("a masked-autoencoder with drop 0 has never been without its condition; give the condition")
        c, whole = expand(self.condition, condition, len(x)), self._whole(known).expand(len(x), -1)
        p = self._likelihood(self._told(x, whole, c))
        return torch.where(known, x, p.mode if mode else p.sample(generator=generator))

    def features(self, x: Tensor, layer: int | None = None) -> Float[Tensor, "B E"]:
        """(B, E) states of all patches after ``layer`` blocks, averaged; nothing is hidden.

        Args:
            x: canonical observations.
            layer: 0 (what the first block reads) to the number of blocks; by default after the last.

        Raises:
            Unusable: there is no such layer.
        """
        depth = None if layer is None else self.encoder.trunk.depth_of(layer)
        everywhere = torch.arange(self.patches.count, device=x.device).expand(len(x), -1)
        return self.encoder(self._inside(self.domain.check(x)), everywhere, depth=depth).mean(1)

    def encode(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "B E"]:
        """The features: one value, whatever the condition and the generator."""
        expand(self.condition, condition, len(x))
        return self.features(x)

    @torch.no_grad()
    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """``feature_dims``: over how many directions the features of x spread, 1 to E; see ``effective_dims``."""
        return {"feature_dims": effective_dims(in_batches(lambda rows, _: self.features(rows), x))}

    def _inside(self, x: Tensor) -> Float[Tensor, "B T P"]:
        """What the networks read: patches of pictures in [-1, 1], standardised columns."""
        if isinstance(self.domain, Images):
            return self.patches.split(self.domain.colours(x).to(self.decoder.start.dtype))
        return self.patches.split(x if self.standardise is None else self.standardise(x))

    def _shuffled(self, x: Tensor, generator: Generator) -> tuple[Int[Tensor, "B V"], Int[Tensor, "B M"]]:
        """Places of the visible and of the hidden patches: the same numbers of each in every row."""
        order = rand((len(x), self.patches.count), generator=generator, device=x.device).argsort(1)
        return order[:, self.hidden :], order[:, : self.hidden]

    def _encoded(self, values: Float[Tensor, "B T P"], seen: Int[Tensor, "B V"]) -> Float[Tensor, "B V E"]:
        return self.encoder(values.gather(1, seen[..., None].expand(-1, -1, values.shape[-1])), seen)

    def _told(self, x: Tensor, whole: Bool[Tensor, "B T"], c: Tensor | None) -> Float[Tensor, "B T O"]:
        """What the decoder says where rows may show different numbers of patches: equal numbers go together."""
        values, counts = self._inside(x), whole.sum(1)
        order = whole.long().argsort(dim=1, descending=True, stable=True)
        rows = [(counts == count).nonzero()[:, 0] for count in counts.unique()]
        told = []
        for of in rows:
            seen = order[of, : int(counts[of[0]])]
            told.append(self.decoder(self._encoded(values[of], seen), seen, None if c is None else c[of]))
        return torch.cat(told)[torch.cat(rows).argsort()]

    def _likelihood(self, told: Float[Tensor, "B T O"]) -> Any:
        return self.p(self.patches.join(told))

    def _whole(self, known: Tensor) -> Bool[Tensor, "B T"]:
        """Which patches are known whole, of each row or of the one mask."""
        return self.patches.split(row_mask(self.domain.shape, known)).all(-1)


class Patches:
    """Observations as T patches of P values, and back.

    Args:
        domain: pictures, cut into squares in raster order; or vectors, whose columns are patches of one value.
        side: of a square; None: the largest divisor up to the root of the picture's shorter side.

    Raises:
        Unusable: the squares do not fill the picture, or there is only one.
    """

    def __init__(self, domain: Images | Vectors, side: int | None) -> None:
        self.domain = domain
        self.side = 1 if side is None else side
        if isinstance(domain, Images):
            self.side = _side(domain, side)
            self.grid: tuple[int, ...] = (domain.height // self.side, domain.width // self.side)
        elif self.side != 1:
            raise Unusable(f"a patch of a table is one column, got patch {side}; leave it out")
        else:
            self.grid = (domain.dim,)
        if self.count < 2:
            raise Unusable(
                f"masked-autoencoder hides some patches and shows others, but there is {self.count} ({self.said}); "
                "take a smaller patch, or data of more values"
            )

    @property
    def count(self) -> int:
        """T."""
        return math.prod(self.grid)

    @property
    def size(self) -> int:
        """Values of a patch in each channel."""
        return self.side**2

    @property
    def said(self) -> str:
        """For people."""
        return f"{self.side} x {self.side} pixels" if isinstance(self.domain, Images) else "one column each"

    def split(self, x: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "B T P"]:
        """(B, C, H, W) of any number of channels, or (B, D), to (B, T, P)."""
        if isinstance(self.domain, Vectors):
            return x[..., None]
        rows, columns = self.grid
        cut = x.unflatten(-1, (columns, self.side)).unflatten(-3, (rows, self.side))
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def join(self, told: Float[Tensor, "B T O"]) -> Float[Tensor, "B N ..."]:
        """N numbers for each value of an observation, (B, N, *shape), from N P numbers for each patch."""
        if isinstance(self.domain, Vectors):
            return told.transpose(1, 2)
        cut = told.unflatten(-1, (-1, self.domain.channels, self.side, self.side)).unflatten(1, self.grid)
        return cut.permute(0, 3, 4, 1, 5, 2, 6).flatten(-4, -3).flatten(-2, -1)

    def places(self, width: int) -> Float[Tensor, "T E"]:
        """Vectors that places start from: sines and cosines of row and column, or random ones for columns."""
        if isinstance(self.domain, Vectors):
            return torch.randn(self.count, width)
        place = torch.cartesian_prod(*(torch.arange(extent) for extent in self.grid))
        return rotation(place, (width + 1) // 2, base=100.0).movedim(0, 1).flatten(1)[:, :width]


class _Encoder(nn.Module):
    """(B, V, P) values of V patches at their places to (B, V, E) states; one more, learnt, is there to attend to."""

    def __init__(self, values: int, patches: Patches, trunk: Transformer) -> None:
        super().__init__()
        self.numbers = isinstance(patches.domain, Vectors)
        self.read = NumberEmbedding(trunk.width) if self.numbers else nn.Linear(values, trunk.width)
        self.places = nn.Parameter(patches.places(trunk.width))
        self.extra = nn.Parameter(torch.randn(trunk.width))
        self.trunk = trunk

    def forward(
        self, values: Float[Tensor, "B V P"], at: Int[Tensor, "B V"], *, depth: int | None = None
    ) -> Float[Tensor, "B V E"]:
        read = self.read(values[..., 0] if self.numbers else values)
        extra = self.extra.expand(len(at), 1, -1)
        h = torch.cat([extra, read + self.places[at]], dim=1)
        return rms_norm(self.trunk(rms_norm(h), depth=depth)[:, 1:])


class _Decoder(nn.Module):
    """(B, V, E) states of V patches, and the places they have, to (B, T, O) numbers for every patch."""

    def __init__(
        self, width: int, told: int, patches: Patches, trunk: Transformer, condition: Condition | None
    ) -> None:
        super().__init__()
        self.condition = condition
        self.read = nn.Linear(width, trunk.width)
        self.hidden = nn.Parameter(torch.randn(trunk.width))
        self.places = nn.Parameter(patches.places(trunk.width))
        self.given = None if condition is None else ConditionEmbedding(condition, trunk.width)
        self.trunk = trunk
        self.head = nn.Linear(trunk.width, told, bias=False)
        self.start = nn.Parameter(torch.zeros(patches.count, told))
        nn.init.zeros_(self.head.weight)

    def forward(self, z: Float[Tensor, "B V E"], at: Int[Tensor, "B V"], c: Tensor | None) -> Float[Tensor, "B T O"]:
        read = self.read(z).to(self.hidden.dtype)
        h = self.hidden.expand(len(z), *self.places.shape).scatter(1, at[..., None].expand_as(read), read) + self.places
        if self.condition is not None and self.given is not None:
            rows = self.condition.null(len(z)).to(z.device) if c is None else c
            h = h + self.given(rows)[:, None]
        return self.head(rms_norm(self.trunk(rms_norm(h)))) + self.start


def effective_dims(f: Float[Tensor, "N F"]) -> Float[Tensor, ""]:
    """(tr C)^2 / tr C^2 of the covariance C of rows: K where they spread evenly over K directions, 0 if not at all."""
    f = f - f.mean(0)
    covariance = f.T @ f
    return covariance.trace().square() / covariance.square().sum().clamp(min=1e-30)


def _normalised(values: Float[Tensor, "B T P"]) -> Float[Tensor, "B T P"]:
    """Each patch with mean 0 and variance 1, if it has any. Source: He et al. 2022, section 3."""
    var, mean = torch.var_mean(values, dim=-1, keepdim=True)
    return (values - mean) / (var + 1e-6).sqrt()


def _side(domain: Images, side: int | None) -> int:
    common = math.gcd(domain.height, domain.width)
    divisors = [d for d in range(1, common + 1) if common % d == 0]
    if side is None:
        return max(d for d in divisors if d**2 <= min(domain.height, domain.width))
    if side not in divisors:
        raise Unusable(
            f"patch must divide the picture's height and width, {domain.height} and {domain.width}, got {side}; choose "
            f"one of {', '.join(map(str, divisors))}"
        )
    return side


def _hidden(count: int, ratio: float | None, default: float) -> int:
    """How many of the patches are hidden: at least one, and not all."""
    if ratio is None:
        return min(count - 1, max(1, round(default * count)))
    if not 0 < ratio < 1 or not 0 < round(ratio * count) < count:
        raise Unusable(
            f"mask_ratio must hide at least one of the {count} patches and leave one visible, got {ratio}; choose "
            f"{1 / count:.2g} to {1 - 1 / count:.2g}"
        )
    return round(ratio * count)


def _head(domain: Domain, kind: Kind, mixtures: int, standardise: Standardise | None) -> Any:
    return likelihood(domain, kind, mixtures=mixtures, standardise=standardise)


def _colours(domain: Images | Vectors) -> int:
    """Channels that the encoder reads: those of a palette's colours, not of their numbers."""
    if isinstance(domain, Vectors):
        return 1
    return domain.colours(torch.zeros(1, *domain.shape)).shape[1]


def _recipe(domain: Domain) -> dict[str, Any]:
    """With Muon 200 steps on Fashion-MNIST gave 2.83 nats per hidden value, and a probe 0.79; with AdamW 3.14, 0.65."""
    return {
        "batch_size": 64 if isinstance(domain, Images) else 128,
        "optimiser": "muon",
        "learning_rate": 4e-3,
        "muon_learning_rate": 0.02,
        "schedule": "trapezoid",
    }
