"""P2's analysis: is the first step of a diffusion model a de-whitening? (P2-F2 to F5, its table, and slopes)"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probediff.report.curves import draw, in_words, panel
from probediff.report.drawings import draw_picture, read_picture
from probediff.report.groups import Comparison, Group, own
from probediff.report.parts import Figure, Section, how_computed, joined, missing_from
from probediff.report.published import FIRST_STEP_DISTANCES
from probediff.report.sources import Run
from probediff.report.spectra import Curve, draw_fit, draw_slopes
from probediff.report.tables import Cell, Table

_PROBE = "whitening"
_FILE = "whitening.json"
_TRUSTED_SHARE = 0.5
_NAMES = {
    "diff": "least squares (W_diff)",
    "zca": "ZCA",
    "zca_cor": "ZCA-cor",
    "pca": "PCA",
    "pca_cor": "PCA-cor",
    "cholesky": "Cholesky",
    "gaussian": "Gaussian denoiser, as many iterations",
    "gaussian_limit": "Gaussian denoiser, limit",
}
_WHAT = (
    "P2 says that the fixed point of its iteration near t = T is the ZCA-whitened image: that the first step of "
    "sampling undoes a whitening. For Gaussian data the limit of that iteration is proportional to the inverse "
    "covariance instead, and which of the two is seen depends on the number of iterations. So the slope of log gain "
    "against log eigenvalue stands here against that number: 0 is a multiple of the image, -1/2 ZCA whitening, -1 the "
    "limit."
)


def whitening(comparison: Comparison) -> Section:
    """Everything that ``probediff whitening`` and the probe of that name found."""
    figures: list[Figure] = []
    tables: list[Table] = []
    said: list[str] = []
    words: list[str] = []
    found = list(_analyses(comparison))
    for index, (name, folder, values) in enumerate(found, start=1):
        try:
            words.append(f"{name}: {values['in_words']}")
            figures += _figures(index, name, folder, values)
            tables += [_transforms(index, name, values), _relation(index, name, values)]
        except (KeyError, TypeError, IndexError) as error:
            said.append(f"{name}: {folder / _FILE} is of another version, without {error}; make it anew.")
    without = [run.name for run in comparison.runs if run.name not in {name.partition(",")[0] for name, _, _ in found}]
    if without:
        said.append(f"No analysis of `probediff whitening` in {', '.join(without[:3])}.")
    over_training = _over_training(comparison)
    figures += [over_training] if over_training else []
    said += [] if over_training else missing_from(comparison, _PROBE)
    text = (_WHAT, *words) if figures else ()
    return Section("whitening", "De-whitening (P2)", text, tuple(figures), tuple(tables), tuple(said))


def _analyses(comparison: Comparison) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Name, folder and numbers of each analysis of the first run of each group, the network's before the Gaussian's."""
    for run in (one for group in comparison.groups for one in _first(group)):
        for folder in sorted({path.parent for path in run.path.glob(f"probes/*/{_FILE}")}):
            try:
                values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(values, dict):
                yield run.name + ("" if folder.name == _PROBE else f", {folder.name}"), folder, values


def _first(group: Group) -> list[Run]:
    """The runs of a group that have an analysis; pictures of all seeds would be too many."""
    return [run for run in group.runs if list(run.path.glob(f"probes/*/{_FILE}"))][:1]


def _figures(index: int, name: str, folder: Path, values: dict[str, Any]) -> Iterator[Figure]:
    how = _how(values["conventions"])
    alone = values["conventions"]["denoiser"] == "gaussian"
    yield _slopes(index, name, values, alone, how)
    for stem, (labels, caption) in _pictures(values).items():
        pixels = read_picture(folder / f"{stem}.png")
        if pixels is not None:
            caption = joined([f"{name}. {caption}", how])
            yield Figure(f"p2_{stem}_{index}", draw_picture(pixels, labels), caption, f"Picture: {caption}", True)
    fit = draw_fit({_NAMES.get(r["name"], r["name"]): r for r in values["transforms"]}, folder)
    what = "Left: R² of the noises against W x, with the best scale. Right: distribution of the residual of W_diff."
    caption = joined([f"{name}. {what}", how])
    best = max(values["transforms"][1:], key=lambda row: float(row["r2_scaled"]))
    yield Figure(f"p2_f5_fit_{index}", fit, caption, f"Bars; the largest beside W_diff is that of {best['name']}.")


def _pictures(values: dict[str, Any]) -> dict[str, tuple[list[str], str]]:
    """Row labels and words of each picture file."""
    most = values["conventions"]["counts"][-1]
    shown = [f"t = {row['timestep']}" for row in values["figure_3"] if "error" not in row]
    return {
        "f2_averages": (
            ["noise", "sample"],
            "Averages over 1, 10, 100, ... noises that share their low frequencies, and over the images made from "
            "them, each at its own contrast.",
        ),
        "f2_cross_correlation": (
            [],
            "Correlation over samples of noise values (rows) with image values (columns), the first 256 of each; "
            "grey is 0.",
        ),
        "f3_fixed_points": (["image", *shown], f"P2's iteration at several timesteps, {most} times."),
        "f4_zca": (
            ["image", "fixed point", "ZCA", f"Gaussian, {most}", "Gaussian, limit"],
            f"Images, P2's fixed point after {most} iterations, the ZCA-whitened image, and what the same iteration "
            f"and its limit are for the Gaussian denoiser.",
        ),
        "f5_whitened_covariance": (
            [],
            "Covariance of W_diff x, its first 256 values, scaled to a mean variance of 1, and its difference from "
            "the identity; grey is 0.",
        ),
    }


