"""How ``compare.json`` says what predicts the images of networks; whoever shows it reads it here."""

import math
from collections.abc import Mapping
from typing import Any

#: Kinds of predictors in its means.
DENOISER, ANOTHER_SEED, OWN_FINAL = "denoiser", "another seed", "own final samples"
#: What those that are no denoisers are called.
CEILING_LABELS = {ANOTHER_SEED: "another seed (ceiling)", OWN_FINAL: "own final samples"}
_ORDER = (DENOISER, ANOTHER_SEED, OWN_FINAL)

#: Kind of a predictor, which denoiser, and its number of images.
Predictor = tuple[str, str, int | None]
#: Entries of the means by training step.
ByStep = dict[int, dict[str, Any]]


def shared_steps(result: Mapping[str, Any]) -> list[int]:
    """Training steps of which most runs have samples, ascending; means over fewer are not compared with these."""
    num_runs: dict[int, int] = {}
    for mean in result["means"]:
        step = int(mean["step"])
        num_runs[step] = max(int(mean["num_runs"]), num_runs.get(step, 0))
    most = max(num_runs.values())
    return sorted(step for step, count in num_runs.items() if count == most)


def means_by_predictor(result: Mapping[str, Any]) -> dict[Predictor, ByStep]:
    """Means over runs at the shared steps, the best denoiser at the last one first, then what bounds them.

    Raises:
        LookupError, TypeError, AttributeError or ValueError: the result is damaged.
    """
    steps = shared_steps(result)
    found: dict[Predictor, ByStep] = {}
    for mean in result["means"]:
        images = mean.get("images")
        key = str(mean["predictor"]), str(mean.get("denoiser", "")), None if images is None else int(images)
        if int(mean["step"]) in steps:
            found.setdefault(key, {})[int(mean["step"])] = mean
    ordered = sorted(found, key=lambda key: (_ORDER.index(key[0]), -_r2(found[key].get(steps[-1]))))
    return {key: dict(sorted(found[key].items())) for key in ordered}


def _r2(mean: Mapping[str, Any] | None) -> float:
    r2 = None if mean is None else mean["values"].get("r2")
    return -math.inf if r2 is None else float(r2)
