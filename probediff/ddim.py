"""Deterministic DDIM sampling (noise -> image) and inversion (image -> latent), in two published conventions.

``openai`` (improved-diffusion; what *There and Back Again* used): the network is asked at the current timestep,
inversion ends at ``alpha_bar = 0``, so that the last step lands on the predicted noise itself, and the noise is
re-derived from the clipped image. ``diffusers`` (``DDIMScheduler``, ``DDIMInverseScheduler``): inversion starts from
``alpha_bar = 1``, asks the network at the target timestep and ends at the alpha_bar of the top timestep; clipping
changes the image but not the noise. The two give different latents: record which with every number.

A sampler never asks what the network predicts. It calls ``predict(x, timestep) -> (x_0, eps)``, which an adapter around
the network provides, and walks along a ``DDIMPath``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from probediff.schedule import Convention, NoiseSchedule

#: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``
EpsFunction = Callable[[Tensor, Tensor], Tensor]
#: ``(x (B,C,H,W), timestep, one or (B,) int64) -> (x_0, eps)``: image and noise that x is predicted to consist of.
Predict = Callable[[Tensor, int | Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DDIMStep:
    """One finished step, as passed to ``on_step``.

    Attributes:
        index: 0..num_steps-1, in the order of execution.
        timestep: the timestep at which the network was asked.
        alpha_bar: noise level after the step (1: clean image, 0: pure noise).
        x: (B, C, H, W) the state after the step.
        x_0: (B, C, H, W) the image predicted in this step, clipped if clipping is on.
    """

    index: int
    timestep: int
    alpha_bar: float
    x: Tensor
    x_0: Tensor


OnStep = Callable[[DDIMStep], None]


@dataclass(frozen=True)
class State:
    """Where a walk is, at the image's or at the noise's end. A user's image is ``State(x_0)``.

    Attributes:
        x: (B, C, H, W) image or latent.
        partner: (B, C, H, W) what an exact scheme needs beside x: EDICT's second sequence, or the neighbouring state
            of BDIA and BELM. None for other methods and for a user's image.
        predictions: the noises predicted in the sampler's last steps, nearest to the image first; ``swap`` only.
    """

    x: Tensor
    partner: Tensor | None = None
    predictions: tuple[Tensor, ...] = ()


class Leg(NamedTuple):
    """One step of a walk: the timestep asked, its level, and the noise levels before and after the step."""

    timestep: int
    alpha_bar: float
    alpha_bar_from: float
    alpha_bar_to: float


@dataclass(frozen=True)
class DDIMPath:
    """The ladder of noise levels that sampling goes down and inversion goes up.

    Attributes:
        timesteps: at which the network is asked, S of them, ascending.
        alpha_bar: of them, S.
        alpha_bar_below: where the sampling step from each of them ends, S.
        convention: ``openai`` inverts from the first level and asks at the level that a step leaves; ``diffusers``
            inverts from the clean image and asks at the level that it reaches.
        clip: clip predicted images to [-1, 1] while sampling.
    """

    timesteps: tuple[int, ...]
    alpha_bar: tuple[float, ...]
    alpha_bar_below: tuple[float, ...]
    convention: Convention
    clip: bool

    @classmethod
    def of(cls, schedule: NoiseSchedule, num_steps: int, convention: Convention, clip: bool = True) -> DDIMPath:
        """The path of ``ddim_sample`` and ``ddim_invert``; raises ValueError as ``NoiseSchedule.ddim_timesteps``."""
        timesteps = schedule.ddim_timesteps(num_steps, convention)
        alpha_bar = tuple(float(schedule.alpha_bar[t]) for t in timesteps)
        return cls(tuple(timesteps), alpha_bar, (1.0, *alpha_bar[:-1]), convention, clip)

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def levels(self) -> tuple[float, ...]:
        """alpha_bar of the sampler's states x_0..x_S: 1, then one level a timestep.

        The top level is not 0: the sampler takes x_T as its state at the top timestep, and so a method that inverts
        the sampler's own steps ends there, on an estimate of x_T.
        """
        return (1.0, *self.alpha_bar)

    @property
    def rederives_eps(self) -> bool:
        """Whether clipping an image changes the noise that goes with it."""
        return self.convention == "openai"

    def sampling_legs(self) -> list[Leg]:
        """The sampler's steps in the order of execution, from the noise to the image."""
        levels = zip(self.timesteps, self.alpha_bar, self.alpha_bar, self.alpha_bar_below, strict=True)
        return [Leg(*leg) for leg in levels][::-1]

    def inversion_legs(self) -> list[Leg]:
        """The steps of DDIM inversion, from the image to the noise.

        Under ``openai`` each step is taken one level higher than in ``diffusers``, and the last one ends at 0.
        """
        if self.convention == "openai":
            ends = self.alpha_bar, (*self.alpha_bar[1:], 0.0)
        else:
            ends = self.alpha_bar_below, self.alpha_bar
        return [Leg(*leg) for leg in zip(self.timesteps, self.alpha_bar, *ends, strict=True)]

    def steps_for(self, strength: float) -> int:
        """How many of the last sampling steps an edit of ``strength`` does; ValueError for one outside (0, 1]."""
        if not 0 < strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {strength}; 1 keeps next to nothing of the image")
        return max(1, round(strength * len(self)))

    def noised(self, x_0: Tensor, noise: Tensor, num_steps: int) -> Tensor:
        """sqrt(a) x_0 + sqrt(1 - a) noise at the level from which ``num_steps`` sampling steps are left (SDEdit)."""
        alpha_bar = self.alpha_bar[num_steps - 1]
        return alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise

    def sample(self, predict: Predict, x: Tensor, num_steps: int | None = None) -> Tensor:
        """Images (B, C, H, W) by the last ``num_steps`` sampling steps, by default all, from ``x`` (B, C, H, W)."""
        legs = self.sampling_legs()[-(len(self) if num_steps is None else num_steps) :]
        return walk(predict, legs, self.clip, self.rederives_eps, x).x

    def invert(self, predict: Predict, x_0: Tensor, num_steps: int | None = None) -> Tensor:
        """The state (B, C, H, W) from which ``num_steps`` sampling steps, by default all, lead to about ``x_0``.

        Predicted images are not clipped, because a clipped step has no inverse.
        """
        count = len(self) if num_steps is None else num_steps
        # Under openai an image stands for the first level already.
        legs = self.inversion_legs()[: count - 1 if self.convention == "openai" else count]
        return walk(predict, legs, False, False, x_0).x


