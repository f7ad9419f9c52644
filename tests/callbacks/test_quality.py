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
from tests.callbacks.passes import build_pass, context, draw

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
    # Extracted once, though measured twice: the reference and as many as there are samples.
    assert counts == [37]
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
    values = probe.measure(build_pass()).values
    assert values["num_real"] == 15
    assert not [key for key in values if key.endswith("_null")]


def test_quality_without_features_measures_nothing(tmp_path: Path) -> None:
    probe = SampleQuality()
    probe.check(context(tmp_path))
    assert probe.measure(build_pass()).values == {}
