"""What P1 says of the map from noise to image over training: it is there from the start, and settles early.

P1 is *There and Back Again*; these are figures 5 and 6 of its section 4.4, and a correction of the latter.
"""

from dataclasses import replace
from functools import partial

from probediff.report.records import TO_NETWORK
from probediff.report.verdicts.evidence import Curve, Evidence, RunEvidence, curve_of
from probediff.report.verdicts.p1_inversion import EARLY, late_part
from probediff.report.verdicts.rule import Claim, Number, Region, difference, share_of_fall
from probediff.report.verdicts.statements import Statement

_ASSIGNMENT, _FINAL = "assignment_accuracy", "checkpoint_similarity_final"
#: P1 says that images find their noises from the very beginning: at every probe in this share of the training, ...
_VERY_EARLY = 0.05
#: ... nearly always. Its curve has no numbers; 0.9 is below all of its table.
_HIGH = 0.9
#: The least fall that counts as one, as for the number of steps.
_FALL = 0.05
#: A fall is early where more than half of it is done after ``EARLY``; a tenth is by then where it falls evenly.
_HALF = 0.5
#: A similarity that has settled. P1's curves have no numbers.
_SIMILAR = 0.9
#: CKA by preference: a small N raises the plain one, so that the debiased one comes first. Unrelated samples have 0.
_CKA_NULLS = {"cka_debiased": 0.0, "cka": None}


def _high_from_the_start(evidence: Evidence) -> list[Claim]:
    def least(run: RunEvidence) -> Number | None:
        curve = run.curve(_ASSIGNMENT, "image_to_noise")
        # What an untrained network does at step 0 is no beginning of a training.
        early = [number for step, number in curve.items() if 0 < step <= _VERY_EARLY * max(curve)]
        return min(early, key=lambda number: number.value) if early else None

    null = evidence.last(_ASSIGNMENT, "null")
    words = f"least image → noise in the first {_VERY_EARLY:.0%} of the training"
    number, chance = evidence.mean(least), None if null is None else null.value
    return [Claim(words, Region(low=_HIGH), number, chance, _cure(evidence, _VERY_EARLY))]


def _drops_early(evidence: Evidence) -> list[Claim]:
    def known(run: RunEvidence) -> Curve:
        """The curve, empty where it has no step that is early, or no end."""
        curve = run.curve(_ASSIGNMENT, "noise_to_image")
        is_whole = any(0 < step <= EARLY * max(curve) for step in curve) and run.last_step in curve
        return curve if is_whole else {}

    def fall(run: RunEvidence) -> Number | None:
        curve = known(run)
        return difference(curve[min(curve)], curve[max(curve)]) if curve else None

    def early_share(run: RunEvidence, is_over: bool) -> Number | None:
        """At the last step before ``EARLY`` is over, or at the first one after it."""
        if not (curve := known(run)):
            return None
        until = EARLY * max(curve)
        middle = min(s for s in curve if s >= until) if is_over else max(s for s in curve if s <= until)
        return share_of_fall(curve[min(curve)], curve[middle], curve[max(curve)])

    cure, region = _cure(evidence, EARLY), Region(low=_HALF)
    whole = Claim("fall of noise → image over the training", Region(low=_FALL), evidence.mean(fall), 0.0, cure)
    if whole.verdict == "disagrees":
        return [whole]
    words = f"share of that fall in the first {EARLY:.0%} of the training"
    by_then, after = (
        Claim(words, region, evidence.mean(partial(early_share, is_over=over)), EARLY, cure) for over in (False, True)
    )
    # What is not done by an earlier step may be by then: only what is not done by a later one speaks against it.
    is_unknown = by_then.verdict == "disagrees" != after.verdict
    why = f"it may fall between the last step that was probed before {EARLY:.0%} of the training and the next one"
    early = replace(by_then, doubt=why if is_unknown else "")
    return [whole, early]


def _cure(evidence: Evidence, share: float) -> str:
    return (
        f"{evidence.cure('--checkpoints all')}, where the training kept a checkpoint of its first {share:.0%} "
        f"(--probing.schedule.steps of `probediff fit`)"
    )


def _cka(curves: dict[str, Curve]) -> tuple[Curve, float | None]:
    """Of two CKA by step that which has errors, the debiased one first, with its value for unrelated samples.

    That of the plain one depends on N, and is not recorded.
    """
    known = {name: curve for name, curve in curves.items() if curve}
    with_errors = [name for name in known if all(number.error is not None for number in known[name].values())]
    chosen = next(iter([*with_errors, *known]), "")
    return known.get(chosen, {}), _CKA_NULLS.get(chosen)


def _map_settles(evidence: Evidence) -> list[Claim]:
    curve, null = _cka({name: evidence.curve(_FINAL, name) for name in _CKA_NULLS})
    # The final samples have no record of their own.
    later = late_part(curve, max((run.last_step or 0 for run in evidence.runs), default=0))
    number = min(later.values(), key=lambda number: number.value) if later else None
    words = f"least CKA to the final samples after {EARLY:.0%} of the training"
    return [Claim(words, Region(low=_SIMILAR), number, null, _cure(evidence, EARLY))]


