"""The authors' way of computing, against transcriptions of their code, and that it differs from ours as said."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from sklearn.cross_decomposition import CCA

from probediff.measures import TriangleAngles, cka, most_probable_triangle, svcca, triangle_angles
from probediff.measures.paper_compat import (
    angle_of_std_cosine,
    cka_min_max,
    min_max_scaled,
    most_probable_triangle_floored,
    ssim_min_max,
    svcca_randomised,
    without_last_batch,
)
from tests.reference.latents_reference import floored_triangle, platonic_cka


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_angle_of_std_cosine() -> None:
    a, b = normal(30, 5), normal(30, 5, seed=1)
    cosines = torch.nn.functional.cosine_similarity(a, b)
    assert angle_of_std_cosine(a, b) == pytest.approx(math.degrees(math.acos(cosines.std())))
    # No spread at all reads 90 degrees.
    assert angle_of_std_cosine(a, 2 * a) == pytest.approx(90)
    with pytest.raises(ValueError, match="at least 2 samples for a standard deviation, got 1"):
        angle_of_std_cosine(a[:1], b[:1])


@pytest.mark.parametrize(("num", "batch_size", "kept"), [(10, 4, 8), (8, 4, 8), (5, 5, 5), (7, 1, 7)])
def test_the_last_batch_is_dropped(num: int, batch_size: int, kept: int) -> None:
    images = normal(num, 2)
    assert torch.equal(without_last_batch(images, batch_size), images[:kept])
    with pytest.raises(ValueError, match=f"batch_size must be at most the {num} samples, got {num + 1}"):
        without_last_batch(images, num + 1)


def test_one_outlier_scales_every_image() -> None:
    images = normal(4, 1, 3, 3)
    scaled = min_max_scaled(images)
    assert (float(scaled.min()), float(scaled.max())) == (0, 1)
    torch.testing.assert_close(scaled * (images.max() - images.min()) + images.min(), images)
    images[0, 0, 0, 0] = 100
    assert float(min_max_scaled(images)[1:].max()) < 0.1
    with pytest.raises(ValueError, match="images must vary to be scaled"):
        min_max_scaled(torch.ones(3, 4))


def test_ssim_min_max() -> None:
    x, y = normal(3, 3, 9, 8), normal(3, 3, 9, 8) + 0.5 * normal(3, 3, 9, 8, seed=1)
    scaled = [((z - z.min()) / (z.max() - z.min())).numpy() for z in (x, y)]
    channels = [
        structural_similarity(a, b, data_range=1)
        for one, other in zip(*scaled, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    assert ssim_min_max(x, y) == pytest.approx(np.mean(channels))


@pytest.mark.parametrize("unbiased", [False, True])
def test_cka_min_max(unbiased: bool) -> None:
    x, y = normal(12, 4), normal(12, 4) + normal(12, 4, seed=1)
    scaled = [((z - z.min()) / (z.max() - z.min())).numpy() for z in (x, y)]
    found = cka_min_max(x, y, unbiased)
    assert found == pytest.approx(platonic_cka(*scaled, unbiased), rel=1e-10)
    # The denominator makes it smaller than a CKA that does not depend on the scale.
    exact = cka(x, y, debiased=unbiased)
    assert 1e-9 < exact - found < 1e-2


def test_unbiased_cka_needs_four() -> None:
    with pytest.raises(ValueError, match="at least 4 samples for unbiased CKA, got 3"):
        cka_min_max(normal(3, 4), normal(3, 4, seed=1), unbiased=True)


def low_rank(seed: int) -> torch.Tensor:
    """A clear leading subspace, so that the randomised decomposition finds it."""
    return normal(60, 4) @ normal(4, 25, seed=seed) + 0.3 * normal(60, 25, seed=seed + 50)


def test_svcca_randomised() -> None:
    x, y = low_rank(1), low_rank(2)
    found = svcca_randomised(x, y, 4, seed=3)
    assert found == svcca_randomised(x, y, 4, seed=3)
    assert found == pytest.approx(svcca(x, y, 4), abs=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bases = []
        for rows in (x.float(), y.float()):
            scaled = (rows - rows.min()) / (rows.max() - rows.min())
            scaled = scaled - scaled.mean(dim=0)
            bases.append(torch.svd_lowrank(scaled / (scaled.std(dim=0) + 1e-8), q=4)[0].numpy())
    variates = CCA(n_components=4, max_iter=5000, tol=1e-10).fit(*bases).transform(*bases)
    expected = np.mean([np.corrcoef(variates[0][:, k], variates[1][:, k])[0, 1] for k in range(4)])
    assert found == pytest.approx(expected, abs=1e-3)


def test_svcca_randomised_keeps_the_random_state_and_refuses() -> None:
    before = torch.get_rng_state()
    svcca_randomised(low_rank(1), low_rank(2), 4)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match=r"num_directions must be under .* got 25"):
        svcca_randomised(low_rank(1), low_rank(2), 25)


def test_floored_triangle() -> None:
    angles = triangle_angles(normal(300, 3), normal(300, 3, seed=1), normal(300, 3, seed=2) + 1)
    found = most_probable_triangle_floored(angles)
    fields = (angles.at_latent_deg.numpy(), angles.at_image_deg.numpy(), angles.at_noise_deg.numpy())
    (at_latent, at_image, at_noise), probability = floored_triangle(*fields)
    assert (found.at_latent_deg, found.at_image_deg, found.at_noise_deg) == (at_latent, at_image, at_noise)
    assert found.probability == pytest.approx(probability)


def test_bins_that_start_at_whole_degrees() -> None:
    near = torch.tensor([59.6, 60.2], dtype=torch.float64)
    angles = TriangleAngles(near, near.flip(0), torch.tensor([60.2, 60.2], dtype=torch.float64))
    # 59.6 counts as 59, so that half of the noise and image angles fall beside 60.
    assert most_probable_triangle_floored(angles).probability == pytest.approx(1 / 4)
    assert most_probable_triangle(angles).probability == pytest.approx(1)
    edge = torch.tensor([179.0, 0.4, 0.6])[:, None].double()
    with pytest.raises(ValueError, match="some triangle of whole degrees"):
        most_probable_triangle_floored(TriangleAngles(*edge))
