"""``probediff whitening``: the Gaussian denoiser's closed forms from the command line, the network, and bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from probediff.commands.whitening import whitening
from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.measures.covariance import directional_gains, linear_fit, paired_moments
from probediff.measures.whitening import Whitening
from probediff.models import load_run_data
from probediff.noise import seeded_noise
from probediff.schedule import NoiseSchedule
from probediff.whitening.analysis import slope_in_words
from probediff.whitening.closed_form import GaussianNoises
from probediff.whitening.gains import gain_slope, gaussian_gain
from probediff.whitening.pairs import NetworkNoises
from probediff.whitening.relation import averages, low_part, pair_statistics, with_low_part
from probediff.whitening.spectral import along_eigenvectors, curve_point, spectral_fit

QUICK = ["--iterations", "1,4,9", "--num_steps", "4,8", "--num_samples", "30", "--num_shown", "3", "--device", "cpu"]
FEW = ["--num_fixed_points", "80", "--ridge", "1e-2", *QUICK]
T = 40
LATE = 39  # 0.98 T
SCHEDULE = NoiseSchedule.cosine(T)


def analysed(run: Path, out: Path, *options: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    assert whitening([str(run), "--out", str(out), *FEW, *options]) == 0
    return json.loads((out / "whitening.json").read_text()), load_file(out / "whitening.safetensors")


@pytest.fixture(scope="module")
def network(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    out = tmp_path_factory.mktemp("whitening")
    return out, *analysed(tiny_run, out)


@pytest.fixture(scope="module")
def closed(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Tensor]]:
    options = ["--denoiser", "gaussian", "--num_fixed_points", "1500"]
    return analysed(tiny_run, tmp_path_factory.mktemp("gaussian"), *options)


def statistics_of(run: Path, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of all images of the run, with the ridge, by numpy."""
    rows = np.asarray(load_run_data(run).images[np.arange(1797)], dtype=np.float64).reshape(1797, -1) / 127.5 - 1
    covariance = np.cov(rows.T)
    return rows.mean(axis=0), covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))


# --- the Gaussian denoiser


def test_slopes_and_gains_of_the_gaussian_denoiser_are_the_closed_forms(
    tiny_run: Path, closed: tuple[dict[str, Any], dict[str, Tensor]]
) -> None:
    values, arrays = closed
    eigenvalues = np.linalg.eigvalsh(statistics_of(tiny_run, 1e-2)[1])[::-1].copy()
    np.testing.assert_allclose(arrays["eigenvalues"], eigenvalues, rtol=1e-6)
    a = float(SCHEDULE.alpha_bar[LATE])
    assert (values["conventions"]["timestep"], values["conventions"]["alpha_bar"]) == (LATE, a)
    assert [row["iterations"] for row in values["first_step"]] == [1, 4, 9]
    for row in values["first_step"]:
        gain = gaussian_gain(arrays["eigenvalues"], a, row["iterations"])
        varies = torch.isfinite(arrays[f"gain_iterations_{row['iterations']}"])
        torch.testing.assert_close(arrays[f"gain_iterations_{row['iterations']}"][varies], gain[varies])
        slope = gain_slope(arrays["eigenvalues"][varies], gain[varies]).slope
        for who in ("model", "gaussian"):
            assert row[who]["slope"] == pytest.approx(slope, rel=1e-6)
            assert row[who]["slope_unweighted"] == pytest.approx(slope, rel=1e-6)
    assert values["first_step"][0]["model"]["image_r2_scaled"] > 0.99


def test_the_gaussians_own_matrix_explains_its_noises_and_w_diff_is_it(
    closed: tuple[dict[str, Any], dict[str, Tensor]],
) -> None:
    rows = {row["name"]: row for row in closed[0]["transforms"]}
    assert list(rows) == ["diff", "zca", "zca_cor", "pca", "pca_cor", "cholesky", "gaussian", "gaussian_limit"]
    assert rows["gaussian"]["r2"] == pytest.approx(1, abs=1e-9)
    assert rows["diff"]["r2"] > 0.999
    # Not 1: along pixels that are always black the Gaussian's map has a gain and W_diff has none.
    assert rows["gaussian"]["cosine"] > 0.85
    assert all(row["cosine"] < 0.7 for name, row in rows.items() if name not in ("diff", "gaussian"))
    assert all(rows[name]["r2_scaled"] < 1 for name in ("zca", "pca", "cholesky", "gaussian_limit"))
    assert rows["zca"]["frobenius"] >= rows["zca"]["spectral"] > 0
    last = closed[0]["first_step"][-1]["model"]
    assert rows["zca"]["r2_scaled"] == pytest.approx(last["zca_r2_scaled"], rel=1e-6)
    assert rows["zca"]["r2"] == pytest.approx(last["zca_r2"], rel=1e-6)
    assert rows["gaussian_limit"]["r2_scaled"] == pytest.approx(last["inverse_r2_scaled"], rel=1e-6)


