"""What each model is good for on these data, from its figures and capabilities."""

from collections.abc import Sequence

from pofx.domains import Domain
from pofx.report.rows import Row, is_likelihood
from pofx.report.verdict import entrants, listed, memorises, relation, sample_questions


def good_for(row: Row, rows: Sequence[Row], domain: Domain) -> str:
    """What a model is good for on these data: a sentence or two from its figures and capabilities."""
    if row.status == "failed":
        return f"Not known: {row.reason}."
    parts = [_likelihood_use(row, rows, domain), _sample_use(row, rows), _speed_use(row, rows), _able_use(row)]
    if row.is_reference:
        return f"A baseline: {row.summary or row.name}. {parts[0]}"
    return " ".join(part for part in parts if part)


def _likelihood_use(row: Row, rows: Sequence[Row], domain: Domain) -> str:
    told = sorted((s for s in row.held_out if is_likelihood(s)), key=lambda s: s.given != "")
    mine = next(iter(told), None)
    if mine is None:
        return "It has no likelihood: it can neither score nor compress."
    rivals = [e for e in entrants(rows, mine.metric, mine.given) if e[0] is not row]
    leads = bool(rivals) and all(relation((row, mine), e) == "better" for e in rivals) and not row.is_reference
    said = f"{'The best likelihood here' if leads else 'Likelihood'}: {mine.shown(domain)}"
    said += {"exact": " exactly", "lower bound": " by its bound"}.get(mine.kind, f" ({mine.kind})")
    return f"{said}{_beside_codecs(row, rows, domain)}."


def _beside_codecs(row: Row, rows: Sequence[Row], domain: Domain) -> str:
    """How the bits of p(x) stand to those of the best codec: what entropy coding with the model would save."""
    mine = next((s for s in row.held_out if is_likelihood(s) and not s.given), None)
    codes = [(s.value, r.name) for r in rows if r.family == "codecs" for s in r.held_out if is_likelihood(s)]
    if mine is None or not codes or mine.kind not in ("exact", "lower bound") or mine.value >= 0:
        return ""
    value, codec = max(codes)
    ratio = value / mine.value
    return f", {ratio:.2g} times smaller than {codec}" if ratio >= 1.05 else f", no smaller than {codec}"


def _sample_use(row: Row, rows: Sequence[Row]) -> str:
    if memorises(row, rows):
        return "Its samples repeat training data."
    won = []
    for metric, given in sample_questions(rows):
        honest = entrants([r for r in rows if not memorises(r, rows)], metric, given)
        rivals = [e for e in honest if e[0] is not row]
        mine = next((s for r, s in honest if r is row), None)
        if mine and rivals and all(relation((row, mine), e) == "better" for e in rivals):
            won.append(metric)
    accuracy = row.find("conditional accuracy")
    said = f"Its samples are the best by {listed(won)}." if won else ""
    if accuracy is not None:
        said += f" A classifier accepts {accuracy.value:.0%} of them as the class asked for."
    return said.strip()


def _speed_use(row: Row, rows: Sequence[Row]) -> str:
    speed = row.find("samples per second", "sampling speed", "speed")
    others = [
        r.find("samples per second", "sampling speed", "speed") for r in rows if r is not row and not r.is_reference
    ]
    rates = [s.value for s in others if s is not None and s.value > 0]
    if speed is None or not rates or speed.better == "lower" or speed.value <= 0:
        return ""
    if speed.value >= 3 * max(rates):
        times = _plain(speed.value / max(rates))
        return f"The fastest sampler: {_plain(speed.value)} {speed.unit}, {times} times the next."
    if speed.value * 3 <= min(rates):
        return f"A slow sampler: {_plain(speed.value)} {speed.unit}."
    return ""


def _able_use(row: Row) -> str:
    uses = []
    if "Encodes" in row.able:
        uses.append("gives codes to search, interpolate and reconstruct from")
    elif "Represents" in row.able:
        uses.append("gives features for a probe")
    if "Completes" in row.able:
        uses.append("completes what is partly known")
    return f"It {listed(uses)}." if uses else ""


def _plain(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"
