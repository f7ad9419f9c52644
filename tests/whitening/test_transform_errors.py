"""Standard errors of W_diff equal those of fits that are made anew without each group of images."""

from __future__ import annotations

import pytest
import torch

from probediff.measures.covariance import paired_moments
from probediff.measures.uncertainty import jackknife_error, rows_without_groups
from probediff.measures.whitening import WhiteningTransform, least_squares_map
from probediff.whitening.transform_errors import measure_distance, measure_whiteness, transform_errors

SIZE = 6


def pairs_of(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and noises that follow them in part."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(SIZE, SIZE, generator=generator)
    images = torch.randn(num, SIZE, generator=generator) @ mixing + 1.0
    noises = 0.7 * images + torch.tanh(images) + 0.5 * torch.randn(num, SIZE, generator=generator)
    return images.reshape(num, 1, 2, 3), noises.reshape(num, 1, 2, 3)


@pytest.mark.parametrize(("num", "ridge"), [(61, 0.0), (200, 0.0), (40, 0.1)])
def test_errors_equal_those_of_fits_made_anew(num: int, ridge: float) -> None:
    images, noises = pairs_of(num)
    matrices = {"identity": torch.eye(SIZE, dtype=torch.float64), "twice": 2 * torch.eye(SIZE, dtype=torch.float64)}
    found = transform_errors(images, noises, paired_moments([(images, noises)]), ridge, matrices)
    values: dict[str, list[dict[str, float]]] = {name: [] for name in (*matrices, "whiteness")}
    for kept in rows_without_groups(num):
        pairs = paired_moments([(images[kept], noises[kept])])
        own = WhiteningTransform.from_covariance(pairs.x.mean, pairs.x.covariance, ridge)
        w_diff = least_squares_map(pairs, own)
        values["whiteness"].append(measure_whiteness(w_diff @ pairs.x.covariance @ w_diff.T))
        for name, matrix in matrices.items():
            values[name].append(measure_distance(matrix, w_diff))
    assert found.keys() == values.keys()
    for name, of_name in values.items():
        expected = {
            key: jackknife_error(torch.tensor([row[key] for row in of_name], dtype=torch.float64)) for key in of_name[0]
        }
        assert found[name] == pytest.approx(expected, rel=1e-6)


def test_too_few_images_and_equal_ones_have_none() -> None:
    images, noises = pairs_of(SIZE + 2)
    assert transform_errors(images, noises, paired_moments([(images, noises)]), 0.0, {}) == {}
    # All images that differ enough are in one group.
    equal = torch.zeros(200, 1, 2, 3)
    equal[::20] = pairs_of(10)[0]
    assert transform_errors(equal, equal, paired_moments([(equal, equal)]), 0.0, {}) == {}
