"""The comparison's figures against numpy and scipy, and its promises."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from probediff.denoisers import GaussianDenoiser
from probediff.inversion import InversionSettings, MethodRow, Problem, State, compare, invert, resample, sample
from probediff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine(1000)
NOISE = torch.randn(9, 1, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
METHODS = {
    "ddim": InversionSettings(),
    "forward 3": InversionSettings("forward"),
    "swap 5": InversionSettings("swap", num_replaced=5),
    "fixed point": InversionSettings("fixed_point"),
    "edict": InversionSettings("edict"),
}


@pytest.fixture(scope="module")
def gaussian() -> Problem:
    factors = torch.randn(16, 16, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    covariance = factors @ factors.T / 32 + 0.02 * torch.eye(16)
    denoiser = GaussianDenoiser(torch.linspace(-0.2, 0.2, 16, dtype=torch.float64), covariance, SCHEDULE)
    return Problem(denoiser, SCHEDULE, 20, clip=False, clip_inversion=False)


def test_every_figure_is_what_its_definition_says(gaussian: Problem) -> None:
    seen: list[MethodRow] = []
    rows = compare(gaussian, METHODS, NOISE, range(9), batch_size=4, on_row=seen.append)
    assert seen == rows
    assert [row.name for row in rows] == list(METHODS)
    for row, settings in zip(rows, METHODS.values(), strict=True):
        state = sample(gaussian, settings, NOISE)
        inverted = invert(gaussian, settings, state, range(9))
        z, x_0, latent, again = (
            t.flatten(1).numpy() for t in (NOISE, state.x, inverted.x, resample(gaussian, settings, inverted).x)
        )
        to_noise, to_image = z - latent, x_0 - latent
        cosine = (to_noise * to_image).sum(1) / np.linalg.norm(to_noise, axis=1) / np.linalg.norm(to_image, axis=1)
        correlations = np.abs(np.corrcoef(latent.T)[np.triu_indices(16, 1)])
        expected: dict[str, Any] = {
            "reconstruction_l2": np.mean([np.linalg.norm(a - b) for a, b in zip(again, x_0, strict=True)]),
            "reconstruction_rmse": np.sqrt(np.mean((again - x_0) ** 2)),
            "noise_distance": np.mean([np.linalg.norm(a - b) for a, b in zip(latent, z, strict=True)]),
            "latent_top_10_correlation": np.sort(correlations)[-10:].mean(),
            "latent_mean": latent.mean(),
            "latent_std": latent.std(),
            "latent_ks_distance": np.mean([stats.kstest(values, "norm").statistic for values in latent]),
        }
        if settings.method != "edict":
            expected["angle_at_latent_deg"] = np.degrees(np.arccos(cosine)).mean()
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, rel=1e-6, abs=1e-12), (row.name, name)
        assert (row.sampling_evaluations, row.inversion_evaluations) == settings.evaluations(20)
        assert row.num_images == 9
        assert row.inversion_seconds > 0
        assert row.null_top_10_correlation is not None


def test_figures_do_not_depend_on_the_batch_size(gaussian: Problem) -> None:
    whole, parts = (compare(gaussian, METHODS, NOISE, range(9), batch_size=size) for size in (9, 2))
    for a, b in zip(whole, parts, strict=True):
        assert a.values().keys() == b.values().keys()
        for name in a.values().keys() - {"inversion_seconds", "angle_at_latent_deg"}:
            assert a.values()[name] == pytest.approx(b.values()[name], rel=1e-9, abs=1e-12), (a.name, name)


def test_a_users_images(gaussian: Problem) -> None:
    images = torch.tanh(NOISE)
    methods = {name: settings for name, settings in METHODS.items() if settings.method != "swap"}
    rows = compare(gaussian, methods | {"belm": InversionSettings("belm")}, None, range(9), images)
    for row in rows:
        assert row.sampling_evaluations is row.noise_distance is row.angle_at_latent_deg is None
        assert not {"sampling_evaluations", "noise_distance", "name", "method"} & row.values().keys()
        assert all(isinstance(value, float) for value in row.values().values())
    assert rows[-1].inversion_evaluations == 20
    assert rows[-1].reconstruction_rmse < 1e-9 < rows[0].reconstruction_rmse
    latent = invert(gaussian, METHODS["ddim"], State(images), range(9)).x
    assert rows[0].latent_std == pytest.approx(float(latent.std(correction=0)))


def test_figures_without_a_meaning_are_left_out(gaussian: Problem) -> None:
    one_step = dataclasses.replace(gaussian, num_steps=1)
    (row,) = compare(one_step, {"bdia": InversionSettings("bdia")}, NOISE[:3], range(3))
    assert row.noise_distance == 0.0
    assert row.inversion_evaluations == 0
    assert row.angle_at_latent_deg is row.latent_top_10_correlation is row.null_top_10_correlation is None

    def broken(x: Tensor, timestep: Tensor) -> Tensor:
        return torch.full_like(x, torch.nan)

    (row,) = compare(dataclasses.replace(gaussian, eps_model=broken), {"ddim": InversionSettings()}, NOISE, range(9))
    assert math.isnan(row.reconstruction_rmse)
    assert row.latent_ks_distance is None
    assert row.angle_at_latent_deg is row.latent_top_10_correlation is None


def test_on_a_trained_network(network: nn.Module) -> None:
    noise = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    problem = Problem(network, NoiseSchedule.cosine(40), 8, clip=False, clip_inversion=False)
    methods = {name: InversionSettings(name) for name in ("ddim", "newton", "fixed_point", "renoise", "belm")}  # type: ignore[arg-type]
    errors = [row.reconstruction_rmse for row in compare(problem, methods, noise, range(8))]
    assert errors == sorted(errors, reverse=True)


def test_bad_arguments(gaussian: Problem) -> None:
    def never(x: Tensor, timestep: Tensor) -> Tensor:
        raise AssertionError("the network was asked")

    problem = dataclasses.replace(gaussian, eps_model=never)
    for x_T, images in ((None, None), (NOISE, NOISE)):
        with pytest.raises(ValueError, match="exactly one of x_T and images must be given"):
            compare(problem, METHODS, x_T, range(9), images)
    with pytest.raises(ValueError, match="got 9 images, 8 indices and batch_size=64"):
        compare(problem, METHODS, NOISE, range(8))
    with pytest.raises(ValueError, match="batch_size=0"):
        compare(problem, METHODS, NOISE, range(9), batch_size=0)
    with pytest.raises(ValueError, match=r"method 'swap' \(named 'swap 5'\) inverts samples only"):
        compare(problem, METHODS, None, range(9), NOISE)
    with pytest.raises(ValueError, match="'edict' inverts its sampler exactly"):
        compare(dataclasses.replace(problem, clip=True), METHODS, NOISE, range(9))
