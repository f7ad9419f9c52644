"""The verdicts at the head of a report."""

from probediff.report.groups import Comparison
from probediff.report.parts import Section
from probediff.report.verdicts.judging import judge_all
from probediff.report.verdicts.tables import RULE, claim_table, exact_table, verdict_table

_WHAT = (
    "Each statement of P1 (There and Back Again) and P2 (First-step inference in diffusion models learns image "
    "de-whitening) beside what these runs say; C marks a correction, which has to hold for a statement to mean what it "
    "seems to. The numbers are those at the end of the training."
)


def verdicts(comparison: Comparison) -> Section:
    """A table of statements for each group, one of exact denoisers, and folded each number with its reason."""
    judged = judge_all(comparison)
    shown = [
        table
        for index, of_group in enumerate(judged, start=1)
        for table in (verdict_table(index, of_group), exact_table(index, of_group))
        if table is not None
    ]
    details = tuple(claim_table(index, of_group) for index, of_group in enumerate(judged, start=1))
    return Section("verdicts", "Verdicts on the papers' statements", (_WHAT, RULE), (), tuple(shown), details=details)
