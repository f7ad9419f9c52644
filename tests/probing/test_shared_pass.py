"""The pass that all probes share, asked of a model that no trainer knows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from probediff.ddim import ddim_invert, ddim_sample
from probediff.models import ProbeModel
from probediff.noise import seeded_noise
from probediff.probing import Probe, ProbeContext, ProbePass, ProbeResult
from probediff.probing.recorder import Recorder, conventions_for, pass_request
from probediff.probing.shared_pass import PassRequest, run_pass
from probediff.runs.folder import RunFolder
from probediff.runs.tracking import Tracker
from probediff.schedule import NoiseSchedule
from tests.conftest import tiny_module, tiny_settings

SCHEDULE = NoiseSchedule.cosine(40)


class Wave(nn.Module):
    """A model of nobody's: a few sines, with one weight so that it has a device and a dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.scale * torch.sin(3 * x + 0.1 * timestep[:, None, None, None])


def wave() -> ProbeModel:
    return ProbeModel(Wave().requires_grad_(False), SCHEDULE, (1, 8, 8), 3, {"model": "wave"})


@pytest.mark.parametrize("convention", ["openai", "diffusers"])
def test_a_pass_is_the_sampler_and_the_inversion(convention: str) -> None:
    model, settings = wave(), tiny_settings(convention=convention, clip_inversion=False)
    event = run_pass(model, settings)
    noise = seeded_noise(420, range(17), (1, 8, 8))
    x_0 = ddim_sample(model.eps_model, SCHEDULE, noise, 8, convention)  # type: ignore[arg-type]
    torch.testing.assert_close(event.x_0, x_0)
    assert event.latent is not None
    latent = ddim_invert(model.eps_model, SCHEDULE, x_0, 8, convention, clip=False)  # type: ignore[arg-type]
    torch.testing.assert_close(event.latent, latent)
    assert torch.equal(event.noise, noise)
    assert (event.step, event.evaluations, event.shows_pixels) == (3, 16, True)
    torch.testing.assert_close(event.sample(noise), x_0)


def test_images_instead_of_samples() -> None:
    images = torch.linspace(-1, 1, 17 * 64).reshape(17, 1, 8, 8)
    event = run_pass(wave(), tiny_settings(), PassRequest(images=images, paired=False))
    assert torch.equal(event.x_0, images)
    assert event.evaluations == 8 and not event.paired


def test_a_pass_without_its_model_says_so() -> None:
    event = ProbePass(0, tiny_settings(), torch.zeros(1), torch.zeros(1), None)
    for ask in (lambda: event.sample(torch.zeros(1)), lambda: event.eps(torch.zeros(1), torch.zeros(1))):
        with pytest.raises(ValueError, match="needs a pass that can ask its model"):
            ask()


def test_two_averages_and_raw_weights_give_different_samples() -> None:
    module = tiny_module(ema_rates=[0.99, 0.5])
    for copy, factor in zip(module.ema.models, (1.1, 1.3), strict=True):
        for weight in (p for model in (copy, module.eps_model) for p in model.parameters()):
            nn.init.normal_(weight, std=0.05 * factor)
    models = (module.probe_model("ema"), module.probe_model("ema", 0.5), module.probe_model("raw"))
    assert [model.conventions["ema_rate"] for model in models] == [0.99, 0.5, None]
    passes = [run_pass(model, tiny_settings(), PassRequest(invert=False)).x_0 for model in models]
    assert passes[0].shape == (17, 1, 8, 8)
    for k in range(3):
        assert not torch.allclose(passes[k], passes[(k + 1) % 3], atol=1e-4)


def test_pass_reports_its_progress() -> None:
    seen: list[tuple[str, int, int]] = []
    run_pass(tiny_module().eval().probe_model("raw"), tiny_settings(), PassRequest(), lambda *now: seen.append(now))
    total = math.ceil(17 / 8) * (8 + 8)
    assert seen == [("pass", k + 1, total) for k in range(total)]


def test_a_probe_in_a_loop_of_ones_own(tmp_path: Path) -> None:
    """Pass, measure and record need a ProbeModel and a folder: no trainer and no callback."""

    class Brightness(Probe):
        def measure(self, event: ProbePass) -> ProbeResult:
            return ProbeResult({"mean": float(event.x_0.mean())})

    model, settings, probes = wave(), tiny_settings(), [Brightness()]
    folder = RunFolder(tmp_path / "run").create()
    context = ProbeContext(settings, model.image_shape, folder)
    recorder = Recorder(probes, context, Tracker(folder, ()), conventions_for(settings, model))
    event = run_pass(model, settings, pass_request(probes))
    assert event.latent is None
    recorder.record(3, event, 0.0, lambda *now: None)
    recorder.finish(3)
    records = {record["probe"]: record for record in folder.records()}
    assert set(records) == {"pass", "brightness", "timing", "run"}
    assert records["brightness"]["values"] == {"mean": float(event.x_0.mean())}
    assert records["brightness"]["conventions"]["model"] == "wave"
    assert folder.sample_steps() == [3]
