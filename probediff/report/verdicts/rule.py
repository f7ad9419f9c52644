"""The rule: a number agrees with a statement where all of its interval lies in the region in which that holds."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["agrees", "disagrees", "undecided"]

#: Half the width of an interval in standard errors: Student's t with 19 degrees of freedom, 95 % of both sides. An
#: error from twenty groups of samples is itself known to a sixth only, for which the normal 1.96 has no room.
T_QUANTILE = 2.09
#: So far from what chance gives counts as chance, and two numbers so near to each other as equal: with enough samples
#: any difference stands out from its error, and one that nobody would see is no statement.
MARGIN = 0.05


@dataclass(frozen=True)
class Number:
    """A number with its uncertainty.

    Attributes:
        value: finite.
        error: standard error; None where none was recorded.
        num_runs: that it is the mean of.
    """

    value: float
    error: float | None = None
    num_runs: int = 1


def combine(numbers: Iterable[Number | None]) -> Number | None:
    """The mean over runs, with the error sqrt(mean of the runs' errors² + std over runs² / n).

    The errors are not divided by n: runs share their probe noises, so that these do not average out. Runs without an
    error count with their values; where none has one, the mean has none.

    Args:
        numbers: one a run; None for a run without.

    Returns:
        The mean, None where no run has a number.
    """
    known = [number for number in numbers if number is not None and math.isfinite(number.value)]
    if not known:
        return None
    values = [number.value for number in known]
    errors = [number.error for number in known if number.error is not None and math.isfinite(number.error)]
    error = None
    if errors:
        spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        error = math.hypot(math.hypot(*errors) / math.sqrt(len(errors)), spread)
    return Number(statistics.fmean(values), error, len(known))


def difference(a: Number | None, b: Number | None) -> Number | None:
    """The first less the second, as if their errors were independent: where they go together, theirs is smaller."""
    if a is None or b is None:
        return None
    return _finite(a.value - b.value, _in_quadrature((1.0, a), (1.0, b)))


def ratio(a: Number | None, b: Number | None) -> Number | None:
    """The first by the second, as if their errors were independent; None where the second is 0."""
    if a is None or b is None or b.value == 0:
        return None
    return _finite(a.value / b.value, _in_quadrature((1 / b.value, a), (a.value / b.value**2, b)))


def share_of_fall(first: Number, middle: Number, last: Number) -> Number | None:
    """How much of the fall from the first to the last number is done at the middle one; None where nothing falls."""
    fall = first.value - last.value
    if fall <= 0:
        return None
    share = (first.value - middle.value) / fall
    return _finite(share, _in_quadrature(((1 - share) / fall, first), (1 / fall, middle), (share / fall, last)))


def _in_quadrature(*terms: tuple[float, Number]) -> float | None:
    errors = [None if number.error is None else factor * number.error for factor, number in terms]
    return None if None in errors else math.hypot(*(error for error in errors if error is not None))


def _finite(value: float, error: float | None) -> Number | None:
    return Number(value, error) if math.isfinite(value) else None


@dataclass(frozen=True)
class Region:
    """Where a statement holds: between two thresholds, of which one may be missing; the thresholds do not belong to it.

    Attributes:
        low, high: the thresholds.
        words: for people, where a threshold is made from a null that was not recorded.
    """

    low: float | None = None
    high: float | None = None
    words: str = ""

    def judge(self, low: float, high: float) -> Verdict:
        """Whether an interval lies inside, outside, or across a threshold."""
        if (self.low is None or low > self.low) and (self.high is None or high < self.high):
            return "agrees"
        is_below = self.low is not None and high <= self.low
        is_above = self.high is not None and low >= self.high
        return "disagrees" if is_below or is_above else "undecided"

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"between {self.low:.4g} and {self.high:.4g}"
        if self.low is not None:
            return f"above {self.low:.4g}"
        return self.words if self.high is None else f"below {self.high:.4g}"


@dataclass(frozen=True)
class Claim:
    """One number of a statement against the region in which the statement holds.

    Attributes:
        quantity: what the number is.
        region: where the statement holds.
        number: None where it was not recorded.
        null: what chance or white noise gives; None where nothing does.
        cure: how to record it, with the command, for a number that decides nothing.
        doubt: why nothing follows from the number, whatever it is; empty for none.
        ease: why it may count against the statement and not for it; empty where it may count for both.
    """

    quantity: str
    region: Region
    number: Number | None
    null: float | None = None
    cure: str = ""
    doubt: str = ""
    ease: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The number plus and minus ``T_QUANTILE`` of its errors; None without one of the two."""
        if self.number is None or self.number.error is None:
            return None
        width = T_QUANTILE * self.number.error
        return self.number.value - width, self.number.value + width

    @property
    def verdict(self) -> Verdict:
        """What follows by the rule."""
        interval = self.interval
        if self.doubt or interval is None or (self.region.low is None and self.region.high is None):
            return "undecided"
        found = self.region.judge(*interval)
        return "undecided" if found == "agrees" and self.ease else found

    @property
    def reason(self) -> str:
        """Why, in words."""
        interval = self.interval
        if self.doubt:
            return self.doubt
        if self.number is None:
            return "no such number is recorded"
        if interval is None:
            return "no standard error is recorded with it: it is of an earlier version, or of too few samples"
        found = self.region.judge(*interval)
        how = {"agrees": "is", "disagrees": "is not", "undecided": "is only partly"}[found]
        words = f"{interval[0]:.4g} to {interval[1]:.4g} {how} {self.region}"
        return f"{words}, but {self.ease}" if found == "agrees" and self.ease else words

    @property
    def remedy(self) -> str:
        """What would decide it; empty where it decides."""
        if self.verdict != "undecided":
            return ""
        if self.doubt or self.ease or self.number is None or self.interval is None:
            return self.cure
        return f"more samples{' and more seeds' if self.number.num_runs > 1 else ''} narrow it"

    def __str__(self) -> str:
        null = "" if self.null is None else f", null {self.null:.4g}"
        number = "none" if self.number is None else number_text(self.number)
        return f"{self.quantity}: {number}{null}; holds {self.region}"


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a statement: it disagrees where any of its claims does, and agrees where all do."""
    every = list(verdicts)
    if "disagrees" in every:
        return "disagrees"
    return "agrees" if every and all(verdict == "agrees" for verdict in every) else "undecided"


def number_text(number: Number) -> str:
    """A number with its error to one significant digit, or two where that is a 1; four digits without an error."""
    error = number.error
    if not error or not math.isfinite(error):
        text = f"{number.value:.4g}" + ("" if error is None else f" ± {error:g}")
    else:
        exponent = math.floor(math.log10(error))
        digits = max(0, -exponent + (1 if error / 10**exponent < 2 else 0))
        shown = f".{digits}f" if digits <= 6 else ".3g"
        text = f"{number.value:{shown}} ± {error:{shown}}"
    return text + (f" ({number.num_runs} runs)" if number.num_runs > 1 else "")
