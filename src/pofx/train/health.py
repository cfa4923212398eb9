"""Health while it trains: what the rows of a run's history give away.

A rule is a function of the rows so far and the planned steps: it says what it sees, or "" where all is well. Nothing
else is remembered, so that a resumed run, whose history is examined again, has rung what the uninterrupted one has.

Three readings in a row must agree before a rule speaks: one alone may be noise.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pofx.data.dataset import Data
from pofx.data.rows import hashes
from pofx.domains import Images, Tokens

History = Sequence[Mapping[str, float]]

IN_A_ROW = 3
RECOVERED = 20  # rows without a finding after which a rule may ring again: about a tenth of a run
ENOUGH = 30  # losses, to tell a slow start in noise from none
SETTLED = 0.25  # share of the steps after which a reading is no longer that of an untrained network
LATE = 0.95
UNFOLDED = 50  # rounds before which a generator has had no time to reach every class
ONLY = ("model",)  # the players of maximum likelihood, whose loss falls; a game's need not


@dataclass(frozen=True)
class Alarm:
    """Something that a person wants to know of a run.

    Args:
        rule: its name in ``RULES``, or "duplicates".
        step: at which it rang.
        line: what is seen, with its numbers.
        advice: what to try.
    """

    rule: str
    step: int
    line: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """Its line in the run's events."""
        return {"kind": "alarm", **asdict(self)}


@dataclass(frozen=True)
class Rule:
    """One way of being ill: ``finds(rows, planned)`` says what is seen in the rows so far, or "" where all is well."""

    name: str
    finds: Callable[[History, int], str]
    advice: str


class Health:
    """Examines a history as it grows. A rule that rang is silent until it found nothing for ``RECOVERED`` rows.

    Args:
        events: of the run so far; the alarms among them have rung and are not given again.
    """

    def __init__(self, events: Iterable[Mapping[str, Any]] = ()) -> None:
        self.known = {(event["rule"], event["step"]) for event in events if event["kind"] == "alarm"}
        self.rows = 0
        self.last: Mapping[str, float] | None = None
        self.well = dict.fromkeys((rule.name for rule in RULES), RECOVERED)  # rows since the last finding

    def examine(self, history: History, planned: int) -> list[Alarm]:
        """The alarms of the rows that were not examined before.

        A history that went back, and grew again from there, is examined from its beginning.
        """
        if self.rows > len(history) or (self.rows and history[self.rows - 1] is not self.last):
            self.rows, self.well = 0, dict.fromkeys(self.well, RECOVERED)
        first, self.rows = self.rows + 1, len(history)
        self.last = history[-1] if history else None
        alarms = [alarm for n in range(first, self.rows + 1) for alarm in self._rung(history[:n], planned)]
        fresh = [alarm for alarm in alarms if (alarm.rule, alarm.step) not in self.known]
        self.known |= {(alarm.rule, alarm.step) for alarm in fresh}
        return fresh

    def _rung(self, rows: History, planned: int) -> list[Alarm]:
        alarms = []
        finite = all(map(math.isfinite, rows[-1].values()))
        for rule in RULES if finite else RULES[:1]:  # of what is not finite, nothing else can be said
            line = rule.finds(rows, planned)
            if line and self.well[rule.name] >= RECOVERED:
                alarms.append(Alarm(rule.name, int(rows[-1]["step"]), line, rule.advice))
            self.well[rule.name] = 0 if line else self.well[rule.name] + 1
        return alarms


def not_finite(rows: History, planned: int) -> str:
    """A step was skipped in the last ten rows, or a reading of the last one is not finite."""
    skipped = rows[-1].get("skipped", 0)
    if skipped > (rows[-11].get("skipped", 0) if len(rows) > 10 else 0):
        return f"{skipped:.0f} optimiser steps were skipped so far: loss or gradient was not finite"
    broken = [name for name, value in rows[-1].items() if not math.isfinite(value)]
    return f"{broken[0]} is not finite" if broken else ""


