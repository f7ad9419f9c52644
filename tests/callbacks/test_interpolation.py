"""Paths between noises and between latents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from probediff.callbacks import LatentInterpolation
from probediff.measures import slerp, ssim
from tests.callbacks.passes import (
    SHAPE,
    BlackPass,
    FifthPass,
    SamplingPass,
    TenthPass,
    build_pass,
    context,
    finite,
    latent_model,
)


def test_interpolation_of_an_identity(tmp_path: Path) -> None:
    """A sampler that returns its input: every number is one of the paths themselves."""
    probe = LatentInterpolation(enabled=True, num_pairs=3, num_points=5)
    probe.check(context(tmp_path))
    event = build_pass(kind=FifthPass)
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
    event = build_pass()
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
    decoded = probe.measure(build_pass(kind=SamplingPass, model=latent_model()))
    assert decoded.pictures["paths"].shape == (3, 4 * 66 + 2, 3 * 66 + 2)
    with pytest.raises(ValueError, match="needs a pass that can ask its model"):
        probe.measure(build_pass())
    with pytest.raises(ValueError, match="images must vary at the ends"):
        probe.measure(build_pass(kind=BlackPass))
