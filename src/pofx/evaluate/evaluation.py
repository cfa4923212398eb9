"""All scores of a model, within a given time. Asks what the model can do, never its name."""

import math
from typing import Any

import torch

from pofx.conditions import Classes
from pofx.data.dataset import Data
from pofx.errors import Unusable
from pofx.evaluate.codes import code_scores
from pofx.evaluate.cost import cost_scores
from pofx.evaluate.critic import critic_scores
from pofx.evaluate.drawing import MOST, Drawn, draw
from pofx.evaluate.latents import latent_scores
from pofx.evaluate.likelihood import likelihood_scores
from pofx.evaluate.meters import meter_scores
from pofx.evaluate.pace import Clock, Watch
from pofx.evaluate.probe import probe_scores
from pofx.evaluate.quality import memorisation_score, quality_scores
from pofx.evaluate.score import Score
from pofx.nn.modes import evaluating
from pofx.protocols import Represents, Samples, capabilities
from pofx.world import ALONE, World


def evaluate(
    model: Any,
    data: Data,
    *,
    split: str = "test",
    seconds: float | int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    labelled: Data | None = None,
    watch: Watch | None = None,
    world: World = ALONE,
) -> list[Score]:
    """Every score the model is able to get, on held-out data, in at most about ``seconds``.

    Likelihood first, then what a linear probe reads from the features, then samples; what becomes of rows in a latent,
    if there is one; whether a game's own critic tells samples from held-out rows; what samples look like beside these,
    whether they are copies, whether they obey the class asked for; and what all of it costs. Each is announced with its
    cost before it is computed; time is kept by taking fewer rows, and every score says how many. Where time is
    plentiful the figures depend on the seed alone.

    Args:
        model: on ``device``; in evaluation mode while scored, and put back.
        split: "test", "validation" or "train".
        seconds: the training time is a good choice; 60 if None.
        labelled: the same data with classes for the probe, where the model was fitted without.
        watch: called with one line before each score.
        world: the processes that share the rows to score and the samples to draw; the leader has the scores.

    Raises:
        Unusable: there is no such split, or it is empty.
    """
    if split not in ("train", "validation", "test"):
        raise Unusable(f"a split is train, validation or test, got {split!r}; choose one of them")
    if not len(data.part(split)):
        raise Unusable(f"the {split} split of {data.source} is empty; evaluate another split")
    if seconds is not None and not seconds > 0:
        raise Unusable(f"evaluation needs seconds above 0, got {seconds}; leave it out for 60")
    watch = watch or (lambda line: None)
    total = 60.0 if seconds is None else float(seconds)
    clock, able = Clock.of(total), capabilities(model)
    shared: dict[str, Any] = {"split": split, "seed": seed, "watch": watch}
    with evaluating(model), torch.no_grad():
        scores = likelihood_scores(model, data, clock=clock.share(0.4), device=device, world=world, **shared)
        if Represents in able and world.leads:
            scores += probe_scores(model, labelled or data, clock=clock.share(0.2), device=device, **shared)
        drawn = None
        if Samples in able:
            drawn = draw(model, MOST, clock.share(0.6), seed=seed, device=device, watch=watch, world=world)
        if not world.leads:
            return scores
        scores += latent_scores(model, data, clock=clock.share(0.2), device=device, **shared)
        scores += critic_scores(model, drawn, data, clock=clock.share(0.1), device=device, **shared)
        if drawn is not None:
            scores += memorisation_score(drawn.x, data, clock=clock.share(0.3), **shared)
            scores += quality_scores(drawn.x, data, clock=clock.share(0.6), **shared)
            scores += accuracy_score(drawn, data, clock=clock, patience=0.15 * total, **shared)
            scores.append(drawn.speed_score(split))
        scores += meter_scores(model, data, clock=clock.share(0.3), device=device, **shared)
        scores += code_scores(model, data, clock=clock.share(0.3), device=device, **shared)
    return scores + cost_scores(model, split=split, device=device)


def accuracy_score(
    drawn: Drawn, data: Data, *, split: str, seed: int, clock: Clock, patience: float, watch: Watch
) -> list[Score]:
    """Share of samples that a judge, trained on the training split, takes for the class they were asked to be.

    Args:
        patience: seconds given to the judge's training, the same for all models that are compared, so that one judge
            serves all.
    """
    if drawn.c is None or not isinstance(data.condition, Classes):
        return []
    from pofx.evaluate.classifier import cached_judge

    patience = min(patience, clock.left)
    if patience <= 0:
        return []
    watch(f"conditional accuracy: {len(drawn.x)} samples, at most {patience:.1f} s for the judge's training")
    with torch.enable_grad():
        judge = cached_judge(data, seed=seed, seconds=patience)
    share = (judge.predict(drawn.x).cpu() == drawn.c).double().mean().item()
    n = len(drawn.x)
    return [
        Score("conditional accuracy", share, "statistic", "", n, stderr=math.sqrt(share * (1 - share) / n),
              given="classes", split=split, floor=judge.accuracy,
              note=f"the judge's own accuracy on test rows is {judge.accuracy:.3f}")
    ]  # fmt: skip
