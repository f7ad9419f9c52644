"""Exact denoisers, ``exact:RUN,h=H``, wherever a command takes a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from probediff.callbacks import CheckpointSimilarity
from probediff.commands.edit import edit
from probediff.commands.inversions import inversions
from probediff.commands.probe import parse, probe
from probediff.commands.search_noise import search_noise
from probediff.commands.vary import vary
from probediff.commands.whitening import whitening
from probediff.measures import cka, image_r2
from probediff.probing.network_similarity import compare_with_network
from probediff.runs.catalogue import PROBES
from probediff.runs.folder import RunFolder
from tests.commands.conftest import SAMPLING, SEARCH, record
from tests.commands.reading import read_values

QUIET = ["--device", "cpu", "--progress", "false"]
FEW_IMAGES = "h=0.4,images=200"
OTHERS = [f"--{name}.enabled=false" for name in ("latent_normality", "noise_image_map", "trajectory_heatmap")]


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose folder of probes belongs to these tests."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("exact") / "runs,h=1")


@pytest.fixture(scope="module")
def probed(run: Path) -> Path:
    """What the command makes of one exact denoiser at the run's own number of steps and another one."""
    assert probe([f"exact:{run},{FEW_IMAGES}", *QUIET, "--num_steps", "8,4"]) == 0
    return run / "probes" / "exact-h=0.4,images=200"


def test_all_probes_with_the_settings_of_the_run(probed: Path) -> None:
    found, own = read_values(probed / "num_steps=0008"), read_values(probed.parents[1])
    assert {step for step, _ in found} == {0}
    lacking = {name for _, name in own} - {name for _, name in found}
    assert lacking == {"checkpoint_similarity", "checkpoint_similarity_final"}
    assert found[0, "assignment_accuracy"]["image_to_noise"] > 0.5
    (conventions,) = {json.dumps(r["conventions"]) for r in RunFolder(probed / "num_steps=0008").records()[:1]}
    said = json.loads(conventions)
    assert (said["denoiser"], said["bandwidth"], said["fitted_to"]) == ("smoothed_empirical", 0.4, 200)
    assert (said["num_samples"], said["noise_seed"], said["convention"], said["clip"]) == (24, 420, "openai", True)


def test_its_samples_are_compared_with_the_final_ones_of_the_network(probed: Path) -> None:
    folder, run = RunFolder(probed / "num_steps=0008"), RunFolder(probed.parents[1])
    (similarity,) = (r for r in folder.records() if r["probe"] == "network_similarity")
    expected = cka(folder.load_samples(0), run.load_samples(4))
    assert similarity["values"]["cka"] == pytest.approx(expected)
    assert similarity["values"]["final_step"] == 4
    assert similarity["values"]["r2"] == pytest.approx(
        float(image_r2(folder.load_samples(0), run.load_samples(4)).mean())
    )
    assert similarity["values"]["r2"] > similarity["values"]["r2_null"]
    described = PROBES["network_similarity"]
    assert described.extended(dict.fromkeys(similarity["values"], "number")) == described
    (final,) = (r for r in run.records() if (r["step"], r["probe"]) == (4, "timing"))
    assert similarity["final_weights_sha256"] == final["weights_sha256"] != similarity["weights_sha256"]
    # Four steps make other samples.
    assert (0, "network_similarity") not in read_values(probed / "num_steps=0004")