def exploding_gradients(rows: History, planned: int) -> str:
    """Ten times the usual norm with a loss above its first; in a game, where losses may rise, a thousand times.

    A game's gradients grow a hundredfold in its first steps and are well.
    """
    for player in players(rows):
        norms, losses = readings(rows, f"{player}/gradient"), readings(rows, f"{player}/loss")
        likelihood = players(rows) == ONLY
        before, times = (1, 10) if likelihood else (10, 1000)
        if len(norms) < before + IN_A_ROW:
            continue
        usual, now = statistics.median(norms[:-IN_A_ROW]), min(norms[-IN_A_ROW:])
        worse = not likelihood or min(losses[-IN_A_ROW:], default=0) > losses[0]
        if now > times * usual and worse:
            return f"gradients of the {player} explode: their norm went from {usual:.3g} to {now:.3g}"
    return ""


def vanishing_gradients(rows: History, planned: int) -> str:
    """Under a ten-thousandth of the largest norm, or under 1e-6, with nothing learnt: float32 has no use for less.

    In a game under a ten-thousandth of the usual: its largest may be of one mad step.
    """
    for player in players(rows):
        norms = readings(rows, f"{player}/gradient")
        if len(norms) < 2 * IN_A_ROW:
            continue
        now = max(norms[-IN_A_ROW:])
        likelihood = players(rows) == ONLY
        learnt = likelihood and fell(readings(rows, f"{player}/loss"))
        usual = max(norms) if likelihood else statistics.median(norms)
        if now < max(1e-6, 1e-4 * usual) and not learnt:
            return f"gradients of the {player} vanish: their norm is {now:.3g}"
    return ""


def no_learning(rows: History, planned: int) -> str:
    """After a quarter of the steps neither the loss nor the validation is better than it was, beyond its noise.

    Where the first row stands for more than 100 steps, all that there is to learn may have been learnt in it. A game's
    losses need not fall, but samples that are the same three times show a generator that stands still.
    """
    spread = meter(rows, "sample_spread", planned)
    if spread and 0 < max(spread) - 1e-6 * max(spread) <= min(spread):  # of one point nothing can be said
        return f"the generator stands still: samples spread {spread[-1]:.6g} times as far as the data, time and again"
    losses, values = readings(rows, "model/loss"), readings(rows, "validation")
    if not settled(rows, planned) or players(rows) != ONLY or len(losses) < ENOUGH or rows[0]["step"] > 100:
        return ""
    better = len(values) > IN_A_ROW and max(values[1:]) - values[0] > max(scatter(values), 1e-4 * abs(values[0]))
    if better or fell(losses):
        return ""
    k = len(losses) // 3
    first, last = statistics.fmean(losses[:k]), statistics.fmean(losses[-k:])
    return f"nothing is learnt: the loss was {first:.4g} at first and is {last:.4g}"


def overfitting(rows: History, planned: int) -> str:
    """Three validations below the best by 4 times their scatter and 5% of what was gained, while the loss fell on.

    From the first half of the rows since then to the second the loss fell by 3 standard errors: without that,
    validation only wanders.
    """
    places = [i for i, row in enumerate(rows) if math.isfinite(row.get("validation", math.nan))]
    values = [rows[i]["validation"] for i in places]
    if players(rows) != ONLY or len(values) < 2 + IN_A_ROW:
        return ""
    best = max(range(len(values)), key=values.__getitem__)
    margin = max(4 * scatter(values), 0.05 * (values[best] - values[0]))
    since = values[best + 1 :][-IN_A_ROW:]
    if len(since) < IN_A_ROW or max(since) >= values[best] - margin:
        return ""
    if not fell(readings(rows[places[best] :], "model/loss"), parts=2, errors=3):
        return ""
    step = rows[places[best]]["step"]
    return f"validation fell from {values[best]:.5g} at step {step:.0f} to {values[-1]:.5g}, while the loss fell on"


