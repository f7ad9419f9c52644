"""The shared pass and its coordinator: what is probed when, what is stored, and that nothing is disturbed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from probediff.callbacks import (
    AssignmentAccuracy,
    CheckpointSimilarity,
    InversionAngles,
    PixelCorrelation,
    Probe,
    ProbeSchedule,
    Probing,
    SampleQuality,
)
from probediff.callbacks.due_steps import P1_CIFAR10, P1_IMAGENET64
from probediff.ddim import ddim_invert, ddim_sample
from probediff.measures import assignment_accuracy, top_k_correlation, triangle_angles
from probediff.noise import seeded_noise
from probediff.probing import ProbePass, ProbeResult
from probediff.runs.folder import RunFolder
from tests.conftest import CLOSE, all_probes, tiny_module, tiny_settings

Fit = Callable[..., tuple[Any, L.Trainer]]


def by_key(folder: RunFolder) -> dict[tuple[str, int], dict[str, float]]:
    return {(record["probe"], record["step"]): record["values"] for record in folder.records()}


def test_probes_do_not_change_training(fit: Fit) -> None:
    probed, _ = fit(all_probes(), tiny_module(ema_rates=[0.9, 0.5]), schedule=ProbeSchedule(every_n_steps=1))
    alone, _ = fit(None, tiny_module(ema_rates=[0.9, 0.5]))
    for (name, ours), theirs in zip(probed.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert not torch.equal(
        probed.eps_model.unet.input_blocks[0][0].weight, tiny_module().eps_model.unet.input_blocks[0][0].weight
    )


def test_records_checkpoints_and_samples(fit: Fit, tmp_path: Path) -> None:
    fit(all_probes())
    folder = RunFolder(tmp_path / "run")
    found = by_key(folder)
    assert {step for probe, step in found if probe == "inversion_angles"} == {0, 2, 5}
    assert folder.sample_steps() == [0, 2, 5]
    for step in (0, 2, 5):
        checkpoint = torch.load(folder.checkpoint_path(step), weights_only=True)
        assert checkpoint["global_step"] == step
        assert any(key.startswith("ema.models.0.unet.") for key in checkpoint["state_dict"])
        assert load_file(folder.sample_path(step))["x_0"].dtype == torch.float16
        angles = load_file(tmp_path / "run" / "samples" / f"step={step:08d}.inversion_angles.safetensors")
        assert angles["at_image_deg"].shape == (17,)
        assert float(angles["at_image_deg"].mean()) == pytest.approx(
            found["inversion_angles", step]["at_image_mean_deg"], rel=1e-5
        )
        for picture in (
            "fixed_noise_generation.samples",
            "inversion_angles.latents",
            "inversion_angles.triangle",
            "assignment_accuracy.hubs",
        ):
            assert (tmp_path / "run" / "pictures" / f"step={step:08d}.{picture}.png").stat().st_size > 100
    assert (tmp_path / "run" / "pictures" / "step=00000005.fixed_noise_generation_final.over_training.png").exists()
    assert ("checkpoint_similarity", 0) not in found
    assert found["checkpoint_similarity", 5]["previous_step"] == 2
    assert {step for probe, step in found if probe == "checkpoint_similarity_final"} == {0, 2}
    assert found["training", 5]["loss_mean"] > 0
    assert folder.records()[-1]["probe"] == "run"
    conventions = folder.records()[-2]["conventions"]
    expected = {"num_samples": 17, "num_steps": 8, "convention": "openai", "clip": True, "clip_inversion": True}
    expected |= {"noise_seed": 420, "weights": "ema", "ema_rate": 0.9, "num_train_timesteps": 40, "schedule": "cosine"}
    assert conventions | expected == conventions


def test_numbers_are_those_of_the_library_on_the_stored_checkpoint(fit: Fit, tmp_path: Path) -> None:
    fit([InversionAngles(), AssignmentAccuracy(), PixelCorrelation()])
    folder = RunFolder(tmp_path / "run")
    module = tiny_module()
    module.load_state_dict(torch.load(folder.checkpoint_path(5), weights_only=True)["state_dict"])
    model = module.probe_model("ema").eps_model
    noise = seeded_noise(420, range(17), (1, 8, 8))
    x_0 = ddim_sample(model, module.schedule, noise, 8)
    latent = ddim_invert(model, module.schedule, x_0, 8)
    found = by_key(folder)
    angles = triangle_angles(noise, x_0, latent)
    assert found["inversion_angles", 5]["at_latent_mean_deg"] == pytest.approx(
        float(angles.at_latent_deg.mean()), rel=CLOSE
    )
    assert found["assignment_accuracy", 5]["image_to_noise"] == assignment_accuracy(noise, x_0).image_to_noise
    assert found["assignment_accuracy", 5]["null"] == 1 / 17
    assert found["pixel_correlation", 5]["latent"] == pytest.approx(top_k_correlation(latent), rel=10 * CLOSE)


def test_numbers_do_not_depend_on_the_probe_batch_size(fit: Fit, tmp_path: Path) -> None:
    results = []
    for batch_size in (7, 64):
        root = tmp_path / str(batch_size)
        settings = tiny_settings(num_samples=64, batch_size=batch_size)
        fit(all_probes(), settings=settings, default_root_dir=root)
        results.append(by_key(RunFolder(root)))
    assert results[0].keys() == results[1].keys()
    for key, values in results[0].items():
        if key[0] not in ("timing", "training", "pass"):
            assert values == pytest.approx(results[1][key], rel=CLOSE, abs=CLOSE), key


def test_inversion_is_skipped_when_no_probe_needs_it(fit: Fit, tmp_path: Path) -> None:
    seen: list[ProbePass] = []

    class Look(Probe):
        def measure(self, event: ProbePass) -> ProbeResult:
            seen.append(event)
            return ProbeResult()

    fit([Look()])
    assert [event.step for event in seen] == [0, 2, 5]
    assert all(event.latent is None for event in seen)
    assert torch.equal(seen[0].noise, seeded_noise(420, range(17), (1, 8, 8)))


def test_disabled_probes_do_not_run(fit: Fit, tmp_path: Path) -> None:
    fit([InversionAngles(enabled=False), AssignmentAccuracy()])
    probes = {record["probe"] for record in RunFolder(tmp_path / "run").records()}
    assert "assignment_accuracy" in probes
    assert "inversion_angles" not in probes


def test_a_degenerate_measurement_is_recorded_and_training_goes_on(fit: Fit, tmp_path: Path) -> None:
    class Degenerate(Probe):
        def measure(self, event: ProbePass) -> ProbeResult:
            raise ValueError("all images are equal")

    with pytest.warns(UserWarning, match="degenerate has no result at step 2: all images are equal"):
        _, trainer = fit([Degenerate(), AssignmentAccuracy()])
    assert trainer.global_step == 5
    records = RunFolder(tmp_path / "run").records()
    assert [r["error"] for r in records if r["probe"] == "degenerate"] == ["all images are equal"] * 3
    assert sum(r["probe"] == "assignment_accuracy" for r in records) == 3


@pytest.mark.parametrize(
    ("probes", "settings", "message"),
    [
        ([], {"num_steps": 0}, r"num_steps must divide into 1\.\.40, got 0"),
        ([], {"num_steps": 30}, "num_steps=30 does not divide 40 timesteps"),
        ([], {"num_samples": 0}, "probing.settings.num_samples must be at least 1, got 0"),
        ([], {"batch_size": 0}, "probing.settings.batch_size must be at least 1, got 0"),
        ([], {"noise_seed": -1}, "probing.settings.noise_seed must be at least 0, got -1"),
        ([], {"ema_rate": 0.5}, r"ema_rate must be one of the averages that the model keeps, \[0.9\], got 0.5"),
        ([CheckpointSimilarity()], {"num_samples": 10}, "num_directions must be below probing.settings.num_samples"),
        (
            [SampleQuality(features=["dino"], kid_subset_size=1800)],
            {"num_samples": 2000},
            r"the real images that are there \(1797 of those\), got 1800; lower it",
        ),
        (
            [PixelCorrelation()],
            {"num_samples": 3},
            "pixel_correlation needs probing.settings.num_samples of at least 4",
        ),
    ],
)
def test_bad_settings_stop_before_training(
    fit: Fit, tmp_path: Path, probes: list[Probe], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(probes, settings=tiny_settings(**settings))
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_missing_average_is_an_error_with_the_cure(fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"add it to --model.ema_rates or probe the raw weights"):
        fit([], tiny_module(ema_rates=[]))


def test_a_run_without_an_end_is_an_error(fit: Fit) -> None:
    with pytest.raises(Exception, match=r"trainer.max_steps \(or trainer.max_epochs\) must be set"):
        fit([], max_steps=-1, max_epochs=-1)


def test_a_run_folder_that_cannot_be_written(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be a folder that can be written to"):
        fit([], default_root_dir=tmp_path / "file")


def test_older_checkpoints_keep_their_weights_only(fit: Fit, tmp_path: Path) -> None:
    fit([AssignmentAccuracy()], schedule=ProbeSchedule(every_n_steps=1), keep_full_checkpoints=2)
    fit([AssignmentAccuracy()], schedule=ProbeSchedule(every_n_steps=1), default_root_dir=tmp_path / "whole")
    thinned, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    for step in range(6):
        ours, theirs = (torch.load(f.checkpoint_path(step), "cpu", weights_only=True) for f in (thinned, whole))
        assert ("optimizer_states" in ours) == (step >= 4)
        assert ours["global_step"] == step
        for name, value in theirs["state_dict"].items():
            expected = value if step >= 4 else value.half()
            assert torch.equal(ours["state_dict"][name], expected), name
    assert thinned.checkpoint_path(3).stat().st_size < 0.6 * whole.checkpoint_path(3).stat().st_size


def test_at_least_one_whole_checkpoint_is_kept() -> None:
    with pytest.raises(ValueError, match=r"probing.keep_full_checkpoints must be at least 1, got 0"):
        Probing(keep_full_checkpoints=0)


def test_schedules() -> None:
    assert ProbeSchedule().until(7) == {0, 7}
    assert ProbeSchedule(steps=(3, 100), every_n_steps=4).until(9) == {0, 3, 4, 8, 9}
    assert sorted(ProbeSchedule(per_decade=2).until(100)) == [0, 1, 3, 10, 32, 100]
    assert ProbeSchedule(named="p1_cifar10").until(100) == {0, 5, 10, 25, 50, 100}
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        ProbeSchedule(every_n_steps=0).until(9)
    with pytest.raises(ValueError, match="steps must be at least 0"):
        ProbeSchedule(steps=(-5,)).until(9)


def test_the_lists_of_the_authors() -> None:
    """Lengths and landmarks as the authors' repository has them (taba, guided_diffusion/ckpts_utils.py)."""
    assert {5, 10, 25, 50, 400, 390, 39_000, 39_390} <= P1_CIFAR10
    assert len(P1_CIFAR10) == 3 + 8 + 100 + len(range(39_390, 500_001, 1_950))
    assert {5, 100, 250, 10_250, 10_307, 20_614} <= P1_IMAGENET64
    assert 10_500 not in P1_IMAGENET64
    assert len(P1_IMAGENET64) == 5 + 41 + len(range(10_307, 1_500_001, 10_307))
