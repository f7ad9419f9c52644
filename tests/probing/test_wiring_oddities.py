"""The wiring check on what is odd: networks that refuse, outputs that are not finite, images that do not do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from probediff.models import wrap_network
from probediff.probing.wiring import check_wiring
from probediff.schedule import NoiseSchedule
from tests.probing.exact_networks import COSINE, IMPROVED, LINEAR, ExactNetwork, check, digits, exact_model


def test_a_network_that_refuses_fractional_times_is_judged_by_the_rest() -> None:
    class Table(ExactNetwork):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            if time.is_floating_point():
                raise RuntimeError("expected indices")
            return super().forward(x, time)

    right = wrap_network(Table(digits(), COSINE), COSINE, (1, 8, 8))
    assert check(right, digits()).verdict == "right"
    wrong = wrap_network(Table(digits(), COSINE), LINEAR, (1, 8, 8))
    assert "schedule cosine" in check(wrong, digits()).finding
    with pytest.raises(RuntimeError, match="expected indices"):
        check(wrap_network(Table(digits(), COSINE), COSINE, (1, 8, 8), timestep_scale=0.5), digits())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_undecided(value: float) -> None:
    class Broken(ExactNetwork):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return super().forward(x, time).where(time[:, None, None, None] < 400, value)

    wiring = check(wrap_network(Broken(digits(), LINEAR), LINEAR, (1, 8, 8)), digits())
    assert wiring.verdict == "undecided"
    assert "not finite at log(a / (1 - a)) = -" in wiring.reason
    assert json.loads(json.dumps(wiring.to_json(), allow_nan=False))["error"][-1] is None


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 8, 8), r"images must be \(N, 1, 8, 8\), two at least, got \(1, 1, 8, 8\)"),
        (torch.zeros(9, 3, 8, 8), r"got \(9, 3, 8, 8\)"),
        (torch.zeros(9, 8, 8), r"got \(9, 8, 8\)"),
        (torch.full((9, 1, 8, 8), math.nan), "images must be finite"),
    ],
)
def test_wrong_images(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_wiring(exact_model(digits(), {"schedule": LINEAR}), images)


def test_too_little_to_decide_and_images_that_are_all_the_same() -> None:
    model = exact_model(digits(), {"schedule": LINEAR})
    few = check(model, digits(), 7)
    assert (few.verdict, few.ratio) == ("undecided", ())
    assert "7 images at 8 noise levels are too few" in few.reason
    short = check(exact_model(digits(), {"schedule": NoiseSchedule.cosine(3)}), digits())
    assert "24 images at 2 noise levels are too few" in short.reason
    assert check(model, digits()[:1].expand(24, 1, 8, 8)).verdict != "wrong"
    assert check(model, torch.zeros(24, 1, 8, 8)).verdict == "undecided"
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        check_wiring(model, digits()[:24], batch_size=0)


def test_it_is_the_same_again_at_any_batch_size_and_leaves_no_trace() -> None:
    model = exact_model(digits(), IMPROVED, scale=1.0)
    attributes = dict(vars(model.eps_model))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = check_wiring(model, digits()[:24], seed=1)
    again = check_wiring(model, digits()[:24].clone().requires_grad_(), seed=1, batch_size=5)
    other = check_wiring(model, digits()[:24], seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert vars(model.eps_model) == attributes
    assert first.error == pytest.approx(again.error, rel=1e-6)
    assert first.finding == again.finding
    assert other.error != first.error
    assert (first.verdict, other.verdict) == ("wrong", "wrong")
    plain = json.loads(json.dumps(first.to_json()))
    assert plain["log_snr"] == sorted(plain["log_snr"], reverse=True)
    assert list(plain) == [
        *("verdict", "finding", "reason", "num_images", "seed"),
        *("log_snr", "timestep", "error", "gaussian_error"),
    ]


def test_its_cost_is_what_it_says() -> None:
    images_asked = 0

    class Counting(ExactNetwork):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            nonlocal images_asked
            images_asked += len(x)
            return super().forward(x, time)

    check(wrap_network(Counting(digits(), COSINE), COSINE, (1, 8, 8)), digits(), 32)
    assert images_asked <= 8 * 8 * 32


def test_the_example_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own_models.md").read_text()
    (example,) = [block.split("```")[0] for block in page.split("```python\n")[1:] if "check_wiring(" in block]
    exec(compile(example, "docs/own_models.md", "exec"), {})
    told = [line.partition("  # ")[2].rstrip(". ") for line in example.splitlines() if line.startswith("print")]
    for line, expected in zip(capsys.readouterr().out.splitlines(), told, strict=True):
        assert line.startswith(expected)
