"""Real images beside what the exact denoisers make of them: which ones, and that noise and members belong together."""

from __future__ import annotations

import pytest
import torch

from probediff.callbacks.exact_images import BANDWIDTHS, ExactImages, find_levels, noised
from tests.callbacks.test_denoiser_structure import FAMILY, SCHEDULE, SEEN, TRAINING, UNSEEN


def test_images_of_the_splits_are_spread_over_them() -> None:
    schedule = (SCHEDULE, find_levels(SCHEDULE, [1.0]), torch.device("cpu"))
    exact = ExactImages.evaluate(SEEN, TRAINING, 4, schedule, noise_seed=0)
    assert torch.equal(exact.splits[0], SEEN[[0, 100, 199, 299]]) and torch.equal(exact.splits[1], UNSEEN[:4])
    assert exact.num_training_images == 300


def test_members_are_the_exact_denoisers_of_each_split_and_level() -> None:
    levels = find_levels(SCHEDULE, [0.5, 2.0])
    exact = ExactImages.evaluate(SEEN, TRAINING, 3, (SCHEDULE, levels, torch.device("cpu")), noise_seed=0)
    for split, images in enumerate(exact.splits):
        for index, level in enumerate(levels):
            x_t, timestep = noised(images, exact.noise, level), torch.full((3,), level.timestep)
            beside = exact.beside(lambda x, t: x, split, index)
            torch.testing.assert_close(beside.noised.float().reshape(x_t.shape), x_t / level.alpha_bar**0.5)
            for member, bandwidth in zip(beside.members, BANDWIDTHS, strict=True):
                expected = FAMILY.with_bandwidth(bandwidth).predict(x_t, timestep)[0]
                torch.testing.assert_close(member.float(), expected.flatten(1), rtol=1e-3, atol=1e-4)


def test_equal_images_are_refused_for_they_have_no_variance() -> None:
    schedule = (SCHEDULE, find_levels(SCHEDULE, [1.0]), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"needs images that differ, got 5 equal ones"):
        ExactImages.evaluate(SEEN[:1].expand(5, -1, -1, -1), TRAINING, 4, schedule, noise_seed=0)
