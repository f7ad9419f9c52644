"""The Gaussian of a run's images, and its moments in chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from probediff.data import Digits
from probediff.denoisers import GaussianDenoiser
from probediff.models import fit_gaussian, load_checkpoint_model
from probediff.models.baseline import image_moments
from probediff.schedule import NoiseSchedule
from tests.models.tiny_run import change_config, eps_of
from tests.reference.golden_inputs import hashed_normal


def digits(count: int | None = None) -> Tensor:
    images = torch.from_numpy(Digits().load()).float() / 127.5 - 1
    return images if count is None else images[torch.arange(count) * len(images) // count]


@pytest.mark.parametrize("count", [None, 500])
def test_gaussian_of_the_runs_images(finished: Path, count: int | None) -> None:
    model = fit_gaussian(finished, count)
    schedule = NoiseSchedule.cosine(40)
    expected = GaussianDenoiser.fit(digits(count).double(), schedule)
    torch.testing.assert_close(eps_of(model.eps_model), eps_of(expected), rtol=0, atol=2e-4)
    assert (model.step, model.image_shape, model.clip) == (0, (1, 8, 8), True)
    assert torch.equal(model.schedule.alpha_bar, schedule.alpha_bar)
    extra = {"denoiser": "gaussian", "fitted_to": count or 1797, "ema_rate": None, "dtype": "float32"}
    assert model.conventions == load_checkpoint_model(finished).conventions | extra
    with pytest.raises(ValueError, match=r"num_images must lie in 2..1797.*got 1798"):
        fit_gaussian(finished, 1798)


def test_gaussian_of_a_run_that_flips(run: Path) -> None:
    plain = fit_gaussian(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    change_config(run, model=config["model"] | {"random_flip": True})
    x = hashed_normal("x", (5, 1, 8, 8)).float()
    timestep = torch.tensor([0, 7, 20, 38, 39])
    flipping = fit_gaussian(run).eps_model
    mirrored = flipping(x.flip(-1), timestep).flip(-1)
    torch.testing.assert_close(flipping(x, timestep), mirrored, rtol=0, atol=2e-4)
    assert (plain.eps_model(x, timestep) - flipping(x, timestep)).abs().max() > 0.01


@pytest.mark.parametrize("mirrored", [False, True])
def test_moments_over_many_chunks(mirrored: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2300, 2, 3, 4), dtype=np.uint8)
    indices = np.arange(0, 2300, 2)
    mean, covariance = image_moments(images, indices, mirrored)
    rows = images[indices] / 127.5 - 1
    both = np.concatenate([rows, rows[..., ::-1]]) if mirrored else rows
    flat = both.reshape(len(both), -1)
    np.testing.assert_allclose(mean.numpy(), flat.mean(0), atol=1e-12)
    expected = np.cov(flat.T, bias=True) * len(rows) / (len(rows) - 1)
    np.testing.assert_allclose(covariance.numpy(), expected, atol=1e-12)
