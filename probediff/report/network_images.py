"""Which exact denoiser foretells the images of networks: the results of `probediff compare` below the runs."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probediff.report.curves import draw
from probediff.report.groups import Comparison, Estimate
from probediff.report.panels import Line, Panel, Role
from probediff.report.parts import Figure, Section
from probediff.report.sources import Run, read_json
from probediff.report.tables import Cell, Table
from probediff.runs.comparison import ANOTHER_SEED, CEILING_LABELS, OWN_FINAL, ByStep, Predictor, means_by_predictor
from probediff.runs.folder import COMPARED
from probediff.runs.record import STANDARD_ERRORS

_WHAT = (
    "From the same noises and with the same sampler, exact denoisers of the training images and the networks make "
    "images; R² says how much of each of a network's images the exact denoiser's explains (1: the same image; 0: no "
    "better than the mean of its values). Kamb & Ganguli (arXiv 2412.20292) and Lukoianov et al. (arXiv 2509.09672) "
    "compare trained networks so. A network of another seed is the ceiling; it has its own chance beside what all "
    "trainings share, which by itself would leave about half as much unexplained."
)
_HOW_TO = "No comparison of exact denoisers with the networks' images: `probediff compare RUN` makes one."
_COLUMNS = {"r2": "R²", "r2_null": "null", "cka_debiased": "CKA, debiased", "ssim": "SSIM", "ssim_null": "null of SSIM"}
#: So many colours are told apart; other lines are broken.
_NUM_COLOURS = 6
_ROLES: dict[str, Role] = {ANOTHER_SEED: "published", OWN_FINAL: "null"}
_LOWEST, _HIGHEST = -1.0, 1.03


def network_images(comparison: Comparison) -> Section:
    """A figure and a table of every result; damaged ones are told of."""
    name, title = "network-images", "Which denoiser predicts the network's images"
    figures, tables, missing = list[Figure](), list[Table](), list[str]()
    for index, (path, result) in enumerate(_results(comparison), start=1):
        try:
            means = means_by_predictor(result)
            how = _how(result)
            figures += _figure(index, means, how)
            tables.append(_table(index, means, how))
            missing += [str(sentence) for sentence in result["left_out"]]
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            missing.append(f"{path} is left out, for it is damaged ({type(error).__name__}: {error}); make it again.")
    if not tables:
        return Section(name, title, missing=tuple(missing) or (_HOW_TO,))
    return Section(name, title, (_WHAT,), tuple(figures), tuple(tables), tuple(missing))


def _results(comparison: Comparison) -> Iterator[tuple[Path, dict[str, Any]]]:
    paths: dict[Path, Run] = {path: run for run in comparison.runs for path in run.analyses(COMPARED)}
    for path in paths:
        result = read_json(path, dict)
        if result is not None:
            yield path, result


def _how(result: dict[str, Any]) -> str:
    how, runs = result["conventions"], ", ".join(str(run["name"]) for run in result["runs"])
    clipping = "on" if how["clip"] else "off"
    return (
        f"Runs: {runs}. N = {how['num_samples']}, {how['num_steps']} DDIM steps, convention {how['convention']}, "
        f"clipping {clipping}, noise seed {how['noise_seed']}."
    )


def _figure(index: int, means: dict[Predictor, ByStep], how: str) -> Iterator[Figure]:
    lines, words = list[Line](), list[str]()
    for place, (key, by_step) in enumerate(means.items()):
        points = {step: _value(mean, "r2", math.nan) for step, mean in by_step.items()}
        points = {step: value for step, value in points.items() if math.isfinite(value)}
        errors = {step: _error(by_step[step], "r2") or 0.0 for step in points}
        role: Role = _ROLES.get(key[0], "single" if place < _NUM_COLOURS else "baseline")
        how_drawn = ({}, None) if key[0] in _ROLES else (errors, place)
        if points:
            lines.append(Line(_label(key), role, points, *how_drawn))
            words.append(f"{_label(key)} {list(points.values())[-1]:.3g}")
    lowest = min((value for line in lines for value in line.points.values()), default=0.0)
    limits = max(_LOWEST, lowest - 0.05), _HIGHEST
    panel = Panel("images predicted from their noises", "R²", tuple(lines), limits)
    if not panel.has_curves:
        return
    caption = (
        f"R² of the networks' images by each predictor against the training step, mean over images and runs; bands are "
        f"standard errors over images. Values below {_LOWEST:g} are not drawn. {how}"
    )
    yield Figure(f"network_images_{index}", draw([panel]), caption, f"R² at the last step: {', '.join(words)}.")


def _table(index: int, means: dict[Predictor, ByStep], how: str) -> Table:
    last = max(step for by_step in means.values() for step in by_step)
    rows: list[tuple[Cell, ...]] = []
    for key, by_step in means.items():
        step, mean = (last, by_step[last]) if last in by_step else list(by_step.items())[-1]
        spread = mean["std_over_runs"].get("r2")
        cells = [_estimate(mean, name) for name in _COLUMNS]
        rows.append((_label(key, with_images=False), key[2], step, *cells, None if spread is None else float(spread)))
    header = ("predictor", "images M", "step", *_COLUMNS.values(), "std of R² over runs")
    caption = (
        f"Images of exact denoisers, networks of other seeds, and final samples against those that the networks make "
        f"from the same noises, at the last step; ± is the standard error over images, null is by images of other "
        f"noises. {how}"
    )
    return Table(f"network_images_{index}", caption, header, tuple(rows))


def _label(key: Predictor, with_images: bool = True) -> str:
    kind, denoiser, images = key
    if kind in CEILING_LABELS:
        return CEILING_LABELS[kind]
    return f"{denoiser}, M = {images:,}" if with_images and images is not None else denoiser


def _estimate(mean: dict[str, Any], name: str) -> Estimate | None:
    value = _value(mean, name, math.nan)
    return Estimate(value, _error(mean, name), 1, 3, "standard error") if math.isfinite(value) else None


def _value(mean: dict[str, Any] | None, name: str, otherwise: float) -> float:
    value = None if mean is None else mean["values"].get(name)
    return otherwise if value is None else float(value)


def _error(mean: dict[str, Any], name: str) -> float | None:
    error = mean[STANDARD_ERRORS].get(name)
    return None if error is None else float(error)
