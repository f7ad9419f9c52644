"""What P2 says of the first step: noises resemble images, the fixed point is linear, whitens, and is ZCA whitening.

P2 is *First-step inference in diffusion models learns image de-whitening*; these are its figures 2, 4 and 5 and its
table. All is read from the last analysis of ``probediff whitening``, after its most iterations: P2 gives none.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from probediff.report.published import FIRST_STEP_DISTANCES
from probediff.report.verdicts.evidence import Evidence, RunEvidence
from probediff.report.verdicts.results import last_row, number_in, row_named
from probediff.report.verdicts.rule import MARGIN, Claim, Number, Region, combine, difference, ratio
from probediff.report.verdicts.statements import Statement
from probediff.runs.folder import WHITENING

#: A Pearson correlation from which on two images look alike at all; P2 has "much stronger" than that of random pairs.
_CORRELATED = 0.05
#: "A strong response on the diagonal" is at least twice what is beside it.
_STRONG = 2.0
#: A map is linear where it leaves less than a tenth of the variance over; P2's bars have no numbers.
_LINEAR = 0.9
#: White is what has variances of 1, and covariances of 0, within a tenth.
_WHITE = 0.1
#: "A high R²" is one of more than half of the variance.
_HIGH_R2 = 0.5
#: Fits that differ by less than five points of the variance are alike.
_BETTER_FIT = 0.05
#: Slopes within a tenth of ZCA's own, -1/2, are its.
_ZCA_SLOPES = (-0.55, -0.45)
#: With fewer of the directions known a slope says nothing, see docs/whitening_and_editing.md.
_TRUSTED_SHARE = 0.5
#: Whitenings that P2's table has beside ZCA.
_OTHERS = ("pca", "cholesky")
_NORMS = {"frobenius": ("Frobenius norm", 1), "spectral": ("2-norm", 0)}


def _mean(evidence: Evidence, number_of: Callable[[dict[str, Any]], Number | None]) -> Number | None:
    """A number of the analyses of all runs, of those that make as many iterations as the first one."""

    def number(run: RunEvidence) -> Number | None:
        return number_of(run.results.whitening) if _iterations(run) == most else None

    most = next((count for run in evidence.runs if (count := _iterations(run)) is not None), None)
    return combine(map(number, evidence.runs))


def _iterations(run: RunEvidence) -> float | None:
    count = number_in(last_row(run.results.whitening.get("first_step")), "iterations")
    return None if count is None else count.value


def _claim(
    evidence: Evidence,
    quantity: str,
    region: Region,
    number_of: Callable[[dict[str, Any]], Number | None],
    null: float | None = None,
) -> Claim:
    folder = "whitening" if evidence.is_network else f"{evidence.kind}/whitening"
    number, damage = _mean(evidence, number_of), evidence.damage(WHITENING)
    is_there = any(run.results.whitening for run in evidence.runs) or bool(damage)
    cure = f"`probediff whitening {evidence.model}` records it{evidence.move_away(folder, is_there)}"
    return Claim(quantity, region, number, null, cure, damage if number is None else "")


def _noise_resembles_image(evidence: Evidence) -> list[Claim]:
    def pearson(values: dict[str, Any]) -> Number | None:
        relation = values.get("relation")
        return difference(number_in(relation, "paired_pearson"), number_in(relation, "random_pearson"))

    def distance(values: dict[str, Any]) -> Number | None:
        relation = values.get("relation")
        return ratio(number_in(relation, "paired_l2"), number_in(relation, "random_l2"))

    words = "Pearson correlation of noise and image, less that of random pairs"
    return [
        _claim(evidence, words, Region(low=_CORRELATED), pearson, 0.0),
        _claim(evidence, "L2 distance of noise and image / of random pairs", Region(high=1 - MARGIN), distance, 1.0),
    ]


def _pixels_resemble_their_own(evidence: Evidence) -> list[Claim]:
    def strength(values: dict[str, Any]) -> Number | None:
        relation = values.get("relation")
        beside = number_in(relation, "off_diagonal_rms")
        # A mean over all pairs of values, whose own error is nothing beside that of the diagonal.
        exact = None if beside is None else replace(beside, error=beside.error or 0.0)
        return ratio(number_in(relation, "diagonal_correlation"), exact)

    words = "correlation of a value with its own noise / rms of that with any other"
    return [_claim(evidence, words, Region(low=_STRONG), strength, 0.0)]


def _fixed_point_is_linear(evidence: Evidence) -> list[Claim]:
    def r2(values: dict[str, Any]) -> Number | None:
        row = row_named(values.get("transforms"), "diff")
        adjusted, plain = number_in(row, "r2_adjusted"), number_in(row, "r2")
        if adjusted is None or adjusted.error is not None or plain is None or plain.error is None:
            return adjusted
        # What is left over is larger by one factor, and so is its error.
        factor = (1 - adjusted.value) / (1 - plain.value) if plain.value < 1 else 1.0
        return Number(adjusted.value, factor * plain.error)

    words = "R² of W_diff, with its degrees of freedom taken off"
    return [_claim(evidence, words, Region(low=_LINEAR), r2, 0.0)]


def _fixed_point_whitens(evidence: Evidence) -> list[Claim]:
    def variance(values: dict[str, Any]) -> Number | None:
        number = number_in(values.get("whiteness"), "mean_variance")
        rms = number_in(last_row(values.get("first_step")).get("model"), "noise_rms")
        if number is None or number.error is not None or rms is None or rms.error is None or rms.value == 0:
            return number
        # It is R² times the mean square of the noises, whose relative error is twice that of their rms.
        return Number(number.value, 2 * number.value * rms.error / rms.value)

    def of_shape(key: str) -> Callable[[dict[str, Any]], Number | None]:
        return lambda values: number_in(values.get("whiteness"), f"scaled_rms_{key}")

    return [
        _claim(evidence, "mean variance of W_diff x", Region(1 - _WHITE, 1 + _WHITE), variance),
        _claim(
            evidence, "rms of its variances less 1, scaled to a mean of 1", Region(high=_WHITE), of_shape("diagonal")
        ),
        _claim(evidence, "rms of its covariances, scaled alike", Region(high=_WHITE), of_shape("off_diagonal")),
    ]


def _fixed_point_is_zca(evidence: Evidence) -> list[Claim]:
    def r2(values: dict[str, Any]) -> Number | None:
        return number_in(row_named(values.get("transforms"), "zca"), "r2")

    def of_model(key: str) -> Callable[[dict[str, Any]], Number | None]:
        return lambda values: number_in(last_row(values.get("first_step")).get("model"), key)

    slope = _claim(evidence, "slope of log gain against log eigenvalue", Region(*_ZCA_SLOPES), of_model("slope"))
    known = _mean(evidence, of_model("significant_share"))
    if known is not None and known.value < _TRUSTED_SHARE:
        doubt = f"only {known.value:.0%} of the gains stand out from their errors, and noises unrelated to images have "
        slope = replace(slope, doubt=f"{doubt}such a slope too: give more --num_fixed_points")
    return [_claim(evidence, "R² of ZCA whitening, as it is", Region(low=_HIGH_R2), r2, 0.0), slope]


def _zca_fits_best(evidence: Evidence) -> list[Claim]:
    def advantage(values: dict[str, Any]) -> Number | None:
        zca, *others = (number_in(row_named(values.get("transforms"), name), "r2") for name in ("zca", *_OTHERS))
        known = [other for other in others if other is not None]
        best = max(known, key=lambda other: other.value) if len(known) == len(others) else None
        return difference(zca, best)

    return [_claim(evidence, "R² of ZCA less that of the best other", Region(low=_BETTER_FIT), advantage, 0.0)]


def _zca_is_nearest(evidence: Evidence) -> list[Claim]:
    def nearness(norm: str) -> Callable[[dict[str, Any]], Number | None]:
        def number(values: dict[str, Any]) -> Number | None:
            zca, *others = (number_in(row_named(values.get("transforms"), name), norm) for name in ("zca", *_OTHERS))
            known = [other for other in others if other is not None]
            nearest = min(known, key=lambda other: other.value) if len(known) == len(others) else None
            return ratio(nearest, zca)

        return number

    # Within 5 % two whitenings are as far away: from a W_diff of another size all are.
    region = Region(low=1 + MARGIN)
    return [
        _claim(evidence, f"{words} of W - W_diff: nearest other / ZCA", region, nearness(norm), 1.0)
        for norm, (words, _) in _NORMS.items()
    ]


def _published_nearness(_: Evidence) -> str:
    ratios = (
        f"{min(FIRST_STEP_DISTANCES[name][k] for name in _OTHERS) / FIRST_STEP_DISTANCES['zca'][k]:.2f} ({words})"
        for words, k in _NORMS.values()
    )
    return f"{', '.join(ratios)}, of ImageNet"


STATEMENTS = (
    Statement(
        "P2-F2a",
        "figure 2b, section 1",
        "An image is more like the noise that it was made from than like others.",
        _noise_resembles_image,
    ),
    Statement(
        "P2-F2b",
        "figure 2c, section 1",
        "Each pixel of an image is correlated with its own pixel of the noise most of all.",
        _pixels_resemble_their_own,
    ),
    Statement(
        "P2-F5a",
        "figure 5a, b and d, section 4.2",
        "Near t = T the fixed point of the iteration is a linear map of the image.",
        _fixed_point_is_linear,
    ),
    Statement(
        "P2-F5b",
        "figure 5c, section 4.2",
        "That map whitens images.",
        _fixed_point_whitens,
    ),
    Statement(
        "P2-F5c",
        "figures 4 and 5b, hypothesis 1, section 4.2",
        "It is ZCA whitening.",
        _fixed_point_is_zca,
    ),
    Statement(
        "P2-F5d",
        "figure 5a and b, section 4.2",
        "Of the whitenings ZCA fits the fixed points best.",
        _zca_fits_best,
    ),
    Statement(
        "P2-T",
        "table of section 4.2",
        "Of the whitenings ZCA is the nearest to it.",
        _zca_is_nearest,
        _published_nearness,
    ),
)
