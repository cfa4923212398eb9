"""What the figures of a comparison prove, in sentences; where they prove nothing, that.

The rules. Two figures are ranked only if they answer the same question in the same way (``Score.comparable``), or if a
guaranteed side settles it: a lower bound above another model's exact value proves superiority, never the reverse. A gap
counts only beyond twice its standard error and beyond the spread of the seeds. Baselines and codecs are there to be
beaten and win nothing. A sampler that repeats its training data is named, not ranked.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from pofx.domains import Domain, in_unit
from pofx.evaluate.score import Score
from pofx.report.rows import Row, decided, is_likelihood

Relation = Literal["better", "worse", "close", "unranked"]
Entrant = tuple[Row, Score]

SAMPLE_METRICS = ("kernel", "frechet", "wasserstein", "coverage", "conditional accuracy")
FEW = 1000  # held-out observations below which a reader is told what cannot be seen
FEWEST = 50  # below which a figure's own error bar is a guess, and it is not ranked


def verdict(rows: Sequence[Row], domain: Domain) -> list[str]:
    """The sentences, most important first."""
    return [
        *_summary(rows),
        *_likelihoods(rows, domain),
        *_against_baselines(rows, domain),
        *_samples(rows, domain),
        *_memorised(rows),
        *_thin(rows, domain),
        *(f"{row.name} failed: {row.reason}." for row in rows if row.status == "failed"),
    ]


def relation(a: Entrant, b: Entrant) -> Relation:
    """How a stands to b: "unranked" where their kinds, conditions, splits or biases allow no ranking."""
    (row_a, s), (row_b, t) = a, b
    if min(s.n, t.n) < FEWEST or (_sized(s) and not 0.8 < s.n / max(1, t.n) < 1.25):
        return "unranked"
    sign = -1.0 if s.better == "lower" else 1.0
    gap = sign * (s.value - t.value)
    settled = decided(row_a, s, row_b, t)
    if s.comparable(t):
        return ("better" if gap > 0 else "worse") if settled else "close"
    if settled and gap > 0 and _guarantees(s, t):
        return "better"
    if settled and gap < 0 and _guarantees(t, s):
        return "worse"
    return "unranked"


def _sized(score: Score) -> bool:
    """Whether a figure of this kind moves with n, as all two-sample statistics but the unbiased ones do."""
    return score.kind == "statistic" and any(word in score.metric for word in ("frechet", "wasserstein", "coverage"))


def _guarantees(s: Score, t: Score) -> bool:
    """Whether the truth of s is surely at least s, and the truth of t is t: then s above t proves something."""
    same = all(getattr(s, a) == getattr(t, a) for a in ("metric", "unit", "given", "split"))
    return same and s.kind in ("exact", "lower bound") and t.kind == "exact" and not (s.bias or t.bias)


def memorises(row: Row, rows: Sequence[Row]) -> bool:
    """Samples far nearer to the training data than held-out data are.

    The ratio is 0 for a copy and 1 for real data. Below a quarter there is no other way to get there; below a half the
    coverage must be at the level of a copy, too: a bad sampler's ratio can be low for want of real neighbours.
    """
    ratio = row.find("memoris")
    if ratio is None or ratio.value + 2 * (ratio.stderr or 0.0) >= 0.5:
        return False
    return ratio.value < 0.25 or covers_as_a_copy(row, rows)


def covers_as_a_copy(row: Row, rows: Sequence[Row]) -> bool:
    """Whether the coverage is at least that of the copy baseline, as far as can be told."""
    copy = next((r for r in rows if r.name == "copy" and r.status == "ok"), None)
    level, mine = copy.find("coverage") if copy else None, row.find("coverage")
    if copy is None or level is None or mine is None:
        return False
    return relation((row, mine), (copy, level)) in ("better", "close")


def _summary(rows: Sequence[Row]) -> Iterator[str]:
    """One sentence for who reads no further: the likelihood that most models have, and the first sample figure."""
    answers = [entrants(rows, *question) for question in likelihood_questions(rows)]
    told = max(([e for e in found if e[1].n >= FEWEST] for found in answers), key=len, default=[])
    drawn = next((_ranked(rows, *question) for question in sample_questions(rows)), [])
    by = [
        _clause("likelihood", sorted(told, key=lambda e: -e[1].value)),
        _clause(f"samples ({drawn[0][1].metric})" if drawn else "", drawn),
    ]
    said = "; ".join(clause for clause in by if clause)
    if said:
        yield said[:1].upper() + said[1:] + "."


def _clause(what: str, ordered: Sequence[Entrant]) -> str:
    """Who is best by one figure, or why that cannot be said."""
    if not ordered:
        return ""
    ahead, *others = ordered
    if not others:
        return f"by {what}, {ahead[0].name} alone has a figure"
    found = [(row.name, relation(ahead, (row, s))) for row, s in others]
    close = [name for name, relation_ in found if relation_ == "close"]
    unranked = [name for name, relation_ in found if relation_ == "unranked"]
    if close:
        return f"by {what}, {listed([ahead[0].name, *close])} are too close to tell"
    if unranked:
        return f"by {what}, {ahead[0].name} is ahead, which is not proven against {listed(unranked)}"
    return f"by {what}, {ahead[0].name} is best"


def _likelihoods(rows: Sequence[Row], domain: Domain) -> Iterator[str]:
    """One paragraph for each thing that was given: who is ahead, and whether that is proven."""
    for metric, given in likelihood_questions(rows):
        told = entrants(rows, metric, given)
        if not told:
            continue
        ahead, *others = sorted(told, key=lambda e: -e[1].value)
        figures = "; ".join(f"{row.name} {s.shown(domain)} ({s.kind})" for row, s in (ahead, *others))
        yield f"Held-out {asked(metric, given)}: {figures}.{_standing(ahead, others, domain)}"


def _standing(ahead: Entrant, others: list[Entrant], domain: Domain) -> str:
    found = {row.name: relation(ahead, (row, s)) for row, s in others}
    name, bound = ahead[0].name, ahead[1].kind == "lower bound"
    beaten = [row.name for row, _ in others if found[row.name] == "better"]
    close = [row.name for row, _ in others if found[row.name] == "close"]
    open_ = [(row, s) for row, s in others if found[row.name] == "unranked"]
    said = ""
    if beaten:
        exact = [row.name for row, s in others if row.name in beaten and s.kind == "exact"]
        if bound and exact:
            said += f" {name}'s bound alone proves it better than {listed(exact)}."
        rest = [other for other in beaten if not (bound and other in exact)]
        if rest:
            said += (
                f" {name} {'has a better bound than' if bound else 'is better than'} {listed(rest)}, beyond the noise."
            )
    if close:
        said += f" {name} and {listed(close)}: too close to tell."
    for row, s in open_:
        lead = f"{abs(in_unit(ahead[1].value - s.value, domain)):.3f} {domain.unit}"
        said += f" {row.name} is {lead} behind, but {_why_unranked(ahead[1], s, domain)}, so the two are not ranked."
    return said


def _why_unranked(s: Score, t: Score, domain: Domain) -> str:
    if min(s.n, t.n) < FEWEST:
        return f"n = {min(s.n, t.n)} is too few"
    if s.stderr is None or t.stderr is None:
        return "one figure has no error bar"
    for score in (t, s):
        if score.bias is not None and score.bias > (score.stderr or 0.0):
            return f"a numerical bias of {abs(in_unit(score.bias, domain)):.3f} exceeds the noise"
    if "bound" in t.kind:
        return "a bound may be loose"
    if abs(s.value - t.value) <= 2 * math.hypot(s.stderr, t.stderr):
        return "the gap is within the noise"
    return f"one figure is of kind '{t.kind}', the other '{s.kind}'"


def _against_baselines(rows: Sequence[Row], domain: Domain) -> Iterator[str]:
    """Where each model stands to the best baseline on the same question: what does not beat it has gained nothing."""
    for metric, given in likelihood_questions(rows):
        bars, models = entrants(rows, metric, given, family="baselines"), entrants(rows, metric, given)
        bars = [e for e in bars if e[1].n >= FEWEST] or bars
        if not bars or not models:
            continue
        bar = max(bars, key=lambda e: e[1].value)
        told = "; ".join(f"{row.name} {_beside(bar, (row, s), domain)}" for row, s in models)
        yield f"Beside the best baseline on {asked(metric, given)}, {bar[0].name} ({bar[1].shown(domain)}): {told}."


def _beside(bar: Entrant, entrant: Entrant, domain: Domain) -> str:
    found = relation(entrant, bar)
    if found != "unranked":
        return {"better": "is better", "worse": "is worse", "close": "cannot be told from it"}[found]
    behind = entrant[1].value < bar[1].value
    return f"does not {'reach' if behind else 'provably beat'} it, as {_why_unranked(bar[1], entrant[1], domain)}"


def _samples(rows: Sequence[Row], domain: Domain) -> Iterator[str]:
    """Who draws the better samples, by each figure of sample quality."""
    for metric, given in sample_questions(rows):
        ordered = _ranked(rows, metric, given)
        if not ordered:
            continue
        (row, s), *others = ordered
        standing = [(other.name, relation((row, s), (other, t))) for other, t in others]
        said = f"{title(metric)}: {row.name} {'leads with' if others else 'has'} {s.shown(domain)}"
        for found, words in (
            ("better", "ahead of {} beyond the noise"), ("close", "too close to {} to tell"),
            ("unranked", "not ranked against {}, whose n differs or whose error is not known"),
        ):  # fmt: skip
            names = [name for name, relation_ in standing if relation_ == found]
            said += f", {words.format(listed(names))}" if names else ""
        yield said + _beside_floor(s) + "."


def _ranked(rows: Sequence[Row], metric: str, given: str) -> list[Entrant]:
    """Who may be ranked by a figure of sample quality, best first: those that do not repeat their training data."""
    honest = [row for row in rows if not memorises(row, rows)]
    ranked = [e for e in entrants(honest, metric, given) if e[1].better in ("higher", "lower") and e[1].n >= FEWEST]
    return sorted(ranked, key=lambda e: e[1].value if e[1].better == "lower" else -e[1].value)


def _beside_floor(score: Score) -> str:
    if score.floor is None:
        return ""
    if score.stderr is not None and abs(score.value - score.floor) <= 2 * score.stderr:
        return f". Real data score {score.floor:.4g}: at n = {score.n} these samples cannot be told from data"
    return f". Real data score {score.floor:.4g}"


def _memorised(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        ratio = row.find("memoris")
        if row.is_reference or ratio is None or not memorises(row, rows):
            continue
        said = (
            f"{row.name} memorises: its samples lie at {ratio.value:.2f} of real data's distance to the training data"
        )
        said += ", with the coverage of a copy of the training set" if covers_as_a_copy(row, rows) else ""
        yield said + "; it is left out of the ranking of samples."


def _thin(rows: Sequence[Row], domain: Domain) -> Iterator[str]:
    """What too few observations hide."""
    models = [row for row in rows if not row.is_reference]
    told = [
        (s, row.name) for row in models for s in row.held_out if is_likelihood(s) and s.stderr and FEWEST <= s.n < FEW
    ]
    if told:
        s, name = max(told, key=lambda e: e[0].stderr or 0.0)
        unseen = abs(in_unit(2 * math.sqrt(2) * (s.stderr or 0.0), domain))
        yield f"n = {s.n} ({name}) is few: gaps in log p under about {unseen:.2g} {domain.unit} cannot be seen."
    questions = sample_questions(rows)
    sizes = {row.name: [found.n for q in questions if (found := row.score(*q)) is not None] for row in models}
    guessed = [f"{name} (n = {min(n)})" for name, n in sizes.items() if n and min(n) < FEWEST]
    if guessed:
        yield f"Too few samples to rank within this budget: {listed(guessed)}; a larger --budget scores more."
    few = [min(n) for n in sizes.values() if n and FEWEST <= min(n) < FEW]
    if few:
        yield f"Sample quality is from as few as {min(few)} samples: read it beside its floor, not by its digits."
    if max((len(row.by_seed) for row in models), default=0) == 1:
        yield "One seed per model: how much training varies was not measured (--seeds 3 does)."


def sample_questions(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(metric, given) of the figures of sample quality, headline ones only, in a fixed order."""
    asked = dict.fromkeys((s.metric, s.given) for row in rows if row.status == "ok" for s in row.held_out)
    first = {word: [q for q in asked if word in q[0].lower()][:1] for word in SAMPLE_METRICS}
    return list(dict.fromkeys(q for found in first.values() for q in found))


def likelihood_questions(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(metric, given) of every likelihood, p(x) before p(x|c)."""
    found = dict.fromkeys((s.metric, s.given) for row in rows for s in row.held_out if is_likelihood(s))
    return sorted(found, key=lambda question: question[1] != "")


def entrants(rows: Sequence[Row], metric: str, given: str, family: str | None = None) -> list[Entrant]:
    """Who answers the question: the models, or one family of references."""
    rows = [r for r in rows if r.status == "ok" and (r.family == family if family else not r.is_reference)]
    return [(row, s) for row in rows if (s := row.score(metric, given)) is not None and math.isfinite(s.value)]


def asked(metric: str, given: str) -> str:
    """A question as a person writes it: log p(x), or log p(x | class)."""
    return metric.replace("(x)", f"(x | {given})") if given and "|" not in metric else metric


def title(metric: str) -> str:
    """A metric as a heading."""
    return {"frechet": "Fréchet distance", "kernel": "Kernel distance"}.get(metric, metric[:1].upper() + metric[1:])


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last
