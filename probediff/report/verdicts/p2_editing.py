"""What P2 says of noises that are searched for an image: which search is best, and what models make of them.

P2 is *First-step inference in diffusion models learns image de-whitening*; these are its sections 5 and 6. Likeness is
SSIM with the image, averaged over the noises of an image; the error is over images.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from probediff.report.verdicts.evidence import Evidence, RunEvidence
from probediff.report.verdicts.results import (
    EDIT,
    FEWEST_IMAGES,
    SEARCH_NOISE,
    VARY,
    Each,
    finite,
    mean_over_rows,
    paired,
)
from probediff.report.verdicts.rule import MARGIN, Claim, Number, Region, combine
from probediff.report.verdicts.statements import Statement

_FORWARD, _OTHER_LOSSES = "forward", ("baseline", "backward")
#: What a found noise may be off from N(0, 1) in its mean, variance and correlation of neighbours.
_CHECKS = {
    "mean": Region(-MARGIN, MARGIN),
    "variance": Region(1 - MARGIN, 1 + MARGIN),
    "lag_1_correlation": Region(-MARGIN, MARGIN),
    # The squared excess of power over rings is 1 for white noise: twice that is a colour.
    "spectrum": Region(high=2.0),
}
_CHECK_WORDS = {"lag_1_correlation": "correlation of neighbours"}

#: Numbers of each image from the noises that are meant, and from others.
Pair = tuple[Each, Each]


def _paired_claim(
    evidence: Evidence, quantity: str, pair_of: Callable[[RunEvidence], Pair | None], file: str, cure: str
) -> Claim:
    """Whether the first numbers are higher, over the images; the null is the mean of the second."""
    pairs = [pair for run in evidence.runs if (pair := pair_of(run)) is not None and len(pair[0]) == len(pair[1]) > 0]
    compared = [paired(*pair) for pair in pairs]
    null = combine(Number(others) for _, others in compared)
    # Over runs too the error is that of the difference, for either may vary alone.
    number = combine(Number(found.value - others, found.error) for found, others in compared)
    if number is not None and null is not None:
        number = replace(number, value=number.value + null.value)
    region = Region(None if null is None else null.value, words="above the null")
    fewest = min((len(found) for found, _ in pairs), default=FEWEST_IMAGES)
    doubt = f"{fewest} images are too few for an error over images" if fewest < FEWEST_IMAGES else ""
    doubt = doubt or (evidence.damage(file) if number is None else "")
    return Claim(quantity, region, number, None if null is None else null.value, cure, doubt)


def _found_noises_are_noise(evidence: Evidence) -> list[Claim]:
    cure = "`probediff search-noise IMAGES --run RUN --out RUN/probes/search_noise` records it"
    damage = evidence.damage(SEARCH_NOISE)
    claims = []
    for name, region in _CHECKS.items():
        number = evidence.mean(_check(name))
        null, doubt = _null_of(evidence, name), damage if number is None else ""
        claims.append(Claim(_CHECK_WORDS.get(name, name), region, number, null, cure, doubt))
    return claims


def _check(name: str) -> Callable[[RunEvidence], Number | None]:
    def number(run: RunEvidence) -> Number | None:
        row = _row(run, name)
        value, null, z = (finite(row.get(key)) for key in ("value", "null", "z"))
        if value is None:
            return None
        # z is the distance from the null in standard errors of white noise.
        return Number(value, abs(value - null) / abs(z) if null is not None and z else None)

    return number


def _row(run: RunEvidence, name: str) -> dict[str, Any]:
    """A check of a search with P2's loss, else of any."""
    searches = sorted(run.results.searches, key=lambda s: (s.get("conventions") or {}).get("loss") != _FORWARD)
    rows = (row for search in searches[:1] for row in search.get("checks") or ())
    return next((row for row in rows if row.get("check") == name), {})


def _null_of(evidence: Evidence, name: str) -> float | None:
    return next((null for run in evidence.runs if (null := finite(_row(run, name).get("null"))) is not None), None)


def _forward_is_best(evidence: Evidence) -> list[Claim]:
    cure = (
        f"`probediff search-noise IMAGES --run RUN --loss LOSS --out RUN/probes/found-LOSS` with {FEWEST_IMAGES} "
        f"images or more for each LOSS, {_FORWARD}, {' and '.join(_OTHER_LOSSES)}, then `probediff vary "
        f"RUN/probes/found-LOSS/noises.safetensors {evidence.model} --out RUN/probes/vary-LOSS`, record it"
    )

    def against(loss: str) -> Callable[[RunEvidence], Pair | None]:
        def pair(run: RunEvidence) -> Pair | None:
            found = run.results.variations
            shared = [images for (of, images) in found if of == _FORWARD and (loss, images) in found]
            pairs = [(found[_FORWARD, images]["found"], found[loss, images]["found"]) for images in shared]
            return max(pairs, key=lambda both: len(both[0]), default=None)

        return pair

    return [
        _paired_claim(evidence, f"likeness with the loss {_FORWARD} against {loss}", against(loss), VARY, cure)
        for loss in _OTHER_LOSSES
    ]


def _variations_resemble(evidence: Evidence) -> list[Claim]:
    def pair(run: RunEvidence) -> Pair | None:
        found = [each for (loss, _), each in run.results.variations.items() if loss == _FORWARD]
        return max(((each["found"], each["random"]) for each in found), key=lambda both: len(both[0]), default=None)

    cure = (
        f"`probediff search-noise IMAGES --run RUN --out RUN/probes/search_noise` with {FEWEST_IMAGES} images or more, "
        f"then `probediff vary RUN/probes/search_noise/noises.safetensors {evidence.model} --out RUN/probes/vary`, "
        f"record it"
    )
    return [_paired_claim(evidence, "likeness of images from found noises against random ones", pair, VARY, cure)]


def _edits_keep_structure(evidence: Evidence) -> list[Claim]:
    def pair(run: RunEvidence) -> Pair | None:
        found, random = (mean_over_rows(run.results.edits.get(kind, [])) for kind in ("found", "random"))
        return (found, random) if found and random else None

    cure = f"`probediff edit IMAGES --model {evidence.model} --run RUN` with {FEWEST_IMAGES} images or more records it"
    words = "likeness of edits to their inputs, over all strengths, from found noises against random ones"
    return [_paired_claim(evidence, words, pair, EDIT, cure)]


STATEMENTS = (
    Statement(
        "P2-E10",
        "equation 10, section 5",
        "The search finds noises that are still standard Gaussian noise.",
        _found_noises_are_noise,
        is_of_models=False,
    ),
    Statement(
        "P2-F7",
        "figure 7, section 5",
        "Of the three losses of the search the forward one gives the images most like their targets.",
        _forward_is_best,
    ),
    Statement(
        "P2-F9",
        "figures 9 and 11, section 6",
        "From noises that were found for an image models make variations of it.",
        _variations_resemble,
    ),
    Statement(
        "P2-F10",
        "figures 10, 12 and 13, section 6",
        "Edits from found noise keep more of an image's structure than those from random noise.",
        _edits_keep_structure,
    ),
)
