"""Is the first step of a diffusion model a de-whitening? Figures 2 to 5 and the table of P2, and slopes.

P2 is *First-step inference in diffusion models learns image de-whitening*.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from probediff.report.analyses import Analysis, find_analyses
from probediff.report.drawings import draw_picture, read_picture
from probediff.report.groups import Comparison, Estimate
from probediff.report.measured import over_training
from probediff.report.panels import Quantity
from probediff.report.parts import Figure, Section, missing_from
from probediff.report.published import FIRST_STEP_DISTANCES
from probediff.report.records import stored_error
from probediff.report.spectra import Curve, draw_fit, draw_slopes
from probediff.report.tables import Cell, Table
from probediff.runs.by_step import read_arrays
from probediff.runs.folder import WHITENING, WHITENING_ARRAYS

_PROBE = "whitening"
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


#: Key of the rows, key of their count, and words.
_MAPS = (
    ("first_step", "iterations", "first-step map", "iterations"),
    ("full_map", "num_steps", "full map: DDIM inversion", "DDIM steps"),
)
_OVER_TRAINING = (
    Quantity(_PROBE, "significant_share", "share of directions that follow"),
    Quantity(_PROBE, "slope", "slope"),
    Quantity(_PROBE, "zca_r2", "R² of ZCA"),
    Quantity(_PROBE, "noise_rms", "rms of the noises"),
    Quantity(_PROBE, "zca_r2_scaled", "R² of ZCA, best scale"),
)


def whitening(comparison: Comparison) -> Section:
    """Everything that ``probediff whitening`` and the probe of that name measured."""
    figures: list[Figure] = []
    tables: list[Table] = []
    missing: list[str] = []
    words: list[str] = []
    analysed = set()
    for index, analysis in enumerate(find_analyses(comparison), start=1):
        analysed.add(analysis.run.name)
        try:
            words.append(f"{analysis.name}: {analysis.values['in_words']}")
            figures += _figures(index, analysis)
            tables += [_curves(index, analysis), _transforms(index, analysis), _relation(index, analysis)]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            file = analysis.folder / WHITENING
            missing.append(f"{analysis.name}: {file} is of another version, or damaged ({error}); make it anew.")
    if without := [run.name for run in comparison.runs if run.name not in analysed]:
        missing.append(f"No analysis of `probediff whitening` in {', '.join(without[:3])}.")
    text = (
        "The first-step map against the training step. Known directions: the share whose gain is 3 standard errors "
        "above zero; where it is small, the slope says nothing."
    )
    curves = over_training(comparison, "p2_over_training", _OVER_TRAINING, text)
    missing += [] if curves else missing_from(comparison, _PROBE)
    figures += curves
    shown = (_WHAT, *words) if figures else ()
    return Section("whitening", "De-whitening (P2)", shown, tuple(figures), tuple(tables), tuple(missing))


def _figures(index: int, analysis: Analysis) -> Iterator[Figure]:
    name, folder, values = analysis.name, analysis.folder, analysis.values
    how = _how(values["conventions"])
    yield _slopes(index, analysis)
    for stem, (labels, text) in _pictures(values).items():
        pixels = read_picture(folder / f"{stem}.png")
        if pixels is not None:
            caption = f"{name}. {text} {how}"
            yield Figure(f"p2_{stem}_{index}", draw_picture(pixels, labels), caption, f"Picture: {caption}", True)
    residuals = read_arrays(folder / WHITENING_ARRAYS)
    fit = draw_fit({_NAMES.get(row["name"], row["name"]): row["r2_scaled"] for row in values["transforms"]}, residuals)
    text = (
        "Left: R² of the noises against W x with the best scale (the table has R² as P2 has it, without a scale). "
        "Right: distribution of the residual of W_diff."
    )
    best = max(values["transforms"][1:], key=lambda row: float(row["r2_scaled"]))
    alt = f"Bars; the largest beside W_diff is that of {best['name']}."
    yield Figure(f"p2_f5_fit_{index}", fit, f"{name}. {text} {how}", alt)


def _pictures(values: dict[str, Any]) -> dict[str, tuple[list[str], str]]:
    """Row labels and words of each picture file."""
    most = values["conventions"]["counts"][-1]
    shown = [f"t = {row['timestep']}" for row in values["figure_3"] if "error" not in row]
    return {
        "f2_averages": (
            ["noise", "sample"],
            "Averages over 1, 10, 100, ... noises that share their low frequencies, and over the images made from "
            "them, each at its own contrast. P2's figure 2 is of SDXL-Turbo.",
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


def _slopes(index: int, analysis: Analysis) -> Figure:
    values = analysis.values
    models = {"network": "model", "Gaussian denoiser": "gaussian"}
    if values["conventions"]["denoiser"] == "gaussian":
        del models["network"]
    maps = {title: (key, count) for key, count, title, _ in _MAPS}
    panels = {
        title: {label: _curve(values[key], count, part) for label, part in models.items()}
        for title, (key, count) in maps.items()
    }
    family = {
        title: {label: _curve(other[key], count, "model") for label, other in analysis.exact.items()}
        for title, (key, count) in maps.items()
    }
    caption = (
        f"{analysis.name}. Above: slope of log gain against log eigenvalue (dashed: -1/2 is ZCA whitening, -1 the "
        f"limit for Gaussian data), left out for the network where the gains of less than half of the directions are 3 "
        f"standard errors above zero: noises unrelated to the images have about -1/2 too. Below: R² of the noises "
        f"against the ZCA-whitened image with the best scale; without a scale, dotted, where it is not negative. Which "
        f"counts a slope, an unscaled R² and the noises' rms belong to is in the table. "
        + ("Thin, with a light band: exact denoisers, analysed alike. " if analysis.exact else "")
        + _how(values["conventions"])
    )
    alt = f"Curves of slope and R². {values['in_words']}"
    return Figure(f"p2_slopes_{index}", draw_slopes(panels, family), caption, alt)


def _curve(rows: list[dict[str, Any]], count: str, part: str) -> Curve:
    return Curve([row[count] for row in rows], *_series(rows, part))


def _series(rows: list[dict[str, Any]], part: str) -> tuple[list[float | None], list[float | None], list[float | None]]:
    """Slopes, where the gains behind them are known, and R² of ZCA with the best scale and without one.

    The Gaussian's gains are known always; its directions weigh as the network's where these are known, else alike.
    """
    known = [row["model"]["significant_share"] >= _TRUSTED_SHARE for row in rows]
    other = [row[part]["slope_unweighted"] if part == "gaussian" else None for row in rows]
    slopes = [row[part]["slope"] if k else o for row, k, o in zip(rows, known, other, strict=True)]
    return slopes, [row[part]["zca_r2_scaled"] for row in rows], [row[part]["zca_r2"] for row in rows]


def _curves(index: int, analysis: Analysis) -> Table:
    """Beside every slope what it hides: R² without a scale, and the size of the noises."""
    columns = {"slope": "slope", "zca_r2": "R² of ZCA", "noise_rms": "noise rms", "zca_r2_scaled": "R², best scale"}
    values, exact = analysis.values, analysis.exact
    parts = {"model": "model", "gaussian": "Gaussian denoiser"}
    if values["conventions"]["denoiser"] == "gaussian":
        del parts["model"]
    rows: list[tuple[Cell, ...]] = []
    for key_of_rows, count, _, words in _MAPS:
        for row, *others in zip(values[key_of_rows], *(other[key_of_rows] for other in exact.values()), strict=True):
            shown = [*(row[part] for part in parts), *(other["model"] for other in others)]
            rows.append((f"{row[count]} {words}", *(_number(numbers, key) for numbers in shown for key in columns)))
    who = [*parts.values(), *(f"exact, {label}" for label in exact)]
    header = ("", *(f"{name}: {column}" for name in who for column in columns.values()))
    caption = (
        f"First-step map after so many iterations, and the full map, {analysis.name}. A slope of -1/2 with a high R² "
        f"of ZCA and a noise rms of 1 together would be P2's claim.{_tell_errors(rows, 'images')}"
    )
    return Table(f"p2_slopes_{index}", caption, header, tuple(rows))


def _number(numbers: dict[str, Any], key: str) -> Cell:
    """One of the numbers, with its standard error where it has one."""
    value, error = numbers[key], stored_error(numbers, key)
    return value if value is None or error is None else Estimate(float(value), error=error)


def _tell_errors(rows: Iterable[Sequence[Cell]], over: str) -> str:
    """What ± means in the cells, as the sentence that ends a caption; empty where none has a standard error."""
    has_errors = any(isinstance(cell, Estimate) for row in rows for cell in row)
    return f" ± is the standard error over fresh {over}, as many as were analysed." if has_errors else ""


def _how(conventions: dict[str, Any]) -> str:
    parts = {
        "covariance of": f"{conventions['num_images']} images",
        "noises of": f"{conventions['num_fixed_points']} images",
        "timestep": f"{conventions['timestep']} of {conventions['num_train_timesteps']}",
        "alpha_bar": f"{conventions['alpha_bar']:.3g}",
        "start": conventions["start"],
        "tolerance": f"{conventions['tolerance']:g}",
        "ridge": f"{conventions['ridge']:g}",
        **{key: conventions[key] for key in ("schedule", "weights", "step")},
    }
    return "Computed with " + ", ".join(f"{key} {value}" for key, value in parts.items()) + "."


def _transforms(index: int, analysis: Analysis) -> Table:
    values = analysis.values
    rows: list[tuple[Cell, ...]] = []
    for row in values["transforms"]:
        published: tuple[Cell, Cell] = FIRST_STEP_DISTANCES.get(row["name"], (None, None))
        cells = (
            _number(row, key) if key in row else None
            for key in ("mse", "r2", "r2_scaled", "cosine", "spectral", "frobenius")
        )
        rows.append((_NAMES.get(row["name"], row["name"]), *cells, *published))
    header = ("W", "MSE", "R²", "R², best scale", "cosine to W_diff", "2-norm of W - W_diff", "Frobenius norm",
              "published 2-norm (P2)", "published Frobenius (P2)")  # fmt: skip
    adjusted = values["transforms"][0]["r2_adjusted"]
    fitted = "" if adjusted is None else f" R² of W_diff is {adjusted:.3f} with its degrees of freedom taken off."
    caption = (
        f"Fixed points against W x, and W against W_diff, {analysis.name}. P2's own norms are of ImageNet; norms scale "
        f"with the range of the pixels, with D and with N, so that only their order can be compared.{fitted}"
        f"{_tell_errors(rows, 'images')}"
    )
    return Table(f"p2_transforms_{index}", caption, header, tuple(rows))


def _relation(index: int, analysis: Analysis) -> Table:
    values, exact = analysis.values, analysis.exact
    columns = [_relation_rows(analysed["relation"]) for analysed in (values, *exact.values())]
    rows = tuple((*own, *(other[1] for other in others)) for own, *others in zip(*columns, strict=True))
    caption = f"Noises and the samples made from them, N = {values['relation']['num_samples']:.0f}, {analysis.name}."
    caption += _tell_errors(rows, "noises")
    header = ("", "paired", "random or null", *(f"paired, exact, {label}" for label in exact))
    return Table(f"p2_relation_{index}", caption, header, rows)


def _relation_rows(relation: dict[str, Any]) -> tuple[tuple[Cell, ...], ...]:
    def of(*keys: str) -> Iterator[Cell]:
        return (_number(relation, key) for key in keys)

    return (
        ("mean L2 distance", *of("paired_l2", "random_l2")),
        ("Pearson correlation", *of("paired_pearson", "random_pearson")),
        ("correlation of a value with its own / any other", *of("diagonal_correlation", "off_diagonal_rms")),
        ("own value has the largest correlation (share)", *of("diagonal_largest_share", "diagonal_largest_share_null")),
        *((f"shared low frequencies, mean of {row['num_images']:.0f} samples", row["pearson"], None)
          for row in relation["averages"]),
    )  # fmt: skip
