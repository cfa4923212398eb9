"""The headline figures of a comparison as one table, for the terminal and the page alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pofx.domains import Domain
from pofx.evaluate.score import Score
from pofx.report.rows import Row, is_likelihood
from pofx.report.verdict import asked, entrants, likelihood_questions, memorises, relation, sample_questions

_SHORT = {"lower bound": "bound", "estimate of a lower bound": "estimate of a bound"}


@dataclass(frozen=True)
class Cell:
    """One figure: ``text``, what sort of number it is, and whether it is proven ahead of every other model's."""

    text: str
    kind: str = ""
    leads: bool = False


def headline(rows: Sequence[Row], domain: Domain) -> tuple[list[str], list[list[Cell]]]:
    """Column names and, per row, its cells; the first column is the catalogue name."""
    likelihoods, samples = likelihood_questions(rows), sample_questions(rows)
    heads = [f"{asked(*q)}, {domain.unit}" for q in likelihoods] + [
        metric.removeprefix("conditional ") for metric, _ in samples
    ]
    body = []
    for row in rows:
        cells = [_cell(row, question, rows, domain) for question in (*likelihoods, *samples)]
        steps = "–" if row.steps is None else f"{row.steps:,.0f}"
        seconds = "–" if row.seconds is None else f"{row.seconds:.0f}" if row.seconds >= 10 else f"{row.seconds:.1f}"
        body.append([Cell(row.name), *cells, _memorised(row, rows), Cell(steps), Cell(seconds)])
    return ["model", *heads, "memorised?", "steps", "seconds"], body


def _cell(row: Row, question: tuple[str, str], rows: Sequence[Row], domain: Domain) -> Cell:
    score = row.score(*question)
    if row.status == "failed":
        return Cell("failed")
    if score is None:
        return Cell("–")
    rivals = [e for e in entrants(rows, *question) if e[0] is not row]
    leads = not row.is_reference and bool(rivals) and not memorises(row, rows)
    leads = leads and all(relation((row, score), rival) == "better" for rival in rivals)
    return Cell(brief(score, domain), _SHORT.get(score.kind, score.kind) if is_likelihood(score) else "", leads)


def brief(score: Score, domain: Domain) -> str:
    """A score without its unit, which the column's head gives, and with the digits that its error leaves it."""
    if is_likelihood(score):
        return score.shown(domain).removesuffix(domain.unit).strip()
    if not score.stderr or not math.isfinite(score.stderr):
        return f"{score.value:.3g}"
    digits = min(3, max(0, 1 - math.floor(math.log10(score.stderr))))
    return f"{score.value:.{digits}f} +- {score.stderr:.{digits}f}"


def _memorised(row: Row, rows: Sequence[Row]) -> Cell:
    ratio = row.find("memoris")
    if ratio is None:
        return Cell("–")
    return Cell(f"{'yes' if memorises(row, rows) else 'no'} ({ratio.value:.2f})")
