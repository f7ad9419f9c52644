"""FID and KID against independent formulas."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

from probediff.features.distances import feature_distances
from tests.reference.latents_reference import frechet_distance


def features(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, generator=generator) @ torch.randn(dim, dim, generator=generator) + seed


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy, cubic kernel, without the diagonals."""
    xx, yy, xy = (polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    num = len(x)
    same = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (num * (num - 1))
    return float(same - 2 * xy.mean())


@pytest.mark.parametrize(("num_real", "num_fake", "dim"), [(60, 40, 8), (1030, 50, 3), (12, 9, 20)])
def test_fid_is_the_frechet_distance(num_real: int, num_fake: int, dim: int) -> None:
    real, fake = features(num_real, dim), features(num_fake, dim, seed=1)
    expected = frechet_distance(real.double().numpy(), fake.double().numpy())
    assert feature_distances(real, fake, 5).fid == pytest.approx(expected, rel=1e-5)


def test_kid_of_the_whole_sets_is_scikit_learns() -> None:
    real, fake = features(30, 6), features(30, 6, seed=1)
    found = feature_distances(real, fake, 30)
    assert found.kid == pytest.approx(unbiased_mmd(real.double().numpy(), fake.double().numpy()), rel=1e-9)
    assert found.kid_std == pytest.approx(0, abs=1e-6 * found.kid)


def test_kid_of_subsets_has_the_same_expectation() -> None:
    real, fake = features(300, 6), features(200, 6, seed=1)
    found = feature_distances(real, fake, 50)
    whole = unbiased_mmd(real[:200].double().numpy(), fake.double().numpy())
    assert found.kid == pytest.approx(whole, rel=0.1)
    assert found.kid_std > 0


def test_two_sets_of_one_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 800, 8, generator=generator)
    found, far = feature_distances(real, fake, 100), feature_distances(real, fake + 1, 100)
    assert abs(found.kid) < 0.02 < far.kid
    assert found.fid < 0.1
    assert far.fid == pytest.approx(8, abs=1)


def test_same_numbers_again_and_no_trace() -> None:
    real, fake = features(40, 5), features(40, 5, seed=1)
    before = torch.get_rng_state()
    assert feature_distances(real, fake, 10) == feature_distances(real, fake, 10)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("real", "fake", "size", "message"),
    [
        (torch.zeros(5), torch.zeros(5, 2), 2, r"real must be \(N, F\) with N at least 2, got shape \(5,\)"),
        (torch.zeros(5, 2), torch.zeros(1, 2), 2, r"fake must be \(N, F\) with N at least 2, got shape \(1, 2\)"),
        (torch.zeros(5, 2), torch.zeros(5, 3), 2, "equally many features, got 2 and 3"),
        (torch.zeros(5, 2), torch.full((5, 2), torch.inf), 2, "fake must be finite"),
        (features(5, 2), features(4, 2), 5, r"kid_subset_size must be in 2..4 \(the smaller set\), got 5"),
        (features(5, 2), features(4, 2), 1, "got 1"),
    ],
)
def test_bad_features_are_refused(real: torch.Tensor, fake: torch.Tensor, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_distances(real, fake, size)