def _slopes(index: int, name: str, values: dict[str, Any], alone: bool, how: str) -> Figure:
    panels = {}
    for title, key, count in (
        ("first-step map", "first_step", "iterations"),
        ("full map: DDIM inversion", "full_map", "num_steps"),
    ):
        rows = values[key]
        who = {"Gaussian denoiser": "gaussian"} if alone else {"network": "model", "Gaussian denoiser": "gaussian"}
        panels[title] = {
            label: Curve([row[count] for row in rows], *_series(rows, part)) for label, part in who.items()
        }
    caption = (
        f"{name}. Above: slope of log gain against log eigenvalue (dashed: -1/2 is ZCA whitening, -1 the limit for "
        f"Gaussian data), left out for the network where the gains of less than half of the directions are 3 standard "
        f"errors above zero: noises unrelated to the images have about -1/2 too. Below: R² of the noises against the "
        f"ZCA-whitened image with the best scale. {how}"
    )
    return Figure(f"p2_slopes_{index}", draw_slopes(panels), caption, f"Curves of slope and R². {values['in_words']}")


def _series(rows: list[dict[str, Any]], part: str) -> tuple[list[float | None], list[float | None]]:
    """Slopes, where the gains behind them are known, and R² of ZCA.

    The Gaussian's gains are known always; its directions weigh as the network's where these are known, else alike.
    """
    known = [row["model"]["significant_share"] >= _TRUSTED_SHARE for row in rows]
    other = [row[part]["slope_unweighted"] if part == "gaussian" else None for row in rows]
    slopes = [row[part]["slope"] if k else o for row, k, o in zip(rows, known, other, strict=True)]
    return slopes, [row[part]["zca_r2_scaled"] for row in rows]


def _how(conventions: dict[str, Any]) -> str:
    told = {
        "covariance of": f"{conventions['num_images']} images",
        "noises of": f"{conventions['num_fixed_points']} images",
        "timestep": f"{conventions['timestep']} of {conventions['num_train_timesteps']}",
        "alpha_bar": f"{conventions['alpha_bar']:.3g}",
        "start": str(conventions["start"]),
        "tolerance": f"{conventions['tolerance']:g}",
        "ridge": f"{conventions['ridge']:g}",
        "schedule": str(conventions["schedule"]),
        "weights": str(conventions["weights"]),
        "step": str(conventions["step"]),
    }
    return "Computed with " + ", ".join(f"{key} {value}" for key, value in told.items()) + "."


def _transforms(index: int, name: str, values: dict[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in values["transforms"]:
        published: tuple[Cell, Cell] = FIRST_STEP_DISTANCES.get(row["name"], (None, None))
        cells = (row.get(key) for key in ("mse", "r2", "r2_scaled", "cosine", "spectral", "frobenius"))
        rows.append((_NAMES.get(row["name"], row["name"]), *cells, *published))
    header = ("W", "MSE", "R²", "R², best scale", "cosine to W_diff", "2-norm of W - W_diff", "Frobenius norm",
              "published 2-norm (P2)", "published Frobenius (P2)")  # fmt: skip
    adjusted = values["transforms"][0]["r2_adjusted"]
    fitted = "" if adjusted is None else f" R² of W_diff is {adjusted:.3f} with its degrees of freedom taken off."
    caption = f"Fixed points against W x, and W against W_diff, {name}; P2's own are of ImageNet.{fitted}"
    return Table(f"p2_transforms_{index}", caption, header, tuple(rows))


def _relation(index: int, name: str, values: dict[str, Any]) -> Table:
    found = values["relation"]
    rows: tuple[tuple[Cell, ...], ...] = (
        ("mean L2 distance", found["paired_l2"], found["random_l2"]),
        ("Pearson correlation", found["paired_pearson"], found["random_pearson"]),
        ("correlation of a value with its own / any other", found["diagonal_correlation"], found["off_diagonal_rms"]),
        ("own value has the largest correlation (share)", found["diagonal_largest_share"],
         found["diagonal_largest_share_null"]),
        *((f"shared low frequencies, mean of {row['num_images']:.0f} samples", row["pearson"], None)
          for row in found["averages"]),
    )  # fmt: skip
    caption = f"Noises and the samples made from them, N = {found['num_samples']:.0f}, {name}."
    return Table(f"p2_relation_{index}", caption, ("", "paired", "random or null"), rows)


def _over_training(comparison: Comparison) -> Figure | None:
    told = [
        (
            "share of directions that follow",
            own(_PROBE, "significant_share"),
            own(_PROBE, "significant_share_gaussian"),
        ),
        ("slope", own(_PROBE, "slope"), own(_PROBE, "slope_gaussian")),
        ("R² of ZCA", own(_PROBE, "zca_r2_scaled"), own(_PROBE, "zca_r2_scaled_gaussian")),
    ]
    panels = [panel(comparison, title, "value", select, baseline=gaussian) for title, select, gaussian in told]
    panels = [one for one in panels if one.has_curves]
    if not panels:
        return None
    what = (
        "The first-step map against the training step. Known directions: the share whose gain is 3 standard errors "
        "above zero; where it is small, the slope says nothing."
    )
    caption = joined([what, how_computed(comparison, _PROBE)])
    alt = in_words(comparison, [(title, select) for title, select, _ in told])
    return Figure("p2_over_training", draw(panels), caption, f"Curves against training step: {alt}.")
