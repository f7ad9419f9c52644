"""What a network is like by noise level: exact denoisers beside it, and the published table of Wang & Vastola."""

from collections.abc import Iterator

import numpy as np

from probediff.pictures import draw_structure
from probediff.report.curves import draw
from probediff.report.drawings import draw_axes
from probediff.report.groups import Comparison, Estimate, Group, mean_curve, own
from probediff.report.measured import evenly, over_training
from probediff.report.panels import Line, Panel, Quantity, error_band, tell_bands
from probediff.report.parts import Figure, Section, how_computed, missing_from
from probediff.report.published import EXPLAINED_VARIANCE, EXPLAINED_VARIANCE_SOURCE
from probediff.report.sources import Run
from probediff.report.tables import Cell, Table

_PROBE = "denoiser_structure"
_MOST_LEVELS = 6
_PLAIN = ("held_out", "sigma", "sigma_asked", "bandwidth", "bandwidth_low", "bandwidth_high", "bandwidth_identified")
_WITH_ERROR = (
    *("r2", "distance", "linear_share"),
    *("image_gaussian", "image_training_set", "score_gaussian", "score_training_set"),
)
#: Of the table of noise levels, without ``levels_``.
COLUMNS = (*_PLAIN, "r2_gaussian", "r2_training_set", *_WITH_ERROR, *(f"{name}_error" for name in _WITH_ERROR))
_GAPS = {"gap_excess": "gap of R² beyond the Gaussian's", "gap_training_set": "gap of the training set's denoiser"}
_WHAT = (
    "Real images are noised at several levels and given to the network and to exact denoisers of its training images, "
    "from the training set itself (bandwidth h = 0) to its Gaussian (h = 1). R² is the share of the error of a "
    "denoiser that knows only the mean image and one variance that is taken away: an untrained network has 0 or less. "
    "The bandwidth is that of the nearest exact denoiser, with the interval in which no other is nearer by two "
    "standard errors; 0 to 1 is not told apart. A network that goes from h = 1 towards smaller ones leaves the linear "
    "regime; one that memorises does better on its training images than on held-out ones, by more than the Gaussian."
)
_BY_LEVEL = {
    "bandwidth_sigma_": ("nearest exact denoiser", "bandwidth h"),
    "held_out_bandwidth_sigma_": ("nearest one, held-out images", "bandwidth h"),
    "linear_share_sigma_": ("explained by the Gaussian", "share"),
    "memorisation_z_sigma_": ("memorisation beyond the Gaussian", "standard errors"),
}
_OVER_TRAINING = (
    Quantity(_PROBE, "bandwidth", "nearest exact denoiser", "bandwidth h"),
    Quantity(_PROBE, "linear_share", "explained by the Gaussian", "share"),
    Quantity(_PROBE, "memorisation_gap", "clearest memorisation gap", "difference of R²"),
)


def structure(comparison: Comparison) -> Section:
    """Everything that the probe measured: by level at the last step, and over training."""
    figures: list[Figure] = []
    tables: list[Table] = []
    missing = list(missing_from(comparison, _PROBE))
    for index, group, run in comparison.first_runs():
        figures += _by_level(comparison, index, group)
        levels = _levels(run)
        if levels is not None:
            figures.append(_at_last_step(index, run, levels))
            tables += [_table(index, run, levels), _explained_variance(comparison, index, run, levels)]
        elif run.own.values(_PROBE):
            missing.append(f"{run.name}: the table of noise levels of {_PROBE} is not there, or is of another version.")
    text = (
        "Of all noise levels the middle one of each order: bandwidth of the nearest exact denoiser, share of the "
        "network that the Gaussian explains; and the clearest gap in R² between training and held-out images beside "
        "that of the Gaussian denoiser (null)."
    )
    figures += over_training(comparison, "structure_over_training", _OVER_TRAINING, text)
    words = (_WHAT, how_computed(comparison, _PROBE)) if figures or tables else ()
    return Section("structure", "Structure of the denoiser", words, tuple(figures), tuple(tables), tuple(missing))


def _levels(run: Run) -> dict[str, np.ndarray] | None:
    """The columns of the last table of noise levels, without ``levels_``; None where it is not whole."""
    arrays = run.own.folder.newest_arrays(_PROBE)
    columns = {name.removeprefix("levels_"): column for name, column in arrays.items() if name.startswith("levels_")}
    shapes = {column.shape for column in columns.values()}
    is_whole = set(COLUMNS) <= columns.keys() and len(shapes) == 1 and len(shapes.pop()) == 1
    return columns if is_whole and len(columns["sigma"]) else None


def _last_step(run: Run) -> int | None:
    return max(run.own.values(_PROBE), default=None)


