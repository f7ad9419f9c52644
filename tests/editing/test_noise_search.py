"""The noise search against the printed algorithm, its law at a fixed temperature, and the checks of found noises."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from probediff.editing import noise_search
from probediff.editing.noise_search import NoiseSearch, NoiseSearchSettings, SearchLoss, search_noise
from probediff.measures.normality import kolmogorov_smirnov
from probediff.measures.whitening import WhiteningTransform
from tests.reference.golden_inputs import hashed_images, hashed_normal
from tests.reference.noise_search_reference import Annealed, anneal, printed_loss

SHAPE = (3, 4, 4)
SIZE = math.prod(SHAPE)
LOSSES: tuple[SearchLoss, ...] = ("baseline", "forward", "backward")
#: Losses, and whether the mean of the statistics is subtracted from the image. P2 subtracts nothing.
CASES = [pytest.param(loss, True, id=loss) for loss in LOSSES]
CASES += [pytest.param(loss, False, id=f"{loss}-as-printed") for loss in LOSSES[1:]]


def statistics() -> WhiteningTransform:
    basis = torch.linalg.qr(hashed_normal("basis", (SIZE, SIZE))).Q
    return WhiteningTransform(torch.linspace(-0.3, 0.3, SIZE).double(), torch.logspace(1, -2, SIZE).double(), basis)


def targets(num: int = 1) -> Tensor:
    return hashed_images("targets", (num, *SHAPE)).float()


def loss_of(chosen: NoiseSearchSettings, x_0: Tensor) -> Callable[[Tensor], float]:
    """The printed loss of a flat noise, for an image from which the mean is subtracted unless the loss is P2's own."""
    whitening, x = statistics(), x_0.flatten().double()
    if chosen.centre and chosen.loss != "baseline":
        x = x - whitening.mean
    return printed_loss(chosen.loss, x, whitening.matrix("zca"), whitening.inverse_matrix("zca"))


def literal(chosen: NoiseSearchSettings, x_0: Tensor, draw_all: tuple[Tensor, Tensor]) -> Annealed:
    """The printed algorithm with given noises (N + 1, D) and uniform numbers (N,)."""
    noises, uniforms = iter(draw_all[0]), iter(draw_all[1].tolist())
    return anneal(
        loss_of(chosen, x_0),
        lambda: next(noises),
        lambda: next(uniforms),
        chosen.num_iterations,
        chosen.initial_temperature,
        chosen.final_temperature,
        chosen.step_size,
    )


