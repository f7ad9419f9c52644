"""The benchmarks measure what they say, and no text quotes a ratio that was not measured."""

import json
import math
import re
import time
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from probediff.measures import null_top_k_correlation
from tests.benchmarks.bench_costs import totals
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


def test_the_page_on_speed_quotes_measured_shares(result: dict[str, list[dict[str, Any]]]) -> None:
    text = (ROOT / "docs" / "speed.md").read_text()
    measured = [figure["value"] for figure in result["figures"] if figure["unit"] == "per cent"]
    quoted = re.findall(r"([\d.]+) %", text)
    assert quoted and set(quoted) <= {f"{value:.1f}" for value in measured}
    notes = " ".join(figure["note"] for figure in result["figures"])
    assert set(re.findall(r"([\d,]+) training steps", text)) <= set(re.findall(r"([\d,]+) training steps", notes))


def test_the_page_on_training_quotes_measured_shares(result: dict[str, list[dict[str, Any]]]) -> None:
    figures = {figure["case"]: figure for figure in result["figures"]}
    per_step = re.match(r"[\d.]+", figures["configs/cifar10_small.yaml, all beside the network"]["note"])
    share = figures["configs/cifar10_small.yaml: the passes' share of the whole run"]["value"]
    assert per_step
    said = f"5,000 steps of {float(per_step[0]) / 1000:.2f} s and the ten probe events, which are {share:.0f} %"
    assert said in (ROOT / "docs" / "train.md").read_text()
    assert yaml.safe_load((ROOT / "configs" / "cifar10_small.yaml").read_text())["trainer"]["max_steps"] == 5000


def test_the_page_on_costs_multiplies_its_unit_costs() -> None:
    text = (ROOT / "docs" / "cost.md").read_text()
    config = yaml.safe_load((ROOT / "configs" / "imagenet64.yaml").read_text())
    units = {
        "forward_gflop_per_image": r"forward pass of one image \| ([\d.]+) GFLOP",
        "full_checkpoint_bytes": r"\| ([\d.]+) GB / ",
        "weights_checkpoint_bytes": r" / ([\d.]+) GB \|",
        "samples_bytes": r"samples of one event \| ([\d.]+) MB",
        "training_step_seconds_per_image": r"; ([\d.]+) s on the two cores \| 3 forward",
        "evaluation_seconds_per_image": r"; ([\d.]+) s on the two cores \| counted",
    }
    scale = {"full_checkpoint_bytes": 1e9, "weights_checkpoint_bytes": 1e9, "samples_bytes": 1e6}
    costs = {key: number(pattern, text) * scale.get(key, 1.0) for key, pattern in units.items()}
    run = totals(config, costs)
    said = {
        "events": r"(\d+) probe events",
        "training_exaflop": r"run is ([\d.]+) EFLOP of training",
        "probing_exaflop": r"and ([\d.]+) EFLOP of probing",
        "full_checkpoints_gb": r"checkpoints \(193\) \| (\d+) GB",
        "thinned_checkpoints_gb": r"checkpoints \(193\) \| \d+ GB \| (\d+) GB",
        "samples_gb": r"\| samples \| ([\d.]+) GB",
    }
    for key, pattern in said.items():
        assert number(pattern, text) == pytest.approx(run[key], rel=0.015), key
    fast, slow = 0.4 * 800e12 * 3600, 60e12 * 3600
    assert number(r"\| training \| (\d+) h", text) == round(run["training_exaflop"] * 1e18 / fast)
    assert number(r"\| probing \| (\d+) h", text) == round(run["probing_exaflop"] * 1e18 / slow)
    assert (
        f"null of {null_top_k_correlation(250, 12288):.2f} instead of {null_top_k_correlation(1000, 12288):.2f}" in text
    )


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match, pattern
    return float(match[1])
