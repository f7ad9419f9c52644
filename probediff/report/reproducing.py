"""Do runs that share their probe noise make the same images from it?

Most reports have no such runs and start without torch, so that it is imported where samples are compared.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from probediff.report.curves import draw
from probediff.report.groups import Comparison, estimate
from probediff.report.measured import evenly
from probediff.report.panels import Line, Panel, Role
from probediff.report.parts import Figure, Section
from probediff.report.sources import Run
from probediff.report.tables import Cell, Table

if TYPE_CHECKING:
    from torch import Tensor

_MOST_RUNS, _MOST_SAMPLES, _MOST_STEPS = 6, 256, 10
#: What `reproducibility` needs: the window of SSIM, and a mismatched pair.
_SMALLEST_PX, _FEWEST_SAMPLES = 7, 2
_KEYS = ("noise_seed", "num_samples", "image_shape")

#: What pairs of runs are compared by, with the titles of the panels.
_LIKENESS = {
    "ssim": "SSIM between runs",
    "same": "share of images with SSIM > {same}",
    "correlation": "correlation between runs",
}

#: By key of `_LIKENESS`: that of a pair, and of mismatched images.
Likeness = dict[str, tuple[float, ...]]


def reproducibility(comparison: Comparison) -> Section:
    """Likeness of two runs' samples from the same noises, beside mismatched pairs."""
    name, title = "reproducibility", "Reproducibility between runs"
    sharing = _sharing_runs(comparison)
    if not sharing:
        return Section(name, title, missing=("No two runs share probe noise (seed, number, image shape) and samples.",))
    from probediff.measures.transport import SAME_IMAGE_SSIM

    rows: list[tuple[Cell, ...]] = []
    panels = []
    for runs in sharing:
        by_step = {step: pairs for step in _common_steps(runs) if (pairs := _compare_all(runs, step))}
        if not by_step:
            continue
        steps = list(by_step)
        last = by_step[steps[-1]]
        rows += [_row(f"{names} (step {steps[-1]})", [pair]) for names, pair in last.items()]
        if len(last) > 1:
            rows.append(_row(f"all pairs (step {steps[-1]})", list(last.values())))
        if len(steps) > 1:
            others = f": {runs[0].name} and others" if len(sharing) > 1 else ""
            panels += _panels(by_step, {k: v.format(same=SAME_IMAGE_SSIM) + others for k, v in _LIKENESS.items()})
    if not rows:
        words = f"The samples of {', '.join(run.name for runs in sharing for run in runs)} are not finite images alike."
        return Section(name, title, missing=(words,))
    same = f"share with SSIM > {SAME_IMAGE_SSIM}"
    header = ("pair of runs", "SSIM", "SSIM, null", same, "share, null", "correlation", "correlation, null")
    caption = (
        "Mean over samples of the likeness of the images that two runs make from the same noise; null: image i of one "
        "run against image i + 1 of the other. Over pairs: mean ± std (number of pairs)."
    )
    text = (
        f"Runs are compared on their first {_MOST_SAMPLES} stored samples at the last step that they share, clipped to "
        f"[-1, 1]; the correlation is Pearson's over the pixels of an image pair."
    )
    if any(len(runs) == _MOST_RUNS for runs in sharing):
        text += f" Only the first {_MOST_RUNS} runs that share their noise are compared."
    figures: tuple[Figure, ...] = ()
    if panels:
        words = "Likeness against the training step, mean ± std over pairs of runs. Dashed: mismatched pairs."
        alt = f"Curves of likeness between runs. At the end: {rows[-1][1]} (SSIM)."
        figures = (Figure("reproducibility", draw(panels), words, alt),)
    return Section(name, title, (text,), figures, (Table("reproducibility", caption, header, tuple(rows)),))


def _sharing_runs(comparison: Comparison) -> list[list[Run]]:
    """Runs with the same probe noise and samples of a common step, the first few of each kind."""
    members: dict[str, list[Run]] = {}
    for run in comparison.runs:
        shared = [run.own.convention(key) for key in _KEYS]
        if None in shared or shared[1] < _FEWEST_SAMPLES or [type(size) for size in shared[2]] != [int] * 3:
            continue
        if min(shared[2][1:]) >= _SMALLEST_PX and run.own.folder.sample_steps():
            members.setdefault(str(shared), []).append(run)
    chosen = [runs[:_MOST_RUNS] for runs in members.values()]
    return [runs for runs in chosen if len(runs) > 1 and _common_steps(runs)]


def _common_steps(runs: list[Run]) -> list[int]:
    """A few of the steps that all runs have samples of, evenly chosen, ascending."""
    return evenly(sorted(set.intersection(*(set(run.own.folder.sample_steps()) for run in runs))), _MOST_STEPS)


def _compare_all(runs: list[Run], step: int) -> dict[str, Likeness]:
    import torch

    stored = {run.name: run.own.folder.first_samples(step, _MOST_SAMPLES) for run in runs}
    images = {name: x_0 for name, x_0 in stored.items() if x_0 is not None and _is_comparable(x_0)}
    shapes = {x_0.shape for x_0 in images.values()}
    samples = {name: torch.from_numpy(x_0).clamp(-1, 1) for name, x_0 in images.items() if len(shapes) == 1}
    return {f"{a} / {b}": _compare(samples[a], samples[b]) for a, b in combinations(samples, 2)}


def _is_comparable(x_0: np.ndarray) -> bool:
    """Whether SSIM and mismatched pairs exist: a training that diverged leaves samples that are not finite."""
    fits = x_0.ndim == 4 and len(x_0) >= _FEWEST_SAMPLES and min(x_0.shape[2:]) >= _SMALLEST_PX
    return fits and bool(np.isfinite(x_0).all())


def _compare(x: Tensor, y: Tensor) -> Likeness:
    from probediff.measures import reproducibility

    pairs = reproducibility(x, y)
    correlations = (float(pixel_correlations(x, other).nanmean()) for other in (y, y.roll(-1, dims=0)))
    return {
        "ssim": (pairs.mean_ssim, pairs.mean_ssim_null),
        "same": (pairs.same_share, pairs.same_share_null),
        "correlation": tuple(correlations),
    }


def pixel_correlations(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation over the pixels of x[i] and y[i], (N,) float64; NaN where an image is constant."""
    a, b = (z.double().flatten(1) - z.double().flatten(1).mean(dim=1, keepdim=True) for z in (x, y))
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()


def _row(name: str, pairs: list[Likeness]) -> tuple[Cell, ...]:
    return (name, *(estimate((pair[key][k] for pair in pairs), 3) for key in _LIKENESS for k in (0, 1)))


def _panels(by_step: dict[int, dict[str, Likeness]], titles: dict[str, str]) -> list[Panel]:
    panels = []
    labels: tuple[tuple[Role, str], ...] = (("mean", "same noise"), ("null", "null, mismatched pairs"))
    for key, title in titles.items():
        lines = []
        for k, (role, label) in enumerate(labels):
            values = {step: estimate(pair[key][k] for pair in pairs.values()) for step, pairs in by_step.items()}
            known = {step: value for step, value in values.items() if value}
            points = {step: value.mean for step, value in known.items()}
            std = {step: value.std or 0.0 for step, value in known.items()} if role == "mean" else {}
            lines.append(Line(label, role, points, std, 0))
        panels.append(Panel(title, "likeness", tuple(lines)))
    return panels
