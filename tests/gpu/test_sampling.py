"""Sampling and inversion on the device: never waiting for it, from a captured graph too, and near the CPU's numbers."""

from __future__ import annotations

import pytest
import torch

from probediff.ddim import ddim_invert, ddim_sample
from probediff.noise import seeded_noise
from probediff.probing import PassSettings, ProbePass
from probediff.probing.shared_pass import PassRequest, run_pass
from probediff.schedule import Convention
from tests.gpu.conftest import Record
from tests.gpu.scale import CPU, Scale, probe_model, relative_difference, tf32, without_waiting

#: Relative L2 difference to the CPU by convention: of samples and of latents, in float32 and with TF32. Measured:
#: 3.8e-7, 4.3e-5, 3.1e-4, 2.8e-3 (openai) and 1.5e-5, 1.2e-4, 7.8e-3, 6.6e-2 (diffusers).
LIMITS: dict[Convention, dict[str, float]] = {
    "openai": {"x_0_float32": 5e-6, "latent_float32": 4e-4, "x_0_tf32": 3e-3, "latent_tf32": 3e-2},
    "diffusers": {"x_0_float32": 2e-4, "latent_float32": 1e-3, "x_0_tf32": 8e-2, "latent_tf32": 0.4},
}
CONVENTIONS = list(LIMITS)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_sampling_and_inversion_do_not_wait_for_the_device(convention: Convention, scale: Scale) -> None:
    model = probe_model(scale, scale.device)
    x_T = seeded_noise(1, range(scale.batch_size), scale.image_shape, scale.device)

    def there_and_back() -> torch.Tensor:
        x_0 = ddim_sample(model.eps_model, model.schedule, x_T, scale.num_steps, convention)
        return ddim_invert(model.eps_model, model.schedule, x_0, scale.num_steps, convention)

    latent = there_and_back()
    with without_waiting(scale.device):
        again = there_and_back()
    assert torch.equal(latent, again)


def test_a_captured_evaluation_gives_the_bits_of_one_that_is_not(scale: Scale, record: Record) -> None:
    if not scale.on_gpu:
        pytest.skip("the CPU has no graphs to capture")
    model = probe_model(scale, scale.device).eps_model
    x = seeded_noise(1, range(scale.batch_size), scale.image_shape, scale.device)
    timestep = torch.full((scale.batch_size,), 2000, device=scale.device)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            model(x, timestep)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = model(x, timestep)
    x.copy_(seeded_noise(2, range(scale.batch_size), scale.image_shape))
    graph.replay()
    plain = model(x, timestep)
    record(bitwise=torch.equal(captured, plain), difference=relative_difference(captured, plain))
    assert torch.equal(captured, plain)


def probe_pass(scale: Scale, convention: Convention, device: torch.device, allow_tf32: bool) -> ProbePass:
    settings = PassSettings(
        num_samples=scale.num_samples, num_steps=scale.num_steps, convention=convention, batch_size=scale.batch_size
    )
    with tf32(allow_tf32), torch.no_grad():
        return run_pass(probe_model(scale, device), settings, PassRequest(trajectory=True))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_pass_is_near_that_of_the_cpu(convention: Convention, scale: Scale, record: Record) -> None:
    reference = probe_pass(scale, convention, CPU, False)
    differences = {}
    for precision in ("float32", "tf32"):
        ours = probe_pass(scale, convention, scale.device, precision == "tf32")
        assert torch.equal(ours.noise, reference.noise)
        assert ours.latent is not None
        assert reference.latent is not None
        differences[f"x_0_{precision}"] = relative_difference(ours.x_0, reference.x_0)
        differences[f"latent_{precision}"] = relative_difference(ours.latent, reference.latent)
    record(**differences)
    for name, limit in LIMITS[convention].items():
        assert differences[name] < limit, name
