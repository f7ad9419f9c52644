"""A network of one's own as a model to probe: what its numbers mean is said once, where it is wrapped."""

from itertools import chain
from typing import Protocol, get_args

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from probediff.denoisers.predictions import EpsModel, PredictionModel, PredictionType
from probediff.models.base import ProbeModel, conventions_of
from probediff.runs.sources import name_source
from probediff.schedule import NoiseSchedule


class HasBetas(Protocol):
    """A scheduler of diffusers, or anything else that says the variances of its steps."""

    betas: Tensor


def wrap_network(
    network: nn.Module,
    schedule: NoiseSchedule | HasBetas,
    image_shape: tuple[int, int, int],
    prediction_type: PredictionType = "epsilon",
    timestep_scale: float = 1.0,
    clip: bool = True,
    ema_rate: float | None = None,
) -> ProbeModel:
    """The model around any network; it shares the network's weights, so that it is the network as it is when probed.

    Args:
        network: ``(x (B,C,H,W), time (B,)) -> prediction``, a tensor or an object that has it as ``sample``; of 2 C
            channels the first C are meant (improved-diffusion's learned variance follows).
        schedule: the noise schedule that it is trained with, such as ``NoiseSchedule.linear(1000)``; or a scheduler of
            diffusers, whose ``betas`` are taken.
        image_shape: (C, H, W).
        prediction_type: what it predicts: ``epsilon``, ``v_prediction`` or ``sample``, in the words of diffusers.
        timestep_scale: the network's time is ``timestep * timestep_scale``: 1 for diffusers, 1000/T for
            improved-diffusion, 1/T for networks that take [0, 1).
        clip: whether its images lie in [-1, 1], so that predicted ones may be clipped to it.
        ema_rate: rate of the average that the network holds, for the records; None for raw weights.

    Raises:
        ValueError: a prediction type, a scale or a shape that is none, or a network of other channels.
    """
    schedule = schedule if isinstance(schedule, NoiseSchedule) else NoiseSchedule(schedule.betas)
    if prediction_type not in get_args(PredictionType):
        raise ValueError(f"prediction_type must be one of {get_args(PredictionType)}, got {prediction_type!r}")
    if not 0 < timestep_scale < float("inf"):
        raise ValueError(f"timestep_scale must be positive, such as 1, got {timestep_scale}")
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"image_shape must be (C, H, W), three positive whole numbers, got {image_shape!r}")
    if isinstance(network, DistributedDataParallel):
        # Its processes would wait for each other at every evaluation, and each evaluates its own share.
        network = network.module
    weight = next(chain(network.parameters(), network.buffers()), None)
    if weight is None:
        raise ValueError(f"network must have parameters or buffers, got {type(network).__name__} without any")
    model: EpsModel
    if prediction_type == "epsilon":
        model = EpsModel(network, len(schedule), False, timestep_scale, shape[0])
    else:
        model = PredictionModel(network, schedule, prediction_type, timestep_scale, shape[0])
        model.to(weight.device)
    conventions = conventions_of(
        model,
        schedule.name,
        schedule,
        shape,
        ema_rate=ema_rate,
        source=name_source(type(network)),
        prediction_type=prediction_type,
        timestep_scale=timestep_scale,
    )
    return ProbeModel(model, schedule, shape, 0, conventions, clip)
