"""CKA, SVCCA, SSIM and cosine similarity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from sklearn.cross_decomposition import CCA
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import paired_cosine_distances

from probediff.measures import cka, cosine_similarity, image_r2, similarity, ssim, svcca
from tests.reference.measures_reference import cka_literal, leading_left_vectors


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def related(num: int, dim: int, other_dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = normal(num, dim, seed=seed) @ torch.diag(torch.linspace(2, 0.2, dim, dtype=torch.float64)) + 0.7
    return x, x @ normal(dim, other_dim, seed=seed + 1) + normal(num, other_dim, seed=seed + 2) - 2.0


def rotation(dim: int) -> torch.Tensor:
    basis: torch.Tensor = torch.linalg.qr(normal(dim, dim, seed=77)).Q
    return basis


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    num=st.integers(4, 40),
    dim=st.integers(1, 50),
    other_dim=st.integers(1, 50),
    chunk=st.sampled_from([1, 60, 333, 2**22]),
    debiased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_cka_against_gram_matrices(num: int, dim: int, other_dim: int, chunk: int, debiased: bool, seed: int) -> None:
    x, y = related(num, dim, other_dim, seed)
    expected = cka_literal(x.numpy(), y.numpy(), debiased)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "CHUNK_ELEMENTS", chunk)
        assert cka(x, y, debiased=debiased) == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize(("num", "dim"), [(200, 5), (12, 300)])
def test_cka_is_the_same_in_both_spaces(num: int, dim: int) -> None:
    x, y = (rows - rows.mean(dim=0) for rows in related(num, dim, dim + 1))
    by_features, by_samples = similarity._products_by_features(x, y), similarity._products_by_samples(x, y)
    np.testing.assert_allclose(by_features.numpy(), by_samples.numpy(), rtol=1e-11)


def test_cka_takes_the_cheaper_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(similarity, "_products_by_samples")
    assert 0 < cka(normal(300, 3), normal(300, 4, seed=1)) < 1
    monkeypatch.undo()
    monkeypatch.delattr(similarity, "_products_by_features")
    assert 0 < cka(normal(6, 300), normal(6, 400, seed=1)) < 1


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_ignores_rotation_scale_and_shift(debiased: bool) -> None:
    x, y = related(50, 8, 12)
    expected = cka(x, y, debiased)
    assert 0.1 < expected < 0.9
    assert cka(x @ rotation(8), y, debiased) == pytest.approx(expected, abs=1e-12)
    assert cka(1e120 * x, -1e-120 * (y @ rotation(12)), debiased) == pytest.approx(expected, abs=1e-12)
    assert cka(x + 100.0, y - 5.0, debiased) == pytest.approx(expected, abs=1e-10)
    assert cka(y, x, debiased) == pytest.approx(expected, abs=1e-12)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert cka(x[order], y[order], debiased) == pytest.approx(expected, abs=1e-12)
    assert cka(x, 3 * x @ rotation(8), debiased) == pytest.approx(1.0, abs=1e-12)


def test_debiased_cka_of_independent_sets_is_0_on_average() -> None:
    pairs = [(normal(40, 100, seed=s), normal(40, 100, seed=s + 500)) for s in range(100)]
    debiased = np.array([cka(x, y, debiased=True) for x, y in pairs])
    assert abs(debiased.mean()) < 4 * debiased.std() / np.sqrt(len(pairs))
    assert debiased.min() < 0 < debiased.max()
    # The biased one reads about D / (N + D) here.
    assert np.mean([cka(x, y) for x, y in pairs]) == pytest.approx(100 / 140, abs=0.03)


def test_cka_takes_images_of_different_sizes_and_dtypes() -> None:
    x, y = normal(20, 3, 4, 4, dtype=torch.float32), normal(20, 7, seed=1, dtype=torch.bfloat16)
    expected = cka_literal(x.double().flatten(1).numpy(), y.double().numpy(), False)
    assert cka(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "debiased", "message"),
    [
        (torch.full((5, 3), 0.1), torch.eye(5), False, "x must vary over the 5 samples, got a constant"),
        (torch.eye(5), torch.full((5, 3), 0.1), True, "y must vary over the 5 samples, got a constant"),
        (torch.ones(1, 3), torch.ones(1, 3), False, "x must vary over the 1 samples"),
        (torch.eye(3), torch.eye(3), True, "at least 4 samples for debiased CKA, got 3"),
        (torch.eye(6), torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), True, "x must hold .* equally"),
        (torch.eye(3), torch.eye(4), False, "x and y must agree in number of samples, got x: 3, y: 4"),
        (torch.eye(3), torch.eye(3) / 0, False, "y must be finite, got 9 NaN"),
        (torch.ones(0, 3), torch.ones(0, 3), False, "x must hold at least one sample"),
    ],
)
def test_cka_refuses(x: torch.Tensor, y: torch.Tensor, debiased: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cka(x, y, debiased=debiased)


@pytest.mark.parametrize("num", range(4, 30))
def test_cka_finds_constants_whose_mean_is_rounded(num: int) -> None:
    with pytest.raises(ValueError, match=f"x must vary over the {num} samples, got a constant"):
        cka(torch.full((num, 3), 0.1, dtype=torch.float64), normal(num, 3))


@pytest.mark.parametrize(("num", "dim", "other_dim"), [(60, 20, 35), (40, 90, 15), (30, 70, 80)])
def test_svcca_is_the_mean_singular_value_between_subspaces(num: int, dim: int, other_dim: int) -> None:
    x, y = related(num, dim, other_dim)
    u_x, u_y = (leading_left_vectors(rows.numpy(), 6) for rows in (x, y))
    expected = np.linalg.svd(u_x.T @ u_y, compute_uv=False).mean()
    assert svcca(x, y, num_directions=6) == pytest.approx(expected, abs=1e-9)


def test_svcca_agrees_with_scikit_learns_cca() -> None:
    x, y = related(300, 30, 40)
    u_x, u_y = (leading_left_vectors(rows.numpy(), 10) for rows in (x, y))
    projected_x, projected_y = CCA(n_components=10, max_iter=5000, tol=1e-10).fit_transform(u_x, u_y)
    correlations = [np.corrcoef(projected_x[:, i], projected_y[:, i])[0, 1] for i in range(10)]
    assert svcca(x, y) == pytest.approx(np.mean(correlations), abs=1e-3)
    assert 0.3 < svcca(x, y) < 0.98


def test_svcca_ignores_scales_and_shifts_of_columns() -> None:
    x, y = related(60, 20, 25)
    expected = svcca(x, y)
    assert svcca(x * torch.logspace(-100, 100, 20, dtype=torch.float64), y - 9.0) == pytest.approx(expected, abs=1e-9)
    assert svcca(y, x) == pytest.approx(expected, abs=1e-12)
    assert svcca(x, x.flip(1)) == pytest.approx(1.0, abs=1e-12)
    assert svcca(x, y) == expected
    constants = torch.full((60, 3), 0.1, dtype=torch.float64)
    assert svcca(torch.cat([x, constants], dim=1), y) == pytest.approx(expected, abs=1e-9)


def test_svcca_of_an_ill_conditioned_set_stays_in_range() -> None:
    base = normal(50, 4)
    x = torch.cat([base, base + 1e-5 * normal(50, 4, seed=1)], dim=1)
    assert svcca(x, x, num_directions=8) == pytest.approx(1.0, abs=1e-12)
    assert svcca(x, normal(50, 8, seed=2), num_directions=8) < 0.7
    for seed in range(10):
        x = normal(30, 12, seed=seed)
        assert 1 - 1e-12 < svcca(x, 2 * x) <= 1.0


@pytest.mark.parametrize(
    ("x", "y", "num_directions", "message"),
    [
        (normal(10, 20), normal(10, 20), 10, "num_directions must be under the number of samples 10, got 10; lower it"),
        (normal(20, 6), normal(20, 20), 10, "at most the rank of x, 6 after centring, got 10; lower it"),
        (normal(20, 20), normal(20, 2) @ normal(2, 30), 10, "at most the rank of y, 2 after centring, got 10"),
        (torch.ones(20, 20), normal(20, 20), 10, "at most the rank of x, 0 after centring"),
        (normal(20, 20), normal(20, 20), 0, "num_directions must be at least 1, got 0"),
        (normal(20, 20), normal(19, 20), 3, "must agree in number of samples"),
        (normal(0, 20), normal(0, 20), 3, "x must hold at least one sample"),
    ],
)
def test_svcca_refuses(x: torch.Tensor, y: torch.Tensor, num_directions: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        svcca(x, y, num_directions=num_directions)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    num=st.integers(1, 4),
    channels=st.integers(1, 4),
    height=st.integers(7, 20),
    width=st.integers(7, 20),
    seed=st.integers(0, 99),
)
def test_ssim_is_scikit_images(num: int, channels: int, height: int, width: int, seed: int) -> None:
    """On intensities in [0, 1]; values in any other range are mapped to it."""
    x = normal(num, channels, height, width, seed=seed).mul(0.25).add(0.5).clamp(0, 1)
    y = (0.7 * x + 0.2 * normal(num, channels, height, width, seed=seed + 1)).clamp(0, 1)
    expected = [
        structural_similarity(a, b, data_range=1.0, channel_axis=0)  # type: ignore[no-untyped-call]
        for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(2 * x - 1, 2 * y - 1).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(ssim(255 * x, 255 * y, black=0, white=255).numpy(), expected, atol=1e-12)


def test_ssim_of_greys_and_of_darkened_images() -> None:
    """On [-1, 1] as it is, the first would be -0.96."""
    light, dark = torch.full((1, 1, 8, 8), 0.1), torch.full((1, 1, 8, 8), -0.1)
    assert float(ssim(light, dark)) == pytest.approx((2 * 0.55 * 0.45 + 1e-4) / (0.55**2 + 0.45**2 + 1e-4), abs=1e-7)
    images = torch.from_numpy(load_digits().images)[:200, None] / 8 - 1
    # No structure changes, and the luminance of dark windows only a little less than twofold.
    assert float(ssim(images, (images - 0.2).clamp(min=-1)).mean()) > 0.9


def test_ssim_does_not_depend_on_chunks_or_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(7, 3, 9, 11, dtype=torch.float32), normal(7, 3, 9, 11, seed=1, dtype=torch.float32)
    whole = ssim(x, y)
    assert whole.dtype == torch.float64
    np.testing.assert_allclose(ssim(x.double(), y.double()).numpy(), whole.numpy(), rtol=1e-12)
    monkeypatch.setattr("probediff.measures._rows.STREAM_ELEMENTS", 2 * 3 * 9 * 11)
    np.testing.assert_allclose(ssim(x, y).numpy(), whole.numpy(), rtol=1e-12)


def test_ssim_of_equal_and_constant_images() -> None:
    x = normal(3, 2, 8, 8)
    np.testing.assert_allclose(ssim(x, x).numpy(), 1.0, atol=1e-14)
    np.testing.assert_allclose(ssim(x, x.roll(1, dims=0)).numpy(), ssim(x.roll(1, dims=0), x).numpy(), atol=1e-14)
    grey, black = torch.full((1, 1, 8, 8), 0.1), torch.full((1, 1, 8, 8), -1.0)
    assert float(ssim(grey, grey)) == pytest.approx(1.0, abs=1e-12)
    assert float(ssim(grey, black)) == pytest.approx(1e-4 / (0.55**2 + 1e-4), abs=1e-7)
    # Squares around zero would be rounded by far more than the constants that keep the denominators from zero.
    bright = torch.full((1, 1, 9, 8), 1e9 / 7, dtype=torch.float64)
    assert float(ssim(bright, bright, 0.0, 1e-6)) == pytest.approx(1.0, abs=1e-12)
    assert float(ssim(bright, 3 * bright, 0.0, 1e-6)) == pytest.approx(2 * 3 / (1 + 3**2), abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "white", "message"),
    [
        (torch.ones(2, 3, 6, 9), torch.ones(2, 3, 6, 9), 1.0, r"at least 7, got shape \(2, 3, 6, 9\); pass larger"),
        (torch.ones(2, 300), torch.ones(2, 300), 1.0, r"must be \(N, C, H, W\) .* got shape \(2, 300\)"),
        (torch.ones(2, 3, 8, 9), torch.ones(2, 3, 9, 8), 1.0, "x and y must agree in shape"),
        (torch.ones(0, 3, 8, 8), torch.ones(0, 3, 8, 8), 1.0, "x must hold at least one sample"),
        (torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8), -1.0, "black must be below white, got -1.0 and -1.0"),
        (torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8), float("nan"), "black must be below white"),
    ],
)
def test_ssim_refuses(x: torch.Tensor, y: torch.Tensor, white: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssim(x, y, white=white)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(num=st.integers(1, 9), dim=st.integers(1, 30), seed=st.integers(0, 99))
def test_cosine_similarity_is_scikit_learns(num: int, dim: int, seed: int) -> None:
    x, y = normal(num, dim, seed=seed), normal(num, dim, seed=seed + 100)
    cosines = cosine_similarity(x, y)
    np.testing.assert_allclose(cosines.numpy(), 1 - paired_cosine_distances(x.numpy(), y.numpy()), atol=1e-13)
    assert cosines.dtype == torch.float64
    np.testing.assert_allclose(cosine_similarity(1e200 * x, -1e-200 * y).numpy(), -cosines.numpy(), atol=1e-13)
    assert float(cosine_similarity(x, x).max()) <= 1.0


def test_cosine_similarity_refuses_zero_vectors() -> None:
    x = torch.ones(4, 1, 2, 2)
    y = x.clone()
    y[1], y[3] = 0, 0
    with pytest.raises(ValueError, match=r"y must have no zero vector, got 2 of 4 \(first indices: 1, 3\)"):
        cosine_similarity(x, y)
    with pytest.raises(ValueError, match="x must have no zero vector"):
        cosine_similarity(y, x)
    with pytest.raises(ValueError, match="x and y must agree in shape"):
        cosine_similarity(x, torch.ones(4, 4))


def test_image_r2_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probediff.measures._rows.CHUNK_ELEMENTS", 20)
    x, reference = normal(5, 3, 2, 2), 0.3 * normal(5, 3, 2, 2, seed=1) + 0.5
    expected = [r2_score(r, a) for a, r in zip(x.flatten(1).numpy(), reference.flatten(1).numpy(), strict=True)]
    np.testing.assert_allclose(image_r2(x, reference).numpy(), expected, rtol=1e-12)
    assert image_r2(reference, reference).tolist() == [1.0] * 5
    with pytest.raises(ValueError, match="reference must have images whose values differ"):
        image_r2(x, torch.ones_like(x))
