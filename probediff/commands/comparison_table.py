"""The result of ``probediff compare`` for the terminal."""

from typing import Any

from probediff.display.text import printable
from probediff.runs.comparison import CEILING_LABELS, ByStep, Predictor, means_by_predictor, shared_steps
from probediff.runs.record import STANDARD_ERRORS
from probediff.runs.summary import format_table

_MOST_STEPS = 5
_LEGEND = """R² of each of the networks' {num_samples} images by the image that the denoiser makes from the same noise,
on average (1: the same image; 0: no better than the mean of its values); ± standard error over images{spread}.
null: R² by images of other noises. It, debiased CKA and SSIM are of step {last}. M: images that it is fitted to."""
_SPREAD = ",\nthen ± standard deviation over {count} runs"


def describe_comparison(result: dict[str, Any]) -> str:
    """Denoisers, the best at the last step first, against training steps; then the ceiling, and what is left out."""
    every = shared_steps(result)
    most = min(_MOST_STEPS, len(every))
    steps = sorted({every[round(k * (len(every) - 1) / max(most - 1, 1))] for k in range(most)})
    header = ["denoiser", "M", *(f"step {step}" for step in steps), "null", "CKA", "SSIM"]
    rows = [_row(predictor, by_step, steps) for predictor, by_step in means_by_predictor(result).items()]
    count, num_samples = len(result["runs"]), result["conventions"]["num_samples"]
    spread = _SPREAD.format(count=count) if count > 1 else ""
    legend = _LEGEND.format(num_samples=num_samples, spread=spread, last=steps[-1])
    return "\n".join(["", format_table(header, rows, 1), "", legend, *_notes(result, len(steps))])


def _row(predictor: Predictor, by_step: ByStep, steps: list[int]) -> list[Any]:
    kind, denoiser, images = predictor
    last = by_step.get(steps[-1], {}).get("values", {})
    numbers = [_number(last.get(name)) for name in ("r2_null", "cka_debiased", "ssim")]
    return [CEILING_LABELS.get(kind, denoiser), images, *(_cell(by_step.get(step)) for step in steps), *numbers]


def _cell(mean: dict[str, Any] | None) -> str | None:
    r2 = None if mean is None else mean["values"].get("r2")
    if mean is None or r2 is None:
        return None
    spreads = (of.get("r2") for of in (mean[STANDARD_ERRORS], mean["std_over_runs"]))
    return " ± ".join(f"{value:.3f}" for value in (r2, *spreads) if value is not None)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _notes(result: dict[str, Any], num_shown: int) -> list[str]:
    notes = []
    if (total := len({mean["step"] for mean in result["means"]})) > num_shown:
        notes.append(f"{num_shown} of {total} steps are shown; all are in the file.")
    if not result["ceiling"]:
        notes.append("No ceiling: it needs runs of two seeds at least, with samples of the same steps.")
    notes += [printable(sentence) for sentence in result["left_out"]]
    return ["", *notes] if notes else []