def posterior_collapse(rows: History, planned: int) -> str:
    """No unit of the latent moves with x (Burda et al. 2016), and z tells under 0.1 nats, 0.05 in any dimension.

    That is so of every encoder at first, and well while the nats grow or nothing at all is learnt.
    """
    limits = {"active_share": 1e-9, "rate": 0.1, "rate_max": 0.05}
    found = {name: values for name in limits if (values := meter(rows, name, planned))}
    idle = found and all(max(values) < limits[name] for name, values in found.items())
    unlearnt = players(rows) == ONLY and not fell(readings(rows, "model/loss"), errors=3)
    if not idle or unlearnt or grows(found.get("rate", ())):
        return ""
    told = f": z tells {found['rate'][-1]:.3g} nats about x" if "rate" in found else ": no unit moves with x"
    return f"the posterior has collapsed{told}"


def dead_codes(rows: History, planned: int) -> str:
    """Under a fifth of the codebook's entries are in use, and no more come into use."""
    used = meter(rows, "codes_used", planned)
    if not used or max(used) >= 0.2 or grows(used):
        return ""
    return f"only {used[-1]:.0%} of the codebook's entries are in use"


def saturated_critic(rows: History, planned: int) -> str:
    """It tells 99% of pairs apart and is 99% sure of them, or leaves a gradient under a hundredth of the largest."""
    sure = meter(rows, "critic_sure", planned)
    right, norms = meter(rows, "critic_accuracy", planned), readings(rows, "generator/gradient")
    if not right or len(norms) < IN_A_ROW or min(right) < 0.99:
        return ""
    if sure and min(sure) > 0.99:
        return f"the critic tells {right[-1]:.1%} of pairs apart and gives the real one {sure[-1]:.1%}"
    now = max(norms[-IN_A_ROW:])
    if now > 0.01 * max(norms):
        return ""
    return (
        f"the critic tells {right[-1]:.1%} of pairs apart and leaves the generator a gradient of {now:.3g}, "
        f"from {max(norms):.3g}"
    )


def mode_collapse(rows: History, planned: int) -> str:
    """Samples spread under a tenth as far as the data do, or are of a third of its classes, and no more than before.

    A generator begins in a point, which is of one class: classes count once samples spread half as far as the data do,
    and when the run ends.
    """
    spread, modes = meter(rows, "sample_spread", planned), meter(rows, "modes", planned)
    if spread and max(spread) < 0.1 and not grows(spread):
        return f"samples are nearly all alike: their spread is {spread[-1]:.2g} of the data's"
    known = meter(rows, "modes_known", planned)
    out = (late(rows, planned) and rows[-1]["step"] >= UNFOLDED) or (spread and min(spread) >= 0.5)
    if modes and out and 1 < known[-1] and max(modes) <= max(1, known[-1] / 3) and not grows(modes):
        return f"samples are of {modes[-1]:.0f} of the {known[-1]:.0f} classes among the rows looked at"
    return ""


def steep_critic(rows: History, planned: int) -> str:
    r"""The critic's slope is outside 0.2 to 10. It exceeds 1 by W / (2 lambda) and is well, so 2 or 3 is no illness.

    Where no penalty wants it to be 1, a flat one is well: that of a critic that cannot tell. Above 10 none is.
    """
    for name, least, wanted in (("gradient_norm", 0.2, "its penalty wants 1"), ("critic_slope", 0.0, "1 is usual")):
        slope = meter(rows, name, planned)
        if slope and (min(slope) > 10 or max(slope) < least):
            most = readings(rows, "meter/critic_lipschitz")[-1:]
            upto = f", up to {most[0]:.3g}," if most else ""
            return f"the critic's gradient has norm {slope[-1]:.3g}{upto} where {wanted}"
    return ""


