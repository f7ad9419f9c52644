"""Optimal assignment, hubness and reproducibility."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist
from skimage.metrics import structural_similarity

from probediff.measures import (
    assignment_accuracy,
    hub_counts,
    hubness,
    null_hubness,
    optimal_transport,
    reproducibility,
)
from tests.reference.latents_reference import best_permutation


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    num=st.integers(2, 6),
    dim=st.integers(1, 8),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_against_all_permutations(num: int, dim: int, seed: int, dtype: torch.dtype) -> None:
    noise = normal(num, dim, seed=seed).to(dtype)
    x_0 = (0.3 * noise + 0.5 * normal(num, dim, seed=seed + 1000) + 3).to(dtype)
    found = optimal_transport(noise, x_0)
    cost = cdist(noise.double().numpy(), x_0.double().numpy(), "sqeuclidean")
    best, optimal = best_permutation(cost)
    assert found.optimal_cost == pytest.approx(optimal)
    # In one dimension several assignments can cost the same to rounding; the returned one must cost the optimum.
    assigned = found.assigned_image.numpy()
    assert sorted(assigned) == list(range(num))
    assert cost[np.arange(num), assigned].mean() == pytest.approx(optimal)
    if dim > 1:
        assert tuple(assigned) == best
    assert found.identity_share == pytest.approx(np.mean(assigned == np.arange(num)))
    assert found.identity_gap == pytest.approx(np.trace(cost) / num / optimal - 1, abs=1e-9)
    assert found.random_gap == pytest.approx(cost.mean() / optimal - 1)
    assert found.nearest_image_gap == pytest.approx(cost.min(axis=1).mean() / optimal - 1, abs=1e-9)
    assert found.nearest_noise_gap == pytest.approx(cost.min(axis=0).mean() / optimal - 1, abs=1e-9)
    assert found.nearest_image.tolist() == cost.argmin(axis=1).tolist()
    assert found.nearest_noise.tolist() == cost.argmin(axis=0).tolist()
    assert found.nearest_image_share == pytest.approx(np.mean(assigned == cost.argmin(axis=1)))
    assert found.nearest_noise_share == pytest.approx(np.mean(np.argsort(assigned) == cost.argmin(axis=0)))


def test_a_known_map() -> None:
    # Three noises on a line; the images are shifted, and one pair is swapped: two of five pairs are not kept.
    noise = torch.tensor([[0.0], [10.0], [20.0], [30.0], [40.0]])
    x_0 = noise[[0, 1, 2, 4, 3]] + 1
    found = optimal_transport(noise, x_0)
    assert found.assigned_image.tolist() == [0, 1, 2, 4, 3]
    assert found.identity_share == pytest.approx(3 / 5)
    assert found.optimal_cost == pytest.approx(1)
    assert found.identity_gap == pytest.approx((3 * 1 + 121 + 81) / 5 - 1)
    assert found.nearest_image_share == found.nearest_noise_share == 1
    assert found.nearest_image_gap == found.nearest_noise_gap == pytest.approx(0)


def test_a_cycle_of_three() -> None:
    # Not its own inverse: both shares must follow the assignment in their own direction.
    noise = torch.tensor([[0.0], [10.0], [20.0]])
    found = optimal_transport(noise, noise[[1, 2, 0]] + 1)
    assert found.assigned_image.tolist() == [2, 0, 1]
    assert (found.identity_share, found.nearest_image_share, found.nearest_noise_share) == (0, 1, 1)


def test_scaled_noise_is_the_optimal_map() -> None:
    noise = normal(40, 3, 4, 4)
    found = optimal_transport(noise, 0.5 * noise)
    assert found.identity_share == 1
    assert found.identity_gap == 0
    assert found.random_gap > 1


def test_unrelated_sets_keep_one_pair_on_average() -> None:
    kept = [
        30 * optimal_transport(normal(30, 20, seed=s), normal(30, 20, seed=s + 500)).identity_share for s in range(100)
    ]
    assert abs(np.mean(kept) - 1) < 4 * np.std(kept) / 10


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    noise, x_0 = normal(31, 12), normal(31, 12, seed=1)
    whole = optimal_transport(noise, x_0)
    for module in ("_rows", "transport"):
        monkeypatch.setattr(f"probediff.measures.{module}.CHUNK_ELEMENTS", 100)
    parts = optimal_transport(noise, x_0)
    assert torch.equal(parts.assigned_image, whole.assigned_image)
    assert parts.random_gap == pytest.approx(whole.random_gap, rel=1e-12)


def test_neighbours_are_those_of_the_assignment() -> None:
    noise, x_0 = normal(90, 10), 0.4 * normal(90, 10) + 0.5 * normal(90, 10, seed=3)
    found, expected = optimal_transport(noise, x_0), assignment_accuracy(noise, x_0)
    assert torch.equal(found.nearest_image, expected.nearest_image)
    assert torch.equal(found.nearest_noise, expected.nearest_noise)


@pytest.mark.parametrize(
    ("noise", "x_0", "message"),
    [
        (normal(3, 4), normal(3, 5), "noise and x_0 must agree in shape"),
        (normal(1, 4), normal(1, 4), "at least 2 samples for an assignment with a choice, got 1"),
        (normal(3, 4), torch.full((3, 4), 0.3), "x_0 must hold different samples, got 3 equal ones"),
        (torch.full((3, 4), 0.3), normal(3, 4), "noise must hold different samples, got 3 equal ones"),
        (torch.eye(3), torch.eye(3), "must be different sets, got the same one"),
        (normal(3, 4), torch.full((3, 4), torch.nan), "x_0 must be finite"),
    ],
)
def test_bad_sets_are_refused(noise: torch.Tensor, x_0: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimal_transport(noise, x_0)


def test_hubness_is_scipys_skewness() -> None:
    captured = hub_counts(torch.tensor([0, 0, 0, 1, 2, 2, 5, 0]), 8)
    assert hubness(captured) == pytest.approx(stats.skew(captured.numpy()))
    assert hubness(torch.ones(7, dtype=torch.int64)) == 0
    assert hubness(torch.tensor([9, 0, 0, 0, 0, 0, 0, 0, 0])) == pytest.approx(stats.skew([9] + 8 * [0]))
    with pytest.raises(ValueError, match=r"captured must be \(N,\) with N > 1, got shape \(1,\)"):
        hubness(torch.tensor([3]))


@pytest.mark.parametrize("num", [2, 17, 1000])
def test_null_hubness(num: int) -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(num, np.full(num, 1 / num), size=4000)
    spread = counts.std(axis=1) > 0
    # Equal counts have no skewness for scipy, and 0 for us.
    expected = stats.skew(counts[spread], axis=1).sum() / len(counts)
    assert null_hubness(num) == pytest.approx(expected, abs=0.03)
    assert null_hubness(num) == null_hubness.__wrapped__(num)


def test_null_hubness_refuses_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    null_hubness.__wrapped__(11)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="num must be at least 2, got 1"):
        null_hubness(1)


def test_reproducibility_against_scikit_image() -> None:
    x = normal(6, 2, 8, 9).tanh()
    y = (x + 0.4 * normal(6, 2, 8, 9, seed=1)).clamp(-1, 1)

    def scores(b: torch.Tensor) -> list[float]:
        pairs = zip((x.numpy() + 1) / 2, (b.numpy() + 1) / 2, strict=True)
        return [structural_similarity(p, q, data_range=1.0, channel_axis=0) for p, q in pairs]

    paired, shifted = scores(y), scores(y[[1, 2, 3, 4, 5, 0]])
    threshold = sorted(paired)[2]
    found = reproducibility(x, y, threshold)
    assert found.mean_ssim == pytest.approx(np.mean(paired))
    assert found.mean_ssim_null == pytest.approx(np.mean(shifted))
    assert found.same_share == pytest.approx(0.5)
    assert found.same_share_null == pytest.approx(np.mean(np.array(shifted) > threshold))
    flat_x, flat_y = x.flatten(1).numpy(), y.flatten(1).numpy()
    assert found.mean_l2 == pytest.approx(np.linalg.norm(flat_x - flat_y, axis=1).mean())
    assert found.mean_l2_null == pytest.approx(np.linalg.norm(flat_x - np.roll(flat_y, -1, axis=0), axis=1).mean())
    assert found.retrieval_null == pytest.approx(1 / 6)


def test_retrieval_directions() -> None:
    # Every x is nearest to y[0]; the nearest x of every y is x[2].
    levels_x, levels_y = torch.tensor([0.5, 0.6, 0.4]), torch.tensor([0.0, -0.1, -0.2])
    flat = torch.ones(3, 1, 7, 7)
    found = reproducibility(flat * levels_x.view(3, 1, 1, 1), flat * levels_y.view(3, 1, 1, 1))
    assert found.x_finds_y == found.y_finds_x == pytest.approx(1 / 3)
    # All x are nearest to y[0]; y[1] and y[2] are nearest to x[2].
    levels_x, levels_y = torch.tensor([0.0, 0.1, 0.2]), torch.tensor([0.0, 0.5, 0.6])
    found = reproducibility(flat * levels_x.view(3, 1, 1, 1), flat * levels_y.view(3, 1, 1, 1))
    assert (found.x_finds_y, found.y_finds_x) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_identical_and_unrelated_runs() -> None:
    x = normal(20, 1, 8, 8).tanh()
    same = reproducibility(x, x)
    assert (same.mean_ssim, same.same_share, same.mean_l2) == (pytest.approx(1), 1, 0)
    assert (same.x_finds_y, same.y_finds_x) == (1, 1)
    other = reproducibility(x, normal(20, 1, 8, 8, seed=9).tanh())
    assert other.mean_ssim == pytest.approx(other.mean_ssim_null, abs=0.05)
    assert other.same_share == other.same_share_null == 0


@pytest.mark.parametrize(
    ("x", "y", "threshold", "message"),
    [
        (normal(3, 1, 8, 8), normal(4, 1, 8, 8), 0.6, "x and y must agree in number of samples"),
        (normal(3, 1, 6, 8), normal(3, 1, 6, 8), 0.6, "H and W at least 7"),
        (normal(1, 1, 8, 8), normal(1, 1, 8, 8), 0.6, "at least 2 samples for mismatched pairs, got 1"),
        (normal(3, 1, 8, 8), normal(3, 1, 8, 8), 1.5, "threshold must be an SSIM in -1..1, got 1.5"),
    ],
)
def test_bad_runs_are_refused(x: torch.Tensor, y: torch.Tensor, threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reproducibility(x, y, threshold)
