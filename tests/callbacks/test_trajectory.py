"""Distances along a trajectory, and the heat map of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from probediff.callbacks import TrajectoryHeatmap
from probediff.measures import TrajectoryRecorder
from tests.callbacks.passes import SHAPE, build_pass, context


def test_trajectory_heatmap(tmp_path: Path) -> None:
    event = build_pass()
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
    result = probe.measure(build_pass(trajectory=distances))
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
    picture = TrajectoryHeatmap().measure(build_pass(trajectory=trajectory)).pictures["heatmap"].float().mean(dim=0)
    top, bottom, left, right = 62, 375, 74, 396
    light, dark = picture[top, right], picture[top, left]
    assert light > 180 > 80 > dark
    assert picture[bottom, left] > 180 and picture[bottom, right] < 80
