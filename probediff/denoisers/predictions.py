"""The wrappers that turn a network, whatever it predicts, into an `eps_model` of integer timesteps."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from probediff.schedule import NoiseSchedule

PredictionType = Literal["epsilon", "v_prediction", "sample"]


class EpsModel(nn.Module):
    """Callable `(x, timestep) -> eps` around a network that wants its own timestep scale and may learn the variance.

    Args:
        unet: Network `(x, scaled_timestep) -> output`; the output is a tensor, or has one as `sample` (diffusers).
        num_train_timesteps: T, the length of the training schedule.
        rescale_timesteps: Feed the network timestep * 1000 / T (improved-diffusion), else the timestep itself.
        timestep_scale: Feed the network timestep * timestep_scale instead.
        in_channels: C, where the network has no attribute of that name.

    Raises:
        ValueError: When T is not positive, the channels are not known, or the network says by its attribute
            `out_channels` that its output is neither C nor 2 C channels.
    """

    def __init__(
        self,
        unet: nn.Module,
        num_train_timesteps: int,
        rescale_timesteps: bool = True,
        timestep_scale: float | None = None,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        if num_train_timesteps < 1:
            raise ValueError(
                f"num_train_timesteps must be at least 1, got {num_train_timesteps}: give the schedule's length"
            )
        self.in_channels = int(in_channels or _say_channels(unet, "in_channels") or 0)
        if self.in_channels < 1:
            raise ValueError(f"in_channels must be given for {type(unet).__name__}, which does not say it, got none")
        out_channels = _say_channels(unet, "out_channels")
        if out_channels not in (None, self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"unet.out_channels must be {self.in_channels} (eps) or {2 * self.in_channels} (eps and variance) "
                f"for {self.in_channels} input channels, got {out_channels}: build the network with one of them"
            )
        self.unet = unet
        self.num_train_timesteps = num_train_timesteps
        self.rescale_timesteps = rescale_timesteps and timestep_scale is None
        self.timestep_scale = 1000.0 / num_train_timesteps if self.rescale_timesteps else timestep_scale or 1.0

    def output(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return everything the network predicts.

        Args:
            x: (B, C, H, W) noised images.
            timestep: (B,) int64 in 0..T-1. The range is not checked: on a GPU that would wait for the device.

        Returns:
            (B, C, H, W), or (B, 2 C, H, W) with the learned variance in the last C channels.

        Raises:
            TypeError: When the timestep is not int64.
            ValueError: On wrong shapes, of what comes in or of what the network makes of it.
        """
        if timestep.dtype != torch.int64:
            raise TypeError(
                f"timestep must be int64 indices in 0..{self.num_train_timesteps - 1}, got {timestep.dtype}: "
                "pass timestep.long(), not scaled"
            )
        if timestep.shape != x.shape[:1]:
            raise ValueError(
                f"timestep must be ({x.shape[0]},), one a sample, got {tuple(timestep.shape)}: "
                "repeat a single timestep with torch.full((B,), t)"
            )
        is_plain = self.timestep_scale == 1.0 and not self.rescale_timesteps
        predicted = self.unet(x, timestep if is_plain else timestep.float() * self.timestep_scale)
        output: Tensor = getattr(predicted, "sample", predicted)
        if not isinstance(output, Tensor):
            words = type(output).__name__
            raise ValueError(f"the network must return a tensor, or an object that has it as sample, got a {words}")
        if output.shape[2:] != x.shape[2:] or output.shape[1] not in (x.shape[1], 2 * x.shape[1]):
            raise ValueError(
                f"the network must make (B, {x.shape[1]} or {2 * x.shape[1]}, {', '.join(map(str, x.shape[2:]))}) of "
                f"{tuple(x.shape)}, got {tuple(output.shape)}: probe the part of it that predicts the noise"
            )
        return output

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the predicted noise, (B, C, H, W); arguments as in `output`."""
        return self.output(x, timestep)[:, : self.in_channels]


class PredictionModel(EpsModel):
    """`eps_model` around a network that predicts the noise, v or the clean image.

    With a = alpha_bar(t) of the timestep that the network is asked at: eps = sqrt(a) v + sqrt(1 - a) x_t and
    x_0 = sqrt(a) x_t - sqrt(1 - a) v (Salimans & Ho 2022, appendix D), or eps = (x_t - sqrt(a) x_0) / sqrt(1 - a).
    While inverting, DDIMInverseScheduler of diffusers asks at the next timestep and converts with the alpha_bar of the
    current one, which divides by 0 in the first step of a network that predicts x_0; the two agree for networks that
    predict the noise.

    Args:
        unet: Network `(x, timestep * timestep_scale) -> output`, see `EpsModel`.
        schedule: Schedule the network was trained with.
        prediction_type: What the network predicts, in the words of diffusers.
        timestep_scale: 1 where the network takes the timestep itself.
        in_channels: C, where the network has no attribute of that name.

    Raises:
        ValueError: On another prediction type, or as `EpsModel`.
    """

    signal_rate: Tensor
    noise_rate: Tensor

    def __init__(
        self,
        unet: nn.Module,
        schedule: NoiseSchedule,
        prediction_type: PredictionType,
        timestep_scale: float = 1.0,
        in_channels: int | None = None,
    ) -> None:
        super().__init__(unet, len(schedule), False, timestep_scale, in_channels)
        if prediction_type not in get_args(PredictionType):
            raise ValueError(f"prediction_type must be one of {get_args(PredictionType)}, got {prediction_type!r}")
        self.prediction_type = prediction_type
        self.register_buffer("signal_rate", schedule.alpha_bar.sqrt(), persistent=False)
        self.register_buffer("noise_rate", (1 - schedule.alpha_bar).sqrt(), persistent=False)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the predicted noise, (B, C, H, W); arguments as in `output`."""
        return self.predict(x, timestep)[1]

    def predict(self, x: Tensor, timestep: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the predicted image and noise, (B, C, H, W) each; what samplers ask (`probediff.ddim.as_predict`).

        Args:
            x: (B, C, H, W) noised images.
            timestep: (B,) int64 in 0..T-1.

        Returns:
            x_0 and eps; x_0 is None where the network predicts the noise itself, from which the image follows.
        """
        predicted = super().forward(x, timestep)
        if self.prediction_type == "epsilon":
            return None, predicted
        signal = self.signal_rate[timestep][:, None, None, None]
        noise = self.noise_rate[timestep][:, None, None, None]
        if self.prediction_type == "v_prediction":
            return (signal * x - noise * predicted).to(x.dtype), (signal * predicted + noise * x).to(x.dtype)
        return predicted.to(x.dtype), ((x - signal * predicted) / noise).to(x.dtype)


def _say_channels(network: Any, name: str) -> int | None:
    """What a network says of its channels, itself or (diffusers) in its configuration; None where it does not."""
    for place in (getattr(network, "config", None), network):
        if isinstance(value := getattr(place, name, None), int):
            return value
    return None
