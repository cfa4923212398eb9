"""The contract: what a model may be able to do, as small protocols.

A model is an ordinary ``nn.Module``. It has a method or does not; nothing raises ``NotImplementedError``. Whoever
wants to know asks ``capabilities(model)``, never the model's name. Where something else gives what a model lacks, its
``cures`` say so: protocol -> a sentence, with ``{source}`` and ``{run}`` for those of its run.

Shapes: B observations in a batch, each an observation of the model's domain (see ``domains.py``); every likelihood is
in nats per observation, over the canonical units of the domain, so that any two can stand in one table. Randomness is
an explicit ``torch.Generator``: two calls with equal generators give equal bits.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Generator, Tensor, nn


@dataclass(frozen=True)
class Loss:
    """What a loss returns: ``total`` is minimised, ``parts`` are for people, ``carry`` goes, detached, to ``after``.

    The scale of ``total`` is the model's choice; ``parts`` are scalars, means over the rows, in nats per observation
    unless their name ends in another unit. A batch may go through in pieces, by several processes or to save memory:
    parts and carry are then averaged over all of them, so ``carry`` holds means over the rows too, and ``after`` sees
    those of the whole batch, equal in every process.

    Args:
        weight: above 0: how many equal things ``total`` is a mean over, where that is not the rows of the batch (the
            symbols of records of unequal length, say): so that a batch in pieces has the gradient of the whole.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    carry: dict[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None


@dataclass(frozen=True)
class Progress:
    """Where training stands: optimiser steps done, of how many planned."""

    step: int
    planned: int

    @property
    def fraction(self) -> float:
        """Share of the planned steps that is done, from 0 to 1."""
        return min(1.0, self.step / max(1, self.planned))


@dataclass(frozen=True)
class Turn:
    """One player's move in the game that is learning.

    Args:
        player: its name; one optimiser each.
        parameters: only these receive gradients (``backward(inputs=...)``).
        loss: ``(x, condition=None, *, generator) -> Loss``.
        repeats: optimiser steps per round of the game.
        fresh: each repeat draws a new batch; otherwise it reuses the last one. The first turn of a round draws anyway.
        after: called once per optimiser step with the loss's ``carry`` and the progress; not after a skipped one.
        optimiser: this player's own settings, which win over the run's, e.g. ``{"beta1": 0.0}``.
    """

    player: str
    parameters: tuple[nn.Parameter, ...]
    loss: Callable[..., Loss]
    repeats: int = 1
    fresh: bool = True
    after: Callable[[dict[str, Tensor], Progress], None] | None = None
    optimiser: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """A log-likelihood known up to a numerical error.

    Args:
        value: (B,) estimates of log p(x), in nats.
        bias: (B,) change of ``value`` when the number of steps is halved: the size of the error that more
            samples do not average away.
        of_bound: the estimated quantity is itself only a lower bound (dequantised pictures, say).
    """

    value: Tensor
    bias: Tensor
    of_bound: bool = False


class Adapts(Protocol):
    """Learns what is counted rather than descended, from the training split, once and before the first step.

    Means and scales for standardising, class frequencies, output biases; a baseline learns all of itself here.
    """

    def adapt(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> None: ...


class Learns(Protocol):
    """Learning is a game of one: a single loss over all parameters."""

    def loss(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator) -> Loss: ...


class Plays(Protocol):
    """Learning is a game of several turns. Asked once, after the model is on its device; wins over ``loss``."""

    def turns(self) -> tuple[Turn, ...]: ...


class Samples(Protocol):
    """Draws n observations, the noise of the likelihood included; without a condition, from the marginal."""

    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator, **settings: Any) -> Tensor: ...


class Scores(Protocol):
    """Exact log p(x) or, given a condition, log p(x|c): (B,), nats per observation."""

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor: ...


class Chains(Protocol):
    """Exact, one value after another in an order of the model's own: log p(x) = sum_t log p(x_t | x_<t).

    ``read`` gives the values of x in that order, (B, T), and ``conditionals`` the terms, (B, T). ``walk`` builds n
    observations whose values ``choose`` picks: it is told log p of every symbol (n, V) and the place t, and gives (n,)
    symbols. What draws samples; what reads a code decompresses. A mixture of several orders does all three by the
    first, which is a distribution of its own.
    """

    def read(self, x: Tensor) -> Tensor: ...

    def conditionals(self, x: Tensor, condition: Tensor | None = None) -> Tensor: ...

    def walk(self, n: int, choose: Callable[[Tensor, int], Tensor], condition: Tensor | None = None) -> Tensor: ...


class PseudoScores(Protocol):
    """sum_t log p(x_t | all other values of x): (B,), nats per observation. A pseudo-likelihood: no law's own log p."""

    def pseudo_log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor: ...


class Bounds(Protocol):
    """A stochastic lower bound of log p(x), tighter with more ``samples``: (B,), nats per observation.

    Its exp is in expectation at most p(x|c), as that of a mean of importance weights is, and not only its own
    expectation at most log p(x|c): so the marginal over classes, log sum_c p(c) exp(elbo(x, c)), is a bound as well.

    ``samples`` None: as many as the model trains its bound with, one unless it says otherwise.
    """

    def elbo(
        self, x: Tensor, condition: Tensor | None = None, *, samples: int | None = None, generator: Generator
    ) -> Tensor: ...


class Estimates(Protocol):
    """log p(x) up to a numerical error that is itself estimated, by halving ``steps``."""

    def estimate_log_prob(
        self, x: Tensor, condition: Tensor | None = None, *, generator: Generator, steps: int
    ) -> Estimate: ...


class Encodes(Protocol):
    """Maps x to a latent z: a draw of q(z|x), or its mode without a generator.

    z is an observation of the model's ``latent_domain``, (B, K) real numbers or (B, T) symbols: whatever models that
    domain is a prior (``models/composed/latent.py``).
    """

    def encode(self, x: Tensor, condition: Tensor | None = None, *, generator: Generator | None = None) -> Tensor: ...


class Decodes(Protocol):
    """Maps a latent z to a distribution over x, with ``log_prob``, ``sample`` and ``mode``."""

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Any: ...


class Infers(Protocol):
    """A latent z with laws of its own: q(z|x) with ``log_prob(z)`` and ``rsample(samples, generator=)``, and p(z)."""

    def posterior(self, x: Tensor, condition: Tensor | None = None) -> Any: ...

    def log_prior(self, z: Tensor, condition: Tensor | None = None) -> Tensor: ...


class Judges(Protocol):
    """Scores how real x looks, given a condition that it comes with: (L,), higher is more real, of no unit.

    One score for each lot of consecutive rows that are judged together: ``lot`` of them, an attribute, where it is not
    each row by itself (L = B); what is left over of a lot has none.
    """

    def judge(self, x: Tensor, condition: Tensor | None = None) -> Tensor: ...


class Represents(Protocol):
    """Features of x that a probe can read: (B, F)."""

    def features(self, x: Tensor) -> Tensor: ...


class Completes(Protocol):
    """Fills in what is not known of x: ``known`` is a boolean mask of x's shape (or of one observation's)."""

    def completes(self, known: Tensor) -> bool: ...

    def complete(
        self, x: Tensor, known: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Tensor: ...


class Aligns(Protocol):
    """Similarity of each observation with each condition, (B, B): image with text, and the like."""

    def similarity(self, x: Tensor, condition: Tensor) -> Tensor: ...


class Transports(Protocol):
    """Maps one data set onto another; built with ``source``, which samples the first."""

    def transport(self, x: Tensor) -> Tensor: ...


class Watched(Protocol):
    """Scalars that health rules read while the model trains, on a few hundred validation rows: keep them cheap.

    Rules know, of a latent, ``rate`` (nats in z about x), ``rate_max`` (of its dimension with most), ``active_units``
    and ``active_share`` (units that move with x); of a codebook ``codes_used`` (share of the entries in use that could
    be); of a game between "generator" and "critic", ``critic_accuracy`` (share of real-generated pairs in which the
    real one scores higher), ``critic_sure`` (the probability that it gives the real one, where it gives any),
    ``sample_spread`` (standard deviation of samples relative to the data's), and the critic's slope: ``gradient_norm``
    where it is to be about 1, else ``critic_slope``; ``critic_lipschitz`` is the largest found. Of a game on data with
    classes the engine adds ``modes`` and ``modes_known``, the classes among samples and data. Any other is only
    recorded.
    """

    def meters(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]: ...


CAPABILITIES: tuple[type, ...] = (
    Adapts, Learns, Plays, Samples, Scores, Chains, PseudoScores, Bounds, Estimates, Encodes, Decodes, Infers,
    Judges, Represents, Completes, Aligns, Transports, Watched,
)  # fmt: skip


def capabilities(model: object) -> frozenset[type]:
    """The protocols that a model, or a model class, fulfils: names and signatures, not names alone.

    >>> class Coin:
    ...     def log_prob(self, x, condition=None): ...
    ...     def sample(self, n): ...
    >>> sorted(protocol.__name__ for protocol in capabilities(Coin))
    ['Scores']
    """
    return frozenset(protocol for protocol in CAPABILITIES if _fulfils(model, protocol))


def _fulfils(model: object, protocol: type) -> bool:
    wanted = [(name, member) for name, member in vars(protocol).items() if not name.startswith("_")]
    return all(_accepts(getattr(model, name, None), member) for name, member in wanted)


def _accepts(method: Any, promised: Callable[..., Any]) -> bool:
    """Whether ``method`` takes every argument that ``promised`` has, and needs no other."""
    if not callable(method):
        return False
    has = {name: p for name, p in inspect.signature(method).parameters.items() if name != "self"}
    wants = {name: p for name, p in inspect.signature(promised).parameters.items() if name != "self"}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in has.values())
    named = [name for name, p in wants.items() if p.kind is not p.VAR_KEYWORD]
    surplus = [p for name, p in has.items() if name not in wants and p.default is p.empty and p.kind < p.VAR_KEYWORD]
    return all(
        name in has or (takes_any and wants[name].kind is inspect.Parameter.KEYWORD_ONLY) for name in named
    ) and not [p for p in surplus if p.kind is not p.VAR_POSITIONAL]
