"""All methods on the same noises, or on the same images: one row of figures a method."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from probediff.ddim import State
from probediff.inversion.methods import invert, resample, sample
from probediff.inversion.problem import Problem
from probediff.inversion.settings import InversionSettings, Method
from probediff.measures import kolmogorov_smirnov, null_top_k_correlation, top_k_correlation, triangle_angles
from probediff.measures.correlation import top_k_correlation_error
from probediff.measures.uncertainty import (
    WithError,
    error_of_means,
    mean_with_error,
    moments_with_errors,
    split_errors,
)

_TOP_K = 10
_FEWEST_FOR_NULL = 4
_ROUNDING = 1e-6
_OPTIONS: dict[Method, tuple[str, ...]] = {
    "forward": ("num_replaced", "noise_seed"),
    "swap": ("num_replaced",),
    "fixed_point": ("iterations", "damping", "anderson_memory"),
    "renoise": ("renoise_iterations", "renoise_average"),
    "newton": ("newton_iterations", "newton_prior_weight"),
    "edict": ("edict_mixing",),
    "bdia": ("bdia_gamma",),
}


@dataclass(frozen=True)
class MethodRow:
    """What one method does to N images of D values; None where a figure has no meaning.

    Attributes:
        name: as it was named in the comparison.
        method: which method that is.
        num_images: N.
        sampling_evaluations: network evaluations per image of its sampler; None for the user's images.
        inversion_evaluations: network evaluations per image of the inversion.
        reconstruction_l2: mean over images of the L2 distance between image and reconstruction.
        reconstruction_rmse: root of the mean square of their difference, over all values.
        noise_distance: mean over images of the L2 distance between latent and true noise; None for the user's images.
        angle_at_latent_deg: mean angle at the latent in the triangle of noise, image and latent, over the images whose
            latent is farther from the noise than rounding, 1e-6 of its length; None without any.
        latent_top_10_correlation: mean of the ten largest absolute correlations between the latents' values.
        null_top_10_correlation: what independent normal values give on average; both None for fewer than 4 images.
        latent_mean: mean over all values of the latents.
        latent_std: standard deviation over all values of the latents.
        latent_ks_distance: mean over images of the Kolmogorov-Smirnov distance of the latent's values to N(0, 1); None
            for fewer than 4 images.
        inversion_seconds: wall-clock time of the inversion of all images.
        standard_errors: of the figures over images, by their names.
    """

    name: str
    method: Method
    num_images: int
    sampling_evaluations: int | None
    inversion_evaluations: int
    reconstruction_l2: float
    reconstruction_rmse: float
    noise_distance: float | None
    angle_at_latent_deg: float | None
    latent_top_10_correlation: float | None
    null_top_10_correlation: float | None
    latent_mean: float
    latent_std: float
    latent_ks_distance: float | None
    inversion_seconds: float
    standard_errors: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """All figures that have a meaning, by name."""
        others = ("name", "method", "standard_errors")
        return {k: float(v) for k, v in asdict(self).items() if k not in others and v is not None}


def options_of(settings: InversionSettings) -> dict[str, float]:
    """The options that the method reads; the others cannot change its figures."""
    return {name: getattr(settings, name) for name in _OPTIONS.get(settings.method, ())}


def compare(
    problem: Problem,
    settings_by_name: Mapping[str, InversionSettings],
    x_T: Tensor | None,
    indices: Sequence[int] | Tensor,
    images: Tensor | None = None,
    batch_size: int = 64,
    on_row: Callable[[MethodRow], None] | None = None,
) -> list[MethodRow]:
    """Invert, and reconstruct, by each method; every method inverts the images that its own sampler makes of ``x_T``.

    Args:
        problem: the model and how it is sampled.
        settings_by_name: methods to compare, by the names that their rows get.
        x_T: (N, C, H, W) noise, in the dtype and on the device to work in; None when there are ``images``.
        indices: (N,) numbers of the samples, which key the noise of ``forward``.
        images: (N, C, H, W) a user's images in [-1, 1], which no known noise made; then there is no ``x_T``.
        batch_size: images per network evaluation; does not change the figures.
        on_row: called with each row when it is ready.

    Raises:
        ValueError: bad settings, found before any work; both or neither of ``x_T`` and ``images``; ``swap`` for images.
    """
    start = x_T if images is None else images
    if start is None or (x_T is not None and images is not None):
        raise ValueError("exactly one of x_T and images must be given: the noises to sample from, or images to invert")
    if len(start) == 0 or len(indices) != len(start) or batch_size < 1:
        raise ValueError(
            f"there must be at least one image, as many indices, and a batch_size of at least 1, got {len(start)} "
            f"images, {len(indices)} indices and batch_size={batch_size}"
        )
    for name, settings in settings_by_name.items():
        settings.check(problem.num_steps, problem.clip, problem.clip_inversion)
        if settings.method == "swap" and images is not None:
            raise ValueError(f"method 'swap' (named {name!r}) inverts samples only, got images: leave it out")
    rows = []
    for name, settings in settings_by_name.items():
        done = _round_trip(problem, settings, start, torch.as_tensor(indices), x_T is not None, batch_size)
        rows.append(_row(name, problem, settings, done, x_T))
        if on_row is not None:
            on_row(rows[-1])
    return rows


@dataclass(frozen=True)
class _RoundTrip:
    x_0: Tensor
    latent: Tensor
    reconstruction: Tensor
    seconds: float


def _round_trip(
    problem: Problem, settings: InversionSettings, start: Tensor, indices: Tensor, is_noise: bool, batch_size: int
) -> _RoundTrip:
    images, latents, reconstructions, seconds = [], [], [], 0.0
    for rows, numbers in zip(start.split(batch_size), indices.split(batch_size), strict=True):
        state = sample(problem, settings, rows) if is_noise else State(rows)
        images.append(state.x.double().cpu())
        started = time.perf_counter()
        inverted = invert(problem, settings, state, numbers)
        # The copy waits for the device, so the clock stops when the work is done.
        latents.append(inverted.x.double().cpu())
        seconds += time.perf_counter() - started
        reconstructions.append(resample(problem, settings, inverted).x.double().cpu())
    return _RoundTrip(torch.cat(images), torch.cat(latents), torch.cat(reconstructions), seconds)


def _row(name: str, problem: Problem, settings: InversionSettings, done: _RoundTrip, x_T: Tensor | None) -> MethodRow:
    sampling, inversion = settings.evaluations(problem.num_steps, from_image=x_T is None)
    num_images, num_values = done.latent.flatten(1).shape
    many = num_images >= _FEWEST_FOR_NULL
    figures = _figures(None if x_T is None else x_T.double().cpu(), done)
    values: dict[str, Any] = dict.fromkeys(figures)
    known, errors = split_errors({key: figure for key, figure in figures.items() if figure is not None})
    values |= known
    return MethodRow(
        name=name,
        method=settings.method,
        num_images=num_images,
        sampling_evaluations=None if x_T is None else sampling,
        inversion_evaluations=inversion,
        null_top_10_correlation=null_top_k_correlation(num_images, num_values, _TOP_K) if many else None,
        inversion_seconds=done.seconds,
        standard_errors=errors,
        **values,
    )


def _figures(noise: Tensor | None, done: _RoundTrip) -> dict[str, WithError | None]:
    """Those that have a standard error over images."""
    difference, latent = (done.reconstruction - done.x_0).flatten(1), done.latent
    measurable = len(latent) >= _FEWEST_FOR_NULL and bool(latent.isfinite().all())
    squares = difference.square().mean(dim=1)
    rmse = WithError(float(squares.mean().sqrt()), error_of_means(lambda means: means[0].sqrt(), squares))
    mean, std = moments_with_errors(latent)
    figures: dict[str, WithError | None] = {
        "reconstruction_l2": mean_with_error(difference.norm(dim=1)),
        "reconstruction_rmse": rmse,
        "noise_distance": None if noise is None else mean_with_error((latent - noise).flatten(1).norm(dim=1)),
        "angle_at_latent_deg": None if noise is None else _mean_angle(noise, done),
        "latent_top_10_correlation": None,
        "latent_mean": mean,
        "latent_std": std,
        "latent_ks_distance": None,
    }
    if measurable:
        figures["latent_top_10_correlation"] = WithError(
            top_k_correlation(latent, _TOP_K), top_k_correlation_error(latent, _TOP_K)
        )
        figures["latent_ks_distance"] = mean_with_error(kolmogorov_smirnov(latent).distances)
    return figures


def _mean_angle(noise: Tensor, done: _RoundTrip) -> WithError | None:
    apart = (noise - done.latent).flatten(1).norm(dim=1) > _ROUNDING * noise.flatten(1).norm(dim=1)
    if not bool(apart.any() and done.latent.isfinite().all()):
        return None
    return mean_with_error(triangle_angles(noise[apart], done.x_0[apart], done.latent[apart]).at_latent_deg)
