"""On Gaussian data every distance has a closed form: what vary and edit must find, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from probediff.ddim import DDIMPath
from probediff.denoisers import GaussianDenoiser
from probediff.editing.models import EditableModel, Sampler
from probediff.editing.noise_search import NoiseSearchSettings, search_noise
from probediff.editing.noises import FoundNoises
from probediff.editing.sdedit import edit_images
from probediff.editing.variation import compare_paired, likeness, vary_noises
from probediff.measures.whitening import WhiteningTransform
from probediff.models import ProbeModel
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import hashed_normal

SHAPE = (1, 8, 8)
NUM, CHAINS = 200, 2


@pytest.fixture(scope="module")
def whitening() -> WhiteningTransform:
    basis = torch.linalg.qr(hashed_normal("basis", (64, 64))).Q
    spectrum = torch.logspace(-0.3, -2.5, 64).double()
    return WhiteningTransform.from_covariance(torch.full((64,), 0.1), (basis * spectrum) @ basis.T)


@pytest.fixture(scope="module")
def sampler(whitening: WhiteningTransform) -> Sampler:
    schedule = NoiseSchedule.cosine(1000)
    denoiser = GaussianDenoiser(whitening.mean, whitening.covariance(), schedule).float().eval()
    probe = ProbeModel(denoiser, schedule, SHAPE, 0, {}, clip=False)

    model = EditableModel(
        "gaussian", probe, lambda n, c: DDIMPath.of(schedule, n, "diffusers", False), denoiser, Path()
    )
    return Sampler(model, model.path(500, None), 128)


@pytest.fixture(scope="module")
def images(whitening: WhiteningTransform) -> Tensor:
    return whitening.dewhiten(hashed_normal("images", (NUM, *SHAPE))).float()


def white(name: str) -> Tensor:
    return hashed_normal(name, (NUM, CHAINS, *SHAPE)).float()


@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9])
def test_edits_change_the_image_as_much_as_the_closed_forms_say(
    sampler: Sampler, whitening: WhiteningTransform, images: Tensor, strength: float
) -> None:
    a = sampler.path.alpha_bar[sampler.path.steps_for(strength) - 1]
    share = a * whitening.eigenvalues / (a * whitening.eigenvalues + 1 - a)
    expected = {
        "random": float((whitening.eigenvalues * (2 - 2 * share.sqrt())).sum()),
        "found": float((whitening.eigenvalues * (share.sqrt() + (1 - share).sqrt() - 1) ** 2).sum()),
    }
    ideal = whitening.whiten(images)[:, None]
    random = edit_images(sampler, images, strength, "random", white("random"))
    found = edit_images(sampler, images, strength, "found", ideal)
    ddim = edit_images(sampler, images, strength, "ddim")
    squares = {one.noise: float(one.numbers["distance"].square().mean()) for one in (random, found, ddim)}
    assert squares["random"] == pytest.approx(expected["random"], rel=0.06)
    assert squares["found"] == pytest.approx(expected["found"], rel=0.15)
    assert squares["ddim"] < 0.01 * expected["random"]
    assert random.images.shape == (NUM, CHAINS, *SHAPE)
    assert ddim.images.shape == (NUM, 1, *SHAPE)
    structure = [float(one.numbers["ssim"].mean()) for one in (random, found, ddim)]
    assert structure == sorted(structure)
    assert structure[2] > 0.95


def test_searched_noises_lie_between_and_the_test_sees_it(
    sampler: Sampler, whitening: WhiteningTransform, images: Tensor
) -> None:
    some, chosen = images[:40], NoiseSearchSettings("forward", 2000, 1.0, 0.1, 0.97, num_chains=CHAINS)
    noise = search_noise(some, whitening, chosen).noise
    found = edit_images(sampler, some, 0.7, "found", noise)
    random = edit_images(sampler, some, 0.7, "random", white("random")[:40])
    ddim = edit_images(sampler, some, 0.7, "ddim")
    for name, sign in (("distance", 1), ("ssim", -1)):
        means = [sign * float(one.numbers[name].mean()) for one in (ddim, found, random)]
        assert means == sorted(means)
        compared = compare_paired(found.numbers[name], random.numbers[name])
        assert compared.p_value is not None and compared.p_value < 1e-6
    assert compare_paired(found.numbers["distance"], random.numbers["distance"]).share_lower > 0.9


def found_noises(whitening: WhiteningTransform, images: Tensor) -> FoundNoises:
    search = search_noise(images, whitening, NoiseSearchSettings("forward", 5, num_chains=1))
    object.__setattr__(search, "noise", whitening.whiten(images)[:, None])
    return FoundNoises(images, search, [str(k) for k in range(len(images))], {"loss": "forward"})


def test_the_whitened_image_gives_the_image_and_random_noise_another(
    sampler: Sampler, whitening: WhiteningTransform, images: Tensor
) -> None:
    made = vary_noises(sampler, found_noises(whitening, images), noise_seed=3)
    found, random, another = (made.numbers["distance"][kind] for kind in ("found", "random", "another"))
    total = float(whitening.eigenvalues.sum())
    assert float(found.square().mean()) < 0.01 * total
    assert float(random.square().mean()) == pytest.approx(2 * total, rel=0.1)
    assert float(another.square().mean()) == pytest.approx(2 * total, rel=0.1)
    shifted = (images.roll(1, 0) - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(another[:, 0].float(), shifted, rtol=0.1, atol=0.05)
    again = vary_noises(sampler, found_noises(whitening, images), noise_seed=4)
    torch.testing.assert_close(again.found, made.found)
    assert not torch.allclose(again.random, made.random)


def test_sizes_that_do_not_match(sampler: Sampler, whitening: WhiteningTransform, images: Tensor) -> None:
    noises = found_noises(whitening, images[:3])
    object.__setattr__(noises.search, "noise", torch.zeros(3, 1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"noises of gaussian must be \(1, 8, 8\), got \(1, 4, 4\)"):
        vary_noises(sampler, noises, 0)
    noises = found_noises(whitening, images[:3])
    object.__setattr__(noises, "images", torch.zeros(3, 3, 8, 8))
    with pytest.raises(ValueError, match=r"targets must have the size .*\(1, 8, 8\), got \(3, 8, 8\)"):
        vary_noises(sampler, noises, 0)
    with pytest.raises(ValueError, match=r"noise must be \(B, K, ...\) for codes of shape .* got None"):
        edit_images(sampler, images[:2], 0.5, "found")


def test_the_paired_comparison_is_scipys_over_targets() -> None:
    from scipy import stats

    found, random = hashed_normal("a", (12, 3)), hashed_normal("b", (12, 3)) + 0.4
    compared = compare_paired(found, random)
    a, b = found.numpy().mean(axis=1), random.numpy().mean(axis=1)
    assert compared.p_value == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert (compared.found, compared.others) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert compared.share_lower == pytest.approx((a < b).mean())
    assert compare_paired(found[:1], random[:1]).p_value is None
    assert compare_paired(found, found).p_value is None


def test_likeness_is_that_of_each_chain_with_its_own_target() -> None:
    from skimage.metrics import structural_similarity

    made, images = hashed_normal("made", (3, 2, 1, 8, 8)), hashed_normal("targets", (3, 1, 8, 8))
    found = likeness(made, images)
    for target in range(3):
        for chain in range(2):
            pair = images[target, 0].numpy(), made[target, chain, 0].numpy()
            intensities = [(pixels + 1) / 2 for pixels in pair]
            assert float(found["distance"][target, chain]) == pytest.approx(((pair[0] - pair[1]) ** 2).sum() ** 0.5)
            assert float(found["ssim"][target, chain]) == pytest.approx(
                structural_similarity(*intensities, data_range=1.0), abs=1e-6
            )


def test_features_of_an_edit(sampler: Sampler, images: Tensor) -> None:
    from probediff.features.networks import FeatureNetwork, Preprocessing

    network = FeatureNetwork(
        "mean", torch.nn.Flatten(), Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    )
    kept = edit_images(sampler, images[:20], 0.02, "random", white("random")[:20], network)
    lost = edit_images(sampler, images[:20], 1.0, "random", white("random")[:20], network)
    assert kept.numbers["features"].shape == (20, CHAINS)
    assert float(kept.numbers["features"].mean()) > 0.9 > float(lost.numbers["features"].mean()) + 0.1