def as_predict(model: EpsFunction, schedule: NoiseSchedule, network_dtype: torch.dtype | None = None) -> Predict:
    """What samplers ask, made of a model: its own method ``predict`` where it has one, else from its noise.

    Args:
        model: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``; a method
            ``predict(x, timestep) -> (x_0 or None, eps)``, as that of ``probediff.denoisers.PredictionModel``, is
            preferred: the image need not be derived from the noise then.
        schedule: the schedule that the model was trained with.
        network_dtype: dtype in which the model is asked, by default that of the state. With states in float64 and a
            network in float32 the exact inversion methods do not suffer from rounding.

    Returns:
        ``(x, timestep) -> (x_0, eps)`` in the dtype of ``x``. It raises ValueError when the model changes the shape.
    """
    alpha_bar = schedule.alpha_bar.tolist()
    own: Callable[[Tensor, Tensor], tuple[Tensor | None, Tensor]] | None = getattr(model, "predict", None)

    def predict(x: Tensor, timestep: int | Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(timestep, int):
            rows = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
            level: float | Tensor = alpha_bar[timestep]
        else:
            rows, level = timestep, schedule.at("alpha_bar", timestep, x.ndim)
        network_x = x if network_dtype is None else x.to(network_dtype)
        x_0, eps = (None, model(network_x, rows)) if own is None else own(network_x, rows)
        if eps.shape != x.shape:
            raise ValueError(f"eps_model must return the shape of its input, {tuple(x.shape)}, got {tuple(eps.shape)}")
        eps = eps.to(x.dtype)
        # An image in fewer digits than the state has would keep the exact inversion methods from converging.
        if x_0 is None or network_x.dtype != x.dtype:
            x_0 = implied_image(x, eps, level)
        return x_0.to(x.dtype), eps

    return predict


def implied_image(x: Tensor, eps: Tensor, alpha_bar: float | Tensor) -> Tensor:
    """The image of which ``x`` consists beside the noise ``eps``, at the level ``alpha_bar`` > 0."""
    return (x - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5


def ddim_step(
    x: Tensor, x_0: Tensor, eps: Tensor, alpha_bar_from: float, alpha_bar_to: float, clip: bool, rederive_eps: bool
) -> tuple[Tensor, Tensor]:
    """Move ``x`` from noise level ``alpha_bar_from`` to ``alpha_bar_to`` (Song et al. 2020, eq. 12 with sigma = 0).

    All are (B, C, H, W); ``x_0`` and ``eps`` are the image and the noise predicted at ``x``. ``clip`` clips the image
    to [-1, 1], and with ``rederive_eps`` x then moves along the noise that the clipped image implies.

    Returns:
        The state at ``alpha_bar_to`` and the predicted image.
    """
    if clip:
        x_0 = x_0.clamp(-1, 1)
        if rederive_eps:
            eps = (x - alpha_bar_from**0.5 * x_0) / (1 - alpha_bar_from) ** 0.5
    return alpha_bar_to**0.5 * x_0 + (1 - alpha_bar_to) ** 0.5 * eps, x_0


@torch.no_grad()
def walk(
    predict: Predict, legs: Sequence[Leg], clip: bool, rederive_eps: bool, x: Tensor, on_step: OnStep | None = None
) -> State:
    """Take the steps ``legs`` one after the other.

    From ``x`` (B, C, H, W), the state at the first leg's start; ``clip`` and ``rederive_eps`` as in ``ddim_step``;
    ``on_step`` is called with a ``DDIMStep`` after each step.

    Raises:
        ValueError: ``x`` is no batch of a floating dtype.
    """
    if not x.is_floating_point() or x.ndim < 2:
        raise ValueError(f"the input must be a float tensor (B, ...), got {x.dtype} of shape {tuple(x.shape)}")
    for index, leg in enumerate(legs):
        x_0, eps = predict(x, leg.timestep)
        if leg.alpha_bar_from != leg.alpha_bar:
            # Asked at the level that the step leads to: only the noise belongs to the level of x.
            x_0 = implied_image(x, eps, leg.alpha_bar_from)
        x, x_0 = ddim_step(x, x_0, eps, leg.alpha_bar_from, leg.alpha_bar_to, clip, rederive_eps)
        if on_step is not None:
            on_step(DDIMStep(index, leg.timestep, leg.alpha_bar_to, x, x_0))
    return State(x)


def ddim_sample(
    eps_model: EpsFunction,
    schedule: NoiseSchedule,
    x_T: Tensor,
    num_steps: int = 100,
    convention: Convention = "openai",
    clip: bool = True,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images from noise by the deterministic DDIM sampler (Song et al. 2020, eq. 12 with sigma = 0).

    Args:
        eps_model: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``.
        schedule: the schedule that the model was trained with.
        x_T: (B, C, H, W) standard normal noise.
        num_steps: number of network evaluations, see ``NoiseSchedule.ddim_timesteps``.
        convention: ``"openai"`` or ``"diffusers"``.
        clip: clip each predicted image to [-1, 1].
        on_step: called with a ``DDIMStep`` after each step.

    Returns:
        x_0: (B, C, H, W), on the device and in the dtype of ``x_T``.

    Raises:
        ValueError: bad ``num_steps``, ``convention``, dtype, or an eps_model that changes the shape.
    """
    path = DDIMPath.of(schedule, num_steps, convention)
    predict = as_predict(eps_model, schedule)
    return walk(predict, path.sampling_legs(), clip, path.rederives_eps, x_T, on_step).x


def ddim_invert(
    eps_model: EpsFunction,
    schedule: NoiseSchedule,
    x_0: Tensor,
    num_steps: int = 100,
    convention: Convention = "openai",
    clip: bool = True,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents from images by DDIM inversion (*There and Back Again*, eq. 3 with the approximation of eq. 4).

    Arguments and errors as in ``ddim_sample``, from (B, C, H, W) images in [-1, 1]; ``clip`` clips the images predicted
    on the way, which changes every statistic of the latents.

    Returns:
        latent: (B, C, H, W).
    """
    path = DDIMPath.of(schedule, num_steps, convention)
    predict = as_predict(eps_model, schedule)
    return walk(predict, path.inversion_legs(), clip, path.rederives_eps, x_0, on_step).x
