"""Verdicts as tables for people and programs, and as plain types for JSON."""

from collections.abc import Iterable
from typing import Any

from probediff.report.tables import Cell, Table
from probediff.report.verdicts.judging import GroupVerdicts, Verdicts
from probediff.report.verdicts.rule import T_QUANTILE, Claim, number_text
from probediff.report.verdicts.statements import Outcome

RULE = (
    f"A statement holds where its numbers lie in a region. The interval of a number is the number ± {T_QUANTILE} "
    f"standard errors (Student's t, 19 degrees of freedom): inside the region it agrees, outside it disagrees, and "
    f"otherwise, or without a number or its error, it is undecided. A statement with several numbers agrees if all do, "
    f"and disagrees if one does. Over several runs the number is the mean, and its standard error sqrt(mean of the "
    f"runs' errors² + std over runs² / n)."
)
_HEADER = ("", "place", "statement", "number", "null", "published", "holds", "verdict")
_CLAIMS = ("", "what is measured", "number", "null", "holds", "verdict", "why")
_ALL = ("runs", "model", "id", "place", "statement", "published", "verdict of the statement", "quantity", "value",
        "standard error", "runs with it", "null", "low", "high", "verdict", "why")  # fmt: skip


def verdict_table(index: int, judged: GroupVerdicts) -> Table:
    """A row a statement, of the runs' own networks."""
    rows = [_row(outcome) for outcome in judged.network.outcomes]
    caption = f"Statements of the papers beside the numbers of {judged.group.label}. {judged.network.counts_in_words}."
    return Table(f"verdicts_{index}", caption, _HEADER, tuple(rows))


def claim_table(index: int, judged: GroupVerdicts) -> Table:
    """A row a number, with why it decides or does not, and what would record it."""
    rows: list[tuple[Cell, ...]] = []
    for outcome in judged.network.outcomes:
        key = outcome.statement.key
        if outcome.doubt or not outcome.claims:
            rows.append((key, "-", *[None] * 3, outcome.verdict, outcome.reason))
        rows += [
            (key, claim.quantity, _number(claim), claim.null, str(claim.region), claim.verdict, _why(claim))
            for claim in outcome.claims
        ]
    return Table(f"verdicts_numbers_{index}", f"Each number and why, {judged.group.label}.", _CLAIMS, tuple(rows))


def exact_table(index: int, judged: GroupVerdicts) -> Table | None:
    """A row a statement, a column an exact denoiser; None without one."""
    if not judged.exact:
        return None
    outcomes = zip(*(verdicts.outcomes for verdicts in judged.exact), strict=True)
    rows = tuple((of_all[0].statement.key, *map(exact_cell, of_all)) for of_all in outcomes)
    counts = "; ".join(f"{verdicts.label}: {verdicts.counts_in_words}" for verdicts in judged.exact)
    caption = f"The same of exact denoisers of the images of {judged.group.label}: what nobody has trained. {counts}."
    return Table(f"verdicts_exact_{index}", caption, ("", *(v.label for v in judged.exact)), rows)


def exact_cell(outcome: Outcome) -> str:
    """A verdict with the numbers behind it."""
    numbers = _joined(_number(claim) for claim in outcome.claims)
    return outcome.verdict + (f": {numbers}" if numbers else "")


def _row(outcome: Outcome) -> tuple[Cell, ...]:
    statement, claims = outcome.statement, outcome.claims
    numbers = _joined(_number(claim) for claim in claims)
    nulls = _joined(None if claim.null is None else f"{claim.null:.4g}" for claim in claims)
    holds = _joined(str(claim.region) for claim in claims)
    return (statement.key, statement.place, statement.words, numbers, nulls, outcome.published or None, holds,
            outcome.verdict)  # fmt: skip


def _number(claim: Claim) -> str | None:
    return None if claim.number is None else number_text(claim.number)


def _why(claim: Claim) -> str:
    """The reason, and of a number that decides nothing what would."""
    return "; ".join(filter(None, (claim.reason, claim.remedy)))


def _joined(parts: Iterable[str | None]) -> str | None:
    """The parts with semicolons between, a dash for one that is missing; None where all are."""
    every = list(parts)
    return "; ".join(part or "-" for part in every) if any(every) else None


def all_claims(judged: list[GroupVerdicts]) -> Table:
    """Every number of every model, for programs."""
    rows = [
        row
        for of_group in judged
        for verdicts in (of_group.network, *of_group.exact)
        for outcome in verdicts.outcomes
        for row in _rows_of_all(of_group.group.label, verdicts, outcome)
    ]
    return Table("verdicts", "Every number of every model.", _ALL, tuple(rows))


def _rows_of_all(label: str, verdicts: Verdicts, outcome: Outcome) -> Iterable[tuple[Cell, ...]]:
    statement = outcome.statement
    lead = (label, verdicts.label, statement.key, statement.place, statement.words, outcome.published or None,
            outcome.verdict)  # fmt: skip
    for claim in outcome.claims:
        number = claim.number
        found = (None, None, None) if number is None else (number.value, number.error, number.num_runs)
        why = outcome.reason if outcome.doubt else _why(claim)
        yield (*lead, claim.quantity, *found, claim.null, claim.region.low, claim.region.high, claim.verdict, why)
    if not outcome.claims:
        yield (*lead, *[None] * (len(_ALL) - len(lead) - 2), outcome.verdict, outcome.reason)


def to_plain(judged: list[GroupVerdicts]) -> dict[str, Any]:
    """The same as plain types."""
    return {
        "rule": {"quantile": T_QUANTILE, "words": RULE},
        "groups": [
            {
                "label": of_group.group.label,
                "runs": [run.name for run in of_group.group.runs],
                "models": [
                    {
                        "model": verdicts.label,
                        "counts": verdicts.counts,
                        "statements": [_plain_outcome(outcome) for outcome in verdicts.outcomes],
                    }
                    for verdicts in (of_group.network, *of_group.exact)
                ],
            }
            for of_group in judged
        ],
    }


def _plain_outcome(outcome: Outcome) -> dict[str, Any]:
    statement = outcome.statement
    return {
        **{"id": statement.key, "place": statement.place, "statement": statement.words},
        **{"published": outcome.published or None, "verdict": outcome.verdict, "reason": outcome.reason},
        "claims": [_plain_claim(claim) for claim in outcome.claims],
    }


def _plain_claim(claim: Claim) -> dict[str, Any]:
    number = claim.number
    return {
        "quantity": claim.quantity,
        "value": None if number is None else number.value,
        "standard_error": None if number is None else number.error,
        "num_runs": 0 if number is None else number.num_runs,
        "interval": None if claim.interval is None else list(claim.interval),
        "null": claim.null,
        "holds": {"above": claim.region.low, "below": claim.region.high, "words": str(claim.region)},
        "verdict": claim.verdict,
        "reason": claim.reason,
        "cure": claim.remedy,
    }
