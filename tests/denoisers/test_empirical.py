"""The family of exact denoisers against a literal mixture, the Gaussian denoiser, and the data that it is made of."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probediff.ddim import ddim_sample
from probediff.denoisers import GaussianDenoiser, SmoothedEmpiricalDenoiser
from probediff.measures import moments
from probediff.noise import seeded_noise
from probediff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine(1000)
BANDWIDTHS = (0.0, 0.3, 0.7, 1.0)


def make_images(count: int, channels: int = 2, height: int = 3, width: int = 4, seed: int = 0) -> Tensor:
    """Images (N, C, H, W) float64 whose values have unequal variances and are correlated."""
    size = channels * height * width
    noise = seeded_noise(seed, range(count), (size,)).double()
    mixing = seeded_noise(seed + 1, range(size), (size,)).double() / size**0.5
    return (0.5 * noise @ mixing + 0.2).reshape(count, channels, height, width)


def literal_eps(
    images: np.ndarray,
    covariance: np.ndarray,
    h: float,
    x: np.ndarray,
    alpha_bar: float,
    mean: np.ndarray | None = None,
) -> np.ndarray:
    """The expected noise in one x (D,): a mixture of one Gaussian an image, component by component, in numpy."""
    mean, identity = images.mean(0) if mean is None else mean, np.eye(len(x))
    centres = mean + math.sqrt(1 - h**2) * (images - mean)
    spread = alpha_bar * h**2 * covariance + (1 - alpha_bar) * identity
    exponents, expected = [], []
    for centre in centres:
        residual = x - math.sqrt(alpha_bar) * centre
        solved = np.linalg.solve(spread, residual)
        exponents.append(-residual @ solved / 2)
        expected.append(centre + math.sqrt(alpha_bar) * h**2 * covariance @ solved)
    weights = np.exp(np.array(exponents) - max(exponents))
    x_0 = (weights[:, None] * np.array(expected)).sum(0) / weights.sum()
    return (x - math.sqrt(alpha_bar) * x_0) / math.sqrt(1 - alpha_bar)


def literal(images: Tensor, h: float, x: Tensor, timestep: Tensor, mirrored: bool) -> Tensor:
    rows = images.flatten(1).numpy()
    if mirrored:
        rows = np.concatenate([rows, images.flip(-1).flatten(1).numpy()])
    # One divisor, M - 1 with M images, also where each counts with its mirror image.
    covariance = np.atleast_2d(np.cov(rows.T, bias=True)) * len(images) / (len(images) - 1)
    pairs = zip(x.flatten(1).numpy(), timestep.tolist(), strict=True)
    eps = [literal_eps(rows, covariance, h, row, float(SCHEDULE.alpha_bar[t])) for row, t in pairs]
    return torch.from_numpy(np.array(eps)).reshape(x.shape)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("h", BANDWIDTHS)
def test_the_noise_is_that_of_a_literal_mixture(h: float, mirrored: bool) -> None:
    images = make_images(40)
    timestep = torch.tensor([0, 3, 100, 100, 300, 500, 800, 950, 990])
    x_0 = torch.cat([images[:5], make_images(4, seed=9)])
    alpha_bar = SCHEDULE.alpha_bar[timestep][:, None, None, None]
    x = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * seeded_noise(5, range(9), (2, 3, 4))
    denoiser = SmoothedEmpiricalDenoiser(images, h, SCHEDULE, mirrored)
    error = (denoiser(x, timestep) - literal(images, h, x, timestep, mirrored)).flatten(1).abs().amax(1)
    is_clear = 1 - SCHEDULE.alpha_bar[timestep] >= 0.01
    assert is_clear.sum() == 7
    assert error[is_clear].max() < 1e-10
    assert error[~is_clear].max() < 1e-6


@settings(max_examples=10, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 10),
    st.integers(0, 5),
)
def test_any_shape(count: int, channels: int, height: int, width: int, mirrored: bool, tenths: int, batch: int) -> None:
    images, h = make_images(count, channels, height, width), tenths / 10
    timestep = torch.arange(batch) * 199 + 200
    x = seeded_noise(3, range(batch), (channels, height, width)).double()
    eps = SmoothedEmpiricalDenoiser(images, h, SCHEDULE, mirrored)(x, timestep)
    expected = literal(images, h, x, timestep, mirrored) if batch else x
    torch.testing.assert_close(eps, expected, rtol=0, atol=1e-9)


def test_bandwidth_one_is_the_gaussian_denoiser() -> None:
    images = make_images(30)
    x, timestep = seeded_noise(3, range(50), (2, 3, 4)).double(), torch.arange(50) * 20
    ours = SmoothedEmpiricalDenoiser(images, 1, SCHEDULE)(x, timestep)
    torch.testing.assert_close(ours, GaussianDenoiser.fit(images, SCHEDULE)(x, timestep), rtol=0, atol=1e-10)


def test_bandwidth_zero_knows_nothing_but_the_training_images() -> None:
    images = make_images(30)
    timestep = torch.full((30,), 3)
    alpha_bar = SCHEDULE.alpha_bar[3]
    noise = seeded_noise(4, range(30), (2, 3, 4))
    for mirrored, shown in ((False, images), (True, images.flip(-1))):
        x = alpha_bar.sqrt() * shown + (1 - alpha_bar).sqrt() * noise
        x_0, _ = SmoothedEmpiricalDenoiser(images, 0, SCHEDULE, mirrored).predict(x, timestep)
        torch.testing.assert_close(x_0, shown, rtol=0, atol=1e-10)


@pytest.mark.parametrize("h", BANDWIDTHS)
def test_image_and_noise_make_up_what_they_were_predicted_from(h: float) -> None:
    timestep = torch.tensor([0, 10, 400, 999])
    x = seeded_noise(4, range(4), (2, 3, 4)).double()
    denoiser = SmoothedEmpiricalDenoiser(make_images(30), h, SCHEDULE)
    x_0, eps = denoiser.predict(x, timestep)
    alpha_bar = SCHEDULE.alpha_bar[timestep][:, None, None, None]
    torch.testing.assert_close(alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps, x, rtol=0, atol=1e-14)
    assert torch.equal(denoiser(x, timestep), eps)
    # At the noisiest timestep, whose signal is 5e-5 of x, an image derived from float32 noise would be off by 1e-3.
    x_0_float, _ = denoiser.float().predict(x.float(), timestep)
    torch.testing.assert_close(x_0_float[1:].double(), x_0[1:], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("h", "steps"), [(0.0, 400), (0.3, 400), (0.6, 400), (1.0, 1000)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_samples_have_the_mean_and_the_covariance_of_the_data(h: float, steps: int, mirrored: bool) -> None:
    count, schedule = 1000, NoiseSchedule.cosine(4000)
    denoiser = SmoothedEmpiricalDenoiser(make_images(25, 1, 1, 4), h, schedule, mirrored)
    x_T = seeded_noise(1, range(count), (1, 1, 4)).double()
    coarse, fine = (ddim_sample(denoiser, schedule, x_T, n, clip=False).flatten(1) for n in (steps // 2, steps))
    basis, eigenvalues = denoiser.eigenvectors, denoiser.eigenvalues
    covariance, trace = basis @ eigenvalues.diag() @ basis.T, float(eigenvalues.sum())
    # The root of the expected squared Frobenius error of the covariance of Gaussian samples.
    sampling_error = math.sqrt((trace**2 + float(eigenvalues.square().sum())) / count)
    mean_error = math.sqrt(trace / count)
    assert (torch.cov(fine.T) - torch.cov(coarse.T)).norm() < sampling_error
    assert (fine.mean(0) - coarse.mean(0)).norm() < mean_error
    assert (torch.cov(fine.T) - covariance).norm() < 2.5 * sampling_error
    assert (fine.mean(0) - denoiser.mean).norm() < 2.5 * mean_error


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_is_passed_over_moves_an_image_by_less_than_the_bound(mirrored: bool) -> None:
    images, h, dropped = make_images(200), 0.3, 0.05
    exact = SmoothedEmpiricalDenoiser(images, h, SCHEDULE, mirrored)
    hasty = SmoothedEmpiricalDenoiser(images, h, SCHEDULE, mirrored, dropped_weight=dropped)
    every = torch.cat([images, images.flip(-1)]) if mirrored else images
    bound = dropped * math.sqrt(1 - h**2) * torch.cdist(every.flatten(1), every.flatten(1)).max()
    moved = []
    for level in (100, 300, 500, 700):
        timestep = torch.full((4,), level)
        x = SCHEDULE.alpha_bar[level].sqrt() * images[:4] + (1 - SCHEDULE.alpha_bar[level]).sqrt() * seeded_noise(
            2, range(4), (2, 3, 4)
        )
        difference = exact.predict(x, timestep)[0] - hasty.predict(x, timestep)[0]
        moved.append(float(difference.flatten(1).norm(dim=1).max()))
    assert 0 < max(moved) < bound


def test_chunks_and_rows_are_a_matter_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    images, timestep = make_images(50), torch.tensor([100, 100, 600, 600, 900])
    x = seeded_noise(3, range(5), (2, 3, 4)).double()
    whole = SmoothedEmpiricalDenoiser(images, 0.3, SCHEDULE, True)(x, timestep)
    monkeypatch.setattr("probediff.denoisers.empirical._CHUNK", 7)
    monkeypatch.setattr(SmoothedEmpiricalDenoiser, "_num_rows", 2)
    pieces = SmoothedEmpiricalDenoiser(images, 0.3, SCHEDULE, True)(x, timestep)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_part_of_the_images_under_the_statistics_of_all(mirrored: bool) -> None:
    images, h, timestep = make_images(60), 0.4, torch.tensor([200, 500, 800])
    x = seeded_noise(3, range(3), (2, 3, 4)).double()
    every = torch.cat([images, images.flip(-1)]) if mirrored else images
    statistics = moments([every])
    denoiser = SmoothedEmpiricalDenoiser(images[:10], h, SCHEDULE, mirrored, statistics=statistics)
    rows = (torch.cat([images[:10], images[:10].flip(-1)]) if mirrored else images[:10]).flatten(1).numpy()
    given = (statistics.mean.numpy(), statistics.covariance.numpy())
    pairs = zip(x.flatten(1).numpy(), timestep.tolist(), strict=True)
    expected = [literal_eps(rows, given[1], h, row, float(SCHEDULE.alpha_bar[t]), given[0]) for row, t in pairs]
    ours = denoiser(x, timestep).flatten(1).numpy()
    np.testing.assert_allclose(ours, np.array(expected), rtol=0, atol=1e-10)
    gaussian = GaussianDenoiser(statistics.mean, statistics.covariance, SCHEDULE)
    torch.testing.assert_close(denoiser.with_bandwidth(1)(x, timestep), gaussian(x, timestep), rtol=0, atol=1e-10)


def test_members_of_the_family_share_the_images() -> None:
    images, timestep = make_images(30), torch.tensor([200, 800])
    x = seeded_noise(3, range(2), (2, 3, 4)).double()
    first = SmoothedEmpiricalDenoiser(images, 0.3, SCHEDULE)
    before = first(x, timestep)
    second = first.with_bandwidth(0.8)
    assert second.points.data_ptr() == first.points.data_ptr()
    expected = SmoothedEmpiricalDenoiser(images, 0.8, SCHEDULE)(x, timestep)
    assert torch.equal(second(x, timestep), expected)
    assert torch.equal(first(x, timestep), before)


def test_float32_is_near_float64_and_follows_a_change_of_type() -> None:
    images, timestep = make_images(40), torch.tensor([5, 50, 400, 999])
    x = seeded_noise(3, range(4), (2, 3, 4))
    denoiser = SmoothedEmpiricalDenoiser(images, 0.3, SCHEDULE)
    exact = denoiser(x.double(), timestep)
    single = SmoothedEmpiricalDenoiser(images.float(), 0.3, SCHEDULE)(x, timestep)
    moved = denoiser.float()(x, timestep)
    assert single.dtype == moved.dtype == torch.float32
    for eps in (single, moved):
        torch.testing.assert_close(eps.double(), exact, rtol=0, atol=1e-4)
    assert torch.equal(denoiser(x.flatten(1), timestep), moved.flatten(1))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8)}, TypeError, "floating point"),
        ({"images": torch.zeros(1, 1, 2, 2)}, ValueError, "N >= 2"),
        ({"images": torch.zeros(4, 4)}, ValueError, "N, C, H, W"),
        ({"bandwidth": 1.1}, ValueError, "bandwidth must be a number in"),
        ({"bandwidth": math.nan}, ValueError, "bandwidth must be a number in"),
        ({"bandwidth": "0.3"}, ValueError, "got '0.3'"),
        ({"dropped_weight": 1.0}, ValueError, "dropped_weight must lie"),
        ({"dropped_weight": -0.1}, ValueError, "dropped_weight must lie"),
        ({"statistics": moments([torch.randn(5, 3)])}, ValueError, "statistics must be of images of 24 values, got 3"),
        ({"images": torch.full((4, 1, 2, 2), math.nan)}, ValueError, "finite"),
    ],
)
def test_bad_arguments(change: dict, error: type[Exception], words: str) -> None:
    arguments = {"images": make_images(4), "bandwidth": 0.3, "schedule": SCHEDULE} | change
    with pytest.raises(error, match=words):
        SmoothedEmpiricalDenoiser(**arguments)


def test_bad_questions() -> None:
    denoiser = SmoothedEmpiricalDenoiser(make_images(4), 0.3, SCHEDULE)
    for x, timestep in itertools.product((torch.zeros(2, 1, 3, 4), torch.zeros(2, 24)), (torch.zeros(3).long(),)):
        with pytest.raises(ValueError, match="must be"):
            denoiser(x, timestep)
