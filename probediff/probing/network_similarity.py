"""How alike the samples of an exact denoiser are to those of a run's final network, from the same noises.

Two denoisers that have nothing in common but the covariance of their images make samples of high CKA from the same
noises: what a network's similarity to its own final samples is worth (*There and Back Again*, figure 6) shows beside.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from probediff.measures import image_r2
from probediff.measures.uncertainty import WithError, mean_with_error, split_errors
from probediff.runs.conditions import WEIGHTS, as_json
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.lock import claim
from probediff.runs.record import Record
from probediff.runs.results import ProbeResult, ResultLogger
from probediff.runs.tracking import Entry, Tracker

#: Name of the record.
NETWORK_SIMILARITY = "network_similarity"
#: Key of the record for which weights the run's final samples are of.
FINAL_WEIGHTS = "final_weights_sha256"
#: Settings that samples of the same noises share.
_SHARED = ("noise_seed", "num_steps", "convention", "clip", "image_shape")


def compare_with_network(
    folder: RunFolder,
    run: RunFolder,
    compare: Callable[[Tensor, Tensor], Mapping[str, WithError | float]],
    options: dict[str, Any],
    loggers: Sequence[ResultLogger] = (),
) -> str:
    """Compare the stored samples of an exact denoiser with a finished run's final ones, and record it.

    What is there already of the same final samples stays; what is of earlier ones goes.

    Args:
        folder: results of the exact denoiser.
        run: the run whose images it was fitted to.
        compare: two sets of samples -> how alike they are.
        options: of that comparison, for the record.
        loggers: get the numbers too.

    Returns:
        Why nothing was recorded; empty where the record is there.
    """
    ends = [record for record in folder.records() if record["probe"] == END_OF_EVENT]
    final = _final_event(run)
    if final is None or not ends:
        is_lost = ends and run.is_finished()
        why = "keeps none" if is_lost else "has not come to its end: give the command again then"
        return f"not compared with the run's final samples, for the run {why}"
    here, there = ends[-1]["conventions"], final["conventions"]
    differing = [key for key in _SHARED if as_json(here.get(key)) != there.get(key)]
    # A noise depends on its index only, so that fewer of them are the first of the run's.
    if here.get("num_samples", 0) > there.get("num_samples", 0):
        differing.append("num_samples")
    if differing:
        words = ", ".join(f"{key} {here.get(key)} here and {there.get(key)} there" for key in differing)
        return f"not compared with the run's final samples, which are not of the same noises and steps: {words}"
    step, identity = ends[-1]["step"], {WEIGHTS: ends[-1].get(WEIGHTS), FINAL_WEIGHTS: final.get(WEIGHTS)}
    with claim(folder.path, "--out"):
        known = [record for record in folder.records() if record["probe"] == NETWORK_SIMILARITY]
        if any(_is_of(record, final) for record in known):
            return ""
        try:
            samples = folder.load_samples(step)
            final_samples = run.load_samples(final["step"])[: len(samples)]
            numbers, lost = _image_r2(samples, final_samples), ""
        except (OSError, ValueError) as error:
            return f"not compared with the run's final samples: {error}"
        try:
            numbers |= compare(samples, final_samples)
        except ValueError as error:  # such as samples of so few images that SVCCA has no rank
            lost = f"similarities: {error}"
        folder.forget(step, {NETWORK_SIMILARITY})
        values, errors = split_errors(numbers | {"final_step": float(final["step"])})
        result = ProbeResult(values, error=lost, standard_errors=errors).validate()
        conventions = here | {"options": options}
        Tracker(folder, loggers).log([Entry(step, NETWORK_SIMILARITY, result, conventions, identity)])
    return ""


def _image_r2(samples: Tensor, final_samples: Tensor) -> dict[str, WithError | float]:
    """R² of each of the network's images, on average; with images of other noises; its standard error."""
    r2 = mean_with_error(image_r2(samples, final_samples))
    null = mean_with_error(image_r2(samples.roll(1, 0), final_samples))
    return {"r2": r2, "r2_null": null, "r2_standard_error": r2.error}


def _final_event(run: RunFolder) -> Record | None:
    """The end of the last event of a finished run, whose samples are stored."""
    steps = run.sample_steps()
    if not steps or not run.is_finished():
        return None
    return next((r for r in run.records() if r["probe"] == END_OF_EVENT and r["step"] == steps[-1]), None)


def _is_of(record: Record, final: Record) -> bool:
    """Whether it is known to be of these final samples; runs of earlier versions did not record their weights."""
    weights = final.get(WEIGHTS)
    is_same = record["values"].get("final_step") == final["step"] and record.get(FINAL_WEIGHTS) == weights
    return is_same and weights is not None
