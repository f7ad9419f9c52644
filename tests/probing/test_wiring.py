"""The wiring check names what is wired wrongly, and says nothing of what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from probediff.denoisers import EpsModel, GaussianDenoiser, UNet
from probediff.models import ProbeModel, wrap_network
from probediff.models.published import load_published
from probediff.probing.wiring import check_wiring
from probediff.schedule import NoiseSchedule
from tests.probing.exact_networks import (
    COSINE,
    IMPROVED,
    LINEAR,
    ExactNetwork,
    TinyMLP,
    check,
    digits,
    exact_model,
    patches,
    train,
)
from tests.reference.golden_inputs import formula_state_dict, load_golden

V: dict[str, Any] = {"schedule": COSINE, "prediction": "v_prediction"}
SAMPLE: dict[str, Any] = {"schedule": LINEAR, "prediction": "sample"}
#: What is said, what is true, and the finding.
FAULTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"schedule": LINEAR}, {"schedule": COSINE}, "trained with the schedule cosine, not linear"),
    ({"schedule": COSINE}, {"schedule": LINEAR}, "trained with the schedule linear, not cosine"),
    (IMPROVED, {"schedule": NoiseSchedule.linear(4000)}, "trained with the schedule linear, not cosine"),
    (V, {"schedule": LINEAR}, "trained with the schedule linear, not cosine"),
    (IMPROVED, {"scale": 1.0}, "wants timestep * 1 (1) as its time, and is told timestep * 0.25"),
    (
        IMPROVED | {"scale": 1.0},
        {"scale": 0.25},
        "wants timestep * 0.25 (1000/T) as its time, and is told timestep * 1",
    ),
    ({"schedule": COSINE}, {"scale": 0.001}, "wants timestep * 0.001 (1/T) as its time, and is told timestep * 1"),
    (V | {"scale": 0.001}, {"scale": 1.0}, "wants timestep * 1 (1000/T) as its time, and is told timestep * 0.001"),
    ({"schedule": LINEAR}, {"unit_range": True}, "trained on images in [0, 1]"),
    (SAMPLE, {"unit_range": True}, "trained on images in [0, 1]"),
    ({"schedule": LINEAR}, {"sign": -1}, "predicts minus the noise eps, not the noise eps"),
    (V, {"sign": -1}, "predicts minus v, not v"),
    (SAMPLE, {"sign": -1}, "predicts minus the image x_0, not the image x_0"),
    ({"schedule": LINEAR}, {"prediction": "v_prediction"}, "predicts v, not the noise eps"),
    ({"schedule": LINEAR}, {"prediction": "sample"}, "predicts the image x_0, not the noise eps"),
    (V, {"prediction": "epsilon"}, "predicts the noise eps, not v"),
    (V, {"prediction": "sample"}, "predicts the image x_0, not v"),
    (SAMPLE, {"prediction": "epsilon"}, "predicts the noise eps, not the image x_0"),
    (SAMPLE, {"prediction": "v_prediction"}, "predicts v, not the image x_0"),
    ({"schedule": LINEAR}, {"prediction": "v_prediction", "sign": -1}, "predicts minus v, not the noise eps"),
]


@pytest.mark.parametrize(("said", "true", "finding"), FAULTS)
def test_each_fault_is_named_with_its_cure(said: dict[str, Any], true: dict[str, Any], finding: str) -> None:
    images = patches() if "scale" in true else digits()
    wiring = check(exact_model(images, said, **true), images)
    assert wiring.verdict == "wrong"
    assert finding in wiring.finding
    assert wiring.in_words() == f"wiring wrong: {wiring.finding}"
    assert "as declared" in wiring.finding and ": " in wiring.finding


@pytest.mark.parametrize("said", [{"schedule": LINEAR}, IMPROVED, V, V | {"scale": 0.001}, SAMPLE])
@pytest.mark.parametrize("images", [digits, patches])
def test_right_wirings_are_right(said: dict[str, Any], images: Any) -> None:
    wiring = check(exact_model(images(), said), images())
    assert (wiring.verdict, wiring.finding, wiring.reason) == ("right", "", "")
    assert max(wiring.ratio) < 1.15
    assert "wiring right" in wiring.in_words()


@pytest.mark.parametrize(
    ("said", "true"),
    [
        ({"schedule": LINEAR}, {"schedule": COSINE, "unit_range": True}),
        ({"schedule": COSINE}, {"scale": 0.001, "sign": -1}),
        ({"schedule": LINEAR}, {"prediction": "v_prediction", "unit_range": True}),
    ],
)
def test_two_faults_at_once_are_not_called_right(said: dict[str, Any], true: dict[str, Any]) -> None:
    wiring = check(exact_model(patches(), said, **true), patches())
    assert wiring.verdict == "undecided"
    assert "no known wiring explains the network" in wiring.reason
    assert " at -" in wiring.in_words()  # the levels at which it is worse than the Gaussian


class OfIndices(nn.Module):
    """An eps_model of one's own, of which nothing is known but that it takes indices."""

    def __init__(self, network: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.dtype == torch.int64
        return self.factor * self.network(x, timestep)


@pytest.mark.parametrize(
    ("schedule", "network", "finding"),
    [
        (LINEAR, OfIndices(GaussianDenoiser.fit(digits()[32:], LINEAR)), ""),
        (LINEAR, GaussianDenoiser.fit(digits()[32:], LINEAR).float(), ""),
        (LINEAR, OfIndices(GaussianDenoiser.fit(digits()[32:], LINEAR), -1), "minus the noise eps"),
        (COSINE, OfIndices(GaussianDenoiser.fit(digits()[32:], LINEAR)), "schedule linear, not cosine"),
        (NoiseSchedule.cosine(4000), OfIndices(ExactNetwork(digits(), COSINE)), "multiply the timestep by 0.25"),
    ],
)
def test_a_model_that_takes_indices(schedule: NoiseSchedule, network: nn.Module, finding: str) -> None:
    wiring = check(ProbeModel(network, schedule, (1, 8, 8), 0, {}), digits())
    assert wiring.verdict == ("wrong" if finding else "right")
    assert finding in wiring.finding


@pytest.mark.parametrize(
    ("change", "clip", "finding"),
    [
        (lambda x: (x + 1) / 2, True, "the images lie in [0, 1]"),
        (lambda x: (127.5 * (x + 1)).to(torch.uint8), True, "the images lie in 0 to 255"),
        (lambda x: 3 * x + 1, True, "the images lie in -2 to 4"),
        (lambda x: (x + 1) / 2, False, "trained on images in [-1, 1], and those handed in lie in [0, 1]"),
        (lambda x: x, False, ""),
        (lambda x: x.clamp(min=0), True, "the images lie in [0, 1]"),
        (lambda x: 0.4 + 0.6 * x.abs(), True, None),  # bright images: the network is judged
    ],
)
def test_range_of_the_images(change: Any, clip: bool, finding: str | None) -> None:
    network = ExactNetwork(digits(), LINEAR)
    wiring = check(wrap_network(network, LINEAR, (1, 8, 8), clip=clip), change(digits()))
    if finding is None:
        assert "images lie" not in wiring.finding
    else:
        assert finding in wiring.finding
        assert wiring.verdict == ("wrong" if finding else "right")


STAGES = (0, 1, 5, 20, 60, 150, 400, 800)


@pytest.mark.parametrize(
    ("prediction", "stages"),
    [
        ("epsilon", (0, 20, 500)),
        pytest.param("epsilon", STAGES, marks=pytest.mark.slow),
        pytest.param("v_prediction", STAGES, marks=pytest.mark.slow),
        pytest.param("sample", STAGES, marks=pytest.mark.slow),
    ],
)
def test_a_trained_network_is_right_or_its_fault_is_named_and_before_nothing_is(
    prediction: Any, stages: tuple[int, ...]
) -> None:
    schedule, shape = NoiseSchedule.cosine(4000), (1, 8, 8)
    network = TinyMLP(64)
    verdicts = []
    for _ in train(network, digits(), schedule, prediction, 0.25, stages):
        verdicts.append(check(wrap_network(network, schedule, shape, prediction, 0.25), digits()).verdict)
    assert (verdicts[0], verdicts[-1]) == ("undecided", "right")
    assert "wrong" not in verdicts
    faults = {
        "predicts": (schedule, "epsilon" if prediction == "v_prediction" else "v_prediction", 0.25),
        "wants timestep * 0.25 (1000/T) as its time, and is told timestep * 1": (schedule, prediction, 1.0),
        "wants timestep * 0.25 (1000/T) as its time, and is told timestep * 0.00025": (schedule, prediction, 0.00025),
    }
    if prediction != "sample":  # an image is predicted much the same at the linear schedule's times
        faults["trained with the schedule cosine, not linear"] = (NoiseSchedule.linear(4000), prediction, 0.25)
    for finding, (said_schedule, said_prediction, said_scale) in faults.items():
        model = wrap_network(network, said_schedule, shape, said_prediction, said_scale)
        assert finding in check(model, digits()).finding


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("weights", ["zero", "formula"])
def test_untrained_networks_are_undecided(prediction: Any, weights: str) -> None:
    network = UNet(image_size=8, in_channels=3, channels=8, channel_mult=(1, 2), attention_resolutions=(4,))
    if weights == "formula":
        network.load_state_dict(formula_state_dict(network.state_dict()))
    wiring = check(wrap_network(network.eval(), COSINE, (3, 8, 8), prediction), patches(), 8)
    assert wiring.verdict == "undecided"
    assert wiring.finding == ""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["improved_32", "improved_lsun_like", "guided_new_order"])
