"""The benchmarks measure what they say, and no text quotes a ratio that was not measured."""

import json
import math
import re
import time

import lightning as L
import pytest
import torch

from tests.benchmarks.contenders import NETWORKS, diffusers, probediff
from tests.benchmarks.growth import exponent
from tests.benchmarks.harness import in_own_process, paired, peak_gib
from tests.benchmarks.overhead import StepClock
from tests.benchmarks.page import growth_rows, markdown
from tests.conftest import ROOT, Fit

RESULT = ROOT / "docs" / "benchmarks" / "cpu.json"
CPU = torch.device("cpu")


def test_exponent_of_a_power_law() -> None:
    sizes = [10, 30, 100]
    assert exponent(sizes, [5 * size**1.7 for size in sizes]) == pytest.approx(1.7)
    assert exponent(sizes, [3.0, 3.0, 3.0]) == pytest.approx(0)


def test_contenders_take_turns() -> None:
    turns = []
    seconds = paired({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, CPU, rounds=3)
    assert turns == ["a", "b"] * 4
    assert seconds.keys() == {"a", "b"}


def test_memory_of_a_process_is_its_own() -> None:
    held = torch.ones(1 << 27)
    before = peak_gib()
    assert in_own_process(peak_gib) < before - 0.4
    assert held[0] == 1


def test_what_fails_in_its_own_process_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"math.sqrt\(-1,\) failed:[\s\S]*ValueError"):
        in_own_process(math.sqrt, -1)


# Networks of full size take seconds to build and serve benchmarks only.
@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_peer_has_a_network_of_the_same_size(network: str) -> None:
    sizes = NETWORKS[network]
    x_0 = torch.zeros(1, 3, sizes.image_size, sizes.image_size)
    ours, theirs = (build(sizes, x_0, "float32") for build in (probediff, diffusers))
    assert theirs.gflop_per_image == pytest.approx(ours.gflop_per_image, rel=0.01)
    assert theirs.parameters == pytest.approx(ours.parameters, rel=0.02)


@pytest.mark.slow
def test_contenders_learn() -> None:
    sizes = NETWORKS["small"]
    x_0 = torch.rand(2, 3, 32, 32) * 2 - 1
    for build in (probediff, diffusers):
        contender = build(sizes, x_0, "bfloat16")
        before = [p.detach().clone() for p in contender.network.parameters()]
        for _ in range(4):  # zeroed layers keep gradients back at first
            contender.step()
        assert all(torch.isfinite(p).all() for p in contender.network.parameters())
        moved = sum(not torch.equal(a, b) for a, b in zip(before, contender.network.parameters(), strict=True))
        assert moved > 0.9 * len(before)


def test_clock_divides_a_step(fit: Fit) -> None:
    clock = StepClock()

    class Pause(L.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            time.sleep(0.05)

    fit(callbacks=[clock, Pause()], max_steps=15)
    assert clock.steps == 5
    assert 0 < clock.network < clock.everything - 5 * 0.05


@pytest.fixture(scope="module")
def result() -> dict[str, object]:
    return json.loads(RESULT.read_text())


def test_page_is_that_of_the_result(result: dict[str, object]) -> None:
    assert RESULT.with_suffix(".md").read_text() == markdown(result)


def test_nothing_grows_faster_than_its_work(result: dict[str, list[dict[str, float]]]) -> None:
    rows = result["growth"]
    assert len(growth_rows(rows)) >= 15
    for row in rows:
        # Fixed costs make small sizes cheap to double, caches make large ones dear.
        assert row["time_exponent"] < row["work_exponent"] + 0.35, row


def test_the_page_on_speed_quotes_measured_ratios(result: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    ratios = [ratio for figure in result["figures"] for ratio in figure["ratios"].values()]
    quoted = re.findall(r"([\d.]+) times", (ROOT / "docs" / "speed.md").read_text())
    assert len(quoted) >= 5
    for text in quoted:
        decimals = len(text.partition(".")[2])
        assert any(round(ratio, decimals) == float(text) for ratio in ratios), text
