"""Sampling and inversion: evaluations a second beside the bare network and diffusers' pipeline."""

from __future__ import annotations

from typing import Any

import torch

from probediff.commands.cpu import set_up_cpu
from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import EpsModel, UNet
from probediff.schedule import NoiseSchedule
from tests.benchmarks.contenders import NETWORKS
from tests.benchmarks.contenders import diffusers as diffusers_contender
from tests.benchmarks.harness import Figure, paired
from tests.benchmarks.machine import Product

_BATCH = {"cpu": {"32 px": 8, "64 px": 2, "small": 128}, "cuda": {"32 px": 128, "64 px": 128, "small": 512}}
_STEPS = 3


def _diffusers_loop(network: Any, noise: torch.Tensor) -> None:
    """``DDIMPipeline.__call__`` without the conversion to pictures."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(1000)
    scheduler.set_timesteps(_STEPS)
    x = noise
    for timestep in scheduler.timesteps:
        predicted = network(x, timestep.expand(len(x)).to(x.device)).sample
        x = scheduler.step(predicted, int(timestep), x).prev_sample


def measure(network: str, device_name: str, rounds: int) -> list[dict[str, Any]]:
    """The figures of one network, in float32, as probes evaluate it."""
    set_up_cpu()
    torch.manual_seed(0)
    device, sizes = torch.device(device_name), NETWORKS[network]
    batch, size = _BATCH[device_name][network], sizes.image_size
    schedule = NoiseSchedule.from_name("cosine", 4000)
    unet = UNet(size, 3, 6, **sizes.arguments()).to(device).eval()
    if device.type == "cuda":
        unet.compile()
    model = EpsModel(unet, 4000).to(device).eval()
    noise = torch.randn(batch, 3, size, size, device=device)
    timestep = torch.full((batch,), 2000, device=device)
    peer = diffusers_contender(sizes, noise, "float32")
    peer.network.eval()

    def bare() -> None:
        for _ in range(_STEPS):
            model(noise, timestep)

    product = Product.make(device, torch.float32)
    with torch.no_grad():
        actions = {
            "sampling": lambda: ddim_sample(model, schedule, noise, _STEPS),
            "inversion": lambda: ddim_invert(model, schedule, noise, _STEPS),
            "the bare network": bare,
            "diffusers": lambda: _diffusers_loop(peer.network, noise),
            "product": product,
        }
        seconds = paired(actions, device, rounds)
    # Ours and diffusers' networks differ by a fraction of a per cent in operations.
    achieved = {name: _STEPS * batch * peer.gflop_per_image / took for name, took in seconds.items()}
    return [
        Figure(
            "sampling and inversion",
            f"{name}, {network}, float32, batch {batch}",
            _STEPS * batch / seconds[name],
            "evaluations/s",
            {other: seconds[other] / seconds[name] for other in ("the bare network", "diffusers")},
            achieved[name] / (product.gflop / seconds["product"]),
        ).__dict__
        for name in ("sampling", "inversion")
    ]
