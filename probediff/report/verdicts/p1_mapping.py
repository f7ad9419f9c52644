"""What P1 says of the map from noise to image: assignment by distance, and the samples that capture wrong noises.

P1 is *There and Back Again*; this is its section 4.4 and appendix A.1. What begins with C is a correction: not what the
paper says, but what has to hold for it to mean what it seems to.
"""

from dataclasses import replace
from functools import partial

from probediff.report.published import published_for
from probediff.report.verdicts.evidence import Evidence, RunEvidence, Setting
from probediff.report.verdicts.rule import Claim, Number, Region, combine, difference, ratio
from probediff.report.verdicts.statements import Statement

_PROBE = "assignment_accuracy"
#: P1's N. To find the right one among fewer is easier.
_N = 1000
#: 99 % when rounded: P1 has "over 99 %" in its text and 98.9 in its table.
_NEARLY_ALWAYS = 0.985
#: From so many steps on P1 has it.
_MANY_STEPS = 100
#: Numbers of steps that say whether it falls are so far apart; P1's first two are 10 and 100.
_TIMES_MORE_STEPS = 10
#: Five points in a hundred are the least that counts as a fall; P1 has 44 and more.
_FALL = 0.05


def _finds_noise(evidence: Evidence) -> list[Claim]:
    """At the most steps; of an N as P1's where there is one."""
    found = [run.assignments("image_to_noise") for run in evidence.runs]
    settings = {(s, n) for of_run in found for s, by_steps in of_run.items() for n in by_steps if n >= _MANY_STEPS}
    region, cure = Region(low=_NEARLY_ALWAYS), _cure(evidence, str(_MANY_STEPS))
    if not settings:
        why = f"no assignment with {_MANY_STEPS} DDIM steps or more is recorded"
        return [Claim("image → noise", region, None, cure=cure, doubt=why)]
    setting, num_steps = max(settings, key=lambda s: (_num(s[0]) >= _N, s[1], _num(s[0]), str(s[0])))
    number, num = combine(of_run.get(setting, {}).get(num_steps) for of_run in found), _num(setting)
    ease = "" if num >= _N else f"among N = {num} it is easier than among P1's {_N}"
    return [Claim(f"image → noise at {num_steps} DDIM steps, N = {num}", region, number, 1 / num, cure, ease=ease)]


def _loses_images(evidence: Evidence) -> list[Claim]:
    """The fewest against the most steps of the setting with the largest span; of an N as P1's where there is one."""
    found = [run.assignments("noise_to_image") for run in evidence.runs]
    spans = {
        (setting, min(by_steps), max(by_steps))
        for of_run in found
        for setting, by_steps in of_run.items()
        if max(by_steps) >= _TIMES_MORE_STEPS * min(by_steps)
    }
    region, cure = Region(low=_FALL), _cure(evidence, f"10,{_MANY_STEPS}")
    if not spans:
        why = f"no assignments with {_TIMES_MORE_STEPS} times as many DDIM steps, and else alike, are recorded"
        return [Claim("fall of noise → image", region, None, cure=cure, doubt=why)]
    setting, few, many = max(spans, key=lambda s: (_num(s[0]) >= _N, s[2] / s[1], _num(s[0]), str(s[0])))
    of_setting = [of_run.get(setting, {}) for of_run in found]
    number = combine(difference(by_steps.get(few), by_steps.get(many)) for by_steps in of_setting)
    return [
        Claim(f"fall of noise → image from {few} to {many} DDIM steps, N = {_num(setting)}", region, number, 0, cure)
    ]


def _num(setting: Setting) -> int:
    return setting[0] if isinstance(setting[0], int) else 0


def _cure(evidence: Evidence, num_steps: str) -> str:
    checkpoints = "--checkpoints last " if evidence.is_network else ""
    return evidence.cure(f"{checkpoints}--num_steps {num_steps} --settings.num_samples {_N}")


def _published_accuracies(evidence: Evidence, way: int) -> str:
    published, _ = published_for(evidence.data)
    cells = (f"{values[way][0]:g} at {num_steps}" for num_steps, values in published.assignment.items())
    return f"{', '.join(cells)} steps, in % ({published.data})"


def _hubs_are_flat(evidence: Evidence) -> list[Claim]:
    def of_hubs(run: RunEvidence) -> Number | None:
        return ratio(run.last(_PROBE, "hubs_pixel_variance"), run.last(_PROBE, "pixel_variance"))

    # Every sample weighs as many times as it captures noises.
    words = "pixel variance of the sample nearest to a noise / of all samples"
    claim = evidence.claim(words, Region(high=1.0), evidence.mean(of_hubs), Number(1.0))
    return [replace(claim, doubt=_no_wrong_ones(evidence))]


def _no_wrong_ones(evidence: Evidence) -> str:
    """Why nothing can be said of what captures wrong noises, where nothing does."""
    found = evidence.last(_PROBE, "noise_to_image")
    return "every noise is nearest to its own image" if found is not None and found.value >= 1 else ""


def _small_norm_captures(evidence: Evidence) -> list[Claim]:
    norm, variance = "captures_squared_norm_per_value_spearman", "captures_pixel_variance_spearman"

    def advantage(run: RunEvidence) -> Number | None:
        return difference(_size(run.last(_PROBE, norm)), _size(run.last(_PROBE, variance)))

    words, null = "Spearman of captures with |x|²", Number(0.0)
    claims = [
        # Small norms capture, ...
        evidence.claim(words, Region(high=0.0), evidence.last(_PROBE, norm), null),
        # ... and more so than small variances.
        evidence.claim("its size less that with the variance", Region(low=0.0), evidence.mean(advantage), null),
    ]
    return [replace(claim, doubt=_no_wrong_ones(evidence)) for claim in claims]


def _size(number: Number | None) -> Number | None:
    return None if number is None else Number(abs(number.value), number.error)


ASSIGNMENT = (
    Statement(
        "P1-T2a",
        "table 2, section 4.4",
        "At many steps nearly every image is nearest to its own noise.",
        _finds_noise,
        partial(_published_accuracies, way=0),
    ),
    Statement(
        "P1-T2b",
        "table 2, section 4.4",
        "A noise is nearest to its own image less often the more steps there are.",
        _loses_images,
        partial(_published_accuracies, way=1),
    ),
)
HUBS = (
    Statement(
        "P1-F7",
        "figures 7 and 8, appendix A.1",
        "Samples that capture wrong noises have a low variance of pixels.",
        _hubs_are_flat,
    ),
    Statement(
        "C-F7",
        "of figures 7 and 8",
        "What captures noises is a small norm rather than flatness.",
        _small_norm_captures,
    ),
)
