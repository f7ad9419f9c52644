"""What probing needs to know of a model, wherever it comes from."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from probediff.ddim import Predict, as_predict
from probediff.files import digest_tensors
from probediff.schedule import NoiseSchedule

Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class ProbeModel:
    """A model to probe, on the CPU.

    Attributes:
        eps_model: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``, in eval mode and without gradients.
        schedule: the schedule that it was trained with.
        image_shape: (C, H, W) of what it diffuses: pixels, or the codes of a latent diffusion model.
        step: optimiser steps that it has seen; 0 where that is unknown.
        conventions: what its numbers depend on beside the settings of the pass, as plain types for the records.
        clip: whether its own sampler clips predicted images to [-1, 1].
        decode: codes -> pixels in [-1, 1], on the device of the codes; None for a model of pixels.
        encode: pixels in [-1, 1] -> codes, likewise.
    """

    eps_model: nn.Module
    schedule: NoiseSchedule
    image_shape: tuple[int, int, int]
    step: int
    conventions: dict[str, Any]
    clip: bool = True
    decode: Callable[[Tensor], Tensor] | None = None
    encode: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def predict(self) -> Predict:
        """What samplers ask: ``(x, timestep) -> (x_0, eps)``, see ``probediff.ddim.as_predict``."""
        return as_predict(self.eps_model, self.schedule)

    @cached_property
    def digest(self) -> str:
        """What tells its weights apart from any others, for the records; see ``probediff.files.digest_tensors``."""
        return digest_tensors(chain(self.eps_model.named_parameters(), self.eps_model.named_buffers()))

    @property
    def weight(self) -> Tensor:
        """One of the model's tensors: it has the device and the dtype to work in."""
        return next(chain(self.eps_model.parameters(), self.eps_model.buffers()))

    @cached_property
    def pixel_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of its images."""
        _, channels, height, width = self.pixels(torch.zeros(1, *self.image_shape)).shape
        return channels, height, width

    def codes(self, pixels: Tensor) -> Tensor:
        """What the model diffuses, (N, C, H, W) on the CPU, for (N, c, h, w) images in [-1, 1]."""
        return pixels if self.encode is None else self.encode(pixels.to(self.weight.device)).cpu()

    def pixels(self, x_0: Tensor) -> Tensor:
        """(N, C, H, W) of what the model diffuses as images for eyes and feature networks, on the CPU."""
        return x_0 if self.decode is None else self.decode(x_0.to(self.weight.device)).cpu()


def conventions_of(
    eps_model: nn.Module,
    schedule_name: str,
    schedule: NoiseSchedule,
    image_shape: Sequence[int],
    ema_rate: float | None = None,
    **others: Any,
) -> dict[str, Any]:
    """What a probe's number depends on beside settings and weights; the keys are those that a run records."""
    weight = next(chain(eps_model.parameters(), eps_model.buffers()))
    return {
        "ema_rate": ema_rate,
        "schedule": schedule_name,
        "num_train_timesteps": len(schedule),
        "image_shape": list(image_shape),
        "dtype": str(weight.dtype).removeprefix("torch."),
        **others,
    }


def conditions_of(device: torch.device) -> dict[str, Any]:
    """What rounding depends on, for the records; the keys are ``probediff.runs.conditions.CONDITIONS``."""
    is_gpu = device.type == "cuda"
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_threads": torch.get_num_threads(),
        "num_processes": torch.distributed.get_world_size() if distributed else 1,
        "tf32": [
            *(["convolutions"] if is_gpu and torch.backends.cudnn.allow_tf32 else []),
            *(["matrix products"] if torch.get_float32_matmul_precision() != "highest" else []),
        ],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch": torch.__version__,
    }


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation without traces: eval mode, no gradients; every flag and random state is put back on exit."""
    training = [(part, part.training) for part in module.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(), torch.no_grad():
        try:
            module.eval()
            yield
        finally:
            for part, mode in training:
                part.training = mode
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def at_rest(model: ProbeModel, device: torch.device) -> Iterator[ProbeModel]:
    """The model on a device, ``undisturbed``; where it lay elsewhere, as averages may, it goes back there."""
    home = model.weight.device
    with undisturbed(model.eps_model):
        try:
            yield model if home == device else replace(model, eps_model=model.eps_model.to(device))
        finally:
            if home != device:
                model.eps_model.to(home)
