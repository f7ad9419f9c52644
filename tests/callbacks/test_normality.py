"""Normality of the latents, and the errors of inversion in plain areas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probediff.callbacks import LatentNormality
from probediff.measures import latent_normality, patch_correlation, plain_area_errors
from probediff.probing import ProbePass
from tests.callbacks.passes import SHAPE, build_pass, context, finite, latent_model


@pytest.mark.parametrize("shape", [SHAPE, (3, 12, 10)])
def test_latent_normality(shape: tuple[int, int, int], tmp_path: Path) -> None:
    probe, event = LatentNormality(shapiro_samples=5), build_pass(shape=shape)
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
    values = LatentNormality().measure(build_pass(**options)).values
    assert "patch_correlation" in values
    assert not [name for name in values if name.startswith("plain_area")]


def test_degenerate_latents_are_an_error_of_the_record() -> None:
    event = build_pass()
    still = ProbePass(0, event.settings, event.noise, event.x_0, event.x_0[:1].expand(17, -1, -1, -1))
    with pytest.raises(ValueError, match="latents must hold a patch with two pixels that vary"):
        LatentNormality().measure(still)
