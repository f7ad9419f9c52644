"""Verdicts for the terminal."""

import textwrap
from collections.abc import Iterator

from probediff.display.text import printable
from probediff.report.verdicts.judging import GroupVerdicts
from probediff.report.verdicts.statements import Outcome
from probediff.report.verdicts.tables import RULE, exact_cell
from probediff.runs.summary import format_table

_INDENT = 21


def to_text(judged: list[GroupVerdicts], width: int) -> str:
    """All groups: statements with numbers and reasons, a table of exact denoisers, and the counts.

    Args:
        judged: the groups.
        width: of a line.
    """
    parts = [textwrap.fill(RULE, width)]
    for of_group in judged:
        parts.append(printable(f"{of_group.group.label}: {', '.join(run.name for run in of_group.group.runs)}"))
        parts += ["\n".join(_statement(outcome, width)) for outcome in of_group.network.outcomes]
        if of_group.exact:
            parts.append(f"Exact denoisers of the same images, which nobody has trained\n{_exact(of_group)}")
        every = (of_group.network, *of_group.exact)
        parts.append("\n".join(printable(f"{verdicts.label}: {verdicts.counts_in_words}") for verdicts in every))
    return "\n\n".join(parts)


def _statement(outcome: Outcome, width: int) -> Iterator[str]:
    """The statement, and indented below it its numbers with where it holds, the published one, and why."""
    statement = outcome.statement
    yield from _wrapped(f"{statement.words} ({statement.place})", width, f"{statement.key:<9}{outcome.verdict:<12}")
    for claim in outcome.claims:
        yield from _wrapped(str(claim), width)
    if outcome.published:
        yield from _wrapped(f"published: {outcome.published}", width)
    if outcome.verdict == "undecided":
        yield from _wrapped(f"undecided, for {outcome.reason}", width)


def _wrapped(text: str, width: int, lead: str = "") -> list[str]:
    filled = textwrap.wrap(printable(text), max(width - _INDENT, 20), break_long_words=False, break_on_hyphens=False)
    leads = [lead, *[""] * len(filled)]
    return [f"{first:<{_INDENT}}{line}" for first, line in zip(leads, filled, strict=False)]


def _exact(of_group: GroupVerdicts) -> str:
    outcomes = zip(*(verdicts.outcomes for verdicts in of_group.exact), strict=True)
    rows = [[of_all[0].statement.key, *map(exact_cell, of_all)] for of_all in outcomes]
    table = format_table(["", *(verdicts.label for verdicts in of_group.exact)], rows, num_left=len(of_group.exact) + 1)
    return "\n".join(line.rstrip() for line in table.splitlines())
