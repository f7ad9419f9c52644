"""``probediff whitening``: the Gaussian denoiser's closed forms from the command line, the network, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import probediff.whitening.analysis
from probediff.commands.whitening import whitening
from probediff.models import load_run_data
from probediff.schedule import NoiseSchedule
from probediff.whitening.gains import gain_slope, gaussian_gain
from probediff.whitening.pairs import NetworkNoises

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


def test_finished_batches_are_those_of_the_weights_and_images_and_damaged_ones_are_made_again(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: tuple[Path, Any, dict[str, Tensor]]
) -> None:
    """An analysis that was stopped goes on with what is whole, and ends with the same numbers."""
    images = np.random.default_rng(0).integers(0, 256, (2, 80, 8, 8), dtype=np.uint8)
    out, made = tmp_path / "out", list[int]()
    iterate = NetworkNoises._iterate

    def counted(self: NetworkNoises, images: Tensor, indices: Tensor, *others: Any) -> dict[str, Tensor]:
        made.append(len(indices))
        return iterate(self, images, indices, *others)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(NetworkNoises, "_iterate", counted)
    options = [str(tiny_run), "--out", str(out), *FEW, "--batch_size", "32"]

    def stop(*others: str) -> list[int]:
        made.clear()
        with monkeypatch.context() as patch:
            patch.setattr(probediff.whitening.analysis, "_show_noises", stopped)
            assert whitening([*options, *others]) == 130
        return list(made)

    assert stop() == [32, 32, 16]
    assert stop() == []
    assert stop("--weights", "raw") == [32, 32, 16]
    for name, pixels in zip("ab", images, strict=True):
        folder = tmp_path / name / "mine"
        folder.mkdir(parents=True)
        for k, image in enumerate(pixels):
            Image.fromarray(image).save(folder / f"{k:02d}.png")
        assert stop("--images", str(folder)) == [32, 32, 16]
    made.clear()
    for path in out.glob("partial/*/rows=0000032-*"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.warns(UserWarning, match="a finished batch is made again"):
        arrays = analysed(tiny_run, out, "--batch_size", "32")[1]
    assert [count for count in made if count > 3] == [32]  # three are those of figure 3
    torch.testing.assert_close(arrays["w_diff"], network[2]["w_diff"])


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
        (["--checkpoints", "all"], "--checkpoints must be one here, got those of steps [0, 2, 4]"),
        (["--noise_seed", "-5"], "--noise_seed must be at least 0, got -5"),
        (["--device", "cuda:77"], "--device must be one that this machine has, got 'cuda:77'"),
        (["--device", "meta"], "--device must be one that this machine has, got 'meta'"),
        (["--ridge", "-1"], "ridge must be 0 or more"),
    ],
)
def test_bad_input(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert whitening([str(tiny_run), "--out", str(tmp_path / "out"), *QUICK, *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