@pytest.mark.parametrize(("loss", "centre"), CASES)
def test_with_the_same_draws_it_walks_the_path_of_the_printed_algorithm(loss: SearchLoss, centre: bool) -> None:
    chosen = NoiseSearchSettings(loss, 400, 30.0, 1.0, 0.95, num_chains=2, seed=7, centre=centre)
    x_0, whitening = targets(), statistics()
    found = search_noise(x_0, whitening, chosen)
    draws = noise_search._Draws([(0, 0), (0, 1)], 7, torch.empty(2, SIZE))
    first = draws.start()[:, None]
    blocks = [tuple(part.clone() for part in draws.block()) for _ in range(400 // 8)]
    noises = torch.cat([first, *(eps for eps, _ in blocks)], dim=1).double()
    uniforms = torch.exp(-torch.cat([exponential for _, exponential in blocks], dim=1))
    if loss != "baseline":
        noises = noises @ whitening.eigenvectors.T
    for chain in range(2):
        twin = literal(chosen, x_0, (noises[chain], uniforms[chain]))
        assert 0.05 < twin.accept_rate < 0.98
        assert float(found.accept_rate[0, chain]) == pytest.approx(twin.accept_rate, abs=1e-12)
        assert float(found.loss[0, chain]) == pytest.approx(twin.loss, rel=1e-5)
        assert float(found.initial_loss[0, chain]) == pytest.approx(twin.initial_loss, rel=1e-5)
        torch.testing.assert_close(found.noise[0, chain].flatten().double(), twin.noise, rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_with_other_draws_it_agrees_statistically_with_the_printed_algorithm(loss: SearchLoss) -> None:
    num = 60
    chosen = NoiseSearchSettings(loss, 250, 20.0, 2.0, 0.93, num_chains=num)
    x_0 = targets()
    found = search_noise(x_0, statistics(), chosen)
    generator = torch.Generator().manual_seed(5)
    noises = torch.randn(num, 251, SIZE, generator=generator, dtype=torch.float64)
    uniforms = torch.rand(num, 250, generator=generator, dtype=torch.float64)
    twins = [literal(chosen, x_0, (noises[k], uniforms[k])) for k in range(num)]
    twin_noise = torch.stack([twin.noise for twin in twins])
    pairs = {
        "accept rates": (found.accept_rate[0], [twin.accept_rate for twin in twins]),
        "losses": (found.loss[0], [twin.loss for twin in twins]),
        "distance from normal": (
            kolmogorov_smirnov(found.noise[0]).distances,
            kolmogorov_smirnov(twin_noise).distances,
        ),
        "squared norm": (found.noise[0].flatten(1).square().sum(dim=1), twin_noise.square().sum(dim=1)),
    }
    for name, (ours, theirs) in pairs.items():
        assert stats.ks_2samp(np.asarray(ours), np.asarray(theirs)).pvalue > 1e-3, name


@pytest.mark.parametrize("loss", LOSSES)
def test_at_a_fixed_temperature_the_loss_settles_where_the_closed_form_says(loss: SearchLoss) -> None:
    whitening, x_0, temperature = statistics(), targets(), 4.0
    chosen = NoiseSearchSettings(loss, 4000, temperature, temperature, 0.9, num_chains=48)
    found = search_noise(x_0, whitening, chosen)
    gain, target = noise_search._diagonal_loss(x_0, whitening, chosen)
    g, t = gain.double(), target[0].double()
    variance = 1 / (1 + 2 * g**2 / temperature)
    mean = variance * 2 * g * t / temperature
    expected = float((g**2 * variance + (g * mean - t) ** 2).sum())
    settled = found.curve[len(found.curve) // 2 :, 0].mean(dim=0)  # (K,), one number a chain
    error = float(settled.std() / len(settled) ** 0.5)
    assert error < 0.05 * expected
    assert abs(float(settled.mean()) - expected) < 4 * error
    assert float(found.initial_loss.mean()) > 1.2 * expected


def test_centring_moves_the_target_by_the_mean_and_nothing_else() -> None:
    """Uncentred, x is the target; centred, x minus the mean is: so the noises of x + mean and of x are the same."""
    whitening, x_0 = statistics(), targets()
    shifted = x_0 + whitening.mean.reshape(SHAPE).float()
    for loss in LOSSES[1:]:
        centred = search_noise(shifted, whitening, NoiseSearchSettings(loss, 200))
        printed = search_noise(x_0, whitening, NoiseSearchSettings(loss, 200, centre=False))
        torch.testing.assert_close(printed.noise, centred.noise, rtol=0, atol=1e-3)
        other = search_noise(x_0, whitening, NoiseSearchSettings(loss, 200))
        assert not torch.allclose(printed.noise, other.noise, atol=1e-2)
    either = [search_noise(x_0, whitening, NoiseSearchSettings("baseline", 50, centre=flag)) for flag in (True, False)]
    assert torch.equal(either[0].noise, either[1].noise)
    assert [NoiseSearchSettings(loss).is_centred for loss in LOSSES] == [False, True, True]


def test_at_an_infinite_temperature_all_is_taken_and_nothing_is_learnt() -> None:
    chosen = NoiseSearchSettings("forward", 300, 1e30, 1e30, 0.5, num_chains=64)
    found = search_noise(targets(), statistics(), chosen)
    assert bool((found.accept_rate == 1).all())
    assert stats.ks_2samp(found.initial_loss[0], found.curve[-1, 0]).pvalue > 1e-3


def test_at_temperature_zero_the_loss_only_falls() -> None:
    found = search_noise(targets(2), statistics(), NoiseSearchSettings("forward", 500, 0.0, 0.0, 0.95, num_chains=3))
    assert bool((found.curve[1:] <= found.curve[:-1]).all())
    assert torch.equal(found.curve[-1], found.loss)
    assert bool((found.loss < 0.7 * found.initial_loss).all())


@pytest.mark.parametrize(("loss", "centre"), CASES)
def test_the_losses_are_those_of_the_found_noises(loss: SearchLoss, centre: bool) -> None:
    x_0, chosen = targets(2), NoiseSearchSettings(loss, 150, 10.0, 1.0, 0.9, num_chains=2, centre=centre)
    found = search_noise(x_0, statistics(), chosen)
    assert found.noise.shape == (2, 2, *SHAPE) and found.noise.dtype == torch.float32
    for image in range(2):
        for chain in range(2):
            z = found.noise[image, chain].flatten().double()
            expected = loss_of(chosen, x_0[image])(z)
            assert float(found.loss[image, chain]) == pytest.approx(expected, rel=1e-4)
    assert bool((found.loss < found.initial_loss).all())
    assert bool((found.loss <= found.curve.amin(dim=0)).all())


def same(a: NoiseSearch, b: NoiseSearch) -> None:
    torch.testing.assert_close(a.noise, b.noise, rtol=0, atol=1e-4)
    torch.testing.assert_close(a.accept_rate, b.accept_rate, rtol=0, atol=1e-12)


def test_a_chain_depends_on_its_own_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = NoiseSearchSettings(num_iterations=100, num_chains=3, seed=3)
    state = torch.random.get_rng_state()
    whole = search_noise(targets(4), statistics(), chosen)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(search_noise(targets(4), statistics(), chosen).noise, whole.noise)
    part = search_noise(targets(4)[2:], statistics(), chosen, indices=[2, 3])
    torch.testing.assert_close(part.noise, whole.noise[2:], rtol=0, atol=1e-4)
    monkeypatch.setitem(noise_search._GROUP_VALUES, "cpu", 5 * SIZE)
    same(search_noise(targets(4), statistics(), chosen), whole)
    other = search_noise(targets(4), statistics(), NoiseSearchSettings(num_iterations=100, num_chains=3, seed=4))
    assert not torch.allclose(other.initial_loss, whole.initial_loss)
    flat = whole.initial_loss.flatten()
    assert len(flat.unique()) == 12


@given(num_iterations=st.integers(1, 30), chains=st.integers(1, 3))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_curve_and_progress_cover_the_run(num_iterations: int, chains: int) -> None:
    seen: list[tuple[int, int, int]] = []
    found = search_noise(
        targets(2),
        statistics(),
        NoiseSearchSettings(num_iterations=num_iterations, num_chains=chains),
        on_progress=lambda done, total, losses: seen.append((done, total, len(losses))),
    )
    assert found.curve_iterations.tolist() == list(range(1, num_iterations + 1))
    assert found.curve.shape == (num_iterations, 2, chains)
    assert seen[-1] == (num_iterations * 2 * chains, num_iterations * 2 * chains, 2 * chains)
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)


def test_a_long_run_has_a_short_curve() -> None:
    found = search_noise(targets(), statistics(), NoiseSearchSettings(num_iterations=1003))
    assert len(found.curve) == len(found.curve_iterations) <= 202
    assert int(found.curve_iterations[-1]) == 1003


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="loss must be one of baseline, forward, backward, got 'sideways'"):
        NoiseSearchSettings(loss="sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_chains must be an integer of at least 1, got 0"):
        NoiseSearchSettings(num_chains=0)
    with pytest.raises(ValueError, match="final_temperature must be 0 or more and finite, got -1"):
        NoiseSearchSettings(final_temperature=-1.0)
    with pytest.raises(ValueError, match=r"step_size must be in \[0, 1\), got 1.0; nothing moves at 1"):
        NoiseSearchSettings(step_size=1.0)
    with pytest.raises(ValueError, match="x_0 must have 48 values each"):
        search_noise(torch.zeros(1, 3, 8, 8), statistics())
    with pytest.raises(ValueError, match="one number for each of the 2 images, got 1"):
        search_noise(targets(2), statistics(), indices=[0])
    with pytest.raises(TypeError, match="x_0 must have a floating dtype"):
        search_noise(torch.zeros(1, *SHAPE, dtype=torch.uint8), statistics())
