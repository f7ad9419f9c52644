"""The smoothed family on CIFAR-10 beside what an independent numpy program measured of it, at 100 steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from probediff.callbacks import AssignmentAccuracy, InversionAngles, PixelCorrelation, TrajectoryHeatmap
from probediff.denoisers import SmoothedEmpiricalDenoiser
from probediff.measures import Moments
from probediff.models.base import ProbeModel
from probediff.models.baseline import image_moments
from probediff.probing import PassSettings
from probediff.probing.shared_pass import PassRequest, run_pass
from probediff.schedule import NoiseSchedule

#: h, N, M -> image to noise, noise to image (per cent), T1 of the latents, angles at image and latent, F3. Images are
#: not mirrored, mean and covariance are of all 50,000, the convention is openai, nothing is clipped.
MEASURED = {
    (0.0, 500, 5000): (12.2, 1.0, 0.964, 68, 89, 0.99),
    (0.3, 500, 2000): (94.2, 26.4, 0.578, 29, 120, 0.61),
    (0.4, 1000, 2000): (98.3, 36.0, 0.540, 26, 121, 0.58),
    (0.6, 500, 2000): (100, 71.6, 0.520, 24, 122, 0.53),
    (1.0, 500, 2000): (100, 93.2, 0.466, 21, 123, 0.48),
}
#: Three draws of noises and of the M images differ by up to 7 per cent of the noises, 0.005 and 0.1 degrees.
WITHIN = (9, 9, 0.01, 1.1, 1.1, 0.02)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The training images (50,000, 3, 32, 32) uint8."""
    folder = Path(os.environ.get("PROBEDIFF_DATA", "")) / "cifar10"
    if not (folder / "unpack.py").exists():
        pytest.skip("PROBEDIFF_DATA names no folder that holds cifar10/unpack.py")
    out = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(folder / "unpack.py"), str(out), "--parts", "train"], check=True)
    return np.load(out / "train_images.npy", mmap_mode="r")


@pytest.mark.slow
@pytest.mark.parametrize("case", MEASURED)
def test_the_probes_of_the_family(images: np.ndarray, case: tuple[float, int, int]) -> None:
    h, num_samples, num_images = case
    every = np.arange(len(images))
    taken = torch.from_numpy(images[np.sort(np.random.default_rng(0).permutation(every)[:num_images])])
    schedule = NoiseSchedule.cosine(4000)
    statistics = Moments(*image_moments(images, every, mirrored=False), len(every))
    denoiser = SmoothedEmpiricalDenoiser(taken.float() / 127.5 - 1, h, schedule, statistics=statistics)
    model = ProbeModel(denoiser, schedule, (3, 32, 32), 0, {})
    settings = PassSettings(num_samples, 100, clip=False, clip_inversion=False, batch_size=500)
    with torch.no_grad():
        event = run_pass(model, settings, PassRequest(trajectory=True))
    probes = (AssignmentAccuracy(), PixelCorrelation(), InversionAngles(), TrajectoryHeatmap())
    assignment, correlation, angles, trajectory = (probe.measure(event).values for probe in probes)
    found = (
        *(100 * assignment[key] for key in ("image_to_noise", "noise_to_image")),
        correlation["latent"],
        *(angles[f"at_{place}_mean_deg"] for place in ("image", "latent")),
        trajectory["closest_to_latent_step_fraction"],
    )
    for ours, theirs, within in zip(found, MEASURED[case], WITHIN, strict=True):
        assert ours == pytest.approx(theirs, abs=within), found
