"""What the probes of latents, maps, trajectories and quality refuse beforehand, and that a run has all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probediff.callbacks import (
    AssignmentAccuracy,
    CheckpointSimilarity,
    InversionAngles,
    LatentInterpolation,
    LatentNormality,
    NoiseImageMap,
    PaperCompat,
    PixelCorrelation,
    SampleQuality,
    TrajectoryHeatmap,
    Whitening,
)
from probediff.probing.probe import Probe
from probediff.runs.folder import RunFolder
from tests.callbacks.passes import context, draw


@pytest.mark.parametrize(
    ("probe", "options", "message"),
    [
        (LatentNormality(), {"num_samples": 1}, "latent_normality needs probing.settings.num_samples of at least 2"),
        (LatentNormality(), {"shape": (3, 1, 5)}, "latent_normality needs images of at least 2x2 pixels"),
        (NoiseImageMap(), {"num_samples": 1}, "noise_image_map needs probing.settings.num_samples of at least 2"),
        (LatentInterpolation(num_pairs=9), {}, r"num_pairs must be at most half of .* \(17\), got 9"),
        (LatentInterpolation(), {"shape": (1, 6, 8)}, "at least 7x7 pixels"),
        (SampleQuality(features=["dino"]), {}, "sample_quality needs real images"),
        (
            SampleQuality(features=["dino"]),
            {"real_images": lambda count: draw(count, 0)},
            r"kid_subset_size must be at most probing.settings.num_samples \(17\)",
        ),
        (
            SampleQuality(features=["dino"]),
            {"num_samples": 500, "real_images": lambda count: draw(min(count, 50), 0)},
            r"num_samples \(500\), sample_quality.num_real \(10000\) and the real images that are there "
            r"\(50 of those\), got 100; lower it",
        ),
        (
            PixelCorrelation(k=2017),
            {},
            r"k must be at most the 2016 pairs of pixels of \(1, 8, 8\), got 2017; lower it",
        ),
        (CheckpointSimilarity(num_directions=17), {}, r"num_directions must be below .* \(17\) .*, got 17"),
        (
            CheckpointSimilarity(num_directions=65),
            {"num_samples": 100},
            r"at most the 64 values of a sample, got 65; lower it",
        ),
        (PaperCompat(num_directions=65), {"num_samples": 100}, r"paper_compat.num_directions must .* 64 values .* 65"),
        (
            Whitening(ridge=0.1),
            {"real_images": lambda count: draw(2, 0)},
            "whitening needs at least 3 real images, got 2",
        ),
    ],
)
def test_refused_before_training(probe: Probe, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        probe.check(context(tmp_path, **options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LatentNormality(shapiro_samples=0), "latent_normality.shapiro_samples must be at least 1, got 0"),
        (lambda: NoiseImageMap(max_samples=1), "noise_image_map.max_samples must be at least 2, got 1"),
        (lambda: LatentInterpolation(num_pairs=0), "latent_interpolation.num_pairs must be at least 1, got 0"),
        (lambda: LatentInterpolation(num_points=4), "num_points must be odd and at least 3, got 4"),
        (lambda: TrajectoryHeatmap(num_lambdas=1), "trajectory_heatmap.num_lambdas must be at least 2, got 1"),
        (lambda: SampleQuality(num_real=1), "sample_quality.num_real must be at least 2, got 1"),
        (lambda: AssignmentAccuracy(num_hubs=0), "assignment_accuracy.num_hubs must be at least 1, got 0"),
        (lambda: InversionAngles(num_shown=-1), "inversion_angles.num_shown must be at least 1, got -1"),
        (lambda: CheckpointSimilarity(num_directions=0), "num_directions must be at least 1, got 0"),
        (lambda: PaperCompat(num_directions=-2), "paper_compat.num_directions must be at least 1, got -2"),
        (lambda: SampleQuality(kid_subset_size=1), "sample_quality.kid_subset_size must be at least 2, got 1"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_they_need_and_whether_they_run() -> None:
    assert not LatentInterpolation().enabled
    assert all(probe.enabled for probe in (LatentNormality(), NoiseImageMap(), SampleQuality(), TrajectoryHeatmap()))
    assert LatentNormality.needs_latent and not LatentNormality.needs_pairs
    assert NoiseImageMap.needs_pairs and not NoiseImageMap.needs_latent
    assert TrajectoryHeatmap.needs_latent and TrajectoryHeatmap.needs_pairs and TrajectoryHeatmap.needs_trajectory
    assert LatentInterpolation.needs_latent and LatentInterpolation.needs_pairs


def test_in_a_run(fit: Callable[..., Any], tmp_path: Path) -> None:
    """Digits of 8 x 8 pixels, 17 samples, an untrained network: every probe has its numbers at every step."""
    probes = [LatentNormality(), NoiseImageMap(), TrajectoryHeatmap(), LatentInterpolation(True, 2, 3)]
    fit([*probes, SampleQuality()])
    folder = RunFolder(tmp_path / "run")
    records = {(record["probe"], record["step"]): record for record in folder.records()}
    for probe in probes:
        for step in (0, 2, 5):
            record = records[probe.name(), step]
            assert "error" not in record
            # Without a plain pixel, or one that is not plain, there is no mean of the errors there.
            missing = {key for key, value in record["values"].items() if value is None}
            assert all(key.startswith(("plain_area_", "latent_nearest_from")) for key in missing)
            assert len(record["values"]) - len(missing) > 3
    for name in ("trajectory_heatmap.heatmap", "latent_interpolation.paths"):
        assert (folder.path / "pictures" / f"step=00000005.{name}.png").exists()
    assert not [step for name, step in records if name == "sample_quality"]
