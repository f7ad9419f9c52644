"""The page of results on exact denoisers quotes the records that lie beside it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from probediff.report.published import EXPLAINED_VARIANCE
from probediff.runs.by_step import read_arrays
from tests.conftest import ROOT

RESULTS = ROOT / "docs" / "results"
PAGE = (RESULTS / "exact_denoisers.md").read_text()
SEEDS, STEPS = (0, 10, 42), (100, 400, 1500, 4000)
SIGMAS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40)
#: Folders of analytic denoisers below the runs, and how the page calls them.
ANALYTIC = {
    "exact-h=1": "h = 1, the Gaussian",
    "exact-h=0.4": "h = 0.4",
    "exact-h=0": "h = 0, `optimal`",
    "exact-nearest": "`nearest`",
    "exact-local,images=1000": "`local`, M = 1,000",
    "exact-pca_locality,images=500": "`pca_locality`, M = 500",
    "exact-equivariant,border=zeros,images=50": "`equivariant`, zeros, M = 50",
}
#: The first measurement of the family: h -> image to noise and back in per cent, T1, angles at image and latent, F3.
FIRST = {
    0.0: (12.2, 1.0, 0.964, 68, 89, 0.99),
    0.3: (94.2, 26.4, 0.578, 29, 120, 0.61),
    0.4: (98.3, 36.0, 0.540, 26, 121, 0.58),
    0.6: (100, 71.6, 0.520, 24, 122, 0.53),
    1.0: (100, 93.2, 0.466, 21, 123, 0.48),
}
ROUNDED_TO = (0.05, 0.05, 0.0005, 0.5, 0.5, 0.005)


def levels() -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """The tables of noise levels by step and seed."""
    folder = RESULTS / "exact_denoisers"
    names = {(step, seed): f"seed{seed}/num_steps=0001/samples/step={step:08d}" for step, seed in product(STEPS, SEEDS)}
    paths = {key: folder / f"{name}.denoiser_structure.safetensors" for key, name in names.items()}
    return {key: read_arrays(path) for key, path in paths.items() if path.is_file()}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def variance_table() -> str:
    """Means over seeds of what the Gaussian and the training set explain, between the published rows."""
    found, rows = levels(), []
    for what in ("score", "image"):
        for step in STEPS:
            of_step = [arrays for (number, _), arrays in found.items() if number == step]
            columns = [
                np.mean([arrays[f"levels_{what}_{by}"][: len(SIGMAS)] for arrays in of_step], axis=0)
                for by in ("gaussian", "training_set")
            ]
            cells = [f"{g:.3f} / {t:.3f}" for g, t in zip(*columns, strict=True)]
            rows.append([f"{what}, step {step:,}", *cells])
        for epoch, values in EXPLAINED_VARIANCE[what].items():
            pairs = [values[float(sigma)] for sigma in SIGMAS]
            rows.append([f"*{what}, published, {epoch}*", *(f"{g:.3f} / {t:.3f}" for g, t in pairs)])
    return table(["σ", *(f"{sigma:g}" for sigma in SIGMAS)], rows)


def bandwidth_table() -> str:
    """Smallest and largest nearest bandwidth over the seeds."""
    found, rows, count = levels(), [], len(SIGMAS)
    for step, held_out in [*((step, False) for step in STEPS), (4000, True)]:
        part = slice(count, 2 * count) if held_out else slice(0, count)
        of_step = [arrays for (number, _), arrays in found.items() if number == step]
        known = np.array([arrays["levels_bandwidth_identified"][part] for arrays in of_step]).all(axis=0)
        bandwidth = np.array([arrays["levels_bandwidth"][part] for arrays in of_step])
        cells = [
            f"{low:.2f}" + (f"–{high:.2f}" if f"{low:.2f}" != f"{high:.2f}" else "") if is_known else "-"
            for low, high, is_known in zip(bandwidth.min(0), bandwidth.max(0), known, strict=True)
        ]
        rows.append([f"{step:,}, {'held-out' if held_out else 'training'} images", *cells])
    return table(["step", *(f"σ = {sigma:g}" for sigma in SIGMAS)], rows)


def similarities(seed: int, name: str) -> tuple[dict[str, float], int]:
    """The values of network_similarity, and of how many noises."""
    (path,) = (RESULTS / "cifar10_small_seeds" / f"seed{seed}" / "probes" / name).glob("*/records.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    (record,) = (record for record in records if record["probe"] == "network_similarity")
    return record["values"], record["conventions"]["num_samples"]


def r2_table() -> str:
    rows = []
    for name, words in ANALYTIC.items():
        of_seeds = [similarities(seed, name) for seed in SEEDS]
        cells = [f"{v['r2']:.3f} ± {v['r2_standard_error']:.3f}" for v, _ in of_seeds]
        means = {key: np.mean([v[key] for v, _ in of_seeds]) for key in ("r2_null", "cka_debiased", "ssim")}
        rows.append([words, str(of_seeds[0][1]), *cells, *(f"{mean:.2f}" for mean in means.values())])
    return table(["denoiser", "N", *(f"R², seed {seed}" for seed in SEEDS), "null", "CKA, debiased", "SSIM"], rows)


def same_noises_table() -> str:
    """R² of the images of seed 0 by exact denoisers, for the same noises."""
    path = RESULTS / "exact_denoisers" / "same_noises.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    r2 = {(record["name"], record["conventions"]["num_samples"]): record["values"] for record in records}
    words = ANALYTIC | {
        "local,images=4000": "`local`, M = 4,000",
        "pca_locality,images=2000": "`pca_locality`, M = 2,000",
    }
    words = {name.removeprefix("exact-"): text for name, text in words.items()}
    rows = []
    for name in sorted({name for name, _ in r2}, key=lambda name: -r2[name, 16]["r2"]):
        known = (r2.get((name, count)) for count in (64, 16))
        cells = ("" if v is None else f"{v['r2']:.3f} ± {v['r2_standard_error']:.3f}" for v in known)
        rows.append([words[name], *cells])
    return table(["denoiser", "R², N = 64", "R², N = 16"], rows)


def family() -> dict[float, tuple[np.ndarray, np.ndarray, dict[str, float]]]:
    """By h: mean and standard deviation of the draws of what FIRST has, and the first draw's record."""
    rows = [json.loads(line) for line in (RESULTS / "exact_denoisers" / "family.jsonl").read_text().splitlines()]
    keys = ("image_to_noise", "noise_to_image", "top_10_correlation_latent", "angle_at_image_deg")
    keys += ("angle_at_latent_deg", "closest_to_latent_step_fraction")
    found = {}
    for h in FIRST:
        draws = [row for row in rows if row["h"] == h]
        values = np.array([[row[key] for key in keys] for row in draws]) * (100, 100, 1, 1, 1, 1)
        found[h] = values.mean(0), values.std(0, ddof=1), draws[0] | {"draws": len(draws)}
    return found


