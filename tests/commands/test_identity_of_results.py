"""What was probed is told by its content: other weights or images are never taken for those that are there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probediff.__main__ import main
from probediff.commands.probe import probe
from probediff.denoisers import UNet
from probediff.probing.replay import compare_with_run
from probediff.runs.folder import RunFolder
from probediff.training.checkpoints import keep_weights_only
from tests.commands.reading import read_values

FEW = ["--settings.num_samples=12", "--num_steps=4", "--device=cpu", "--progress=false"]
STATE_DICT = ["--num_train_timesteps=40", "--schedule=cosine", "--image_size=16", "--num_heads=2"]


def state_dict(path: Path, seed: int) -> Path:
    """A network that no two seeds share."""
    torch.manual_seed(seed)
    sizes = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (8,), "num_heads": 2}
    network = UNet(image_size=16, in_channels=3, out_channels=6, **sizes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


def write_images(folder: Path, seed: int, count: int = 5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)):
        Image.fromarray(image).save(folder / f"{k}.png")
    return folder


def test_two_models_of_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    models = [state_dict(tmp_path / name / "net.pt", seed) for seed, name in enumerate("ab")]
    arguments = [*FEW, *STATE_DICT, "--checkpoint_similarity.num_directions=3"]
    assert probe([str(models[0]), *arguments]) == 0
    before = (tmp_path / "probes/net/num_steps=0004/records.jsonl").read_bytes()
    capsys.readouterr()
    assert probe([str(models[1]), *arguments]) == 1
    error = capsys.readouterr().err
    assert "holds results of other weights at step 0: weights_sha256=" in error
    assert "give another --out" in error
    assert (tmp_path / "probes/net/num_steps=0004/records.jsonl").read_bytes() == before
    # A copy of the first one is the first one, and what is there is said.
    copy = Path(shutil.copy(models[0], tmp_path / "copy.pt"))
    assert probe([str(copy), *arguments, "--out", str(tmp_path / "probes" / "net")]) == 0
    assert "there already, of step 0" in capsys.readouterr().out
    conventions = RunFolder(tmp_path / "probes/net/num_steps=0004").records()[0]["conventions"]
    assert conventions["weights"] == "as published"
    assert conventions["device"] == "cpu"
    assert conventions["num_threads"] == torch.get_num_threads()


def test_results_of_two_models_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("first", "second")):
        path = state_dict(tmp_path / f"{name}.pt", seed)
        small = ["--settings.num_samples=4", "--num_steps=4", "--methods", "ddim", "--device=cpu"]
        assert main(["inversions", str(path), *STATE_DICT, *small]) == 0
    tables = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("probes/*/inversions/*/*.json"))]
    assert len(tables) == 2
    assert tables[0][0]["weights_sha256"] != tables[1][0]["weights_sha256"]


@pytest.mark.parametrize("change", ["another folder", "replaced", pytest.param("added", marks=pytest.mark.slow)])
def test_other_images_of_one_name(
    change: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "a" / "mine", seed=0)
    arguments = ["--checkpoints=last", "--num_steps=4", "--device=cpu", "--progress=false", f"--out={tmp_path / 'out'}"]
    assert probe([str(tiny_run), f"--images={images}", *arguments]) == 0
    before = read_values(tmp_path / "out" / "num_steps=0004")
    if change == "another folder":
        images = write_images(tmp_path / "b" / "mine", seed=1)
    else:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(images / ("2.png" if change == "replaced" else "5.png"))
    assert probe([str(tiny_run), f"--images={images}", *arguments]) == 1
    assert "images_sha256=" in capsys.readouterr().err or change == "added"
    assert read_values(tmp_path / "out" / "num_steps=0004") == before
    # The same content elsewhere is the same.
    moved = write_images(tmp_path / "moved" / "mine", seed=0)
    assert probe([str(tiny_run), f"--images={moved}", *arguments]) == 0


def test_other_reference_images(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tiny_run), "--checkpoints=last", "--num_steps=4", "--device=cpu", f"--out={tmp_path / 'out'}"]
    assert probe(arguments) == 0
    assert probe([*arguments, f"--reference={write_images(tmp_path / 'real', 0, 30)}"]) == 1
    assert "reference_sha256=None, asked for" in capsys.readouterr().err


def test_weights_that_were_trained_anew(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    arguments = [str(run), "--num_steps=4", "--device=cpu", "--progress=false"]
    assert probe(arguments) == 0
    path = RunFolder(run).checkpoint_path(2)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["ema.models.0.unet.out.2.bias"][0] += 1e-6
    torch.save(checkpoint, path)
    assert probe(arguments) == 1
    assert "holds results of other weights at step 2" in capsys.readouterr().err


def test_results_of_an_earlier_version(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tiny_run), "--checkpoints=last", "--num_steps=4", "--device=cpu", f"--out={tmp_path / 'out'}"]
    assert probe(arguments) == 0
    folder = RunFolder(tmp_path / "out" / "num_steps=0004")
    lines = [{k: v for k, v in record.items() if k != "weights_sha256"} for record in folder.records()]
    folder.records_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert probe(arguments) == 1
    assert "was written by an earlier version, which did not record which weights" in capsys.readouterr().err


@pytest.mark.parametrize("first", [pytest.param("4", marks=pytest.mark.slow), "0,4"])
def test_checkpoints_that_come_later_give_the_same_in_the_end(first: str, tiny_run: Path, tmp_path: Path) -> None:
    """Also what compares a checkpoint with the one before it, which was not there at first."""
    arguments = [str(tiny_run), "--device=cpu", "--progress=false"]
    assert probe([*arguments, f"--out={tmp_path / 'out'}", "--checkpoints", first]) == 0
    assert probe([*arguments, f"--out={tmp_path / 'out'}"]) == 0
    found = read_values(tmp_path / "out" / "num_steps=0008")
    assert found == read_values(tiny_run)
    keys = [(r["step"], r["probe"]) for r in RunFolder(tmp_path / "out" / "num_steps=0008").records()]
    assert len(keys) == len(set(keys))


def test_a_replay_names_what_differs(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert probe([str(tiny_run), f"--out={tmp_path / 'out'}", "--device=cpu", "--checkpoints=0"]) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "records have exactly the numbers that the run recorded" in printed
    assert f"other conditions: num_threads {threads} there, 2 here" in printed


def test_the_differences_of_a_replay(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    folder = RunFolder(run)
    same = compare_with_run(folder, tiny_run)
    assert same.equal == same.compared > 20
    assert len(same.in_words()) == 1
    records = folder.records()
    for record in records:
        if (record["step"], record["probe"]) == (2, "inversion_angles"):
            record["values"]["at_image_mean_deg"] *= 1.001
            record["values"]["latent_std"] *= 1 + 1e-6
        if record["step"] == 4 and record["conventions"]:
            record["weights_sha256"] = "f" * 16
        record["conventions"] |= {"torch": "3.0"} if record["conventions"] else {}
    folder.records_path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = compare_with_run(folder, tiny_run)
    assert found.compared - found.equal == 1
    most = found.largest["inversion_angles"]
    assert (most.key, most.step) == ("at_image_mean_deg", 2)
    assert most.relative == pytest.approx(1e-3, rel=0.01)
    assert found.other_weights == {4}
    assert found.conditions["torch"][1] == "3.0"
    assert "inversion_angles: 1 record(s) differ, most at_image_mean_deg at step 2" in "\n".join(found.in_words())


def test_other_settings_are_no_replay(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tiny_run), "--checkpoints=last", "--num_steps=4", "--device=cpu", f"--out={tmp_path / 'out'}"]
    assert probe(arguments) == 0
    assert "no replay of what the run recorded: num_steps 8 there, 4 here" in capsys.readouterr().out


def test_weights_in_float16_are_named(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    keep_weights_only(RunFolder(run).checkpoint_path(2))
    arguments = [str(run), "--device=cpu", "--progress=false"]
    assert probe(arguments) == 0
    printed = capsys.readouterr().out
    assert "other weights than those that were probed: step 2" in printed
    assert "recorded now and not then: stored_dtype" in printed
    # And the second time everything is there.
    assert probe(arguments) == 0
    assert "there already, of step 0, 2, 4" in capsys.readouterr().out


def test_raw_weights_of_a_run_that_probes_them(tiny_run: Path, tmp_path: Path) -> None:
    """The run's own setting decides, unless another one is typed."""
    for weights in ("raw", "ema"):
        options = [f"--settings.weights={weights}", "--checkpoints=last", "--num_steps=4", "--device=cpu"]
        assert probe([str(tiny_run), *options, f"--out={tmp_path / weights}"]) == 0
    digests = {RunFolder(tmp_path / w / "num_steps=0004").records()[0]["weights_sha256"] for w in ("raw", "ema")}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pixel_correlation.k=5"], "pixel_correlation={'k': 10}, asked for {'k': 5}"),
        (["--latent_interpolation.enabled=true"], "latent_interpolation=None, asked for"),
        (["--noise_image_map.enabled=false"], "noise_image_map={'max_samples': 1000}, asked for None"),
    ],
)
def test_other_probes_or_options_of_probes(
    options: list[str], message: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_run), "--checkpoints=last", "--num_steps=4", "--device=cpu", f"--out={tmp_path / 'out'}"]
    assert probe(arguments) == 0
    assert probe([*arguments, *options]) == 1
    assert message in capsys.readouterr().err


