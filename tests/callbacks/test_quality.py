"""FID and KID of the samples in the features of a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from probediff.callbacks import SampleQuality
from probediff.features.distances import feature_distances
from probediff.features.networks import extract, load_features
from probediff.probing.afterwards import ProbeTask, probe_afterwards
from probediff.runs.folder import RunFolder
from tests.callbacks.passes import build_pass, context, draw, latent_model
from tests.conftest import tiny_settings

TINY_NETWORK = "test_vit.r160_in1k"


@pytest.fixture
def network_spec(tmp_path: Path) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(timm.create_model(TINY_NETWORK, num_classes=0).state_dict(), tmp_path / "vit.pth")
    return f"timm/{TINY_NETWORK}={tmp_path / 'vit.pth'}"


def test_sample_quality(network_spec: str, tmp_path: Path) -> None:
    real, counts = draw(60, 7).tanh(), []

    def real_images(count: int) -> Tensor:
        counts.append(count)
        return real[:count]

    probe = SampleQuality(features=[network_spec], num_real=20, kid_subset_size=10)
    with pytest.warns(UserWarning, match=r"17 samples and 20 real images in the 64 features .* without full rank"):
        probe.check(context(tmp_path, real_images=real_images))
    event = build_pass()
    values = probe.measure(event).values
    assert values == probe.measure(event).values
    # Looked at before training; extracted once, though measured twice: the reference and as many as there are samples.
    assert counts == [20, 37]
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
    with pytest.warns(UserWarning, match=r"FID of 17 samples and 15 real images in .* without full rank"):
        probe.check(context(tmp_path, real_images=lambda count: draw(15, 7)[:count].tanh()))
    values = probe.measure(build_pass()).values
    assert values["num_real"] == 15
    assert not [key for key in values if key.endswith("_null")]


def test_the_rank_is_that_of_the_images_that_are_there(network_spec: str, tmp_path: Path) -> None:
    """10,000 images are asked for and 50 are there, in 64 features."""
    probe, few, many = SampleQuality(features=[network_spec], kid_subset_size=10), draw(50, 7), draw(80, 7)
    with pytest.warns(UserWarning, match=r"FID of 100 samples and 50 real images in the 64 features"):
        probe.check(context(tmp_path, num_samples=100, real_images=lambda count: few[:count].tanh()))
    assert probe.measure(build_pass(100)).values[f"timm_{TINY_NETWORK}_fid_full_rank"] == 0
    # Another set is not measured with the features of the one before.
    probe.check(context(tmp_path, num_samples=100, real_images=lambda count: many[:count].tanh()))
    values = probe.measure(build_pass(100)).values
    assert (values["num_real"], values[f"timm_{TINY_NETWORK}_fid_full_rank"]) == (80, 1)


def test_probing_afterwards_refuses_before_its_first_pass(tmp_path: Path) -> None:
    model, settings = latent_model(), tiny_settings(num_samples=500)
    few = draw(50, 7).tanh()
    task = ProbeTask(
        RunFolder(tmp_path / "out"), settings, [0], lambda step: model, real_images=lambda count: few[:count]
    )
    with pytest.raises(ValueError, match=r"kid_subset_size must .* \(50 of those\), got 100; lower it"):
        probe_afterwards(task, [SampleQuality(features=["dino"])], torch.device("cpu"), progress=False)
    assert not RunFolder(tmp_path / "out").records()


def test_quality_without_features_measures_nothing(tmp_path: Path) -> None:
    probe = SampleQuality()
    probe.check(context(tmp_path))
    assert probe.measure(build_pass()).values == {}
