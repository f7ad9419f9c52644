"""All statements judged by what runs recorded: of each group its networks, and each exact denoiser beside them."""

from collections import Counter
from dataclasses import dataclass

from probediff.report.groups import Comparison, Group
from probediff.report.verdicts import p1_inversion, p1_mapping, p1_settling, p2_editing, p2_whitening
from probediff.report.verdicts.evidence import Evidence, gather
from probediff.report.verdicts.rule import Verdict
from probediff.report.verdicts.statements import Outcome, Statement, judge

#: In the order of the papers.
STATEMENTS: tuple[Statement, ...] = (
    *p1_inversion.STATEMENTS,
    *p1_mapping.ASSIGNMENT,
    *p1_settling.STATEMENTS,
    *p1_mapping.HUBS,
    *p2_whitening.STATEMENTS,
    *p2_editing.STATEMENTS,
)
_WORDS: dict[Verdict, str] = {"agrees": "agree", "disagrees": "disagree", "undecided": "undecided"}


@dataclass(frozen=True)
class Verdicts:
    """What is said of all statements by one model.

    Attributes:
        label: of the model.
        is_network: whether that is what the runs trained.
        outcomes: one a statement; of exact denoisers those that are not about training.
    """

    label: str
    is_network: bool
    outcomes: tuple[Outcome, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many statements have each verdict."""
        counted = Counter(outcome.verdict for outcome in self.outcomes)
        return {verdict: counted[verdict] for verdict in _WORDS}

    @property
    def counts_in_words(self) -> str:
        """The same for people."""
        counts = ", ".join(f"{count} {_WORDS[verdict]}" for verdict, count in self.counts.items())
        return f"{len(self.outcomes)} statements: {counts}"


@dataclass(frozen=True)
class GroupVerdicts:
    """Those of the runs of a group.

    Attributes:
        group: the runs.
        network: of what they trained, or of a model that was probed.
        exact: of exact denoisers of their images.
    """

    group: Group
    network: Verdicts
    exact: tuple[Verdicts, ...]


def judge_all(comparison: Comparison) -> list[GroupVerdicts]:
    """Judge every statement, group by group."""
    judged = []
    for group in comparison.groups:
        network, *exact = (_judge(evidence) for evidence in gather(comparison, group))
        judged.append(GroupVerdicts(group, network, tuple(exact)))
    return judged


def _judge(evidence: Evidence) -> Verdicts:
    chosen = (s for s in STATEMENTS if evidence.is_network or (s.is_of_models and not s.is_of_training))
    outcomes = tuple(judge(statement, evidence) for statement in chosen)
    return Verdicts(evidence.label, evidence.is_network, outcomes)
