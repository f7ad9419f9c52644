"""Tables: their four forms, and that their numbers are those of the records."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from probediff.report import latents, mapping, overview
from probediff.report.geometry import heat_map, triangle
from probediff.report.groups import Comparison, Estimate, group_runs
from probediff.report.reproducing import pixel_correlations, reproducibility
from probediff.report.sources import read_runs
from probediff.report.tables import Table
from probediff.runs.catalogue import PROBES
from probediff.runs.descriptions import Description
from probediff.runs.folder import RunFolder
from tests.report.synthetic import values_of, write_probes, write_run

TABLE = Table(
    "awkward",
    "50 % of a_b & <c> ± 1",
    ("", "x | y", "sample → noise"),
    (("λ_1", Estimate(0.12345, 0.02, 3, 2), 4), ('a, "b"', None, 2.5), ("#{~^\\}", "5 %", -1)),
)


@pytest.fixture
def seeds(tmp_path: Path) -> Comparison:
    for seed in (0, 1, 2):
        write_probes(write_run(tmp_path / f"seed{seed}", seed))
    return group_runs(read_runs([tmp_path]))


def rows_of(table: Table) -> dict[str, dict[str, str]]:
    return {row[""] if "" in row else next(iter(row.values())): row for row in csv.DictReader(io.StringIO(table.csv()))}


def test_csv_is_well_formed_and_complete() -> None:
    header, *rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert header == ["", "x | y", "x | y, std", "x | y, n", "sample → noise"]
    assert rows == [
        ["λ_1", "0.12345", "0.02", "3", "4"],
        ['a, "b"', "", "", "", "2.5"],
        ["#{~^\\}", "5 %", "", "", "-1"],
    ]


def test_markdown_has_one_cell_for_each_column() -> None:
    lines = TABLE.markdown().splitlines()[2:]
    assert [len(re.split(r"(?<!\\)\|", line)) for line in lines] == [5] * 5
    assert lines[2] == "| λ_1 | 0.12 ± 0.02 (3) | 4 |"


def test_latex_is_well_formed() -> None:
    text = TABLE.latex()
    assert text.isascii()
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#]|(?<!\\)_", bare)
    body = text.split(r"\hline")[1:3]
    rows = [line for part in body for line in part.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [2] * 4
    assert r"\begin{tabular}{lrr}" in text and text.count(r"\end{") == 2
    assert r"$\lambda$\_1 & 0.12 $\pm$ 0.02 (3) & 4 \\" in text


def test_html_escapes_and_names_rows_and_columns() -> None:
    seen: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    Reader().feed(TABLE.html())
    scopes = [attrs.get("scope") for tag, attrs in seen if tag == "th"]
    assert scopes == ["col"] * 3 + ["row"] * 3
    assert "<c>" not in TABLE.html() and "&lt;c&gt;" in TABLE.html()


def test_rows_must_fit_the_header() -> None:
    with pytest.raises(ValueError, match="must have 2 cells"):
        Table("t", "c", ("a", "b"), (("1",),))


def test_correlations_are_the_records_and_stand_beside_the_published(seeds: Comparison) -> None:
    (table,) = latents.correlation(seeds).tables
    rows = rows_of(table)
    last = [values_of("pixel_correlation", 1000, k)["latent"] for k in (0, 1, 2)]
    assert float(rows["latent"]["3 runs"]) == pytest.approx(sum(last) / 3)
    assert float(rows["latent"]["3 runs, std"]) == pytest.approx(0.01)
    assert rows["latent"]["3 runs, n"] == "3"
    assert rows["latent"]["published, CIFAR-10"] == "0.462"
    assert float(rows["null"]["3 runs"]) == pytest.approx(0.155)
    gaussian = values_of("pixel_correlation", 0, 5)["latent"]
    assert float(rows["latent"]["Gaussian denoiser"]) == pytest.approx(gaussian)


def test_assignment_has_a_row_for_each_number_of_steps(seeds: Comparison) -> None:
    (table,) = mapping.assignment_table(seeds).tables
    rows = {row["DDIM steps"]: row for row in csv.DictReader(io.StringIO(table.csv()))}
    assert list(rows) == ["10", "100", "1000", "4000"]
    own = [100 * values_of("assignment_accuracy", 1000, k)["noise_to_image"] for k in (0, 1, 2)]
    assert float(rows["100"]["3 runs: noise → sample"]) == pytest.approx(sum(own) / 3)
    assert float(rows["100"]["3 runs: noise → sample, std"]) == pytest.approx(1.0)
    replayed = 100 * values_of("assignment_accuracy", 1000, -3)["image_to_noise"]
    assert float(rows["10"]["3 runs: sample → noise"]) == pytest.approx(replayed)
    assert rows["4000"]["3 runs: sample → noise"] == ""
    assert rows["4000"]["published, CIFAR-10: noise → sample"] == "46.4"
    gaussian = 100 * values_of("assignment_accuracy", 0, 5)["noise_to_image"]
    assert float(rows["100"]["Gaussian denoiser: noise → sample"]) == pytest.approx(gaussian)
    assert rows["100"]["null 1/N"] == "5.0"


def test_other_data_than_published_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("CIFAR10", "Digits"))
    section = mapping.assignment_table(group_runs(read_runs([run])))
    assert "They are those of CIFAR-10, not of the data of these runs" in section.text[0]
    assert "published, CIFAR-10: sample → noise" in section.tables[0].header


def test_angles_are_the_records(seeds: Comparison) -> None:
    (table,) = triangle(seeds).tables
    rows = rows_of(table)
    assert float(rows["angle at the latent, mean [°]"]["3 runs"]) == pytest.approx(104.0)
    assert float(rows["angle at the latent, mean [°]"]["3 runs, std"]) == pytest.approx(2.0)
    assert rows["angle at the latent, mean [°]"]["published, all models (in words)"] == "obtuse"


def test_the_closest_approach_stands_beside_the_published_one(seeds: Comparison) -> None:
    section = heat_map(seeds)
    rows = rows_of(section.tables[0])
    assert list(rows) == ["nearest to the latent after this share of steps", "another"]
    row = rows["nearest to the latent after this share of steps"]
    assert float(row["3 runs"]) == pytest.approx(0.61) and row["published, all models"] == "0.5-0.7"
    # |share - 0.2 - 0.5 lambda| is smallest at the latent after 0.7 of the steps.
    assert "closest to the latent after a share of 0.70 of the steps" in section.figures[0].alt


def test_every_probe_by_step_even_an_unknown_one(seeds: Comparison) -> None:
    tables = {table.name: table for table in overview.all_values(seeds).details}
    rows = rows_of(tables["steps_own_my_own_probe"])
    assert list(rows) == ["0", "10", "100", "1000"]
    assert float(rows["10"]["range"]) == pytest.approx(values_of("my_own_probe", 10, 1)["range"])
    assert "steps_final_samples_inversion_angles" in tables


def test_the_catalogue_of_a_run_tells_what_is_bookkeeping(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", files=False)
    others = (Description("my_own_probe", is_bookkeeping=True),)
    RunFolder(run).save_catalogue(others)
    comparison = group_runs(read_runs([run]))
    assert "steps_own_my_own_probe" not in {table.name for table in overview.all_values(comparison).details}
    assert comparison.describe("my_own_probe") == others[0]
    assert comparison.describe("latent_normality") == PROBES["latent_normality"]
    assert comparison.describe("unknown") == Description("unknown")


def test_values_stand_beside_their_nulls(seeds: Comparison) -> None:
    section = latents.normality(seeds)
    rows = rows_of(section.tables[0])
    assert list(rows) == ["std", "ks_mean_distance"]
    assert float(rows["ks_mean_distance"]["null"]) == pytest.approx(0.02)
    assert [table.name for table in section.details] == ["latent_normality_by_step"]


def test_inversion_methods_are_read_from_their_file(seeds: Comparison) -> None:
    (table,) = latents.inversion_methods(seeds).tables
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(table.csv()))}
    assert set(rows) == {"ddim", "edict"}
    assert float(rows["edict"]["reconstruction l2"]) == pytest.approx(1e-5)
    assert rows["edict"]["reconstruction l2, n"] == "3"


def test_runs_that_come_to_agree_are_reproducible_beside_their_null(seeds: Comparison) -> None:
    section = reproducibility(seeds)
    rows = [row for row in csv.DictReader(io.StringIO(section.tables[0].csv()))]
    assert [row["pair of runs"] for row in rows] == [
        "seed0 / seed1 (step 1000)",
        "seed0 / seed2 (step 1000)",
        "seed1 / seed2 (step 1000)",
        "all pairs (step 1000)",
    ]
    assert all(float(row["SSIM"]) > 0.99 and float(row["correlation"]) > 0.99 for row in rows)
    assert all(abs(float(row["SSIM, null"])) < 0.2 for row in rows)
    assert all(float(row["share with SSIM > 0.6"]) == 1 and float(row["share, null"]) == 0 for row in rows)
    assert rows[-1]["SSIM, n"] == "3"
    assert [figure.name for figure in section.figures] == ["reproducibility"]


def test_runs_with_other_noise_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, noise_seed=7)
    assert reproducibility(group_runs(read_runs([tmp_path]))).is_empty


def test_correlation_of_image_pairs_equals_numpy() -> None:
    import numpy as np
    import torch

    x, y = torch.randn(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    np.testing.assert_allclose(pixel_correlations(x, y).numpy(), expected, rtol=1e-6)


def test_runs_with_one_seed_are_not_taken_for_seeds(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 4)
    write_run(tmp_path / "b", 4)
    (sentence,) = overview.overview(group_runs(read_runs([tmp_path]))).missing
    assert sentence.startswith("a, b have the same training seed, 4")
