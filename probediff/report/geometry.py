"""Where the latent lies: pictures, triangle, distances along the trajectory, over training (P1-F1 to F4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from probediff.report.curves import draw, in_words, panel
from probediff.report.drawings import draw_heat_maps, draw_picture, draw_triangles, read_picture
from probediff.report.groups import Comparison, Group, Select, last_estimate, of_kind, own
from probediff.report.measured import value_keys
from probediff.report.parts import Figure, Section, how_computed, joined, missing_from
from probediff.report.published import ANGLES, PASSES_LATENT
from probediff.report.sources import Run, step_of
from probediff.report.tables import Cell, Table

_ANGLES = "inversion_angles"
_VERTICES = (("noise", "noise"), ("image", "sample"), ("latent", "latent"))
_SIDES = (("noise_image", "noise-sample"), ("image_latent", "sample-latent"), ("noise_latent", "noise-latent"))
_PASSED = "closest_to_latent_step_fraction"
_CLOSEST = {
    _PASSED: "nearest to the latent after this share of steps",
    "closest_to_latent_distance": "mean distance to the latent there (L2)",
    "noise_latent_distance": "mean distance of noise and latent (L2), the null of that",
    "closest_step_fraction": "nearest to the line, in proportion to the distance from the noise: share of steps",
    "closest_lambda": "nearest to the line, in proportion to the distance from the noise: λ",
    "latent_nearest_from_step_fraction": "the latent is the nearest point of the line from this share on",
}
_MOST_PICTURES = 4


def pictures(comparison: Comparison) -> Section:
    """P1-F1: samples, latents and latent minus noise."""
    figures, missing = [], []
    for index, group, run in first_runs(comparison):
        found = run.own.newest_picture(f"{_ANGLES}.latents.png")
        pixels = read_picture(found[1]) if found else None
        if found is None or pixels is None:
            missing.append(f"{run.name} has no picture of latents.")
            continue
        caption = (
            f"{run.name}, step {found[0]}. Rows: samples in [-1, 1]; latents, grey at 0, shown from -3 to 3; latent "
            f"minus noise, from -2 to 2."
        )
        alt = f"Three rows of images of {group.label}: samples, their latents, and latents minus noise."
        drawing = draw_picture(pixels, ["sample", "latent", "latent - noise"])
        figures.append(Figure(f"f1_pictures_{index}", drawing, caption, alt, is_picture=True))
    text = joined(
        [
            "Latents made by inverting the model's own samples, beside the samples. Structure of the images in the "
            "latents, or in latent minus noise, is inversion error; P1 finds it largest in flat areas (figure 1).",
            how_computed(comparison, _ANGLES) if figures else "",
        ]
    )
    return Section(
        "pictures", "Samples, latents and latent minus noise (F1)", (text,), tuple(figures), (), tuple(missing)
    )


def first_runs(comparison: Comparison) -> Iterator[tuple[int, Group, Run]]:
    """The first run of each of the first groups, whose pictures are shown; index from 1."""
    for index, group in enumerate(comparison.groups[:_MOST_PICTURES], start=1):
        yield index, group, group.runs[0]


def triangle(comparison: Comparison) -> Section:
    """P1-F2: the triangle to scale and its angles."""
    missing = missing_from(comparison, _ANGLES)
    drawn = {}
    for title, kind, group in _columns(comparison):
        likely = [last_estimate(group, of_kind(kind, _ANGLES, f"at_{v}_most_probable_deg")) for v, _ in _VERTICES]
        at_noise, at_sample, at_latent = likely
        if at_noise and at_sample and at_latent:
            drawn[title] = (at_noise.mean, at_sample.mean, at_latent.mean)
    if not drawn:
        return Section("triangle", "The noise-sample-latent triangle (F2)", missing=missing)
    words = "; ".join(
        f"{title}: {angles[0]:.1f} degrees at the noise, {angles[1]:.1f} at the sample, {angles[2]:.1f} at the latent"
        for title, angles in drawn.items()
    )
    caption = joined(
        [
            "Triangles at the most probable angles, drawn to scale, at the last step; means over runs where there are "
            "several. P1 reports an acute angle at the sample and an obtuse one at the latent.",
            how_computed(comparison, _ANGLES),
        ]
    )
    figure = Figure("f2_triangle", draw_triangles(drawn), caption, f"Triangles. {words}.")
    return Section(
        "triangle", "The noise-sample-latent triangle (F2)", (), (figure,), (_angles_table(comparison),), missing
    )


def _columns(comparison: Comparison) -> list[tuple[str, str, Group]]:
    """Title, kind and group of each column: every group, and its Gaussian denoiser where it was probed."""
    columns = [(group.label, "own", group) for group in comparison.groups]
    for group in comparison.groups:
        if any(run.of_kind("gaussian") for run in group.runs):
            label = f", {group.label}" if len(comparison.groups) > 1 else ""
            columns.append((f"Gaussian denoiser{label}", "gaussian", group))
    return columns


def _angles_table(comparison: Comparison) -> Table:
    columns = _columns(comparison)
    rows: list[tuple[Cell, ...]] = []

    def add(name: str, key: str, digits: int, published: str | None = None) -> None:
        cells = [last_estimate(group, of_kind(kind, _ANGLES, key), digits) for _, kind, group in columns]
        rows.append((name, *cells, published))

    for vertex, word in _VERTICES:
        add(f"angle at the {word}, mean [°]", f"at_{vertex}_mean_deg", 1, ANGLES[vertex])
        add(f"angle at the {word}, spread over samples [°]", f"at_{vertex}_std_deg", 1)
        add(f"angle at the {word}, most probable [°]", f"at_{vertex}_most_probable_deg", 1)
    for side, word in _SIDES:
        add(f"distance {word}, mean (L2)", f"distance_{side}_mean", 2)
    add("latent, mean over all values", "latent_mean", 4)
    add("latent, std over all values (noise: 1)", "latent_std", 4)
    header = ("", *(title for title, _, _ in columns), "published, all models (in words)")
    caption = "Angles and sides of the triangle at the last step; mean ± std over runs (number of runs)."
    return Table("f2_angles", caption, header, tuple(rows))


def heat_map(comparison: Comparison) -> Section:
    """P1-F3: how close the sampling trajectory comes to the way from noise to latent."""
    probe, name, title = "trajectory_heatmap", "trajectory", "Distance of the trajectory to the noise-latent line (F3)"
    maps, said = {}, list(missing_from(comparison, probe))
    for group in comparison.groups:
        found = [arrays for run in group.runs if (arrays := _heat_map_arrays(run)) is not None]
        alike = [arrays for arrays in found if all(a.shape == b.shape for a, b in zip(arrays, found[0], strict=True))]
        if not alike:
            if any(run.own.values(probe) for run in group.runs):
                said.append(f"{group.label} has no stored heat map.")
            continue
        mean = np.mean([distance for distance, _, _ in alike], axis=0)
        maps[group.label + (f", mean of {len(alike)} runs" if len(alike) > 1 else "")] = (mean, *alike[0][1:])
    columns = [(group.label, group) for group in comparison.groups]
    rows: list[tuple[Cell, ...]] = []
    for key in value_keys(comparison, probe):
        cells = [last_estimate(group, own(probe, key), 3) for _, group in columns]
        rows.append((_CLOSEST.get(key, key), *cells, PASSES_LATENT if key == _PASSED else None))
    header = ("", *(label for label, _ in columns), "published, all models")
    caption = "Where the trajectory comes closest, at the last step; mean ± std over runs (number of runs)."
    tables = (Table("f3_closest", caption, header, tuple(rows)),) if rows else ()
    figures: tuple[Figure, ...] = ()
    if maps:
        words = joined(
            [
                "Mean L2 distance between x_t on the sampling trajectory and (1 - λ) noise + λ latent; light is close. "
                "P1 finds that x_t passes the latent after 50 to 70 % of the steps.",
                how_computed(comparison, probe),
            ]
        )
        alt = "Heat maps over share of sampling steps and lambda. " + "; ".join(
            _closest(k, *v) for k, v in maps.items()
        )
        figures = (Figure("f3_heat_map", draw_heat_maps(maps), words, alt),)
    return Section(name, title, (), figures, tables, tuple(said))


def _closest(title: str, distance: np.ndarray, share: np.ndarray, lambdas: np.ndarray) -> str:
    at_latent = distance[:, int(np.abs(lambdas - 1).argmin())]
    return f"{title}: closest to the latent after a share of {share[int(at_latent.argmin())]:.2f} of the steps"


def _heat_map_arrays(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    paths = sorted(run.own.path.glob("samples/step=*.trajectory_heatmap.safetensors"), key=step_of)
    return _load_heat_map(paths[-1]) if paths else None


def _load_heat_map(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    try:
        arrays = load_file(path)
        distance, share, lambdas = (np.asarray(arrays[k]) for k in ("mean_distance", "step_fraction", "lambdas"))
    except (OSError, KeyError, SafetensorError):
        return None
    fits = distance.shape == (len(share), len(lambdas)) and distance.size > 0
    return (distance, share, lambdas) if fits else None


def over_training(comparison: Comparison) -> Section:
    """P1-F4: angles and distances against the training step."""
    figures = []
    for kind, name, what in (
        ("final_samples", "f4_final_samples", "Samples of the final model, inverted by every checkpoint, as in P1."),
        ("own", "f4_own_samples", "Each checkpoint's own samples, inverted by itself."),
    ):
        figure = _angles_over_training(comparison, kind, name, what)
        figures += [figure] if figure else []
    missing = missing_from(comparison, _ANGLES, "final_samples") + missing_from(comparison, _ANGLES)
    text = "P1 finds that the angle at the sample and the distance between sample and noise settle early (figure 4)."
    return Section("over-training", "Angles and distances over training (F4)", (text,), tuple(figures), (), missing)


def _angles_over_training(comparison: Comparison, kind: str, name: str, what: str) -> Figure | None:
    told: list[tuple[str, str, Select, Select]] = []
    for vertex, word in _VERTICES:
        key = f"at_{vertex}_mean_deg"
        told.append((f"angle at the {word}", "degrees", of_kind(kind, _ANGLES, key), of_kind("gaussian", _ANGLES, key)))
    for side, word in _SIDES:
        key = f"distance_{side}_mean"
        told.append((f"distance {word}", "mean L2", of_kind(kind, _ANGLES, key), of_kind("gaussian", _ANGLES, key)))
    panels = [panel(comparison, title, unit, select, baseline=gaussian) for title, unit, select, gaussian in told]
    panels = [one for one in panels if one.has_curves]
    if not panels:
        return None
    alt = in_words(comparison, [(title, select) for title, _, select, _ in told])
    caption = joined([what, "Means over samples.", how_computed(comparison, _ANGLES, kind)])
    return Figure(name, draw(panels), caption, f"Curves against training step: {alt}.")
