"""The page of results on exact denoisers quotes the records that lie beside it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("make", [variance_table, bandwidth_table, r2_table])
def test_the_page_has_the_numbers_of_the_records(make: object) -> None:
    assert callable(make) and make() in PAGE


def test_the_page_says_how_far_memorisation_is() -> None:
    excess = [
        arrays["levels_gap_excess"][: len(SIGMAS)] / arrays["levels_gap_excess_error"][: len(SIGMAS)]
        for arrays in levels().values()
    ]
    assert f"{np.min(excess):.1f} to {np.max(excess):.1f} standard errors at every level, step and seed" in PAGE
    assert Path(RESULTS / "exact_denoisers").is_dir()
