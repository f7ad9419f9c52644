"""What P1 says of inversion: latents are no white noise, where they lie, and that training changes neither.

P1 is *There and Back Again*; these are its sections 4.2 and 4.3.
"""

from functools import partial

from probediff.report.published import PASSES_LATENT, published_for
from probediff.report.verdicts.evidence import Curve, Evidence, RunEvidence
from probediff.report.verdicts.rule import MARGIN, Claim, Number, Region, difference, ratio
from probediff.report.verdicts.statements import Statement

_ANGLES, _NORMALITY, _TRAJECTORY = "inversion_angles", "latent_normality", "trajectory_heatmap"
_CORRELATION = "pixel_correlation"
#: Under so many degrees an angle counts as zero: the latent is off the line from image to noise by 2 % of its length.
_SMALLEST_DEG = 1.0
#: The share of the training after which "early" is over. P1 says "quickly" and "a few epochs", of its 1,280 on
#: CIFAR-10, which short runs do not have; a tenth is as much of any training, and far more than P1's few epochs.
EARLY = 0.1
#: Where the later part is known from only later on than this share of the training, it says nothing of what was early.
_KNOWN_FROM = 0.25
#: What changes later by at most a tenth of its range has settled, and what falls by at most a tenth has not fallen.
_SETTLED = 0.1
_SETTLING = {
    "at_image_mean_deg": "angle at the image",
    "at_latent_mean_deg": "angle at the latent",
    "distance_noise_latent_mean": "distance of noise and latent",
}


def _correlated_latents(evidence: Evidence) -> list[Claim]:
    number, null = evidence.last(_CORRELATION, "latent"), evidence.last(_CORRELATION, "null")
    # Within 5 % of what white noise gives counts as white.
    region = Region(None if null is None else (1 + MARGIN) * null.value, words="more than 5 % above the null")
    return [evidence.claim("mean of the ten largest |r| of latents", region, number, null)]


def _published_correlation(evidence: Evidence) -> str:
    published, _ = published_for(evidence.data)
    mean, spread = published.correlation["latent"]
    return f"{mean:g} ± {spread:g} ({published.data}; ± not defined in P1)"


def _error_in_plain_areas(evidence: Evidence) -> list[Claim]:
    def error_ratio(run: RunEvidence, end: str) -> Number | None:
        inside, outside = (run.last(_NORMALITY, f"plain_area_{where}{end}") for where in ("inside", "outside"))
        return run.last(_NORMALITY, f"plain_area_ratio{end}") or ratio(inside, outside)

    number, null = (evidence.mean(partial(error_ratio, end=end)) for end in ("", "_null"))
    words = "error inside plain areas / outside"
    # With the error of both: the null is a mean over the same samples, each with the errors of another.
    above_null = evidence.mean(lambda run: difference(error_ratio(run, ""), error_ratio(run, "_null")))
    return [
        # Plain areas have the larger error, ...
        evidence.claim(words, Region(low=1.0), number, null),
        # ... and not only because plain images have errors of another size.
        evidence.claim(f"{words}, less its null", Region(low=0.0), above_null, Number(0.0, 0.0)),
    ]


def _acute_at_image(evidence: Evidence) -> list[Claim]:
    region = Region(_SMALLEST_DEG, 90.0)
    return [evidence.claim("mean angle at the image [°]", region, evidence.last(_ANGLES, "at_image_mean_deg"))]


def _obtuse_at_latent(evidence: Evidence) -> list[Claim]:
    number = evidence.last(_ANGLES, "at_latent_mean_deg")
    return [evidence.claim("mean angle at the latent [°]", Region(low=90.0), number)]


def _passes_latent(evidence: Evidence) -> list[Claim]:
    # Its error has half a step in it, which the sampling steps leave open.
    number = evidence.last(_TRAJECTORY, "closest_to_latent_step_fraction")
    return [evidence.claim("share of the steps done nearest to the latent", Region(*PASSES_LATENT), number)]


def _comes_nearer(evidence: Evidence) -> list[Claim]:
    def nearness(run: RunEvidence) -> Number | None:
        nearest, start = (run.last(_TRAJECTORY, key) for key in ("closest_to_latent_distance", "noise_latent_distance"))
        return ratio(nearest, start)

    # 5 % nearer than where it started is the least that counts as a way towards the latent.
    region = Region(high=1 - MARGIN)
    words = "least distance to the latent / that of the noise"
    return [evidence.claim(words, region, evidence.mean(nearness), Number(1.0, 0.0))]


