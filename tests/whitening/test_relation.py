"""How samples resemble their noises, against numpy and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probediff.noise import seeded_noise
from probediff.whitening.relation import averages, low_part, pair_statistics, with_low_part


def test_relation_of_noises_and_images() -> None:
    noise = seeded_noise(0, range(400), (1, 8, 8))
    images = 0.5 * noise + 0.1 * seeded_noise(1, range(400), (1, 8, 8)) + 0.3
    numbers, correlation = pair_statistics(noise, images)
    rows = [np.corrcoef(noise[k].flatten(), images[k].flatten())[0, 1] for k in range(400)]
    assert numbers["paired_pearson"] == pytest.approx(np.mean(rows), rel=1e-5)
    assert numbers["paired_pearson_std"] == pytest.approx(np.std(rows, ddof=1), rel=1e-4)
    assert abs(numbers["random_pearson"]) < 0.03 and numbers["random_l2"] > numbers["paired_l2"]
    stacked = np.corrcoef(noise.flatten(1).T.numpy(), images.flatten(1).T.numpy())[:64, 64:]
    np.testing.assert_allclose(correlation, stacked, atol=1e-6)
    assert numbers["diagonal_largest_share"] == 1
    assert numbers["off_diagonal_rms"] == pytest.approx(numbers["correlation_null_std"], rel=0.1)
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