def test_the_same_command_again_keeps_everything_and_another_h_is_refused(
    probed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = probed.parents[1], (probed / "num_steps=0008" / "records.jsonl").read_bytes()
    assert probe([f"exact:{run},{FEW_IMAGES}", *QUIET, "--num_steps", "8,4"]) == 0
    printed = capsys.readouterr().out
    assert "num_steps=0004: not compared with the run's final samples" in printed
    assert "num_steps 4 here and 8 there" in printed
    assert "records have exactly the numbers" not in printed and "left out" not in printed
    assert (probed / "num_steps=0008" / "records.jsonl").read_bytes() == before
    assert probe([f"exact:{run},h=0.5,images=200", *QUIET, "--out", str(probed)]) == 1
    assert "holds results with bandwidth=0.4, asked for 0.5" in capsys.readouterr().err


def test_a_run_that_went_on_is_compared_again(probed: Path, tmp_path: Path) -> None:
    ours = RunFolder(shutil.copytree(probed / "num_steps=0008", tmp_path / "ours"))
    run = RunFolder(shutil.copytree(probed.parents[1], tmp_path / "run", ignore=shutil.ignore_patterns("probes")))
    lines = run.records_path.read_text().splitlines(keepends=True)
    run.records_path.write_text("".join(lines[:-1]))
    options = CheckpointSimilarity().options()
    compare: Callable[[torch.Tensor, torch.Tensor], dict[str, float]] = lambda x, y: {"cka": float(len(x))}  # noqa: E731
    assert "the run has not come to its end" in compare_with_network(ours, run, compare, options)
    run.records_path.write_text("".join(lines).replace('"weights_sha256": "', '"weights_sha256": "0'))
    for _ in range(2):
        assert compare_with_network(ours, run, compare, options) == ""
        (similarity,) = (r for r in ours.records() if r["probe"] == "network_similarity")
        assert similarity["values"]["cka"] == 24 and similarity["values"]["final_step"] == 4
    # Which weights the samples of a run of earlier versions are of is not known: they are compared each time.
    run.records_path.write_text("".join(lines).replace('"weights_sha256": "', '"other": "'))
    for value in (5.0, 6.0):
        assert compare_with_network(ours, run, lambda *_, v=value: {"cka": v}, options) == ""
        (similarity,) = (r for r in ours.records() if r["probe"] == "network_similarity")
        assert similarity["values"]["cka"] == value
    ours.forget(0, {"network_similarity"})

    def fail(*_: torch.Tensor) -> dict[str, float]:
        raise ValueError("no rank")

    assert compare_with_network(ours, run, fail, options) == ""
    (similarity,) = (r for r in ours.records() if r["probe"] == "network_similarity")
    assert "r2" in similarity["values"] and similarity["error"] == "similarities: no rank"
    run.sample_path(4).write_bytes(b"")
    run.records_path.write_text("".join(lines))
    assert f"{run.sample_path(4)}" in compare_with_network(ours, run, compare, options)
    shutil.rmtree(run.path / "samples")
    assert "the run keeps none" in compare_with_network(ours, run, compare, options)


def test_the_gaussian_by_its_three_names(run: Path, tmp_path: Path) -> None:
    names = {"option": [str(run), "--denoiser", "gaussian"], "own": [f"gaussian:{run}"], "h": [f"exact:{run},h=1"]}
    for name, arguments in names.items():
        assert probe([*arguments, *QUIET, *OTHERS, "--out", str(tmp_path / name)]) == 0
    option, own, h = (read_values(tmp_path / name / "num_steps=0008") for name in names)
    assert option == own == h
    assert (0, "network_similarity") in option
    records = RunFolder(tmp_path / "option" / "num_steps=0008").records()
    assert {r["conventions"]["denoiser"] for r in records if r["conventions"]} == {"gaussian"}
    assert not any("bandwidth" in r["conventions"] for r in records)


def test_images_are_inverted_and_lie_apart(run: Path, digits: Path) -> None:
    assert probe([f"exact:{run},{FEW_IMAGES}", *QUIET, "--images", str(digits)]) == 0
    folder = RunFolder(run / "probes" / "exact-h=0.4,images=200-images" / "num_steps=0008")
    names = {record["probe"] for record in folder.records()}
    assert "pixel_correlation" in names and not names & {"assignment_accuracy", "network_similarity"}
    assert (folder.path / "samples" / "step=00000000.latents.safetensors").exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("exact:RUN,h=2", [], "h must lie in [0, 1], got 2.0"),
        ("exact:RUN", [], "must say which exact denoiser, got none"),
        ("exact:nowhere,h=0.4", [], "nowhere must be the folder of a run of `probediff fit`"),
        (f"exact:RUN,{FEW_IMAGES}", ["--checkpoints", "2"], "--checkpoints must be left out for exact:"),
        (f"exact:RUN,{FEW_IMAGES}", ["--weights", "raw"], "which has no network, got 'raw'"),
        (f"exact:RUN,{FEW_IMAGES}", ["--ema_rate", "0.9"], "which has no network, got 0.9"),
        (f"exact:RUN,{FEW_IMAGES}", ["--samples", "final"], "--samples must be own for an exact denoiser"),
        (f"exact:RUN,{FEW_IMAGES}", ["--denoiser", "gaussian"], "--denoiser must be left out for exact:"),
        (f"exact:RUN,{FEW_IMAGES}", ["--num_steps", "30"], "num_steps=30 does not divide 40 timesteps"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, options: list[str], message: str
) -> None:
    assert probe([model.replace("RUN", str(run)), *QUIET, "--out", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def refuses_another_h(
    command: Callable[[Sequence[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Results in the same folder, by tensors that have the same digest."""
    assert command(arguments) == 0
    capsys.readouterr()
    assert command([argument.replace("h=0.4", "h=0.6") for argument in arguments]) == 1
    assert "bandwidth is 0.4 there and 0.6 now" in capsys.readouterr().err


def test_inversions(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--methods", "ddim", "newton", "--num_samples", "4", "--num_steps", "8", "--device", "cpu"]
    refuses_another_h(inversions, [f"exact:{run},{FEW_IMAGES}", *few, "--out", str(tmp_path)], capsys)
    row, newton = json.loads((tmp_path / "num_steps=0008" / "inversion_methods.json").read_text())
    assert newton["method"] == "newton"
    assert (row["denoiser"], row["convention"], row["clip"]) == ("smoothed_empirical", "openai", False)


def test_whitening(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--iterations", "1,2", "--num_samples", "5", "--num_fixed_points", "70", "--ridge", "0.01"]
    arguments = [f"exact:{run},{FEW_IMAGES}", *few, "--num_steps", "8", "--device", "cpu"]
    refuses_another_h(whitening, [*arguments, "--out", str(tmp_path)], capsys)
    assert record(tmp_path / "whitening.json")["conventions"]["denoiser"] == "smoothed_empirical"
    assert whitening([*arguments, "--denoiser", "gaussian"]) == 1
    assert "--denoiser must be left out for exact:" in capsys.readouterr().err


@pytest.mark.parametrize("name", [["{run}", "--denoiser", "gaussian"], ["gaussian:{run}"], ["exact:{run},h=0.4"]])
def test_an_exact_denoiser_is_not_compared_with_itself_unless_asked(run: Path, tmp_path: Path, name: list[str]) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((copied / "config.yaml").read_text())
    (copied / "config.yaml").write_text(yaml.safe_dump(config | {"denoiser_structure": {"enabled": True}}))
    arguments = [part.format(run=copied) for part in name]
    assert parse([str(copied)])[1].denoiser_structure.enabled
    assert not parse(arguments)[1].denoiser_structure.enabled
    assert parse([*arguments, "--denoiser_structure.enabled", "true"])[1].denoiser_structure.enabled


def test_a_folder_may_be_called_like_an_option_that_it_does_not_take(run: Path) -> None:
    assert parse([f"exact:{run},h=0.4", "--out", "weights"])[1].out == "weights"


def test_it_is_told_why_nothing_is_compared_with_the_network(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off = ["--checkpoint_similarity.enabled", "false", "--out", str(tmp_path / "out")]
    assert probe([f"exact:{run},{FEW_IMAGES}", *QUIET, *OTHERS, *off]) == 0
    assert "samples: --checkpoint_similarity.enabled true and another --out" in capsys.readouterr().out
    assert (0, "network_similarity") not in read_values(tmp_path / "out" / "num_steps=0008")


def test_vary_and_search_noise(
    run: Path, searched: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statistics = ["--statistics", str(searched / "statistics.safetensors")]
    for_model = ["--model", f"exact:{run},{FEW_IMAGES}", *statistics, *SEARCH, "--num_iterations", "10"]
    assert search_noise([str(digits / "image2.png"), *for_model, "--out", str(tmp_path)]) == 0
    assert record(tmp_path / "search_noise.json")["conventions"]["codes_of"] == f"{run.name} exact-h=0.4,images=200"
    models = [f"exact:{run},{FEW_IMAGES}", f"exact:{run},h=0,images=200"]
    arguments = [str(searched / "noises.safetensors"), *models, *SAMPLING, "--out", str(tmp_path)]
    assert vary(arguments) == 0
    made: list[dict[str, Any]] = record(tmp_path / "vary.json")["models"]
    assert [one["model"] for one in made] == [f"{run.name} exact-h={h},images=200" for h in ("0.4", "0")]
    assert made[0]["distance_of_each_found"] != made[1]["distance_of_each_found"]
    capsys.readouterr()
    arguments[2] = models[0].replace("h=0.4", "h=0.6")
    assert vary(arguments) == 1
    assert "models.1.bandwidth is 0.0 there and 0.6 now" in capsys.readouterr().err


def test_edit(run: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", f"exact:{run},{FEW_IMAGES}", "--noises", "random,ddim", "--strengths", "0.5"]
    assert edit([str(digits), *options, *SAMPLING, "--num_chains", "1"]) == 0
    made = record(run / "probes" / "exact-h=0.4,images=200" / "edit" / "edit.json")
    assert [one["noise"] for one in made["edits"]] == ["random", "ddim"]
    assert made["conventions"]["bandwidth"] == 0.4
