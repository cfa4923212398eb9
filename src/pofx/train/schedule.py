"""The learning rate's share of its peak, by step."""

import math

from pofx.train.settings import Settings


def rate(step: int, planned: int, settings: Settings) -> float:
    """The factor in [0, 1] for round ``step`` (from 0) of ``planned``.

    All three schedules climb linearly over the warm-up; then "constant" stays, "cosine" falls to zero along half a
    wave, and "trapezoid" falls linearly to zero over the last ``cooldown`` of the run.

    >>> [round(rate(s, 10, Settings(schedule="trapezoid", warmup=0.2, cooldown=0.5)), 2) for s in (0, 1, 4, 7, 9)]
    [0.5, 1.0, 1.0, 0.6, 0.2]
    """
    warm = round(settings.warmup * planned)
    climb = min(1.0, (step + 1) / warm) if warm else 1.0
    if settings.schedule == "cosine":
        done = max(0, step - warm) / max(1, planned - warm)
        return climb * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if settings.schedule == "trapezoid":
        cool = max(1, round(settings.cooldown * planned))
        return climb * min(1.0, max(0, planned - step) / cool)
    return climb