RULES = (
    Rule("not finite", not_finite, "lower --learning-rate or --clip, or use --precision fp32"),
    Rule("exploding gradients", exploding_gradients, "lower --learning-rate, or set --clip 1"),
    Rule(
        "vanishing gradients",
        vanishing_gradients,
        "take fewer layers, or look for units that have saturated; in a game, for a player that has given up",
    ),
    Rule("no learning", no_learning, "try a --learning-rate ten times higher, then ten times lower"),
    Rule("overfitting", overfitting, "the best weights are kept; use more data, a smaller model or --weight-decay"),
    Rule(
        "posterior collapse", posterior_collapse, "give it --free-bits, lower --beta, or take a less powerful decoder"
    ),
    Rule("dead codes", dead_codes, "take fewer codes, or raise --revive, which restarts those that are not used"),
    Rule(
        "saturated critic",
        saturated_critic,
        "give the critic fewer steps, or hold it: a larger --penalty or --r1, or --spectral-norm",
    ),
    Rule("mode collapse", mode_collapse, "give the critic more steps or --packing 2, or lower --learning-rate"),
    Rule("steep or flat critic", steep_critic, "raise --penalty or --r1, or lower --learning-rate"),
)


def duplicated(data: Data, *, most: int = 20_000) -> Alarm | None:
    """Over one in twenty training observations is a copy of another, where the domain leaves room for them to differ.

    Args:
        data: whose training split is looked at.
        most: only so many of its first observations.
    """
    x = data.train.rows()[0][:most].cpu()
    if _room(data) < math.log(1000 * len(x)):
        return None
    copies = len(x) - len(set(hashes(x).tolist()))
    if copies <= 0.05 * len(x):
        return None
    line = f"{copies:,} of {len(x):,} training observations looked at are exact copies of another"
    return Alarm("duplicates", 0, line, "remove the copies: they count double, and are learnt by heart first")


def _room(data: Data) -> float:
    """log of how many different observations the domain has."""
    domain = data.domain
    if isinstance(domain, Images) and domain.levels is not None:
        return domain.dims * math.log(domain.levels)
    return domain.length * math.log(domain.vocabulary) if isinstance(domain, Tokens) else math.inf


def players(rows: History) -> tuple[str, ...]:
    """Whoever has a loss in the latest row."""
    return tuple(name.removesuffix("/loss") for name in rows[-1] if name.endswith("/loss"))


def readings(rows: History, name: str) -> list[float]:
    """The finite values of one name, in order."""
    return [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]


def meter(rows: History, name: str, planned: int) -> list[float]:
    """The last three readings of a meter of the model, or none before the run is settled."""
    found = readings(rows, f"meter/{name}") if settled(rows, planned) else []
    return found[-IN_A_ROW:] if len(found) >= IN_A_ROW else []


def settled(rows: History, planned: int) -> bool:
    """Whether a quarter of the steps is done."""
    return rows[-1]["step"] >= SETTLED * planned


def late(rows: History, planned: int) -> bool:
    """Whether the run is about to end."""
    return rows[-1]["step"] >= LATE * planned


def grows(values: Sequence[float]) -> bool:
    """Whether the last reading is a tenth above the first."""
    return bool(values) and values[-1] > 1.1 * values[0]


def fell(values: Sequence[float], *, parts: int = 3, errors: float = 1) -> bool:
    """Whether the last third (or half) is below the first by more than its standard error, and by 0.01% at least."""
    k = len(values) // parts
    if k < 2:
        return False
    first, last = values[:k], values[-k:]
    fall = statistics.fmean(first) - statistics.fmean(last)
    noise = math.sqrt((statistics.variance(first) + statistics.variance(last)) / k)
    return fall > max(errors * noise, 1e-4 * abs(statistics.fmean(first)))


def scatter(values: Sequence[float]) -> float:
    """Standard deviation around a smooth course, from second differences; their median minds no single jump."""
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:])]
    return statistics.median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0
