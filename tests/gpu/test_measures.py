"""Every measure gives on the device what it gives on the CPU."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import probediff.measures as m
from probediff.measures import paper_compat, uncertainty
from probediff.measures.assignment_errors import assignments_without_groups
from probediff.measures.correlation import top_k_correlation_error
from probediff.measures.covariance import PairedMoments
from probediff.measures.denoiser_structure import LevelImages
from probediff.measures.in_distribution import in_distribution
from probediff.measures.normality_errors import normality_errors
from probediff.measures.similarity_errors import cka_errors, svcca_error
from probediff.measures.trajectory import closest_approach_errors
from probediff.measures.transport import transports_without_groups
from probediff.measures.whitening import WHITENING_METHODS
from probediff.noise import seeded_noise
from probediff.whitening.spectral import ComparedMap, along_eigenvectors, fits_without_groups
from tests.gpu.conftest import Record
from tests.gpu.scale import CPU, Scale, relative_difference

#: Relative L2 difference by the dtype of the result; measured 3.5e-15 at most, in float64.
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-6}
#: Errors that are computed in float32: of what halves and iterations differ by, rounding is a larger part.
IN_FLOAT32 = {"top_k_correlation_error": 1e-4, "svcca_error": 1e-2}
LAMBDAS = torch.linspace(0, 1, 11)
BANDWIDTHS = (0.0, 0.3, 0.6, 1.0)


@dataclasses.dataclass(frozen=True)
class Samples:
    """What measures are given: noises, images that depend on them and are flat in their upper half, latents.

    Attributes:
        small_x, small_z: every few pixels of images and latents, of which there are more than values.
    """

    noise: Tensor
    x_0: Tensor
    latent: Tensor

    @classmethod
    def of(cls, scale: Scale, device: torch.device) -> Samples:
        shape = (3, scale.measured_size, scale.measured_size)
        noise, other = (seeded_noise(seed, range(scale.num_measured), shape) for seed in (1, 2))
        x_0 = (noise * 0.5 + 0.2).clamp(-1, 1)
        x_0[:, :, : scale.measured_size // 2] = 0.1
        return cls(*(tensor.to(device) for tensor in (noise, x_0, 0.8 * noise + 0.6 * other)))

    def small(self) -> tuple[Tensor, Tensor]:
        """Every few pixels of noises and latents: fewer values than samples, so that covariances have full rank."""
        stride = self.noise.shape[-1] // 4
        return self.noise[:, :, ::stride, ::stride] + 0.3 * self.latent[:, :, :1, :1], self.latent[
            :, :, ::stride, ::stride
        ]


def pairs(s: Samples) -> PairedMoments:
    return m.paired_moments([s.small()])


def whitening(s: Samples) -> m.Whitening:
    moments = m.moments([s.small()[0]])
    return m.Whitening.from_covariance(moments.mean, moments.covariance)


def least_squares_map(s: Samples) -> Tensor:
    return m.least_squares_map(pairs(s), whitening(s))


def along_the_way(s: Samples) -> m.TrajectoryDistances:
    @dataclasses.dataclass
    class Step:
        index: int
        x: Tensor

    recorder = m.TrajectoryRecorder(4)
    for index in range(4):
        recorder.on_step(Step(index, s.noise + (index + 1) / 4 * (s.x_0 - s.noise)))
    return recorder.distances(s.noise, s.latent)


def level(s: Samples) -> LevelImages:
    rows = [x.flatten(1) for x in (s.x_0, s.noise, s.latent, s.x_0 + 0.1 * s.latent)]
    members = torch.stack([rows[0] + h * (rows[2] + h * rows[1]) for h in BANDWIDTHS])
    return LevelImages(*rows, members)


def along(s: Samples) -> tuple[Tensor, Tensor]:
    images, noises = s.small()
    return along_eigenvectors(images, whitening(s)), along_eigenvectors(noises, whitening(s))


def compared(s: Samples) -> ComparedMap:
    statistics = whitening(s)
    return ComparedMap.of("iterations", 1, along(s), statistics.eigenvalues**-0.5, statistics)


def captures(s: Samples) -> Tensor:
    return m.hub_counts(m.assignment_accuracy(s.noise, s.x_0).nearest_image, len(s.noise))


#: The name up to the first blank is that of the function.
MEASURES: dict[str, Callable[[Samples], object]] = {
    "triangle_angles": lambda s: m.triangle_angles(s.noise, s.x_0, s.latent),
    "triangle_distances": lambda s: m.triangle_distances(s.noise, s.x_0, s.latent),
    "angle_of_mean_cosine": lambda s: m.angle_of_mean_cosine(s.noise, s.x_0),
    "most_probable_triangle": lambda s: m.most_probable_triangle(m.triangle_angles(s.noise, s.x_0, s.latent)),
    "assignment_accuracy": lambda s: m.assignment_accuracy(s.noise, s.x_0),
    "hub_counts": lambda s: m.hub_counts(m.assignment_accuracy(s.noise, s.latent).nearest_noise, len(s.noise)),
    "pixel_variance": lambda s: m.pixel_variance(s.noise),
    "squared_norm_per_value": lambda s: m.squared_norm_per_value(s.noise),
    "squared_brightness": lambda s: m.squared_brightness(s.noise),
    "mean_over_captures": lambda s: m.mean_over_captures(captures(s), m.pixel_variance(s.x_0)),
    "capture_correlation": lambda s: m.capture_correlation(captures(s), m.pixel_variance(s.x_0)),
    "top_k_correlation": lambda s: m.top_k_correlation(s.latent),
    "cosine_similarity": lambda s: m.cosine_similarity(s.noise, s.latent),
    "cka": lambda s: m.cka(s.noise, s.latent),
    "cka debiased": lambda s: m.cka(s.noise, s.latent, debiased=True),
    "svcca": lambda s: m.svcca(s.noise, s.latent),
    "image_r2": lambda s: m.image_r2(s.x_0, s.latent),
    "ssim": lambda s: m.ssim(s.x_0, s.latent.clamp(-1, 1)),
    "slerp": lambda s: m.slerp(s.noise, s.latent, 0.3),
    "slerp_path": lambda s: m.slerp_path(s.noise, s.latent, 3),
    "path_lengths": lambda s: m.path_lengths(torch.stack([s.noise, s.x_0, s.latent])),
    "midpoint_contrast": lambda s: m.midpoint_contrast(m.slerp_path(s.noise, s.latent, 3)),
    "latent_normality": lambda s: m.latent_normality(s.latent, 10),
    "pixel_divergence": lambda s: m.pixel_divergence(s.latent),
    "kolmogorov_smirnov": lambda s: m.kolmogorov_smirnov(s.latent),
    "shapiro_rejected_share": lambda s: m.shapiro_rejected_share(s.latent, 10),
    "squared_norms": lambda s: m.squared_norms(s.latent),
    "radial_power": lambda s: m.radial_power(s.latent),
    "patch_correlation": lambda s: m.patch_correlation(s.latent),
    "in_distribution": lambda s: in_distribution(s.latent),
    "plain_areas": lambda s: m.plain_areas(s.x_0),
    "plain_area_errors": lambda s: m.plain_area_errors(s.noise, s.x_0, s.latent),
    "explained_share": lambda s: m.explained_share(s.x_0, s.latent, s.noise),
    "explained_variance": lambda s: m.explained_variance(s.x_0, s.latent),
    "relative_distance": lambda s: m.relative_distance(s.x_0, s.latent),
    "isotropic_denoised": lambda s: m.isotropic_denoised(s.noise, 0.5, s.x_0[0], 0.3),
    "best_bandwidth": lambda s: m.best_bandwidth(level(s).network, level(s).members, BANDWIDTHS, level(s).null),
    "structure": lambda s: m.structure(level(s), BANDWIDTHS),
    "memorisation_gap": lambda s: m.memorisation_gap(level(s), level(s)),
    "heat_map": lambda s: m.heat_map(along_the_way(s), LAMBDAS),
    "closest_approach": lambda s: m.closest_approach(along_the_way(s), LAMBDAS),
    "optimal_transport": lambda s: m.optimal_transport(s.noise, s.x_0),
    "hubness": lambda s: m.hubness(m.hub_counts(m.optimal_transport(s.noise, s.x_0).nearest_image, len(s.noise))),
    "reproducibility": lambda s: m.reproducibility(s.x_0, s.latent.clamp(-1, 1)),
    "moments": lambda s: m.moments([s.small()[0]]),
    "paired_moments": pairs,
    "linear_fit": lambda s: m.linear_fit([s.small()], least_squares_map(s), pairs(s)),
    "least_squares_map": least_squares_map,
    "deviation_from_identity": lambda s: m.deviation_from_identity(m.moments([s.small()[0]]).covariance),
    "matrix_distance": lambda s: m.matrix_distance(least_squares_map(s), whitening(s).matrix()),
    "Whitening": lambda s: [whitening(s).matrix(method) for method in WHITENING_METHODS],
    "angle_of_std_cosine": lambda s: paper_compat.angle_of_std_cosine(s.noise, s.x_0),
    "ssim_min_max": lambda s: paper_compat.ssim_min_max(s.x_0, s.latent),
    "cka_min_max": lambda s: paper_compat.cka_min_max(s.noise, s.latent),
    "svcca_randomised": lambda s: paper_compat.svcca_randomised(s.noise, s.latent),
    "plain_areas_open_border": lambda s: paper_compat.plain_areas_open_border(s.x_0),
}
MEASURES |= {
    "mean_with_error": lambda s: uncertainty.mean_with_error(m.pixel_variance(s.x_0)),
    "std_with_error": lambda s: uncertainty.std_with_error(m.pixel_variance(s.x_0)),
    "moments_with_errors": lambda s: uncertainty.moments_with_errors(s.latent),
    "jackknife": lambda s: uncertainty.jackknife(lambda kept: {"mean": float(s.x_0[kept].mean())}, len(s.x_0)),
    "error_from_halves": lambda s: uncertainty.error_from_halves(s.x_0[:, 0, 0, 0], s.latent[:, 0, 0, 0]),
    "top_k_correlation_error": lambda s: top_k_correlation_error(s.latent),
    "cka_errors": lambda s: cka_errors(s.noise, s.latent),
    "svcca_error": lambda s: svcca_error(s.noise, s.latent),
    "assignments_without_groups": lambda s: list(assignments_without_groups(s.noise, s.x_0)),
    "transports_without_groups": lambda s: list(transports_without_groups(s.noise, s.x_0)),
    "normality_errors": lambda s: normality_errors(s.latent, m.latent_normality(s.latent, 10), 10),
    "closest_approach_errors": lambda s: closest_approach_errors(along_the_way(s), LAMBDAS),
    "fits_without_groups": lambda s: fits_without_groups(*along(s), whitening(s).eigenvalues),
    "ComparedMap": lambda s: [compared(s).points(), compared(s).errors()],
}
#: Numbers of N and D only.
WITHOUT_TENSORS = {"null_hubness", "null_top_k_correlation"}


def parts(value: object) -> Iterator[Tensor]:
    """All tensors and numbers in a result."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from parts(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from parts(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from parts(part)
    elif not callable(value):  # such as what draws the null of a test
        yield torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def timed(measure: Callable[[Samples], object], samples: Samples) -> tuple[list[Tensor], float]:
    start = time.perf_counter()
    result = [part.detach().cpu() for part in parts(measure(samples))]
    return result, time.perf_counter() - start


def test_every_measure_is_compared() -> None:
    functions = {name for name in m.__all__ if name[0].islower()}
    assert functions - WITHOUT_TENSORS <= {name.split()[0] for name in MEASURES}


@pytest.mark.parametrize("name", MEASURES)
def test_measure_is_that_of_the_cpu(name: str, scale: Scale, record: Record) -> None:
    theirs, cpu_seconds = timed(MEASURES[name], Samples.of(scale, CPU))
    samples = Samples.of(scale, scale.device)
    timed(MEASURES[name], samples)  # the first call loads kernels
    ours, seconds = timed(MEASURES[name], samples)
    assert [(part.shape, part.dtype) for part in ours] == [(part.shape, part.dtype) for part in theirs]
    assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(ours, theirs, strict=True))
    differences = [relative_difference(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, theirs, strict=True)]
    record(difference=max(differences), cpu_seconds=cpu_seconds, device_seconds=seconds)
    for part, difference in zip(theirs, differences, strict=True):
        assert difference <= IN_FLOAT32.get(name, LIMITS.get(part.dtype, 0.0))
