"""Finding and reading runs; which ones belong together; what the published figures are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from probediff.report.groups import Estimate, estimate, group_runs, last_values, mean_curve, own
from probediff.report.parts import how_computed, missing_from
from probediff.report.published import ALL, published_for
from probediff.report.sources import read_runs
from tests.report.synthetic import STEPS, config, values_of, write_probes, write_records, write_run


def test_a_sweep_is_found_without_the_probes_folders_of_its_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_probes(write_run(tmp_path / "sweep" / f"seed{seed}", seed))
    (run_0, run_1) = read_runs([tmp_path])
    assert (run_0.name, run_1.name) == ("seed0", "seed1")
    assert [p.convention("num_steps") for p in run_0.of_kind("replay")] == [10, 1000]
    assert run_0.of_kind("gaussian")[0].convention("denoiser") == "gaussian"
    assert run_0.like_own("final_samples").convention("samples_of_step") == 1000


def test_the_same_folder_given_twice_is_one_run_and_equal_names_are_told_apart(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run", 1)
    assert [run.name for run in read_runs([a, b, a, tmp_path / "a"])] == ["a/run", "b/run"]


def test_a_probed_model_alone_shows_its_usual_number_of_steps_first(tmp_path: Path) -> None:
    for num_steps in (10, 100, 1000):
        folder = tmp_path / "cifar10_openai" / f"num_steps={num_steps:04d}"
        options = {"num_steps": num_steps, "model": "cifar10_uncond_50M_500K", "source": "openai"}
        write_records(folder, ("assignment_accuracy",), (500_000,), finished=False, **options)
    (run,) = read_runs([tmp_path / "cifar10_openai"])
    assert run.own.convention("num_steps") == 100
    assert [p.convention("num_steps") for p in run.of_kind("model")] == [10, 1000]
    assert run.data == "CIFAR-10"
    assert run.is_finished and run.state == "probed, not trained here"
    (alone,) = read_runs([tmp_path / "cifar10_openai" / "num_steps=0010"])
    assert alone.own.kind == "model" and alone.is_finished


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"must hold records\.jsonl"):
        read_runs([tmp_path])
    run = write_run(tmp_path / "run")
    (run / "records.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ValueError, match=r"records.jsonl cannot be read: a record needs 'step' and 'probe'"):
        read_runs([run])
    (run / "records.jsonl").write_text("not json\n")
    with pytest.raises(ValueError, match=r"records.jsonl cannot be read"):
        read_runs([run])
    (run / "records.jsonl").write_text("")
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config.yaml cannot be read"):
        read_runs([run])


def test_a_killed_run_counts_up_to_its_last_whole_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False, steps=(0, 10))
    with (run / "records.jsonl").open("a") as file:
        file.write('{"step": 100, "probe": "inversion_ang')
    (read,) = read_runs([run])
    assert read.own.last_step == 10
    assert not read.is_finished
    assert read.state.startswith("training or stopped") and "incomplete" in read.state


def test_numbers_that_were_not_finite_are_left_out(tmp_path: Path) -> None:
    (run,) = read_runs([write_run(tmp_path / "run")])
    assert "latent_nearest_from_step_fraction" not in run.own.values("trajectory_heatmap")[0]
    assert run.own.series("trajectory_heatmap", "latent_nearest_from_step_fraction") == {}


def test_runs_that_differ_by_their_seed_are_one_group(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_run(tmp_path / f"seed{seed}", seed)
    other = write_run(tmp_path / "other", 3)
    (other / "config.yaml").write_text(yaml.safe_dump(config(3, model={"learning_rate": 4e-4})))
    comparison = group_runs(read_runs([tmp_path]))
    assert {group.label: len(group.runs) for group in comparison.groups} == {
        "learning_rate=0.0004": 1,
        "learning_rate=0.0001": 3,
    }
    by_seed = group_runs(read_runs([tmp_path]), "seed_everything")
    assert sorted(group.label for group in by_seed.groups) == [f"seed_everything={k}" for k in range(4)]
    with pytest.raises(ValueError, match=r"--group_by must be a dotted key of config\.yaml"):
        group_runs(read_runs([tmp_path]), "model.nothing")


def test_means_over_runs_by_hand(tmp_path: Path) -> None:
    for seed in (0, 1, 5):
        write_run(tmp_path / f"seed{seed}", seed)
    write_records(tmp_path / "seed5", steps=(0, 10), offset=5.0, finished=False)
    (group,) = group_runs(read_runs([tmp_path])).groups
    select = own("inversion_angles", "at_image_mean_deg")
    at_0 = [values_of("inversion_angles", 0, k)["at_image_mean_deg"] for k in (0, 1, 5)]
    mean = sum(at_0) / 3
    std = (sum((value - mean) ** 2 for value in at_0) / 2) ** 0.5
    curve = mean_curve(group, select)
    assert list(curve) == [0, 10]
    assert (curve[0].mean, curve[0].std, curve[0].n) == (pytest.approx(mean), pytest.approx(std), 3)
    step, numbers = last_values(group, select)
    assert step == max(STEPS)
    assert [number.value for number in numbers] == [
        values_of("inversion_angles", 1000, k)["at_image_mean_deg"] for k in (0, 1)
    ]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (Estimate(0.46249, 0.00931, 3, 3), "0.462 ± 0.009 (3)"),
        (Estimate(0.46249, None, 1, 3), "0.462"),
        (Estimate(99.1, 1.0, None, 1), "99.1 ± 1.0"),
        (Estimate(0.174216, 5e-9, 2), "0.1742 ± 0.0000 (2)"),
        (Estimate(1234.56, 3.21, 2), "1235 ± 3 (2)"),
        (Estimate(1e-7, 2e-8, 2), "1e-07 ± 2e-08 (2)"),
        (Estimate(0.0, 0.5, 2), "0.000 ± 0.500 (2)"),
    ],
)
def test_estimates_in_words(shown: Estimate, text: str) -> None:
    assert str(shown) == text


def test_an_estimate_without_values_is_none() -> None:
    assert estimate([]) is None
    assert estimate([float("nan")]) is None


def test_published_values_are_those_of_the_paper() -> None:
    assert {data: figures.correlation["latent"] for data, figures in ALL.items()} == {
        "CIFAR-10": (0.462, 0.009),
        "ImageNet-64": (0.219, 0.006),
        "LDM-CelebA": (0.179, 0.008),
    }
    means = {d: [way[0] for pair in f.assignment.values() for way in pair] for d, f in ALL.items()}
    assert means["CIFAR-10"] == [90.3, 94.0, 98.9, 50.4, 99.1, 46.8, 99.1, 46.4]
    assert means["ImageNet-64"] == [99.4, 100, 100, 59.0, 99.8, 44.6, 99.5, 43.3]
    assert means["LDM-CelebA"] == [100] * 6
    assert published_for("ImageNet-64") == (ALL["ImageNet-64"], True)
    assert published_for(None) == (ALL["CIFAR-10"], False)


def test_conventions_are_told_and_disagreement_is_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, num_steps=50)
    comparison = group_runs(read_runs([tmp_path]), "seed_everything")
    text = how_computed(comparison, "inversion_angles")
    for part in ("N = 20", "convention openai", "clipping while inverting on", "averaged weights", "noise seed 420"):
        assert part in text
    assert "The records disagree on: num_steps 100 (seed_everything=0), 50 (seed_everything=1)." in text
    assert how_computed(comparison, "nothing") == "The records do not say how this was computed."


def test_missing_records_and_errors_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    run = write_run(tmp_path / "b", 1, probes=("inversion_angles",), finished=False)
    record = {"step": 10, "probe": "assignment_accuracy", "values": {}, "error": "x_0 are all equal"}
    with (run / "records.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    comparison = group_runs(read_runs([tmp_path]))
    assert missing_from(comparison, "assignment_accuracy") == (
        "Not recorded in b: assignment_accuracy.",
        "b: assignment_accuracy had no result at step 10: x_0 are all equal",
    )
    assert missing_from(comparison, "inversion_angles") == ()
    assert missing_from(comparison, "nothing") == ("No run has records of nothing.",)
