"""Do runs that share their probe noise make the same images from it?"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from probediff import measures
from probediff.measures.transport import SAME_IMAGE_SSIM
from probediff.report.curves import Line, Panel, draw
from probediff.report.groups import Comparison, estimate
from probediff.report.parts import Figure, Section, joined
from probediff.report.sources import Run, step_of
from probediff.report.tables import Cell, Table

_MOST_RUNS, _MOST_SAMPLES, _MOST_STEPS = 6, 256, 10
#: What `reproducibility` needs: the window of SSIM, and a mismatched pair.
_SMALLEST_PX, _FEWEST_SAMPLES = 7, 2
_KEYS = ("noise_seed", "num_samples", "image_shape")

#: What pairs of runs are compared by, with the titles of the panels.
_LIKENESS = {
    "ssim": "SSIM between runs",
    "same": f"share of images with SSIM > {SAME_IMAGE_SSIM}",
    "correlation": "correlation between runs",
}

Compared = dict[str, tuple[float, float]]


def reproducibility(comparison: Comparison) -> Section:
    """Likeness of two runs' samples from the same noises, beside mismatched pairs."""
    name, title = "reproducibility", "Reproducibility between runs"
    sharing = _sharing_runs(comparison)
    if not sharing:
        return Section(name, title, missing=("No two runs share probe noise (seed, number, image shape) and samples.",))
    rows: list[tuple[Cell, ...]] = []
    panels = []
    for runs in sharing:
        steps = _common_steps(runs)
        by_step = {step: _compare_all(runs, step) for step in steps}
        last = by_step[steps[-1]]
        rows += [(f"{pair} (step {steps[-1]})", *_cells(found)) for pair, found in last.items()]
        if len(last) > 1:
            rows.append((f"all pairs (step {steps[-1]})", *_mean_cells(list(last.values()))))
        panels += _panels(by_step, runs[0].name if len(sharing) > 1 else "") if len(steps) > 1 else []
    same = f"share with SSIM > {SAME_IMAGE_SSIM}"
    header = ("pair of runs", "SSIM", "SSIM, null", same, "share, null", "correlation", "correlation, null")
    caption = (
        "Mean over samples of the likeness of the images that two runs make from the same noise; null: image i of one "
        "run against image i + 1 of the other. Over pairs: mean ± std (number of pairs)."
    )
    text = joined(
        [
            f"Runs are compared on their first {_MOST_SAMPLES} stored samples at the last step that they share, "
            f"clipped to [-1, 1]; the correlation is Pearson's over the pixels of an image pair.",
            f"Only the first {_MOST_RUNS} runs that share their noise are compared."
            if any(len(runs) == _MOST_RUNS for runs in sharing)
            else "",
        ]
    )
    figures: tuple[Figure, ...] = ()
    if panels:
        words = joined(
            ["Likeness against the training step, mean ± std over pairs of runs.", "Dashed: mismatched pairs."]
        )
        alt = f"Curves of likeness between runs. At the end: {'; '.join(str(row[1]) for row in rows[-1:])} (SSIM)."
        figures = (Figure("reproducibility", draw(panels), words, alt),)
    return Section(name, title, (text,), figures, (Table("reproducibility", caption, header, tuple(rows)),))


def _sharing_runs(comparison: Comparison) -> list[list[Run]]:
    """Runs with the same probe noise and samples of a common step, the first few of each kind."""
    members: dict[str, list[Run]] = {}
    for run in comparison.runs:
        shared = [run.own.convention(key) for key in _KEYS]
        if None in shared or shared[1] < _FEWEST_SAMPLES or len(shared[2]) != 3:
            continue
        if min(shared[2][1:]) >= _SMALLEST_PX and _sample_steps(run):
            members.setdefault(str(shared), []).append(run)
    chosen = [runs[:_MOST_RUNS] for runs in members.values()]
    return [runs for runs in chosen if len(runs) > 1 and _common_steps(runs)]


def _sample_steps(run: Run) -> set[int]:
    return {step_of(p) for p in run.own.path.glob("samples/step=*.safetensors") if p.name.count(".") == 1}


def _common_steps(runs: list[Run]) -> list[int]:
    """A few of the steps that all runs have samples of, evenly chosen, ascending."""
    steps = sorted(set.intersection(*(_sample_steps(run) for run in runs)))
    last = len(steps) - 1
    return sorted({steps[round(k * last / (_MOST_STEPS - 1))] for k in range(_MOST_STEPS)}) if steps else []


def _compare_all(runs: list[Run], step: int) -> dict[str, Compared]:
    samples = {run.name: x for run in runs if (x := _samples(run, step)) is not None}
    return {f"{a} / {b}": _compare(samples[a], samples[b]) for a, b in combinations(samples, 2)}


def _samples(run: Run, step: int) -> Tensor | None:
    try:
        with safe_open(run.own.path / "samples" / f"step={step:08d}.safetensors", "pt") as file:
            return file.get_slice("x_0")[:_MOST_SAMPLES].float().clamp(-1, 1)
    except (OSError, KeyError, SafetensorError):
        return None


def _compare(x: Tensor, y: Tensor) -> Compared:
    found, shifted = measures.reproducibility(x, y), y.roll(-1, dims=0)
    return {
        "ssim": (found.mean_ssim, found.mean_ssim_null),
        "same": (found.same_share, found.same_share_null),
        "correlation": (_mean(pixel_correlations(x, y)), _mean(pixel_correlations(x, shifted))),
    }


def _mean(values: Tensor) -> float:
    return float(values.nanmean())


def pixel_correlations(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation over the pixels of x[i] and y[i], (N,) float64; NaN where an image is constant."""
    a, b = (z.double().flatten(1) - z.double().flatten(1).mean(dim=1, keepdim=True) for z in (x, y))
    return (a * b).sum(dim=1) / torch.sqrt(a.square().sum(dim=1) * b.square().sum(dim=1))


def _cells(found: Compared) -> list[Cell]:
    return [estimate([value], 3) for key in _LIKENESS for value in found[key]]


def _mean_cells(found: list[Compared]) -> list[Cell]:
    return [estimate((one[key][k] for one in found), 3) for key in _LIKENESS for k in (0, 1)]


def _panels(by_step: dict[int, dict[str, Compared]], name: str) -> list[Panel]:
    panels = []
    for key, title in _LIKENESS.items():
        lines: list[Any] = []
        for k, role in enumerate(("mean", "null")):
            values = {step: estimate(pair[key][k] for pair in pairs.values()) for step, pairs in by_step.items()}
            kept = {step: value for step, value in values.items() if value}
            points = {step: value.mean for step, value in kept.items()}
            std = {step: value.std or 0.0 for step, value in kept.items()} if role == "mean" else {}
            label = "same noise" if role == "mean" else "null, mismatched pairs"
            lines.append(Line(label, role, points, std, 0))  # type: ignore[arg-type]
        panels.append(Panel(title + (f": {name} and others" if name else ""), "likeness", tuple(lines)))
    return panels