def family_table() -> str:
    rows = []
    for h, (mean, spread, draw) in family().items():
        first, null = FIRST[h], draw["top_10_correlation_null"]
        images = "-" if h == 1 else f"{draw['num_images']:,}"
        ours = [
            f"{m:.{digits}f} ± {s:.{digits}f}" for m, s, digits in zip(mean, spread, (1, 1, 3, 1, 1, 2), strict=True)
        ]
        rows.append(
            [
                *(
                    f"{h:g}",
                    f"{draw['num_samples']:,} / {images}",
                    f"{first[0]:g} / {first[1]:.1f}",
                    " / ".join(ours[:2]),
                ),
                *(f"{first[2]:.3f} ({null:.3f})", ours[2], f"{first[3]}° / {first[4]}°", f"{ours[3]}° / {ours[4]}°"),
                *(f"{first[5]:.2f}", ours[5]),
            ]
        )
    header = ["h", "N / M", "image→noise / noise→image, first", "ours", "T1 of the latents (null), first", "ours"]
    return table([*header, "angle at image / latent, first", "ours", "F3, first", "ours"], rows)


def test_the_page_says_how_paired_images_differ() -> None:
    r2 = {k: np.array(v) for k, v in json.loads((RESULTS / "exact_denoisers" / "r2_of_each.json").read_text()).items()}

    def lead(name: str, over: str) -> str:
        difference = r2[name] - r2[over]
        return f"{difference.mean():.3f} ± {difference.std(ddof=1) / len(difference) ** 0.5:.3f}"

    assert f"`pca_locality` {lead('pca_locality,images=2000', 'pca_locality,images=500')}" in PAGE
    assert f"`local` {lead('local,images=4000', 'local,images=1000')}" in PAGE
    assert f"by\n{lead('h=1', 'pca_locality,images=2000')}" in PAGE
    path = RESULTS / "exact_denoisers" / "same_noises.jsonl"
    for record in map(json.loads, path.read_text().splitlines()):
        if record["conventions"]["num_samples"] == 16 and record["name"] in r2:
            assert record["values"]["r2"] == pytest.approx(r2[record["name"]].mean(), abs=1e-5)


def test_the_first_measurement_of_the_family_lies_within_the_spread_of_the_draws() -> None:
    of_a_fourth = float(stats.t.ppf(0.975, 2)) * (1 + 1 / 3) ** 0.5
    near = []
    for h, (mean, spread, draw) in family().items():
        assert draw["draws"] == 3 and draw["statistics_of"] == 25_000
        away = np.maximum(np.abs(mean - FIRST[h]) - ROUNDED_TO, 0)
        assert (away <= of_a_fourth * spread).all(), (h, mean, spread)
        near.append(away <= 2 * spread)
    assert f"95 %: {of_a_fourth:.2f} standard deviations" in PAGE
    assert f"{np.sum(near)} lie within two standard deviations" in PAGE


@pytest.mark.parametrize(("what", "words"), [("score", "of the score"), ("image", "of the image")])
def test_the_page_says_how_large_standard_errors_are(what: str, words: str) -> None:
    last = [arrays for (step, _), arrays in levels().items() if step == STEPS[-1]]
    of_gaussian, of_set = (
        np.array([arrays[f"levels_{what}_{by}_error"][: len(SIGMAS)] for arrays in last])
        for by in ("gaussian", "training_set")
    )
    if what == "image":
        least, most = (f"{of_gaussian.min():.3f}", f"{of_set.min():.3f}"), (of_gaussian.max(), of_set.max())
        assert f"{words} {least[0]} to {most[0]:.3f} / {least[1]} to {most[1]:.3f}" in PAGE
    else:
        largest, least_error = of_gaussian.max(), min(of_gaussian.min(), of_set.min())
        assert f"{words} {largest:.3f} / {of_set.max():.3f}" in PAGE and f"falling to {least_error:.4f}" in PAGE


@pytest.mark.parametrize("make", [variance_table, bandwidth_table, r2_table, same_noises_table, family_table])
def test_the_page_has_the_numbers_of_the_records(make: object) -> None:
    assert callable(make) and make() in PAGE


def test_the_page_says_how_far_memorisation_is() -> None:
    excess = [
        arrays["levels_gap_excess"][: len(SIGMAS)] / arrays["levels_gap_excess_error"][: len(SIGMAS)]
        for arrays in levels().values()
    ]
    assert f"{np.min(excess):.1f} to {np.max(excess):.1f} standard errors at every level, step and seed" in PAGE
    assert Path(RESULTS / "exact_denoisers").is_dir()
