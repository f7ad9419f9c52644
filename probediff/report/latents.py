"""What the latents are like: correlated pixels, normality, interpolation, other inversions.

T1 is table 1 of P1, *There and Back Again*.
"""

from typing import Any

from probediff.report.groups import Comparison, Group, combine
from probediff.report.measured import last_table, newest_pictures, over_training, probe_section
from probediff.report.panels import Quantity
from probediff.report.parts import Section, how_computed, missing_from
from probediff.report.published import published_estimate, published_for, published_note
from probediff.report.records import Measured, stored_error
from probediff.report.sources import Run, read_json
from probediff.report.tables import Cell, Table, tell_spread
from probediff.runs.conditions import CONDITIONS
from probediff.runs.folder import INVERSION_METHODS
from probediff.runs.record import STANDARD_ERRORS

_CORRELATION = "pixel_correlation"
_WHERE = ("noise", "latent", "sample")
#: Probes with a section of all their values, and what it says first.
MEASURED = {
    "latent_normality": (
        "Every statistic beside what white noise of the same size gives. `plain_area_*` compares the inversion error "
        "inside and outside the flat areas of the samples (P1, figure 1)."
    ),
    "noise_image_map": (
        "How near the pairing of noises and samples is to the optimal transport between the two sets, and how unevenly "
        "nearest neighbours are spread (hubness); the nulls are those of random pairs."
    ),
    "latent_interpolation": (
        "Spherical interpolation between pairs of noises, and between the latents of the same samples."
    ),
    "sample_quality": (
        "FID and KID of the samples against real images in the features of the named networks; the nulls are those of "
        "equally many other real images. Such numbers compare only at equal numbers of samples and equal features."
    ),
}


def correlation(comparison: Comparison) -> Section:
    """The largest correlations between pixels (T1)."""
    title, missing = "Correlated pixels (T1)", missing_from(comparison, _CORRELATION)
    if not comparison.keys(_CORRELATION):
        return Section("correlation", title, missing=missing)
    published, is_same = published_for(comparison.data)
    levels = published.correlation if is_same else {}
    quantities = [
        Quantity(_CORRELATION, where, where, "mean of the largest |r|", published=levels.get(where, (None,))[0])
        for where in _WHERE
    ]
    caption = "Top-10 correlation against the training step. Dashed: the null."
    figures = over_training(comparison, "t1_correlation_over_training", quantities, caption)
    text = (
        "Mean of the k largest absolute Pearson correlations between pixels, over the N samples. The value depends on "
        "N and on the number of pixels, so compare it with the null: what white noise of the same size gives. "
        + published_note(comparison.data)
        + ("" if figures else f" {how_computed(comparison, _CORRELATION)}")
    )
    rows: list[tuple[str, str, int, Cell]] = []
    for where in (*_WHERE, "null"):
        value = published.correlation.get(where)
        rows.append((where, where, 3, published_estimate(value, 3) if value else None))
    rows.append(("k", "k", 0, "10"))
    caption = "Mean of the k largest absolute correlations at the last step"
    header = [f"published, {published.data}"]
    table = last_table(comparison, _CORRELATION, "t1_correlation", caption, rows, header)
    return Section("correlation", title, (text,), figures, (table,), missing)


def normality(comparison: Comparison) -> Section:
    """Statistics and tests of the latents, beside those of white noise."""
    return probe_section(comparison, "latent_normality", MEASURED["latent_normality"])


def noise_image_map(comparison: Comparison) -> Section:
    """The map from noise to image beside optimal transport."""
    return probe_section(comparison, "noise_image_map", MEASURED["noise_image_map"])


def interpolation(comparison: Comparison) -> Section:
    """Images between noises and between latents."""
    probe = "latent_interpolation"
    pictures = newest_pictures(
        comparison,
        f"{probe}.paths",
        probe,
        ". Two rows a pair: images on the way between two noises, and below them between the latents of the same two "
        "samples.",
        "Rows of images of {} between the images of pairs of noises and of pairs of latents.",
    )
    return probe_section(comparison, probe, MEASURED[probe], pictures)


def quality(comparison: Comparison) -> Section:
    """FID and KID."""
    return probe_section(comparison, "sample_quality", MEASURED["sample_quality"])


def inversion_methods(comparison: Comparison) -> Section:
    """Other ways to invert, side by side."""
    name, title = "inversion-methods", "Inversion methods side by side"
    tables = []
    for index, group in enumerate(comparison.groups, start=1):
        by_run = [rows for run in group.runs if (rows := _method_rows(run))]
        if by_run:
            tables.append(_methods_table(index, group, by_run))
    if not tables:
        return Section(name, title, missing=(f"No run has a file {INVERSION_METHODS} below its probes folder.",))
    text = (
        "The same samples inverted by every method. Reconstruction is sampling again from the latent; evaluations are "
        "passes of the network for one image."
    )
    return Section(name, title, (text,), (), tuple(tables))


def _method_rows(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    paths = run.analyses(INVERSION_METHODS)
    for path in paths:
        where = [run.exact_folder(path), path.parent.name] if len(paths) > 1 else []
        for row in read_json(path, list) or []:
            if isinstance(row, dict):
                name = str(row.get("name", row.get("method", "unnamed")))
                rows.append({**row, "name": " ".join(filter(None, [name, *where]))})
    return rows


def _methods_table(index: int, group: Group, by_run: list[list[dict[str, Any]]]) -> Table:
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in (row for rows in by_run for row in rows):
        by_method.setdefault(row["name"], []).append(row)
    every = dict.fromkeys(key for rows in by_run for row in rows for key in row if _is_shown(key))
    cells = [(method, *(_method_cell(key, rows) for key in every)) for method, rows in by_method.items()]
    header = ("method", *(key.replace("_", " ") for key in every))
    caption = f"Inversion methods, {group.label}; {tell_spread(cells, 'fresh images')}."
    return Table(f"inversion_methods_{index}", caption, header, tuple(cells))


def _is_shown(key: str) -> bool:
    """Whether a key of a row is a column: not what stands in front, nor digests, nor where it was computed."""
    hidden = ("name", "method", "options", "decoding", STANDARD_ERRORS, *CONDITIONS)
    return key not in hidden and not key.endswith("_sha256")


def _method_cell(key: str, rows: list[dict[str, Any]]) -> Cell:
    every = [(row.get(key), stored_error(row, key)) for row in rows]
    numbers = [Measured(float(v), e) for v, e in every if isinstance(v, int | float) and not isinstance(v, bool)]
    if numbers:
        return combine(numbers)
    texts = dict.fromkeys(str(value) for value, _ in every if value is not None)
    return ", ".join(texts) or None
