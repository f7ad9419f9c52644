"""The map from noises to images beside the optimal one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from probediff.callbacks import NoiseImageMap
from probediff.measures import hubness, optimal_transport
from probediff.probing import ProbePass
from tests.callbacks.passes import build_pass, context, finite


@pytest.mark.parametrize("max_samples", [1000, 9])
def test_noise_image_map(max_samples: int, tmp_path: Path) -> None:
    probe, event = NoiseImageMap(max_samples=max_samples), build_pass()
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
    event = build_pass()
    constant = ProbePass(0, event.settings, event.noise, torch.full_like(event.x_0, 0.5), event.latent)
    with pytest.raises(ValueError, match="x_0 must hold different samples, got 17 equal ones"):
        NoiseImageMap().measure(constant)