def _at_last_step(index: int, run: Run, levels: dict[str, np.ndarray]) -> Figure:
    figure, axes = draw_axes(3, (3.8, 3.2))
    draw_structure(axes, {f"levels_{name}": column for name, column in levels.items()})
    caption = (
        f"{run.name}, step {_last_step(run)}. Bars are two standard errors over images, those of the bandwidth its "
        f"interval; where it is not told apart there is no point. Dashed: the Gaussian, dotted: the training set."
    )
    known = levels["bandwidth"][levels["bandwidth_identified"] > 0]
    told = f"from {known.min():.2g} to {known.max():.2g}" if len(known) else "at no level"
    return Figure(
        f"structure_{index}", figure, caption, f"Bandwidth, R² and linear share; bandwidth told apart {told}."
    )


def _by_level(comparison: Comparison, index: int, group: Group) -> Iterator[Figure]:
    """Curves over training of some noise levels."""
    keys, panels = comparison.keys(_PROBE), []
    names = {key.removeprefix(prefix) for prefix in _BY_LEVEL for key in keys if key.startswith(prefix)}
    sigmas = sorted(filter(_is_number, names), key=float)
    chosen = [sigmas[k] for k in evenly(list(range(len(sigmas))), _MOST_LEVELS)]
    for prefix, (title, y_label) in _BY_LEVEL.items():
        curves = {sigma: mean_curve(group, own(_PROBE, f"{prefix}{sigma}")) for sigma in chosen}
        means = {sigma: {step: value.mean for step, value in curve.items()} for sigma, curve in curves.items()}
        lines = tuple(
            Line(f"σ = {sigma}", "single", means[sigma], error_band(curve), colour)
            for colour, (sigma, curve) in enumerate(curves.items())
            if curve
        )
        panels.append(Panel(title, y_label, lines))
    panels = [panel for panel in panels if panel.has_curves]
    if panels:
        caption = f"{group.label}: by noise level, against the training step; a bandwidth where it is told apart."
        caption += tell_bands(panels, _PROBE)
        titles = ", ".join(panel.title for panel in panels)
        yield Figure(f"structure_by_level_{index}", draw(panels), caption, f"Curves by noise level of {titles}.")


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _table(index: int, run: Run, levels: dict[str, np.ndarray]) -> Table:
    gaps = {name: words for name, words in _GAPS.items() if {name, f"{name}_error"} <= levels.keys()}
    rows: list[tuple[Cell, ...]] = []
    for row in range(len(levels["sigma"])):
        of = {name: float(column[row]) for name, column in levels.items()}
        interval = f"{of['bandwidth_low']:.2f} to {of['bandwidth_high']:.2f}"
        rows.append(
            (
                f"{of['sigma']:.3g}",
                "held out" if of["held_out"] else "training",
                *(_estimate(of, name) for name in ("r2", "distance")),
                *(_number(of[f"r2_{name}"]) for name in ("gaussian", "training_set")),
                _number(of["bandwidth"]) if of["bandwidth_identified"] else None,
                interval,
                *(_estimate(of, name) for name in ("linear_share", *gaps)),
            )
        )
    header = ("σ", "images", "R² of the truth", "relative L2 to the truth", "R², Gaussian", "R², training set",
              "nearest h", "interval", "linear share", *gaps.values())  # fmt: skip
    caption = f"{run.name}, step {_last_step(run)}: by noise level. ± is the standard error over images."
    return Table(f"structure_levels_{index}", caption, header, tuple(rows))


def _explained_variance(comparison: Comparison, index: int, run: Run, levels: dict[str, np.ndarray]) -> Table:
    published = [
        (f"{what}, {epoch}", values) for what, of in EXPLAINED_VARIANCE.items() for epoch, values in of.items()
    ]
    rows: list[tuple[Cell, ...]] = []
    for row in np.flatnonzero(levels["held_out"] == 0):
        of = {name: float(column[row]) for name, column in levels.items()}
        pairs = (values.get(round(of["sigma_asked"], 6)) for _, values in published)
        cells = [None if pair is None else f"{pair[0]:.3f} / {pair[1]:.3f}" for pair in pairs]
        names = ("score_gaussian", "score_training_set", "image_gaussian", "image_training_set")
        rows.append((f"{of['sigma']:.3g}", *(_estimate(of, name) for name in names), *cells))
    header = ("σ", "score, Gaussian", "score, training set", "image, Gaussian", "image, training set",
              *(f"published {name}" for name, _ in published))  # fmt: skip
    others = "not of the data of these runs" if run.data_class else "and the data of these runs is not recorded here"
    data = "" if comparison.data == "CIFAR-10" else f" They are of CIFAR-10, {others}."
    caption = (
        f"Explained variance of the network's score and image by the Gaussian and by the training set's denoiser, on "
        f"training images, {run.name}, step {_last_step(run)}; ± is the standard error over images. Published, by "
        f"Gaussian / training set: {EXPLAINED_VARIANCE_SOURCE}.{data}"
    )
    return Table(f"structure_explained_variance_{index}", caption, header, tuple(rows))


def _number(value: float, error: float | None = None) -> Estimate | None:
    return Estimate(value, error, 1, 3, "standard error") if np.isfinite(value) else None


def _estimate(of: dict[str, float], name: str) -> Estimate | None:
    return _number(of[name], of[f"{name}_error"])