def test_golden_networks_are_undecided(case: str) -> None:
    network = UNet(**load_golden("unet")["cases"][case]["ours"])
    network.load_state_dict(formula_state_dict(network.state_dict()))
    size, channels = network.image_size, network.in_channels
    images = nn.functional.interpolate(patches()[:8], size=size, mode="bilinear")[:, :channels]
    model = ProbeModel(EpsModel(network.eval(), 1000), LINEAR, (channels, size, size), 0, {})
    assert check_wiring(model, images).verdict == "undecided"


def test_pipelines_are_undecided(tmp_path: Path) -> None:
    from tests.reference.tiny_pipelines import ddim, diffusers, saved, unet, vq_model

    pictures = nn.functional.interpolate(patches()[:8], size=16)
    for kind in ("epsilon", "v_prediction", "sample"):
        own = diffusers.DDIMPipeline(unet(), ddim(prediction_type=kind))
        assert check(load_published(saved(own, tmp_path / kind)), patches(), 8).verdict == "undecided"
    latent = diffusers.LDMPipeline(vq_model(), unet(), ddim(clip_sample=False))
    model = load_published(saved(latent, tmp_path / "latent"))
    wiring = check_wiring(model, pictures)
    assert (wiring.verdict, len(wiring.error)) == ("undecided", 8)
    assert "the images lie in [0, 1]" in check_wiring(model, (pictures + 1) / 2).finding


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**63),
    st.integers(2, 20),
    st.sampled_from(["exact", "random", "scaled", "constant"]),
    st.sampled_from(["epsilon", "v_prediction", "sample"]),
    st.sampled_from([NoiseSchedule.cosine(30), NoiseSchedule.linear(100), COSINE, NoiseSchedule.cosine(4)]),
    st.sampled_from([(1, 8, 8), (3, 7, 5), (2, 3, 3), (1, 1, 1)]),
)
def test_a_right_or_untrained_network_is_never_called_wrong(
    seed: int, count: int, kind: str, prediction: Any, schedule: NoiseSchedule, shape: tuple[int, int, int]
) -> None:
    height, width = shape[1:]
    images = patches()[:, : shape[0], :height, :width]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    images = images[order]
    network: nn.Module
    if kind == "exact":
        network = ExactNetwork(images, schedule, prediction)
    else:
        network = nn.Conv2d(shape[0], shape[0], 3, padding=1)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        if kind != "random":
            nn.init.dirac_(network.weight)
            network.weight.data *= 0.0 if kind == "constant" else torch.randn(1, generator=generator)
        network = _Timeless(network)
    wiring = check_wiring(wrap_network(network, schedule, shape, prediction), images[:count], seed=seed, batch_size=7)
    assert wiring.verdict != "wrong"
    assert kind == "exact" or wiring.verdict == "undecided"


class _Timeless(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.network(x)