def test_the_full_map_is_nearer_to_zca_the_more_steps(tiny_run: Path, tmp_path: Path) -> None:
    values, _ = analysed(tiny_run, tmp_path, "--denoiser", "gaussian", "--num_steps", "10,20,40")
    off = [abs(row["model"]["slope"] + 0.5) for row in values["full_map"]]
    assert off == sorted(off, reverse=True)
    assert values["full_map"][-1]["model"]["zca_r2_scaled"] > 0.95
    assert values["full_map"][-1]["model"]["zca_r2_scaled"] > values["first_step"][-1]["model"]["zca_r2_scaled"]


@pytest.mark.parametrize("convention", ["openai", "diffusers"])
def test_closed_maps_are_those_of_the_denoiser(convention: Any) -> None:
    x = torch.randn(90, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.cumsum(dim=-1) + 0.3
    mean, covariance = x.flatten(1).mean(dim=0), torch.cov(x.flatten(1).T)
    gaussian = GaussianNoises(Whitening.from_covariance(mean, covariance), SCHEDULE, convention)
    denoiser = GaussianDenoiser(mean, covariance, SCHEDULE)
    noises = NetworkNoises(denoiser, SCHEDULE, dtype=torch.float64, convention=convention, clip=False, batch_size=37)
    tight = {"rtol": 1e-5, "atol": 1e-5}
    one, other = gaussian.iterates(x, 30, [1, 7]), noises.iterates(x, 30, [1, 7])
    for count in (1, 7):
        torch.testing.assert_close(one.eps[count].float(), other.eps[count], **tight)
    torch.testing.assert_close(
        gaussian.latents(x, 8), ddim_invert(denoiser, SCHEDULE, x, 8, convention, clip=False), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        gaussian.samples(x, 8), ddim_sample(denoiser, SCHEDULE, x, 8, convention, clip=False), rtol=1e-9, atol=1e-9
    )
    solved = np.linalg.solve(covariance.numpy(), (x.flatten(1) - mean).numpy().T).T
    a = float(SCHEDULE.alpha_bar[30])
    np.testing.assert_allclose(gaussian.limit(x, 30).flatten(1), math.sqrt((1 - a) / a) * solved, rtol=1e-7)


# --- the parts


def test_spectral_numbers_are_those_of_the_streamed_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64) @ torch.randn(5, 5, generator=generator).double()
    z = x @ torch.randn(5, 5, generator=generator).double() + torch.randn(60, 5, generator=generator)
    pairs = paired_moments([(x, z)])
    stats = Whitening.from_covariance(pairs.x.mean, pairs.x.covariance)
    fit = spectral_fit(along_eigenvectors(x, stats), along_eigenvectors(z, stats))
    streamed = directional_gains([(x, z)], pairs, stats.eigenvectors)
    for name in ("variance", "gain", "standard_error"):
        torch.testing.assert_close(getattr(fit.gains, name), getattr(streamed, name))
    for method, power in (("zca", -0.5), (None, -1.0)):
        matrix = stats.matrix("zca") if method else torch.linalg.inv(pairs.x.covariance)
        expected = linear_fit([(x, z)], matrix, pairs)
        assert fit.r2(stats.eigenvalues**power) == pytest.approx(expected.r2)
        assert fit.r2_scaled(stats.eigenvalues**power) == pytest.approx(expected.r2_scaled)
    with pytest.raises(ValueError, match="at least 3 images for a standard error, got 2"):
        spectral_fit(x[:2], z[:2])


def test_unrelated_noises_look_like_zca_but_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(600, 100, generator=generator, dtype=torch.float64) * torch.logspace(-2, 1, 100).double()
    stats = Whitening.from_covariance(x.mean(dim=0), torch.cov(x.T))
    z = torch.randn(600, 100, generator=generator, dtype=torch.float64)
    along = along_eigenvectors(x, stats)
    unrelated = curve_point(spectral_fit(along, along_eigenvectors(z, stats)), stats)
    assert unrelated["slope_unweighted"] == pytest.approx(-0.5, abs=0.1)
    assert unrelated["significant_share"] < 0.05 and unrelated["zca_r2_scaled"] < 0.01
    related = curve_point(spectral_fit(along, along_eigenvectors(stats.whiten(x) + z, stats)), stats)
    assert related["significant_share"] == 1 and related["zca_r2_scaled"] == pytest.approx(0.5, abs=0.05)
    assert related["slope"] == pytest.approx(-0.5, abs=0.02)


