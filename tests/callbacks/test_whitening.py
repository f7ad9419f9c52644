"""The probe of de-whitening: the Gaussian denoiser has its closed form, a run records it, bad settings are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from probediff.callbacks import InversionAngles, Whitening
from probediff.denoisers import GaussianDenoiser
from probediff.models.base import ProbeModel
from probediff.noise import seeded_noise
from probediff.probing import ProbePass
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import run_pass
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from probediff.whitening.gains import gain_slope, gaussian_gain
from tests.conftest import tiny_settings

Fit = Callable[..., tuple[Any, L.Trainer]]
SHAPE = (1, 4, 4)
SCHEDULE = NoiseSchedule.cosine(40)
IMAGES = 0.3 * seeded_noise(0, range(200), SHAPE).cumsum(dim=-1)


def real_images(count: int) -> Tensor:
    return IMAGES[:count]


def context(folder: Path, **options: Any) -> ProbeContext:
    return ProbeContext(tiny_settings(), SHAPE, RunFolder(folder), **({"real_images": real_images} | options))


def pass_of(eps_model: torch.nn.Module) -> ProbePass:
    return run_pass(ProbeModel(eps_model, SCHEDULE, SHAPE, 7, {}), tiny_settings())


def gaussian_pass() -> ProbePass:
    rows = IMAGES.flatten(1).double()
    denoiser = GaussianDenoiser(rows.mean(dim=0), torch.cov(rows.T), SCHEDULE)
    return pass_of(denoiser)


def test_the_gaussian_denoiser_has_its_closed_form(tmp_path: Path) -> None:
    probe = Whitening(enabled=True, num_images=1000, num_fixed_points=50, num_iterations=20, timestep_share=0.5)
    probe.check(context(tmp_path))
    result = probe.measure(gaussian_pass())
    eigenvalues = torch.linalg.eigvalsh(torch.cov(IMAGES.flatten(1).double().T)).flip(0)
    gain = gaussian_gain(eigenvalues, float(SCHEDULE.alpha_bar[20]), 20)
    expected = gain_slope(eigenvalues, gain)
    torch.testing.assert_close(result.arrays["gain"], gain, rtol=1e-3, atol=0)
    assert all(isinstance(value, float) and math.isfinite(value) for value in result.values.values())
    for key in ("slope", "slope_gaussian", "slope_unweighted"):
        assert result.values[key] == pytest.approx(expected.slope, abs=0.01)
    assert result.values["zca_r2_scaled"] == pytest.approx(result.values["zca_r2_scaled_gaussian"], abs=1e-4)
    how = ("num_images", "num_fixed_points", "num_iterations", "timestep", "ridge")
    assert [result.values[name] for name in how] == [200, 50, 20, 20, 0]


def test_another_map_is_told_apart(tmp_path: Path) -> None:
    class Half(torch.nn.Linear):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return x / 2

    blind = pass_of(Half(1, 1))
    probe = Whitening(enabled=True, num_fixed_points=50, num_iterations=5)
    probe.check(context(tmp_path))
    values = probe.measure(blind).values
    assert values["image_r2_scaled"] == pytest.approx(1, abs=1e-6)
    assert values["slope"] == pytest.approx(0, abs=1e-5)


def test_the_pass_tells_eps_in_batches_without_gradients(tmp_path: Path) -> None:
    event = gaussian_pass()
    assert event.schedule is SCHEDULE
    x = IMAGES[:20].clone().requires_grad_()
    found = event.eps(x, torch.arange(20))
    rows = IMAGES.flatten(1).double()
    denoiser = GaussianDenoiser(rows.mean(dim=0), torch.cov(rows.T), SCHEDULE)
    torch.testing.assert_close(found, denoiser(IMAGES[:20], torch.arange(20)))
    assert found.dtype == torch.float32 and not found.requires_grad


def test_a_run_records_it_and_trains_as_without(fit: Fit, tmp_path: Path) -> None:
    probe = Whitening(enabled=True, num_images=1797, num_fixed_points=20, num_iterations=3, ridge=0.01)
    module, _ = fit([probe, InversionAngles(num_shown=2)])
    records = [r for r in RunFolder(tmp_path / "run").records() if r["probe"] == "whitening"]
    assert [r["step"] for r in records] == [0, 2, 5]
    # The untrained network predicts zero, which has no slope.
    assert "slope" not in records[0]["values"] and records[0]["values"]["noise_rms"] == 0
    assert all("slope" in r["values"] for r in records[1:]) and not any("error" in r for r in records)
    assert len({r["values"]["zca_r2_scaled"] for r in records}) == 3
    assert len({r["values"]["zca_r2_gaussian"] for r in records}) == 1
    plain, _ = fit([], default_root_dir=tmp_path / "other")
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 2}, "whitening.num_images must be at least 3, got 2"),
        ({"num_fixed_points": 2}, "whitening.num_fixed_points must be at least 3"),
        ({"num_iterations": 0}, "whitening.num_iterations must be at least 1"),
        ({"timestep_share": 0.0}, "whitening.timestep_share must be above 0"),
        ({"ridge": -1.0}, "whitening.ridge must be 0 or more"),
    ],
)
def test_settings_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Whitening(**options)


def test_what_cannot_be_whitened_is_refused_before_training(tmp_path: Path) -> None:
    assert not Whitening().enabled
    with pytest.raises(ValueError, match="whitening needs real images"):
        Whitening().check(context(tmp_path, real_images=None))
    with pytest.raises(ValueError, match="more than the 16 values of an image, got 16; raise it, or"):
        Whitening(num_images=16).check(context(tmp_path))
    flat = IMAGES * torch.tensor([0.0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"(?s)full rank .* set whitening.ridge"):
        Whitening().check(context(tmp_path, real_images=lambda count: flat[:count]))
    Whitening(ridge=1e-4).check(context(tmp_path, real_images=lambda count: flat[:count]))
    with pytest.raises(ValueError, match="needs a pass that can ask the network"):
        Whitening().measure(gaussian_pass())
