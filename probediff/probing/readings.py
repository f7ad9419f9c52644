"""The ways in which a network can be wired to schedule, time, images and prediction: the one declared, and others.

Each of the others differs from what is declared in one thing, but for prediction and sign, which come together. Its
finding names what is wrong if the network answers to it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

import torch
from torch import Tensor

from probediff.denoisers.predictions import EpsModel
from probediff.models.base import ProbeModel
from probediff.schedule import NoiseSchedule, ScheduleName

_PREDICTIONS = {"epsilon": "the noise eps", "v_prediction": "v", "sample": "the image x_0"}
_SAME_FACTOR = 0.01
_SAME_ALPHA_BAR = 0.01


@dataclass(frozen=True)
class Reading:
    """One way to ask a network, and to read its answer.

    Attributes:
        schedule: whose timesteps it is told.
        prediction: what its answer is taken for, in the words of diffusers.
        sign: -1 where the answer is taken for the opposite of that.
        time_factor: its time is multiplied by it, beside what is declared.
        image_map: (factor, offset) of what is done to the images before they are noised.
        finding: what is wrong, if this reading is right; empty for the declared one.
        cure: what to do about it then.
    """

    schedule: NoiseSchedule
    prediction: str
    sign: int = 1
    time_factor: float = 1.0
    image_map: tuple[float, float] = (1.0, 0.0)
    finding: str = ""
    cure: str = ""

    @property
    def question(self) -> tuple[str, float, tuple[float, float]]:
        """Readings with the same one ask the network the same, and differ in what they make of the answer."""
        return self.schedule.name, self.time_factor, self.image_map

    def timestep(self, log_snr: float) -> int:
        """The schedule's timestep whose noise level is nearest."""
        return int((self.schedule.alpha_bar.logit() - log_snr).abs().argmin())

    def images(self, x_0: Tensor) -> Tensor:
        """The images (N, C, H, W) as the network is trained on them."""
        factor, offset = self.image_map
        return factor * x_0 + offset

    def eps(self, answer: Tensor, x_t: Tensor, alpha_bar: float) -> Tensor:
        """The noise that the network's answer (N, C, H, W) stands for."""
        signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        if self.prediction == "v_prediction":
            return self.sign * signal * answer + noise * x_t
        if self.prediction == "sample":
            return (x_t - self.sign * signal * answer) / noise
        return self.sign * answer


def ask(model: ProbeModel, reading: Reading, x_t: Tensor, timestep: int) -> Tensor:
    """The network's answer to (B, C, H, W) images of one timestep, float64 on the CPU; the model stays as it is."""
    network, weight = _network(model), model.weight
    index = timestep if network else round(timestep * reading.time_factor)
    times = torch.full((len(x_t),), index, device=weight.device)
    answer: Tensor
    if network is None:
        answer = model.eps_model(x_t.to(weight), times)
    elif reading.time_factor == 1:
        answer = network.output(x_t.to(weight), times)
    else:
        # The copy shares all weights, and only its own attributes change.
        told_otherwise = copy.copy(network)
        told_otherwise.rescale_timesteps = False
        scale = network.timestep_scale * reading.time_factor
        told_otherwise.timestep_scale = 1.0 if abs(scale - 1) < 1e-6 else scale
        answer = told_otherwise.output(x_t.to(weight), times)
    return answer[:, : x_t.shape[1]].double().cpu()


def _network(model: ProbeModel) -> EpsModel | None:
    """The wrapper whose network can be asked at any time and for its own output; None for an eps_model of indices."""
    network = model.eps_model
    is_known = getattr(network, "prediction_type", "epsilon") in _PREDICTIONS
    return network if isinstance(network, EpsModel) and is_known else None


def declared_reading(model: ProbeModel) -> Reading:
    """What the model says of itself."""
    network = _network(model)
    return Reading(model.schedule, getattr(network, "prediction_type", "epsilon"))


def other_readings(model: ProbeModel, codes: Tensor) -> Iterator[Reading]:
    """What may be true instead, for images as they are noised."""
    declared = declared_reading(model)
    yield from _other_predictions(declared)
    yield from _other_schedules(declared)
    yield from _other_times(model, declared)
    if model.decode is None:
        yield _other_range(declared, codes)


def _other_predictions(declared: Reading) -> Iterator[Reading]:
    for prediction, sign in product(_PREDICTIONS, (1, -1)):
        if (prediction, sign) == (declared.prediction, 1):
            continue
        minus = "minus " if sign < 0 else ""
        finding = f"the network predicts {minus}{_PREDICTIONS[prediction]}, not {_PREDICTIONS[declared.prediction]}"
        cures = ["turn the sign of its output"] if sign < 0 else []
        cures += [f"give prediction_type={prediction!r}"] if prediction != declared.prediction else []
        yield replace(declared, prediction=prediction, sign=sign, finding=finding, cure=" and ".join(cures))


def _other_schedules(declared: Reading) -> Iterator[Reading]:
    length = len(declared.schedule)
    if length <= 20:  # where the linear schedule ends
        return
    for name in get_args(ScheduleName):
        schedule, words = NoiseSchedule.from_name(name, length), f"NoiseSchedule.{name}({length})"
        if not torch.allclose(schedule.alpha_bar, declared.schedule.alpha_bar, rtol=0, atol=_SAME_ALPHA_BAR):
            finding = f"the network was trained with the schedule {schedule.name}, not {declared.schedule.name}"
            yield replace(declared, schedule=schedule, finding=finding, cure=f"give {words}")


def _other_times(model: ProbeModel, declared: Reading) -> Iterator[Reading]:
    """The scales in use; for a network whose scale is not known, which takes indices, what indices can say."""
    network, length = _network(model), len(model.schedule)
    scales = {"1000/T": 1000 / length, "1": 1.0, "4000/T": 4000 / length, "1/T": 1 / length}
    told = network.timestep_scale if network else 1.0
    seen = [1.0]
    for words, scale in scales.items():
        factor = scale / told
        if any(abs(factor / other - 1) < _SAME_FACTOR for other in seen):
            continue
        seen.append(factor)
        if network and not (factor > 1 and _may_index(network, round(length * told))):
            cure = f"give timestep_scale={scale:g}"
        elif network is None and 1 / length < factor < 1:
            cure = f"multiply the timestep by {factor:g} before the network"
        else:
            continue
        finding = f"the network wants timestep * {scale:g} ({words}) as its time, and is told timestep * {told:g}"
        yield replace(declared, time_factor=factor, finding=finding, cure=cure)


def _may_index(network: EpsModel, num_times: int) -> bool:
    """Whether later times than those declared might be looked up in a table, which on a GPU ends the process."""
    tensors = [*network.unet.parameters(), *network.unet.buffers()]
    lengths = {len(tensor) for tensor in tensors if tensor.is_cuda and tensor.ndim > 0}
    return any({count, count + 1} & lengths for count in (num_times, network.num_train_timesteps) if count > 8)


def _other_range(declared: Reading, images: Tensor) -> Reading:
    if images.min() < 0:
        finding = "the network was trained on images in [0, 1], and those of the probes lie in [-1, 1]"
        return replace(declared, image_map=(0.5, 0.5), finding=finding, cure="train it on 2 x - 1")
    finding = "the network was trained on images in [-1, 1], and those handed in lie in [0, 1]"
    return replace(declared, image_map=(2.0, -1.0), finding=finding, cure="hand in 2 x - 1")