def test_finished_images_keep_their_noise_and_finished_batches_are_not_made_again() -> None:
    asked: list[int] = []

    def half(x: Tensor, timestep: Tensor) -> Tensor:
        asked.append(len(x))
        return x / 2

    class Store:
        def __init__(self) -> None:
            self.made: dict[int, dict[str, Tensor]] = {}

        def load(self, indices: Tensor) -> dict[str, Tensor] | None:
            return self.made.get(int(indices[0]))

        def save(self, indices: Tensor, made: dict[str, Tensor]) -> None:
            self.made[int(indices[0])] = made

    images = torch.linspace(0.1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 2, 2)
    counted: list[int] = []
    noises = NetworkNoises(half, SCHEDULE, tolerance=1e-3, batch_size=4, advance=counted.append)
    store = Store()
    found = noises.iterates(images, 20, [2, 60, 100], store)
    assert torch.equal(found.eps[60], found.eps[100]) and not torch.equal(found.eps[2], found.eps[60])
    assert found.progress(100)["converged_share"] == 1 and found.progress(2)["converged_share"] == 0
    assert found.progress(2)["residual_rms"] > found.progress(100)["residual_rms"] > 0
    assert sum(counted) >= 600
    before = len(asked)
    again = noises.iterates(images, 20, [2, 60, 100], store)
    assert len(asked) == before and torch.equal(again.eps[60], found.eps[60])
    start = NetworkNoises(half, SCHEDULE, batch_size=4, start_seed=1).iterates(images, 20, [1])
    other = NetworkNoises(half, SCHEDULE, batch_size=5, start_seed=1).iterates(images, 20, [1])
    torch.testing.assert_close(start.eps[1], other.eps[1])
    assert float((start.eps[1] - noises.iterates(images, 20, [1]).eps[1]).std()) > 0.1


def test_relation_of_noises_and_images() -> None:
    noise = seeded_noise(0, range(400), (1, 8, 8))
    images = 0.5 * noise + 0.1 * seeded_noise(1, range(400), (1, 8, 8)) + 0.3
    values, correlation = pair_statistics(noise, images)
    rows = [np.corrcoef(noise[k].flatten(), images[k].flatten())[0, 1] for k in range(400)]
    assert values["paired_pearson"] == pytest.approx(np.mean(rows), rel=1e-5)
    assert values["paired_pearson_std"] == pytest.approx(np.std(rows, ddof=1), rel=1e-4)
    assert abs(values["random_pearson"]) < 0.03 and values["random_l2"] > values["paired_l2"]
    stacked = np.corrcoef(noise.flatten(1).T.numpy(), images.flatten(1).T.numpy())[:64, 64:]
    np.testing.assert_allclose(correlation, stacked, atol=1e-6)
    assert values["diagonal_largest_share"] == 1
    assert values["off_diagonal_rms"] == pytest.approx(values["correlation_null_std"], rel=0.1)
    constant, _ = pair_statistics(noise, torch.zeros_like(noise))
    assert constant["paired_pearson"] == 0 and constant["diagonal_correlation"] == 0
    with pytest.raises(ValueError, match="must be 3 pairs or more of one shape"):
        pair_statistics(noise[:2], images[:2])


def test_averages_show_the_shared_low_frequencies() -> None:
    noise = seeded_noise(0, range(300), (3, 16, 16))
    low = low_part(noise[:1], 4)[0]
    alike = with_low_part(noise[1:], low)
    torch.testing.assert_close(low_part(alike, 4), low.expand(299, -1, -1, -1), rtol=0, atol=1e-6)
    assert float(alike.var()) == pytest.approx(1, abs=0.05)
    rows, noise_means, image_means = averages(alike, 0.5 * alike + 0.2, torch.full((3, 16, 16), 0.2))
    assert [row["num_images"] for row in rows] == [1, 10, 100, 299]
    assert all(row["pearson"] == pytest.approx(1, abs=1e-4) for row in rows)
    assert noise_means.shape == image_means.shape == (4, 3, 16, 16)
    unrelated, _, _ = averages(alike, noise[1:], torch.zeros(3, 16, 16))
    assert all(abs(row["pearson"]) < 5 * row["pearson_null_std"] for row in unrelated)
    with pytest.raises(ValueError, match="must be divisible by 4, got"):
        with_low_part(noise[..., :15], low)


