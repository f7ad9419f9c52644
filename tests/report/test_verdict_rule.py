"""The rule of verdicts, against a literal table, literal arithmetic and any numbers."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.report.verdicts.rule import (
    T_QUANTILE,
    Claim,
    Number,
    Region,
    Verdict,
    combine,
    difference,
    number_text,
    overall,
    ratio,
    share_of_fall,
)

INF = math.inf
#: Value, error, low, high and what follows; the interval of 10 ± 1 is 7.91 to 12.09.
TABLE: list[tuple[float, float | None, float | None, float | None, Verdict]] = [
    (10, 1, 7.9, None, "agrees"),
    (10, 1, 7.92, None, "undecided"),
    (10, 1, 12.08, None, "undecided"),
    (10, 1, 12.1, None, "disagrees"),
    (10, 1, None, 12.1, "agrees"),
    (10, 1, None, 12.08, "undecided"),
    (10, 1, None, 7.92, "undecided"),
    (10, 1, None, 7.9, "disagrees"),
    (10, 1, 7.9, 12.1, "agrees"),
    (10, 1, 9, 11, "undecided"),
    (10, 1, 7.9, 12.0, "undecided"),
    (10, 1, 12.1, 20, "disagrees"),
    (10, 1, 0, 7.9, "disagrees"),
    # A threshold does not belong to the region.
    (10, 0, 10, None, "disagrees"),
    (10, 0, None, 10, "disagrees"),
    (10, 0, 9.99, 10.01, "agrees"),
    # Nothing follows without an error, from an endless one, or without a threshold.
    (10, None, 0, None, "undecided"),
    (10, INF, 0, None, "undecided"),
    (10, 0.1, None, None, "undecided"),
]


@pytest.mark.parametrize(("value", "error", "low", "high", "verdict"), TABLE)
def test_the_rule(value: float, error: float | None, low: float | None, high: float | None, verdict: Verdict) -> None:
    assert Claim("x", Region(low, high), Number(value, error)).verdict == verdict


def test_no_number_and_doubt_leave_it_undecided_with_their_reason() -> None:
    region = Region(low=0.0)
    nothing = Claim("x", region, None, cure="`probediff probe RUN` records it")
    assert nothing.verdict == "undecided" and nothing.reason == "no such number is recorded"
    without = Claim("x", region, Number(1.0))
    assert "no standard error" in without.reason
    assert nothing.remedy == nothing.cure and Claim("x", region, Number(1.0, 0.01), cure="y").remedy == ""
    assert Claim("x", region, Number(1.0, 1.0), cure="y").remedy == "more samples narrow it"
    assert Claim("x", region, Number(1.0, 1.0, 3), cure="y").remedy == "more samples and more seeds narrow it"
    doubted = Claim("x", region, Number(1.0, 0.01), doubt="the images are few")
    assert doubted.verdict == "undecided" and doubted.reason == "the images are few"


def test_what_is_too_easy_counts_against_and_not_for() -> None:
    inside, outside, across = (
        Claim("x", Region(low=0.9), number, ease="N is small")
        for number in (Number(1.0, 0.001), Number(0.5, 0.001), Number(0.9, 0.1))
    )
    assert inside.verdict == "undecided" and "but N is small" in inside.reason
    assert outside.verdict == "disagrees"
    assert across.verdict == "undecided" and "N is small" not in across.reason


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        ((), "undecided"),
        (("agrees", "agrees"), "agrees"),
        (("agrees", "undecided"), "undecided"),
        (("agrees", "disagrees"), "disagrees"),
        (("undecided", "disagrees"), "disagrees"),
    ],
)
def test_a_statement_of_several_claims(claims: tuple[Verdict, ...], verdict: Verdict) -> None:
    assert overall(claims) == verdict


def test_runs_are_combined_as_it_says() -> None:
    """sqrt(mean of the runs' errors² + std over runs² / n), with numbers taken by hand."""
    runs = [Number(0.40, 0.03), Number(0.50, 0.04), Number(0.60, 0.05)]
    mean = combine(runs)
    assert mean is not None and mean.num_runs == 3
    assert mean.value == pytest.approx(0.5)
    # (0.0009 + 0.0016 + 0.0025) / 3 = 0.0016667; the variance over runs is 0.01, a third of it 0.0033333.
    assert mean.error == pytest.approx(math.sqrt(0.005))
    assert combine([Number(0.4, 0.03)]) == Number(0.4, 0.03)
    assert combine([Number(0.4), Number(0.6)]) == Number(0.5, None, 2)
    assert combine([]) is None and combine([None]) is None
    # A run without an error counts with its value.
    partly = combine([Number(0.4), None, Number(0.6, 0.1)])
    assert partly is not None and partly.num_runs == 2
    assert partly.error == pytest.approx(math.sqrt(0.01 + 0.02 / 2))


def numeric_error(number: object, *parts: Number) -> float:
    """The error of a function of independent numbers, by small steps of each."""
    step, squares = 1e-6, 0.0
    for k, part in enumerate(parts):
        moved = [
            number(*(Number(p.value + sign * step * (j == k), p.error) for j, p in enumerate(parts))).value  # type: ignore[operator]
            for sign in (1, -1)
        ]
        squares += ((moved[0] - moved[1]) / (2 * step) * (part.error or 0)) ** 2
    return math.sqrt(squares)


@pytest.mark.parametrize(
    ("number", "parts", "value"),
    [
        (difference, (Number(3.0, 0.3), Number(1.0, 0.4)), 2.0),
        (ratio, (Number(3.0, 0.3), Number(4.0, 0.2)), 0.75),
        (share_of_fall, (Number(1.0, 0.02), Number(0.6, 0.03), Number(0.5, 0.05)), 0.8),
    ],
)
def test_errors_of_differences_ratios_and_shares(number: object, parts: tuple[Number, ...], value: float) -> None:
    found = number(*parts)  # type: ignore[operator]
    assert found.value == pytest.approx(value)
    assert found.error == pytest.approx(numeric_error(number, *parts), rel=1e-5)
    assert number(*parts[:-1], Number(parts[-1].value)).error is None  # type: ignore[operator]


def test_what_has_no_ratio_has_none() -> None:
    assert ratio(Number(1.0, 0.1), Number(0.0, 0.1)) is None
    assert ratio(None, Number(1.0)) is None and difference(Number(1.0), None) is None
    assert share_of_fall(Number(1.0, 0.1), Number(0.5, 0.1), Number(1.0, 0.1)) is None


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    """Without subnormal ones, which torch flushes to zero in the process of the tests."""
    return st.floats(low, high, allow_subnormal=False)


NUMBERS = floats(-1e6, 1e6)


@settings(deadline=None, derandomize=True)
@given(NUMBERS, floats(0, 1e6), NUMBERS, floats(1e-3, 1e6))
def test_the_verdict_is_that_of_every_number_in_the_interval(
    value: float, error: float, low: float, width: float
) -> None:
    region = Region(low, low + width)
    verdict = Claim("x", region, Number(value, error)).verdict
    half = T_QUANTILE * error
    ends = [value - half, value + half]
    inside = [region.low is not None and region.high is not None and region.low < x < region.high for x in ends]
    if verdict == "agrees":
        assert all(inside)
    elif verdict == "disagrees":
        assert ends[1] <= low or ends[0] >= low + width
    else:
        assert not all(inside) and ends[1] > low and ends[0] < low + width


@settings(deadline=None, derandomize=True)
@given(NUMBERS, floats(0, 1e6), NUMBERS, floats(1, 10))
def test_a_wider_error_never_decides_what_a_smaller_one_does_not(
    value: float, error: float, threshold: float, times: float
) -> None:
    for region in (Region(low=threshold), Region(high=threshold)):
        narrow, wide = (Claim("x", region, Number(value, e)).verdict for e in (error, times * error))
        assert wide in (narrow, "undecided")


@settings(deadline=None, derandomize=True)
@given(NUMBERS, floats(1e-6, 1e6), NUMBERS)
def test_a_region_and_what_lies_beyond_it_have_opposite_verdicts(value: float, error: float, threshold: float) -> None:
    opposite = {"agrees": "disagrees", "disagrees": "agrees", "undecided": "undecided"}
    above, below = (
        Claim("x", region, Number(value, error)).verdict for region in (Region(threshold), Region(None, threshold))
    )
    # A threshold that an end of the interval meets belongs to neither.
    if threshold not in (value - T_QUANTILE * error, value + T_QUANTILE * error):
        assert opposite[above] == below


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(NUMBERS, floats(0, 1e3)), min_size=1, max_size=8))
def test_the_mean_of_runs_lies_among_them_and_is_no_surer_than_one(numbers: list[tuple[float, float]]) -> None:
    mean = combine(Number(value, error) for value, error in numbers)
    assert mean is not None and mean.error is not None
    values = [value for value, _ in numbers]
    assert min(values) - 1e-6 <= mean.value <= max(values) + 1e-6
    assert mean.error >= min(error for _, error in numbers) * (1 - 1e-9)
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    assert mean.error >= spread * (1 - 1e-9)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(0.1704, 0.0031), "0.170 ± 0.003"),
        (Number(0.1704, 0.0131), "0.170 ± 0.013"),
        (Number(40.23, 1.2), "40.2 ± 1.2"),
        (Number(40.23, 7.2, 3), "40 ± 7 (3 runs)"),
        (Number(12345.0, 140.0), "12345 ± 140"),
        (Number(1.5, 2e-9), "1.5 ± 2e-09"),
        (Number(0.5), "0.5"),
        (Number(1.0, 0.0), "1 ± 0"),
        (Number(1.0, INF), "1 ± inf"),
    ],
)
def test_numbers_are_shown_as_far_as_they_are_known(number: Number, text: str) -> None:
    assert number_text(number) == text


def test_a_claim_in_words_is_number_null_and_region() -> None:
    claim = Claim("r", Region(low=0.1628), Number(0.17, 0.003), 0.155)
    assert str(claim) == "r: 0.170 ± 0.003, null 0.155; holds above 0.1628"
    assert claim.reason == "0.1637 to 0.1763 is above 0.1628"
    assert str(Claim("r", Region(words="above the null"), None)) == "r: none; holds above the null"
    assert str(Region(0.5, 0.7)) == "between 0.5 and 0.7" and str(Region(high=1.0)) == "below 1"
