"""Statements of the papers, and what becomes of one where runs have numbers for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from probediff.exceptions import describe_failure
from probediff.report.verdicts.evidence import Evidence
from probediff.report.verdicts.rule import Claim, Region, Verdict, overall

_NOT_TRAINED_HERE = "the model was not trained here, so that no checkpoints of its training are known"


@dataclass(frozen=True)
class Statement:
    """What a paper says, and how numbers decide it.

    Attributes:
        key: ``P1-T1`` for what table 1 of P1 says, ``C-F7`` for a correction of what is said of figure 7.
        place: table, figure and section.
        words: the statement, in words of our own.
        claims: its numbers and where it holds.
        published: its published number in words; empty where the paper prints none.
        is_of_training: whether it looks back over a training.
        is_of_models: whether every model has a number of its own for it.
    """

    key: str
    place: str
    words: str
    claims: Callable[[Evidence], Sequence[Claim]]
    published: Callable[[Evidence], str] = lambda evidence: ""
    is_of_training: bool = False
    is_of_models: bool = True


@dataclass(frozen=True)
class Outcome:
    """What is said of one statement.

    Attributes:
        statement: the statement.
        claims: with their numbers.
        published: the published number in words; empty for none.
        doubt: why nothing follows from any number; empty for none.
        is_early: whether ``doubt`` is that the training goes on, so that the numbers are those so far.
    """

    statement: Statement
    claims: tuple[Claim, ...]
    published: str
    doubt: str = ""
    is_early: bool = False

    @cached_property
    def verdict(self) -> Verdict:
        """By the rule: it disagrees where any of its claims does, and agrees where all do."""
        return "undecided" if self.doubt else overall(claim.verdict for claim in self.claims)

    @cached_property
    def reason(self) -> str:
        """Why, in words: what decides it, or what would."""
        if self.is_early:
            so_far = overall(claim.verdict for claim in self.claims)
            return f"{self.doubt} (so far: {so_far}); `probediff fit ... --resume auto` goes on"
        if self.doubt:
            return self.doubt
        decisive = [claim for claim in self.claims if claim.verdict == self.verdict]
        reasons = dict.fromkeys(claim.reason for claim in decisive)
        if len(reasons) > 1:
            reasons = dict.fromkeys(f"{claim.quantity}: {claim.reason}" for claim in decisive)
        return "; ".join([*reasons, *self.cures])

    @property
    def cures(self) -> list[str]:
        """What would record what is missing, each once."""
        remedies = (claim.remedy for claim in self.claims if self.verdict == "undecided")
        return list(dict.fromkeys(filter(None, remedies)))


def judge(statement: Statement, evidence: Evidence) -> Outcome:
    """Judge one statement by what one model's records say; records that do not fit it leave it undecided."""
    if statement.is_of_training and not evidence.is_trained_here:
        cure = "`probediff fit --config CONFIG` trains and probes one"
        return Outcome(statement, (), statement.published(evidence), f"{_NOT_TRAINED_HERE}; {cure}")
    try:
        claims = tuple(statement.claims(evidence))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        doubt = f"these records do not fit it: {describe_failure(error)}"
        claims = (Claim(statement.words, Region(), None, doubt=doubt, cure=evidence.cure()),)
    doubt = evidence.unfinished if statement.is_of_models else ""
    return Outcome(statement, claims, statement.published(evidence), doubt, bool(doubt))