def test_the_sentence() -> None:
    def rows(*slopes: float | None, known: float = 0.9) -> list[dict[str, Any]]:
        return [
            {
                "iterations": 10**k,
                "model": {"slope": s, "significant_share": known, "zca_r2_scaled": 0.25},
                "gaussian": {"slope": -0.1},
            }
            for k, s in enumerate(slopes)
        ]

    assert "nearest to -0.5, ZCA whitening. ZCA whitening at its best scale explains 25% of" in slope_in_words(
        rows(-0.1, -0.6), 0.98
    )
    assert "goes from -0.10 to -0.60" in slope_in_words(rows(-0.1, -0.6), 0.98)
    assert "nearest to -1, the inverse covariance" in slope_in_words(rows(-0.9, -0.91), 0.98)
    assert "It is the same from 1 iterations on" in slope_in_words(rows(-0.9, -0.91), 0.98)
    assert "nearest to 0, a multiple" in slope_in_words(rows(-0.2), 0.9)
    assert "says nothing" in slope_in_words(rows(-0.5, known=0.1), 0.98)
    assert "Too few directions" in slope_in_words(rows(-0.1, None), 0.98)


# --- the command with a network


def test_the_network_beside_the_gaussian_of_its_images(
    network: tuple[Path, dict[str, Any], dict[str, Tensor]], closed: tuple[dict[str, Any], dict[str, Tensor]]
) -> None:
    out, values, arrays = network
    how = values["conventions"]
    assert (how["num_images"], how["num_fixed_points"], how["step"], how["weights"]) == (1797, 80, 4, "ema")
    assert (how["statistics"], how["mirrored"], how["ridge"], how["num_steps"]) == ("Digits", False, 0.01, [4, 8])
    for mine, theirs in zip(values["first_step"], closed[0]["first_step"], strict=True):
        assert mine["gaussian"]["slope_unweighted"] == pytest.approx(theirs["model"]["slope_unweighted"], rel=1e-4)
        assert mine["model"]["zca_r2_scaled"] != theirs["model"]["zca_r2_scaled"]
        assert mine["model"]["residual_rms"] > 0
    assert values["transforms"][0]["r2"] > values["transforms"][1]["r2_scaled"]
    assert arrays["w_diff"].shape == (64, 64)
    assert float(arrays["residual_histogram_counts"].sum()) == 80 * 64
    assert [row["timestep"] for row in values["figure_3"]] == [8, 16, 24, 32, 36, 39]
    assert not (out / "partial").exists() or not list((out / "partial").iterdir())
    with Image.open(out / "f4_zca.png") as picture:
        assert picture.size[0] * 5 > picture.size[1] * 2
    for name in ("f2_averages", "f2_cross_correlation", "f3_fixed_points", "f5_whitened_covariance"):
        assert (out / f"{name}.png").stat().st_size > 100


def test_images_of_the_user_and_a_default_folder(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    for k, image in enumerate(np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "mine" / f"{k:02d}.png")
    values, _ = analysed(tiny_run, tmp_path / "out", "--images", str(tmp_path / "mine"), "--denoiser", "gaussian")
    how = values["conventions"]
    assert (how["images"], how["statistics"], how["num_fixed_points"]) == ("mine", "Digits", 12)
    printed = capsys.readouterr().out
    assert "First-step map at 0.98 T" in printed and "G slope" in printed
    assert values["in_words"] in printed and str(tmp_path / "out") in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_fixed_points", "64"], "--num_fixed_points must be more than the 64 values of an image, got 64"),
        (["--num_images", "50"], "got 50: their covariance has no inverse; use more images, or --ridge 1e-4"),
        ([], "covariance must have full rank"),  # the digits have pixels that are always black
        (["--num_steps", "30"], "num_steps=30 does not divide 40"),
        (["--timestep", "980"], "must be shares of T above 0 and at most 1, got 980"),
        (["--iterations", "0,5"], "--iterations must be at least 1, got 0"),
        (["--num_samples", "2"], "--num_samples must be at least 3, got 2"),
        (["--tolerance", "-1"], "--tolerance must be 0 or more, got -1"),
        (["--checkpoints", "3"], "must be among the stored ones"),
        (["--ridge", "-1"], "ridge must be 0 or more"),
    ],
)
def test_bad_input(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert whitening([str(tiny_run), "--out", str(tmp_path / "out"), *QUICK, *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_curve_points_of_maps_without_a_slope() -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stats = Whitening.from_covariance(x.mean(dim=0), torch.cov(x.T))
    along = along_eigenvectors(x, stats)
    point = curve_point(spectral_fit(along, -along), stats)
    assert point["slope"] is None and point["image_r2_scaled"] == pytest.approx(1)
    assert curve_point(spectral_fit(along, 0 * along), stats)["zca_r2_scaled"] == 0