def _svcca_is_first(evidence: Evidence) -> list[Claim]:
    """SVCCA at the probed step at which CKA or SSIM settles, or all at the one before where it has settled by then.

    Where both are first at 0.9 at one step, the steps are too far apart to tell; so they are where that is the end, at
    which all are 1.
    """
    cka, _ = _cka({name: evidence.curve(_FINAL, name) for name in _CKA_NULLS})
    curves = {"svcca": evidence.curve(_FINAL, "svcca"), "cka": cka, "ssim": evidence.curve(_FINAL, "ssim")}
    region, cure = Region(low=_SIMILAR), _cure(evidence, EARLY)
    if missing := [name.upper() for name, curve in curves.items() if not curve]:
        why = f"no {' and no '.join(missing)} to the final samples is recorded"
        return [Claim("SVCCA to the final samples", region, None, cure=cure, doubt=why)]
    svcca, others = curves.pop("svcca"), curves
    settled = min(
        (s for curve in others.values() for s in curve if _is_high(curve.get(s)) and s in svcca), default=None
    )
    before = max((step for step in svcca if settled is None or step < settled), default=None)
    if before is not None and _is_high(svcca[before]):
        # First only where the others are not there by then.
        not_there = [(name.upper(), Region(high=_SIMILAR), curve.get(before)) for name, curve in others.items()]
        every = [("SVCCA", region, svcca[before]), *not_there]
        return [Claim(f"{name} at step {before}", where, number, cure=cure) for name, where, number in every]
    step = before if settled is None else settled
    words, number = f"SVCCA at step {step}, where another similarity is first above {_SIMILAR}", svcca.get(step or 0)
    return [Claim(words, region, number, cure=cure, doubt=_why_not_told(svcca, others, before, settled))]


def _is_high(number: Number | None) -> bool:
    return number is not None and number.value > _SIMILAR


def _why_not_told(svcca: Curve, others: dict[str, Curve], before: int | None, settled: int | None) -> str:
    """Why SVCCA is not second, though it is not seen to be first; empty where it is."""
    if settled is None:
        return f"none of them is above {_SIMILAR} before the end"
    if _is_high(svcca[settled]):
        since = f"since step {before}" if before is not None else "at the first step"
        return f"SVCCA and another similarity both come above {_SIMILAR} {since}: the probed steps cannot tell"
    there = [Claim(name, Region(low=_SIMILAR), curve.get(settled)) for name, curve in others.items()]
    is_second = Claim("SVCCA", Region(low=_SIMILAR), svcca[settled]).verdict == "disagrees"
    is_known = any(claim.verdict == "agrees" for claim in there)
    return "" if is_known or not is_second else f"no other similarity is above {_SIMILAR} with all of its interval"


def _more_than_covariance(evidence: Evidence) -> list[Claim]:
    """The Gaussian denoiser's samples and the network's, from the same noises: what needs no learning is as alike."""

    def likeness(run: RunEvidence) -> tuple[Number | None, float | None]:
        gaussian = next(
            (r for r in run.run.exact("num_samples") if r.kind == "gaussian" and r.values(TO_NETWORK)), None
        )
        curve, null = _cka({} if gaussian is None else {n: curve_of(gaussian, TO_NETWORK, n) for n in _CKA_NULLS})
        return curve[max(curve)] if curve else None, null

    words = "CKA of the final samples with those of the Gaussian denoiser"
    is_there = any(run.run.of_kind("gaussian") for run in evidence.runs)
    cure = f"`probediff probe exact:RUN,h=1` records it{evidence.move_away('exact-h=1', is_there)}"
    null = next((null for run in evidence.runs if (null := likeness(run)[1]) is not None), None)
    return [Claim(words, Region(high=_SIMILAR), evidence.mean(lambda run: likeness(run)[0]), null, cure)]


STATEMENTS = (
    Statement(
        "P1-F5a",
        "figure 5, section 4.4",
        "Images find their noises from the beginning of the training on.",
        _high_from_the_start,
        is_of_training=True,
    ),
    Statement(
        "P1-F5b",
        "figure 5, section 4.4",
        "Noises find their images at the beginning only: that accuracy drops early.",
        _drops_early,
        is_of_training=True,
    ),
    Statement(
        "P1-F6a",
        "figure 6, section 4.4",
        "The map from noise to image settles early in the training.",
        _map_settles,
        is_of_training=True,
    ),
    Statement(
        "P1-F6b",
        "figure 6, section 4.4",
        "The most correlated features settle first: SVCCA before CKA and SSIM.",
        _svcca_is_first,
        is_of_training=True,
    ),
    Statement(
        "C-F6",
        "of figure 6",
        "A CKA as high as that takes more than the covariance of the images.",
        _more_than_covariance,
        is_of_training=True,
    ),
)