def _cure_of_final(evidence: Evidence) -> str:
    folder = "final_samples"
    is_there = any(run.run.of_kind(folder) for run in evidence.runs)
    return (
        f"`probediff probe RUN --samples final` records it{evidence.move_away(folder, is_there)}, where the training "
        f"kept checkpoints of its first {EARLY:.0%} and from then to {_KNOWN_FROM:.0%} (--probing.schedule.steps of "
        f"`probediff fit`)"
    )


def _geometry_settles(evidence: Evidence) -> list[Claim]:
    return [
        Claim(
            f"{words}: largest later change / its range",
            Region(high=_SETTLED),
            evidence.mean(partial(_largest_change, key=key)),
            cure=_cure_of_final(evidence),
        )
        for key, words in _SETTLING.items()
    ]


def _largest_change(run: RunEvidence, key: str) -> Number | None:
    """How far a number is from its final value at any step after ``EARLY``, as a share of its range in all steps.

    None without a step before, for the range is then that of the later part.
    """
    curve = run.final_samples_curve(_ANGLES, key)
    last = run.last_step or 0
    final, later = curve.get(last), late_part(curve, last)
    if final is None or not later or min(curve) >= EARLY * last:
        return None
    values = [number.value for number in curve.values()]
    farthest = max(later.values(), key=lambda number: abs(number.value - final.value))
    change, width = difference(farthest, final), max(values) - min(values)
    if change is None or width == 0:
        return None
    return Number(abs(change.value) / width, None if change.error is None else change.error / width)


def late_part(curve: Curve, last: int) -> Curve:
    """The steps from ``EARLY`` of the training on but its last one; empty where they begin after ``_KNOWN_FROM``."""
    later = {step: number for step, number in curve.items() if EARLY * last <= step < last}
    return later if min(later, default=last) <= _KNOWN_FROM * last else {}


def _no_better_inversion(evidence: Evidence) -> list[Claim]:
    key = "distance_noise_latent_mean"

    def change(run: RunEvidence, is_of_final: bool) -> Number | None:
        last = run.last_step or 0
        curve = run.final_samples_curve(_ANGLES, key) if is_of_final else run.curve(_ANGLES, key)
        later = late_part(curve, last)
        return ratio(curve[last], later[min(later)]) if later and last in curve else None

    # Of all runs the same: those of own samples are another number.
    is_of_final = any(change(run, is_of_final=True) is not None for run in evidence.runs)
    number = evidence.mean(partial(change, is_of_final=is_of_final))
    samples = "the final samples" if is_of_final else "each checkpoint's own samples"
    words = f"distance of noise and latent at the end / after a tenth of the training, of {samples}"
    # Less than a tenth nearer to the noises is no improvement to speak of.
    region = Region(low=1 - _SETTLED)
    return [Claim(words, region, number, 1.0, cure=_cure_of_final(evidence))]


STATEMENTS = (
    Statement(
        "P1-T1",
        "table 1, section 4.2",
        "Pixels of latents are correlated: latents are not white Gaussian noise.",
        _correlated_latents,
        _published_correlation,
    ),
    Statement(
        "P1-F1",
        "figure 1, section 4.2",
        "The error of inversion is largest where images are plain.",
        _error_in_plain_areas,
    ),
    Statement(
        "P1-F2a",
        "figure 2, section 4.3",
        "The angle at the image, from its noise to its latent, is acute and never zero.",
        _acute_at_image,
        lambda evidence: "acute",
    ),
    Statement(
        "P1-F2b",
        "figure 2, section 4.3",
        "The angle at the latent, from its noise to its image, is obtuse.",
        _obtuse_at_latent,
        lambda evidence: "obtuse",
    ),
    Statement(
        "P1-F3a",
        "figure 3, section 4.3",
        "Sampling passes the latent after 50 to 70 % of its steps.",
        _passes_latent,
        lambda evidence: "0.5 to 0.7",
    ),
    Statement(
        "P1-F3b",
        "figure 3, section 4.3",
        "Until then the way of sampling comes nearer to the latent than its noise is.",
        _comes_nearer,
    ),
    Statement(
        "P1-F4",
        "figure 4, section 4.3",
        "Angles and distances of final samples, inverted by every checkpoint, settle early in the training.",
        _geometry_settles,
        is_of_training=True,
    ),
    Statement(
        "P1-4.3",
        "section 4.3, section 5",
        "Inversion does not become more accurate as the training goes on.",
        _no_better_inversion,
        is_of_training=True,
    ),
)
