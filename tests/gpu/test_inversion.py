"""The inversion methods on the device: how exactly each finds the noise again, and the image from there."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from probediff.inversion import InversionSettings, Method, Problem, invert, resample, sample
from probediff.noise import seeded_noise
from tests.gpu.conftest import Record
from tests.gpu.scale import Scale, probe_model, relative_difference, tf32

#: Largest relative L2 difference of the noise and of the image that is sampled from it, in float32 and with TF32. The
#: network is untrained, so what it predicts is no noise, and the methods that do not solve for the sampler's steps end
#: up elsewhere (1.01 and 1.05 on an H100). Measured there, noise first: fixed_point 1.1e-5 and 1.1e-5 (TF32: 5e-5),
#: renoise 9e-8 (4e-5), newton 0.057, edict 3e-15 and 4e-16, bdia 6e-15 and 5e-18, belm 2e-7 (8e-5) and 7e-17.
LIMITS: dict[Method, tuple[float, float, float, float]] = {
    "ddim": (2, 2, 2, 2),
    "forward": (2, 2, 2, 2),
    "swap": (2, 2, 2, 2),
    "fixed_point": (1e-4, 1e-4, 5e-4, 5e-4),
    "renoise": (2e-6, 2e-6, 5e-4, 5e-4),
    "newton": (0.2, 0.2, 0.2, 0.2),
    "edict": (1e-12, 1e-13, 1e-12, 1e-13),
    "bdia": (1e-12, 1e-13, 1e-12, 1e-13),
    "belm": (1e-5, 1e-13, 1e-3, 1e-13),
}
#: A miniature of four steps leaves more to each of them.
LIMITS_OF_MINIATURE: dict[Method, tuple[float, float]] = {
    "fixed_point": (0.1, 0.1),
    "renoise": (0.02, 0.02),
    "newton": (0.5, 0.5),
    "belm": (0.1, 1e-13),
}


def test_every_method_has_a_limit() -> None:
    assert set(LIMITS) == set(get_args(Method))


@pytest.mark.parametrize("allow_tf32", [False, True], ids=["float32", "tf32"])
@pytest.mark.parametrize("method", LIMITS)
def test_reconstruction(method: Method, allow_tf32: bool, scale: Scale, record: Record) -> None:
    if allow_tf32 and not scale.on_gpu:
        pytest.skip("the CPU has no TF32")
    model = probe_model(scale, scale.device)
    num_images = scale.batch_size // 2 or 1
    x_T = seeded_noise(3, range(num_images), scale.image_shape).to(scale.device, torch.float64)
    problem = Problem(
        model.eps_model, model.schedule, scale.num_steps, "openai", False, False, network_dtype=torch.float32
    )
    settings = InversionSettings(method=method)
    with tf32(allow_tf32):
        image = sample(problem, settings, x_T)
        latent = invert(problem, settings, image, torch.arange(num_images))
        reconstruction = resample(problem, settings, latent)
    noise_error = relative_difference(latent.x, x_T)
    image_error = relative_difference(reconstruction.x, image.x)
    record(noise=noise_error, image=image_error)
    limits = LIMITS[method][2:] if allow_tf32 else LIMITS[method][:2]
    if not scale.on_gpu:
        limits = LIMITS_OF_MINIATURE.get(method, limits)
    assert noise_error < limits[0]
    assert image_error < limits[1]
