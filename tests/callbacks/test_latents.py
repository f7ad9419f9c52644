"""The probes of latents, maps, trajectories and quality: what they record, and what they refuse beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import Tensor

from probediff.callbacks import (
    LatentInterpolation,
    LatentNormality,
    NoiseImageMap,
    PaperCompat,
    SampleQuality,
    TrajectoryHeatmap,
)
from probediff.features.distances import feature_distances
from probediff.features.networks import extract, load_features
from probediff.measures import (
    TrajectoryRecorder,
    hubness,
    latent_normality,
    optimal_transport,
    patch_correlation,
    plain_area_errors,
    slerp,
    ssim,
)
from probediff.measures.paper_compat import ssim_min_max
from probediff.models.base import ProbeModel
from probediff.probing import PassSettings, ProbePass
from probediff.probing.probe import Probe, ProbeContext
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from tests.conftest import tiny_settings

TINY_NETWORK = "test_vit.r160_in1k"
SHAPE = (1, 8, 8)


def draw(num: int, seed: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(seed))


def made_pass(
    num: int = 17, shape: tuple[int, int, int] = SHAPE, kind: type[ProbePass] = ProbePass, **options: Any
) -> ProbePass:
    """Noises, images that resemble them, latents between; the left half of each image is flat."""
    noise = draw(num, 0, shape)
    x_0 = (0.3 * noise + 0.2 * draw(num, 1, shape)).tanh()
    x_0[..., : shape[-1] // 2] = draw(num, 2, (shape[0], 1, 1)).clamp(-1, 1)
    latent = 0.8 * noise + 0.2 * x_0 + 0.1 * draw(num, 3, shape)
    return kind(0, tiny_settings(num_samples=num), noise, x_0, latent, **options)


class SamplingPass(ProbePass):
    """A pass whose model scales noises to images."""

    scale: ClassVar[float] = 1.0

    def sample(self, noise: Tensor) -> Tensor:
        return self.scale * noise


class FifthPass(SamplingPass):
    scale = 0.2


class TenthPass(SamplingPass):
    scale = 0.1


class BlackPass(SamplingPass):
    scale = 0.0


def latent_model() -> ProbeModel:
    """Codes that an autoencoder decodes to three channels of twice the size."""
    network, schedule = torch.nn.Linear(1, 1), NoiseSchedule.cosine(40)
    return ProbeModel(network, schedule, SHAPE, 0, {}, decode=lambda codes: codes.repeat(1, 3, 2, 2) / 4)


def context(folder: Path, shape: tuple[int, int, int] = SHAPE, **options: Any) -> ProbeContext:
    settings = tiny_settings(num_samples=options.pop("num_samples", 17))
    return ProbeContext(settings, shape, RunFolder(folder), **options)


def finite(values: dict[str, float]) -> bool:
    return all(isinstance(value, float) and math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("shape", [SHAPE, (3, 12, 10)])
def test_latent_normality(shape: tuple[int, int, int], tmp_path: Path) -> None:
    probe, event = LatentNormality(shapiro_samples=5), made_pass(shape=shape)
    probe.check(context(tmp_path, shape))
    result = probe.measure(event)
    assert event.latent is not None
    expected, split = latent_normality(event.latent, 5), plain_area_errors(event.noise, event.x_0, event.latent)
    assert finite(result.values)
    for name, (value, null) in expected.scalars().items():
        assert (result.values[name], result.values[f"{name}_null"]) == (value, null)
    assert result.values["patch_correlation"] == patch_correlation(event.latent).value
    assert result.values["plain_area_inside"] == split.inside
    assert result.values["plain_area_outside_null"] == split.outside_null
    assert 0.2 < result.values["plain_area_plain_share"] < 0.6
    assert (result.values["shapiro_samples"], result.values["plain_area_threshold"]) == (5, 0.025)
    assert result.arrays["ks_distance"].shape == (17,)
    assert result.arrays["radial_frequency"].shape == result.arrays["radial_power"].shape


@pytest.mark.parametrize("options", [{"paired": False}, {"model": latent_model()}])
def test_plain_areas_need_pairs_of_pixels(options: dict[str, Any]) -> None:
    values = LatentNormality().measure(made_pass(**options)).values
    assert "patch_correlation" in values
    assert not [name for name in values if name.startswith("plain_area")]


@pytest.mark.parametrize("max_samples", [1000, 9])
def test_noise_image_map(max_samples: int, tmp_path: Path) -> None:
    probe, event = NoiseImageMap(max_samples=max_samples), made_pass()
    probe.check(context(tmp_path))
    result, num = probe.measure(event), min(17, max_samples)
    expected = optimal_transport(event.noise[:num], event.x_0[:num])
    assert finite(result.values)
    assert result.values["num_samples"] == num
    assert result.values["identity_share_null"] == 1 / num
    for name in ("identity_share", "identity_gap", "nearest_image_share", "nearest_noise_gap", "optimal_cost"):
        assert result.values[name] == getattr(expected, name)
    assert result.values["identity_gap_null"] == expected.random_gap
    captured = torch.bincount(expected.nearest_image, minlength=num)
    assert result.values["image_hubness"] == hubness(captured)
    assert torch.equal(result.arrays["assigned_image"], expected.assigned_image)


def test_a_degenerate_sample_set_is_an_error_of_the_record() -> None:
    event = made_pass()
    constant = ProbePass(0, event.settings, event.noise, torch.full_like(event.x_0, 0.5), event.latent)
    with pytest.raises(ValueError, match="x_0 must hold different samples, got 17 equal ones"):
        NoiseImageMap().measure(constant)
    still = ProbePass(0, event.settings, event.noise, event.x_0, event.x_0[:1].expand(17, -1, -1, -1))
    with pytest.raises(ValueError, match="latents must hold a patch with two pixels that vary"):
        LatentNormality().measure(still)


def test_trajectory_heatmap(tmp_path: Path) -> None:
    event = made_pass()
    assert event.latent is not None
    recorder = TrajectoryRecorder(10)
    for index in range(10):
        done = (index + 1) / 10
        recorder.on_step(SimpleNamespace(index=index, x=(1 - done) * event.noise + done * event.x_0))
    probe = TrajectoryHeatmap(num_lambdas=21)
    probe.check(context(tmp_path))
    with pytest.raises(ValueError, match="needs a pass that kept its trajectories"):
        probe.measure(event)
    distances = recorder.distances(event.noise, event.latent)
    result = probe.measure(made_pass(trajectory=distances))
    mean = result.arrays["mean_distance"]
    assert mean.shape == (10, 21)
    torch.testing.assert_close(mean[-1, 0], (event.x_0 - event.noise).flatten(1).norm(dim=1).mean())
    torch.testing.assert_close(mean[3, -1], (recorder._kept[3] - event.latent).flatten(1).norm(dim=1).mean())
    values = result.values
    assert values["closest_to_latent_step_fraction"] == pytest.approx((int(mean[:, -1].argmin()) + 1) / 10)
    assert values["closest_to_latent_distance"] == pytest.approx(float(mean[:, -1].min()))
    assert {"closest_lambda", "closest_step_fraction", "noise_latent_distance"} <= values.keys()
    assert (result.arrays["lambdas"][0], result.arrays["lambdas"][-1]) == (0, 1)
    torch.testing.assert_close(result.arrays["step_fraction"], torch.arange(1, 11) / 10)
    picture = result.pictures["heatmap"]
    assert (picture.dtype, picture.shape[0]) == (torch.uint8, 3)


def test_the_picture_has_noise_left_latent_above_and_near_light() -> None:
    # At the last step the trajectory is at the latent: the upper right corner is the lightest, the upper left dark.
    noise, latent, recorder = torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE), TrajectoryRecorder(50)
    for index in range(50):
        recorder.on_step(SimpleNamespace(index=index, x=noise + (index + 1) / 50))
    trajectory = recorder.distances(noise, latent)
    picture = TrajectoryHeatmap().measure(made_pass(trajectory=trajectory)).pictures["heatmap"].float().mean(dim=0)
    low, high = 74, picture.shape[0] - 75
    light, dark = picture[low, high], picture[low, low]
    assert light > 180 > 80 > dark
    assert picture[high, low] > 180 and picture[high, high] < 80


def test_interpolation_of_an_identity(tmp_path: Path) -> None:
    """A sampler that returns its input: every number is one of the paths themselves."""
    probe = LatentInterpolation(enabled=True, num_pairs=3, num_points=5)
    probe.check(context(tmp_path))
    event = made_pass(kind=FifthPass)
    result = probe.measure(event)
    assert event.latent is not None
    middles = [0.2 * slerp(x[0:6:2], x[1:6:2], 0.5) for x in (event.noise, event.latent)]
    assert finite(result.values)
    assert result.values["midpoint_ssim"] == pytest.approx(float(ssim(*(m.clamp(-1, 1) for m in middles)).mean()))
    assert abs(result.values["midpoint_ssim_null"]) < 0.3 < result.values["midpoint_ssim"]
    ends = 0.2 * event.noise[:6].flatten(1)
    expected = middles[0].flatten(1).std(dim=1, correction=0).mean() / ends.std(dim=1, correction=0).mean()
    assert result.values["midpoint_contrast_noise"] == pytest.approx(float(expected), rel=1e-5)
    straight = (ends[0::2] - ends[1::2]).norm(dim=1).mean()
    assert straight < result.values["path_length_noise"] < 1.2 * straight
    # Three pairs of two rows, five columns, 8 px enlarged to 64, 2 px between.
    assert result.pictures["paths"].shape == (3, 6 * 66 + 2, 5 * 66 + 2)


def test_the_rows_of_the_picture_belong_together() -> None:
    event = made_pass()
    flat = torch.arange(4.0)[:, None, None, None].expand(4, *SHAPE) + 1
    event = TenthPass(0, event.settings, flat * event.noise[:4].sign(), event.x_0[:4], 10 * event.noise[:4])
    paths = LatentInterpolation(True, num_pairs=2, num_points=3).measure(event).pictures["paths"]
    for pair in range(2):
        for row, start in ((0, event.noise), (1, event.latent)):
            for column, end in ((0, 2 * pair), (2, 2 * pair + 1)):
                top, left = (2 * pair + row) * 66 + 2, column * 66 + 2
                tile = paths[0, top : top + 64 : 8, left : left + 64 : 8].float()
                expected = ((start[end, 0] / 10).clamp(-1, 1) + 1) / 2 * 255
                torch.testing.assert_close(tile, expected, atol=1, rtol=0)


def test_interpolation_decodes_and_needs_a_sampler() -> None:
    probe = LatentInterpolation(True, num_pairs=2, num_points=3)
    decoded = probe.measure(made_pass(kind=SamplingPass, model=latent_model()))
    assert decoded.pictures["paths"].shape == (3, 4 * 66 + 2, 3 * 66 + 2)
    with pytest.raises(ValueError, match="needs a pass that can ask its model"):
        probe.measure(made_pass())
    with pytest.raises(ValueError, match="images must vary at the ends"):
        probe.measure(made_pass(kind=BlackPass))


@pytest.fixture
def network_spec(tmp_path: Path) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(timm.create_model(TINY_NETWORK, num_classes=0).state_dict(), tmp_path / "vit.pth")
    return f"timm/{TINY_NETWORK}={tmp_path / 'vit.pth'}"


def test_sample_quality(network_spec: str, tmp_path: Path) -> None:
    real, asked = draw(60, 7).tanh(), []

    def real_images(count: int) -> Tensor:
        asked.append(count)
        return real[:count]

    probe = SampleQuality(features=[network_spec], num_real=20, kid_subset_size=10)
    with pytest.warns(UserWarning, match=r"17 samples and 20 real images in the 64 features .* without full rank"):
        probe.check(context(tmp_path, real_images=real_images))
    event = made_pass()
    values = probe.measure(event).values
    assert values == probe.measure(event).values
    # Extracted once, though measured twice: the reference and as many as there are samples.
    assert asked == [37]
    network = load_features(network_spec)
    extracted = [extract(network, images) for images in (real[:20], event.x_0, real[20:37])]
    name = f"timm_{TINY_NETWORK}"
    for suffix, fake in (("", extracted[1]), ("_null", extracted[2])):
        expected = feature_distances(extracted[0], fake, 10)
        assert values[f"{name}_fid{suffix}"] == pytest.approx(expected.fid, rel=1e-3)
        assert values[f"{name}_kid{suffix}"] == pytest.approx(expected.kid, rel=1e-3, abs=1e-6)
    assert values[f"{name}_fid"] > values[f"{name}_fid_null"]
    assert (values["num_real"], values["num_samples"], values[f"{name}_fid_full_rank"]) == (20, 17, 0)


def test_a_small_data_set_has_no_null(network_spec: str, tmp_path: Path) -> None:
    probe = SampleQuality(features=[network_spec], num_real=20, kid_subset_size=10)
    with pytest.warns(UserWarning, match="without full rank"):
        probe.check(context(tmp_path, real_images=lambda count: draw(15, 7)[:count].tanh()))
    values = probe.measure(made_pass()).values
    assert values["num_real"] == 15
    assert not [key for key in values if key.endswith("_null")]


def test_quality_without_features_measures_nothing(tmp_path: Path) -> None:
    probe = SampleQuality()
    probe.check(context(tmp_path))
    assert probe.measure(made_pass()).values == {}


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


def test_paper_compat(tmp_path: Path) -> None:
    """The authors' numbers differ from ours in the way that their code does."""
    event, probe = made_pass(), PaperCompat(num_directions=3)
    assert event.latent is not None
    probe.check(context(tmp_path))
    values = probe.measure(event).values
    kept = len(event.noise) // event.settings.batch_size * event.settings.batch_size
    assert 0 < kept < len(event.noise)
    assert values["num_samples"] == kept
    edges = [(part - event.x_0)[:kept].flatten(1).double() for part in (event.noise, event.latent)]
    cosines = torch.nn.functional.cosine_similarity(*edges)
    expected = {"mean": cosines.mean(), "std": cosines.std()}
    for name, cosine in expected.items():
        assert values[f"at_image_of_{name}_cosine_deg"] == pytest.approx(
            math.degrees(math.acos(float(cosine))), abs=1e-4
        )
    folder = RunFolder(tmp_path / "run").create()
    for step, x_0 in ((0, event.noise), (3, event.x_0)):
        folder.save_samples(step, x_0)
    final = probe.finish(ProbeContext(event.settings, (1, 8, 8), folder))
    assert list(final) == [0]
    assert final[0].values["ssim_min_max"] == pytest.approx(
        ssim_min_max(folder.load_samples(0), folder.load_samples(3))
    )
    with pytest.raises(ValueError, match=r"num_samples must be at least batch_size \(128\), got 17"):
        probe.check(ProbeContext(PassSettings(num_samples=17), (1, 8, 8), folder))
