"""Keyed randomness: known answers of Philox, moments, independence of batching, and nothing global touched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probediff.noise import derived_seed, keyed_global_randomness, philox, seeded_noise, training_draws

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        # Known answers published with Random123 (Salmon et al. 2011), philox4x32 with 10 rounds.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    words = philox([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in words) == answer


def test_noise_is_standard_normal() -> None:
    noise = seeded_noise(420, range(400), (3, 16, 16)).flatten().double()
    assert stats.kstest(noise[:100_000].numpy(), "norm").pvalue > 0.001
    assert abs(float(noise.mean())) < 4 / len(noise) ** 0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / len(noise)) ** 0.5
    assert abs(float((noise**4).mean()) - 3) < 4 * (96 / len(noise)) ** 0.5


def test_samples_and_seeds_are_uncorrelated() -> None:
    noise = torch.cat([seeded_noise(seed, range(20), (1000,)) for seed in (0, 1, 1 << 40)])
    correlation = torch.corrcoef(noise) - torch.eye(60)
    assert float(correlation.abs().max()) < 5.5 / 1000**0.5


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=6),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_row_depends_on_seed_and_index_only(seed: int, indices: list[int], shape: list[int]) -> None:
    together = seeded_noise(seed, indices, shape)
    assert together.shape == (len(indices), *shape)
    for row, index in zip(together, indices, strict=True):
        assert torch.equal(row, seeded_noise(seed, torch.tensor([index]), shape)[0])


def test_large_requests_are_chunked_without_a_seam() -> None:
    noise = seeded_noise(1, range(3), (1 << 21,))
    assert torch.equal(noise[2], seeded_noise(1, [2], (1 << 21,))[0])


def test_noise_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    seeded_noise(0, range(3), (4,))
    training_draws(0, 1, torch.zeros(2, 1, 4, 4), 10)
    with keyed_global_randomness(torch.device("cpu"), 0, 1, "dropout"):
        inside = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with keyed_global_randomness(torch.device("cpu"), 0, 1, "dropout"):
        assert torch.equal(inside, torch.rand(3))


def test_no_indices() -> None:
    assert seeded_noise(0, [], (2, 3)).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("seed", "indices", "shape", "message"),
    [
        (-1, [0], (2,), "seed must be an integer in 0"),
        (1.5, [0], (2,), "seed must be an integer in 0"),
        (0, [-1], (2,), "indices must be a sequence of integers of at least 0"),
        (0, [0.5], (2,), "indices must be a sequence of integers of at least 0"),
        (0, [0], (), "shape must hold positive integers"),
        (0, [0], (2, 0), "shape must hold positive integers"),
    ],
)
def test_bad_arguments(seed: object, indices: list[int], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seeded_noise(seed, indices, shape)  # type: ignore[arg-type]


def test_training_draws_are_a_function_of_seed_and_step() -> None:
    x_0 = torch.zeros(8, 3, 4, 4)
    first = training_draws(5, 17, x_0, 1000)
    again = training_draws(5, 17, x_0, 1000)
    other_step, other_seed = training_draws(5, 18, x_0, 1000), training_draws(6, 17, x_0, 1000)
    assert torch.equal(first.eps, again.eps)
    assert torch.equal(first.timestep, again.timestep)
    assert torch.equal(first.flip, again.flip)
    assert not torch.equal(first.eps, other_step.eps)
    assert not torch.equal(first.eps, other_seed.eps)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_one_global_batch(world_size: int) -> None:
    whole = training_draws(0, 3, torch.zeros(8, 1, 2, 2), 100)
    shares = [
        training_draws(0, 3, torch.zeros(8 // world_size, 1, 2, 2), 100, r, world_size) for r in range(world_size)
    ]
    for name in ("timestep", "eps", "flip"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(share, name) for share in shares]))


def test_training_draws_cover_their_ranges() -> None:
    draws = training_draws(0, 0, torch.zeros(20_000, 1, 1, 1), 10)
    assert stats.chisquare(torch.bincount(draws.timestep, minlength=10).numpy()).pvalue > 0.001
    assert abs(float(draws.flip.double().mean()) - 0.5) < 0.02


def test_derived_seeds_differ() -> None:
    keys = [(seed, step, purpose) for seed in range(10) for step in range(100) for purpose in ("a", "b")]
    seeds = {derived_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
