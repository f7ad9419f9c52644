"""Where the checks run and how large they are: whole on a GPU, or in miniature on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probediff.denoisers import EpsModel, UNet
from probediff.models.base import ProbeModel
from probediff.schedule import NoiseSchedule
from tests.benchmarks.contenders import NETWORKS, Network

CPU = torch.device("cpu")
NUM_TRAIN_TIMESTEPS = 4000


@dataclass(frozen=True)
class Scale:
    """Sizes of the checks.

    Attributes:
        device: what is checked, against the CPU.
        network: that is evaluated, sampled and inverted.
        trained: that is trained for a few steps.
        compiled: that is compiled; small, for compiling takes the time.
        batch_size: of an evaluation and of a training step.
        num_samples: of a probe pass, which needs more than one batch of 16 for them on a GPU.
        num_steps: DDIM steps.
        training_steps: of a training that must be the same twice.
        num_noises: of the comparison of noises.
        num_measured: samples that every measure is given.
        measured_size: their height and width.
    """

    device: torch.device
    network: Network
    trained: Network
    compiled: Network
    batch_size: int
    num_samples: int
    num_steps: int
    training_steps: int
    num_noises: int
    num_measured: int
    measured_size: int

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is checked; the CPU has neither TF32 nor anything to wait for."""
        return self.device.type == "cuda"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network takes."""
        return 3, self.network.image_size, self.network.image_size


_TINY = Network(16, 8, (1, 2), 1, (8,), 2, 0.1)
WHOLE = Scale(
    device=torch.device("cuda"),
    network=NETWORKS["small"],
    trained=Network(32, 64, (1, 2, 2), 2, (16, 8), 4, 0.1),
    compiled=Network(32, 32, (1, 2), 1, (16,), 2, 0.1),
    batch_size=16,
    num_samples=40,
    num_steps=20,
    training_steps=20,
    num_noises=1000,
    num_measured=300,
    measured_size=32,
)
MINIATURE = Scale(
    device=CPU,
    network=_TINY,
    trained=_TINY,
    compiled=_TINY,
    batch_size=3,
    num_samples=5,
    num_steps=4,
    training_steps=3,
    num_noises=50,
    num_measured=64,
    measured_size=16,
)


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs| in L2 norm, in float64; |ours - theirs| where theirs is 0 but for rounding."""
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    size = float(theirs.norm())
    return float((ours - theirs).norm()) / (size if size > 1e-12 else 1.0)


def eps_model(sizes: Network) -> EpsModel:
    """A network with random weights on the CPU, the same at every call.

    Layers that start at 0 get weights too: without them the network predicts 0 whatever happens inside.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet(sizes.image_size, 3, 6, **sizes.arguments())
        for parameter in unet.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return EpsModel(unet, NUM_TRAIN_TIMESTEPS).eval().requires_grad_(False)


def probe_model(scale: Scale, device: torch.device) -> ProbeModel:
    """``scale.network`` on ``device``, as probes see it."""
    model = eps_model(scale.network).to(device)
    return ProbeModel(model, NoiseSchedule.cosine(NUM_TRAIN_TIMESTEPS), scale.image_shape, 0, {})


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, float32 products and convolutions may or may not be rounded to 11 bits on a GPU."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


@contextmanager
def without_waiting(device: torch.device) -> Iterator[None]:
    """Inside, whatever waits for the GPU is an error, as far as torch notices."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
