"""What the latents are like: correlated pixels, normality, interpolation, other inversions (P1-T1 and beyond)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from probediff.report.curves import draw, in_words, panel
from probediff.report.drawings import draw_picture, read_picture
from probediff.report.geometry import first_runs
from probediff.report.groups import Comparison, Estimate, Group, estimate, last_estimate, of_kind, own
from probediff.report.mapping import published_note
from probediff.report.measured import by_step, curves, last_table
from probediff.report.parts import Figure, Section, how_computed, joined, missing_from
from probediff.report.published import published_for
from probediff.report.sources import Run
from probediff.report.tables import Cell, Table

_CORRELATION = "pixel_correlation"
_WHAT = ("noise", "latent", "sample")


def correlation(comparison: Comparison) -> Section:
    """P1-T1: the largest correlations between pixels."""
    published, is_same = published_for(comparison.data)
    missing = missing_from(comparison, _CORRELATION)
    told = [(what, own(_CORRELATION, what)) for what in _WHAT]
    has_any = any(run.own.values(_CORRELATION) for run in comparison.runs)
    if not has_any:
        return Section("correlation", "Correlated pixels (T1)", missing=missing)
    panels = [
        panel(
            comparison,
            what,
            "mean of the largest |r|",
            select,
            own(_CORRELATION, "null"),
            of_kind("gaussian", _CORRELATION, what),
            published.correlation.get(what, (None,))[0] if is_same else None,
        )
        for what, select in told
    ]
    figures: tuple[Figure, ...] = ()
    if any(one.has_curves for one in panels):
        caption = joined(
            ["Top-10 correlation against the training step. Dashed: the null.", how_computed(comparison, _CORRELATION)]
        )
        alt = f"Curves against training step: {in_words(comparison, told)}."
        figures = (Figure("t1_correlation_over_training", draw(panels), caption, alt),)
    text = joined(
        [
            "Mean of the k largest absolute Pearson correlations between pixels, over the N samples. The value depends "
            "on N and on the number of pixels, so compare it with the null: what white noise of the same size gives.",
            published_note(published.data, is_same, comparison.data),
            "" if figures else how_computed(comparison, _CORRELATION),
        ]
    )
    table = _correlation_table(comparison)
    return Section("correlation", "Correlated pixels (T1)", (text,), figures, (table,), missing)


def _correlation_table(comparison: Comparison) -> Table:
    published, _ = published_for(comparison.data)
    gaussian = [g for g in comparison.groups if any(run.of_kind("gaussian") for run in g.runs)]
    rows: list[tuple[Cell, ...]] = []
    for what in (*_WHAT, "null", "k"):
        digits = 0 if what == "k" else 3
        cells = [last_estimate(group, own(_CORRELATION, what), digits) for group in comparison.groups]
        cells += [last_estimate(group, of_kind("gaussian", _CORRELATION, what), digits) for group in gaussian]
        value = published.correlation.get(what)
        given: Cell = Estimate(*value, n=None, digits=3) if value else ("10" if what == "k" else None)
        rows.append((what, *cells, given))
    several = len(comparison.groups) > 1
    header = (
        "",
        *(group.label for group in comparison.groups),
        *("Gaussian denoiser" + (f", {group.label}" if several else "") for group in gaussian),
        f"published, {published.data}",
    )
    caption = "Mean of the k largest absolute correlations at the last step; mean ± std over runs (number of runs)."
    return Table("t1_correlation", caption, header, tuple(rows))


def _measured(comparison: Comparison, probe: str, title: str, text: str, picture: str | None = None) -> Section:
    """A section with all values of one probe."""
    name = probe.replace("_", "-")
    last = last_table(comparison, probe, probe, f"Values of {probe} beside their nulls.")
    drawn = curves(comparison, probe, f"{probe}_over_training", f"Values of {probe} against the training step.")
    steps = by_step(comparison, probe, f"{probe}_by_step") if drawn else None
    figures = [drawn] if drawn else []
    figures += _pictures(comparison, probe, picture) if picture else []
    words = (joined([text, "" if drawn else how_computed(comparison, probe)]),) if last else ()
    tables, details = (last,) if last else (), (steps,) if steps else ()
    return Section(name, title, words, tuple(figures), tables, missing_from(comparison, probe), details)


def _pictures(comparison: Comparison, probe: str, name: str) -> Iterable[Figure]:
    for index, group, run in first_runs(comparison):
        found = run.own.newest_picture(f"{probe}.{name}.png")
        pixels = read_picture(found[1]) if found else None
        if found and pixels is not None:
            caption = (
                f"{run.name}, step {found[0]}. Two rows a pair: images on the way between two noises, and below them "
                f"between the latents of the same two samples."
            )
            alt = f"Rows of images of {group.label} between the images of pairs of noises and of pairs of latents."
            yield Figure(f"{probe}_{index}", draw_picture(pixels, []), caption, alt, is_picture=True)


def normality(comparison: Comparison) -> Section:
    """Statistics and tests of the latents, beside those of white noise."""
    text = (
        "Every statistic beside what white noise of the same size gives. `plain_area_*` compares the inversion error "
        "inside and outside the flat areas of the samples (P1, figure 1)."
    )
    return _measured(comparison, "latent_normality", "Normality of the latents", text)


def noise_image_map(comparison: Comparison) -> Section:
    """The map from noise to image beside optimal transport."""
    text = (
        "How near the pairing of noises and samples is to the optimal transport between the two sets, and how unevenly "
        "nearest neighbours are spread (hubness); the nulls are those of random pairs."
    )
    return _measured(comparison, "noise_image_map", "The noise-image map and optimal transport", text)


def interpolation(comparison: Comparison) -> Section:
    """Images between noises and between latents."""
    text = "Spherical interpolation between pairs of noises, and between the latents of the same samples."
    return _measured(comparison, "latent_interpolation", "Interpolation between latents", text, "paths")


def quality(comparison: Comparison) -> Section:
    """FID and KID."""
    text = (
        "FID and KID of the samples against real images in the features of the named networks; the nulls are those of "
        "equally many other real images. Such numbers compare only at equal numbers of samples and equal features."
    )
    return _measured(comparison, "sample_quality", "Sample quality", text)


def inversion_methods(comparison: Comparison) -> Section:
    """Other ways to invert, side by side."""
    name, title = "inversion-methods", "Inversion methods side by side"
    found = [(group, _method_rows(run)) for group in comparison.groups for run in group.runs]
    tables = []
    for index, group in enumerate(comparison.groups, start=1):
        runs = [rows for owner, rows in found if owner is group and rows]
        if runs:
            tables.append(_methods_table(index, group, runs))
    said = [] if tables else ["No run has a file inversion_methods.json below its probes folder."]
    text = (
        "The same samples inverted by every method. Reconstruction is sampling again from the latent; evaluations are "
        "passes of the network for one image.",
    )
    return Section(name, title, text if tables else (), (), tuple(tables), tuple(said))


def _method_rows(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    places = [*sorted((run.path / "probes").rglob("inversion_methods.json")), *run.path.glob("inversion_methods.json")]
    for path in places:
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        parsed = [row for row in loaded if isinstance(row, dict)] if isinstance(loaded, list) else []
        where = path.parent.name if len(places) > 1 else ""
        rows += [{**row, "name": f"{_method_name(row)} {where}".strip()} for row in parsed]
    return rows


def _method_name(row: dict[str, Any]) -> str:
    return str(row.get("name", row.get("method", "unnamed")))


def _methods_table(index: int, group: Group, runs: list[list[dict[str, Any]]]) -> Table:
    methods = list(dict.fromkeys(_method_name(row) for rows in runs for row in rows))
    every = dict.fromkeys(key for rows in runs for row in rows for key in row if key not in ("name", "method"))
    rows: list[tuple[Cell, ...]] = []
    for method in methods:
        same = [row for found in runs for row in found if _method_name(row) == method]
        rows.append((method, *(_method_cell([row.get(key) for row in same]) for key in every)))
    header = ("method", *(key.replace("_", " ") for key in every))
    caption = f"Inversion methods, {group.label}; mean ± std over runs (number of runs)."
    return Table(f"inversion_methods_{index}", caption, header, tuple(rows))


def _method_cell(values: list[Any]) -> Cell:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if numbers:
        return estimate(numbers)
    texts = dict.fromkeys(str(v) for v in values if v is not None)
    return ", ".join(texts) or None
