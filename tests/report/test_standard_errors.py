"""Standard errors in a report: in every form of a table, about curves, and told apart from the spread over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from probediff.commands.report import report
from probediff.report import latents, mapping, measured, outside, overview
from probediff.report.curves import draw
from probediff.report.geometry import heat_map, triangle
from probediff.report.groups import Comparison, Estimate, combine, group_runs, last_estimate, mean_curve, own
from probediff.report.panels import Line, Panel, Quantity, panel, tell_bands
from probediff.report.records import Measured
from probediff.report.sources import read_runs
from probediff.report.structure import structure
from probediff.report.tables import Table, tell_spread
from tests.report.synthetic import STEPS, values_of, write_exact, write_probes, write_records, write_run

ERRORS = (0.3, 0.4, 1.2)
#: Their root mean square.
OF_ONE = math.sqrt((0.09 + 0.16 + 1.44) / 3)
LATENT = Quantity("pixel_correlation", "latent", "latent")
NOISES = "± is the standard error over fresh noises, as many as were probed"
OVER_RUNS = "the sample standard deviation over runs (n - 1), their number behind it"


@pytest.fixture
def alone(tmp_path: Path) -> Comparison:
    write_probes(write_run(tmp_path / "run", error=0.012))
    return group_runs(read_runs([tmp_path]))


@pytest.fixture
def seeds(tmp_path: Path) -> Comparison:
    """Three runs with standard errors, the exact denoisers below them without."""
    for seed, error in enumerate(ERRORS):
        write_probes(write_run(tmp_path / f"seed{seed}", seed, error=error))
    return group_runs(read_runs([tmp_path]))


def rows_of(table: Table) -> dict[str, dict[str, str]]:
    return {next(iter(row.values())): row for row in csv.DictReader(io.StringIO(table.csv()))}


def cells_of(table: Table) -> dict[str, dict[str, str]]:
    """The texts of Markdown by row and column."""
    header, _, *rows = (line[2:-2].split(" | ") for line in table.markdown().splitlines()[2:])
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (Estimate(0.78812, error=0.0123), "0.788 ± 0.012"),
        (Estimate(0.78812, 0.0204, 3, error=0.0123), "0.788 ± 0.012, seeds ± 0.020 (3)"),
        (Estimate(0.78812, 0.0204, 3), "0.7881 ± 0.0204 (3)"),
        (Estimate(0.78812, 0.0204, 3, digits=2, error=0.0123), "0.79 ± 0.01, seeds ± 0.02 (3)"),
        # An error is never 0 because a table has few decimals.
        (Estimate(72.04, 1.5, 3, digits=1, error=0.047), "72.040 ± 0.047, seeds ± 1.500 (3)"),
        (Estimate(72.04, digits=1, error=0.051), "72.0 ± 0.1"),
        (Estimate(104.26, None, 1, digits=1, error=1.2345), "104.3 ± 1.2"),
        (Estimate(12.0, error=0.0996), "12.00 ± 0.10"),
        (Estimate(12345.6, 17.0, 2, error=123.0), "12350 ± 120, seeds ± 20 (2)"),
        (Estimate(-0.0001, error=0.01), "0.000 ± 0.010"),
        (Estimate(1.234e-7, error=2e-12), "1.234000e-07 ± 2.0e-12"),
        (Estimate(3e20, error=4e18), "3.000e+20 ± 4.0e+18"),
        (Estimate(0.4900468575738178, error=5.6e-18), "0.490047 ± 5.6e-18"),
        (Estimate(0.0, error=1e-300), "0 ± 1.0e-300"),
        (Estimate(10.0, error=0.0), "10 ± 0"),
    ],
)
def test_errors_have_two_significant_digits_and_values_the_same_decimals(shown: Estimate, text: str) -> None:
    assert str(shown) == text


def test_errors_are_combined_by_hand() -> None:
    runs = [Measured(1.0, 0.3), Measured(2.0, 0.4), Measured(6.0, 1.2)]
    assert combine(runs) == Estimate(3.0, pytest.approx(7**0.5), 3, error=pytest.approx(OF_ONE))
    # All runs have the same noises: of twice as many it is the same.
    assert combine(runs * 2).error == pytest.approx(OF_ONE)
    # One of an earlier version, and one that is not finite.
    assert combine([Measured(1.0, 0.3), Measured(2.0), Measured(math.nan, 9.0)]).error == pytest.approx(0.3)
    assert combine([Measured(1.0), Measured(2.0)]).error is None
    assert combine([Measured(1.0, 1e300), Measured(2.0, 1e300)]).error == pytest.approx(1e300)
    assert combine([Measured(1.0, 0.0)]).error == 0
    assert combine([]) is None
    assert Measured(2.0, 0.3).scaled(-100) == Measured(-200.0, 30.0)
    assert Measured(2.0).scaled(100) == Measured(200.0)


def test_records_give_the_errors_that_are_finite(tmp_path: Path) -> None:
    values = {"x": 1.0, "y": 2.0, "z": None}
    lines = [
        {"step": 0, "probe": "a", "values": values, "standard_errors": {"x": 0.5, "y": None, "z": 0.1}},
        {"step": 1, "probe": "a", "values": values},
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = read_runs([tmp_path])
    assert run.own.measured_series("a", "x") == {0: Measured(1.0, 0.5), 1: Measured(1.0)}
    assert run.own.measured_series("a", "y") == {0: Measured(2.0), 1: Measured(2.0)}
    assert run.own.measured("a") == {
        0: {"x": Measured(1.0, 0.5), "y": Measured(2.0)},
        1: {"x": Measured(1.0), "y": Measured(2.0)},
    }
    assert own("a", "x", 10)(run) == {0: Measured(10.0, 5.0), 1: Measured(10.0)}


def test_a_table_of_one_run_has_them_in_every_form(alone: Comparison) -> None:
    (table,) = latents.correlation(alone).tables
    row = rows_of(table)["latent"]
    value = float(values_of("pixel_correlation", 1000, 0)["latent"] or 0)
    assert (float(row["run"]), row["run, standard error"], row["run, std"], row["run, n"]) == (value, "0.012", "", "1")
    assert cells_of(table)["latent"]["run"] == f"{value:.3f} ± 0.012"
    assert rf"latent & {value:.3f} $\pm$ 0.012 & " in table.latex()
    assert f"<td>{value:.3f} ± 0.012</td>" in table.html()
    # Of the Gaussian none was recorded, of a publication it is not known.
    assert "Gaussian denoiser, standard error" not in row and cells_of(table)["latent"]["Gaussian denoiser"] == "0.210"
    assert row["published, CIFAR-10, ± not defined in P1"] == "0.009"
    assert f"at the last step; {NOISES}; published: ± not defined in P1." in table.caption


def test_a_table_of_seeds_has_both_and_tells_them_apart(seeds: Comparison) -> None:
    (table,) = latents.correlation(seeds).tables
    row, last = rows_of(table)["latent"], [values_of("pixel_correlation", 1000, k)["latent"] or 0 for k in range(3)]
    names = ("3 runs, standard error", "3 runs, std", "3 runs, n")
    assert [float(row[name]) for name in names] == pytest.approx([OF_ONE, np.std(last, ddof=1), 3])
    shown = cells_of(table)["latent"]
    assert shown["3 runs"] == f"{np.mean(last):.3f} ± {OF_ONE:.3f}, seeds ± 0.010 (3)"
    assert shown["Gaussian denoiser"] == "0.210 ± 0.000 (3)"
    words = f"; {NOISES}; 'seeds ±' and ± alone before a number of runs {OVER_RUNS}; published: ± not defined in P1."
    assert words in table.caption


def test_every_table_carries_them_with_its_scale(seeds: Comparison) -> None:
    rows = rows_of(mapping.assignment_table(seeds).tables[0])
    assert float(rows["100"]["3 runs: noise → sample, standard error"]) == pytest.approx(100 * OF_ONE)
    assert rows["10"]["3 runs: noise → sample, standard error"] == ""  # a replay of an earlier version
    tables = [
        *(section(seeds).tables[0] for section in (triangle, heat_map, mapping.hubs, latents.normality)),
        next(table for table in overview.all_values(seeds).details if table.name == "steps_own_my_own_probe"),
        *latents.normality(seeds).details,
    ]
    for table in tables:
        errors = {float(v) for row in rows_of(table).values() for k, v in row.items() if v and "standard error" in k}
        assert errors and list(errors) == pytest.approx([OF_ONE] * len(errors)), table.name
        assert f"; {NOISES}; 'seeds ±'" in table.caption, table.name
    nulls = rows_of(latents.normality(seeds).tables[0])["ks_mean_distance"]
    assert float(nulls["null, standard error"]) == pytest.approx(OF_ONE)


def test_likeness_to_the_network_has_them(tmp_path: Path) -> None:
    for seed in range(2):
        write_exact(write_run(tmp_path / f"seed{seed}", seed), "exact-h=0", seed, bandwidth=0.0, error=0.25)
    (table,) = mapping.settling(group_runs(read_runs([tmp_path]))).tables
    assert cells_of(table)["h = 0"]["SSIM"] == "0.305 ± 0.250, seeds ± 0.007 (2)"
    assert f"{NOISES}; 'seeds ±' {OVER_RUNS}." in table.caption


def test_inversion_methods_have_them(tmp_path: Path) -> None:
    for seed, errors in enumerate(({"x": 0.3, "y": "damaged"}, {"x": 0.4, "y": None}, [1])):
        folder = write_run(tmp_path / f"seed{seed}", seed, files=False) / "probes/replay/num_steps=0100"
        write_records(folder, ("assignment_accuracy",), finished=False)
        rows = [{"name": "ddim", "x": 2.0 + seed, "y": 5.0, "standard_errors": errors}]
        (folder / "inversion_methods.json").write_text(json.dumps(rows))
    (table,) = latents.inversion_methods(group_runs(read_runs([tmp_path]))).tables
    row = rows_of(table)["ddim"]
    assert list(row) == ["method", "x", "x, standard error", "x, std", "x, n", "y", "y, std", "y, n"]
    assert float(row["x, standard error"]) == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    assert cells_of(table)["ddim"] == {"method": "ddim", "x": "3.00 ± 0.35, seeds ± 1.00 (3)", "y": "5.000 ± 0.000 (3)"}
    assert f"; {NOISES.replace('noises', 'images')}; 'seeds ±' and ± alone" in table.caption


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([], "mean ± std over runs (number of runs)"),
        ([Estimate(1.0, 0.2, 3)], "mean ± std over runs (number of runs)"),
        ([Estimate(1.0, error=0.2), Estimate(1.0)], NOISES),
        ([Estimate(1.0, 0.1, 2, error=0.2), None, "a"], f"{NOISES}; 'seeds ±' {OVER_RUNS}"),
        ([Estimate(1.0, error=0.2), Estimate(1.0, 0.1, 2)], f"{NOISES}; ± alone before a number of runs {OVER_RUNS}"),
    ],
)
def test_a_caption_says_what_its_own_cells_hold(cells: list[Estimate], words: str) -> None:
    assert tell_spread([cells]) == words


def band_of(comparison: Comparison, quantity: Quantity = LATENT) -> dict[int, float]:
    (line,) = (line for line in panel(comparison, quantity).lines if line.role in ("single", "mean"))
    return line.half_width


def test_the_band_about_one_run_is_two_standard_errors(alone: Comparison) -> None:
    assert band_of(alone) == pytest.approx(dict.fromkeys(STEPS, 0.024))
    accuracy = Quantity("assignment_accuracy", "noise_to_image", "accuracy", scale=100)
    assert band_of(alone, accuracy) == pytest.approx(dict.fromkeys(STEPS, 2.4))
    words = " Band about the curve of a single run: ± 2 standard errors over fresh noises."
    assert latents.correlation(alone).figures[0].caption.endswith(words)
    captions = {figure.name: figure.caption for figure in outside.outside_probes(alone).figures}
    assert words in captions["outside_my_own_probe"]


def test_of_a_probe_of_images_they_are_over_images(alone: Comparison) -> None:
    captions = {figure.name: figure.caption for figure in structure(alone).figures}
    for name in ("structure_by_level_1", "structure_over_training"):
        assert " Band about the curve of a single run: ± 2 standard errors over fresh images." in captions[name]
    by_step = {table.name: table.caption for table in overview.all_values(alone).details}
    images = NOISES.replace("noises", "images")
    assert f"; {images}." in by_step["steps_own_denoiser_structure"]
    assert f"; {NOISES}." in by_step["steps_own_my_own_probe"]


def test_the_band_about_a_mean_is_the_spread_over_seeds(seeds: Comparison) -> None:
    assert band_of(seeds) == pytest.approx(dict.fromkeys(STEPS, 0.01))
    caption = latents.correlation(seeds).figures[0].caption
    assert caption.endswith(" Band about a mean: ± 1 sample standard deviation over runs (n - 1).")
    assert "standard errors" not in structure(seeds).figures[0].caption


def test_no_band_where_no_error_is_recorded(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", error=0.012)
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for record in records:
        if record["step"] == 10:
            record.pop("standard_errors", None)
    (run / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    comparison = group_runs(read_runs([run]))
    assert band_of(comparison) == pytest.approx({0: 0.024, 100: 0.024, 1000: 0.024})
    write_records(run)
    comparison = group_runs(read_runs([run]))
    assert band_of(comparison) == {}
    assert "Band" not in latents.correlation(comparison).figures[0].caption


def test_what_is_drawn_is_the_band_with_its_gap() -> None:
    points = {0: 1.0, 10: 2.0, 100: 3.0, 1000: 4.0, 10_000: 5.0}
    line = Line("run", "single", points, {0: 0.5, 10: 0.25, 1000: 0.1, 10_000: 0.2}, 0)
    shown = Panel("a", "b", (line,))
    (band,) = draw([shown]).axes[0].collections
    first, second = (path.vertices for path in band.get_paths())
    assert {(x, y) for x, y in first} == {(0, 0.5), (0, 1.5), (10, 1.75), (10, 2.25)}
    assert {(x, round(y, 9)) for x, y in second} == {(1000, 3.9), (1000, 4.1), (10_000, 4.8), (10_000, 5.2)}
    assert tell_bands([shown], "a") and not tell_bands([Panel("a", "b", (Line("run", "single", points, {}, 0),))], "a")


def test_errors_beyond_every_axis_make_a_figure_all_the_same(tmp_path: Path) -> None:
    write_run(tmp_path / "run", error=1e308)
    (group,) = group_runs(read_runs([tmp_path])).groups
    assert last_estimate(group, LATENT.select()).error == mean_curve(group, LATENT.select())[0].error == 1e308
    figure = draw([panel(group_runs(read_runs([tmp_path])), LATENT)])
    figure.set_dpi(20)
    figure.savefig(io.BytesIO(), format="png")


def test_the_overview_says_what_plus_minus_and_bands_are(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "seed0", files=False, error=0.1)
    alone = group_runs(read_runs([tmp_path / "a"]))
    faint = "The faint band about the curve of a run that stands alone is two standard errors."
    words = NOISES.replace("noises", "noises or images (captions say which)")
    assert measured.spread_note(alone) == f"{words}. {faint}"
    write_run(tmp_path / "a" / "seed1", 1, files=False)
    both = measured.spread_note(group_runs(read_runs([tmp_path / "a"])))
    assert both.startswith(f"{words}; 'seeds ±', or ± alone before a number of runs, the sample standard deviation")
    assert both.endswith(faint) and "one standard deviation" in both
    for seed in (0, 1):
        write_run(tmp_path / "b" / f"seed{seed}", seed, files=False)
    without = group_runs(read_runs([tmp_path / "b"]))
    assert measured.spread_note(without).startswith("± is the sample standard deviation over runs (n - 1); thin")
    assert "error" not in measured.spread_note(without)
    assert measured.spread_note(group_runs(read_runs([tmp_path / "b" / "seed0"]))) == ""
    assert both in overview.overview(group_runs(read_runs([tmp_path / "a"]))).text


def test_a_whole_page_has_them(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_probes(write_run(tmp_path / "runs" / f"seed{seed}", seed, error=0.012))
    assert report([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "± 0.012, seeds ± 0.007 (2)" in page and NOISES in page
    assert "is left out" not in page