def test_an_event_that_was_cut_short_is_measured_once(tiny_run: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_run), "--device=cpu", "--progress=false", f"--out={tmp_path / 'out'}"]
    assert probe(arguments) == 0
    records = tmp_path / "out" / "num_steps=0008" / "records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[:4]) + lines[4][:30])
    assert probe(arguments) == 0
    found = RunFolder(records.parent).records()
    assert len({(r["step"], r["probe"]) for r in found}) == len(found) == len(lines)


def test_images_are_no_replay(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "mine", seed=0, count=24)
    out = [f"--out={tmp_path / 'out'}", "--checkpoints=last", "--device=cpu"]
    assert probe([str(tiny_run), f"--images={images}", *out]) == 0
    assert "that the run recorded" not in capsys.readouterr().out


@pytest.mark.slow
def test_damaged_samples_are_compared_again_when_they_are_gone(tiny_run: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_run), "--device=cpu", "--progress=false", f"--out={tmp_path / 'out'}"]
    assert probe([*arguments, "--checkpoints=0"]) == 0
    folder = RunFolder(tmp_path / "out" / "num_steps=0008")
    whole = folder.sample_path(0).read_bytes()
    folder.sample_path(0).write_bytes(whole[:-10])
    assert probe(arguments) == 0
    assert any(record.get("error") for record in folder.records())
    folder.sample_path(0).write_bytes(whole)
    assert probe(arguments) == 0
    assert not any(record.get("error") for record in folder.records())
    assert read_values(folder.path) == read_values(tiny_run)
