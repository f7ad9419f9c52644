"""The methods by name, with one signature: sample, invert, resample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.ddim import OnStep
from probediff.inversion import bdia, belm, ddim, edict, fixed_point, forward, newton, renoise, swap
from probediff.inversion.problem import Problem, State
from probediff.inversion.settings import InversionSettings, Method

_Sample = Callable[[Problem, InversionSettings, Tensor, OnStep | None], State]
_Invert = Callable[[Problem, InversionSettings, State, Tensor, OnStep | None], State]
_Resample = Callable[[Problem, InversionSettings, State], State]


@dataclass(frozen=True)
class _Method:
    invert: _Invert
    sample: _Sample = ddim.sample
    resample: _Resample = ddim.resample


_METHODS: dict[Method, _Method] = {
    "ddim": _Method(ddim.invert),
    "forward": _Method(forward.invert),
    "swap": _Method(swap.invert, swap.sample),
    "fixed_point": _Method(fixed_point.invert),
    "renoise": _Method(renoise.invert),
    "newton": _Method(newton.invert),
    "edict": _Method(edict.invert, edict.sample, edict.resample),
    "bdia": _Method(bdia.invert, bdia.sample, bdia.resample),
    "belm": _Method(belm.invert, belm.sample, belm.resample),
}


def _checked(problem: Problem, settings: InversionSettings, x: Tensor) -> _Method:
    problem.timesteps()
    settings.check(problem.num_steps, problem.clip, problem.clip_inversion)
    if not x.is_floating_point() or x.ndim < 2:
        raise ValueError(f"the input must be a float tensor (B, ...), got {x.dtype} of shape {tuple(x.shape)}")
    return _METHODS[settings.method]


def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None = None) -> State:
    """Images from noise, by the sampler that the method inverts.

    That is ``ddim_sample`` for all methods but ``edict``, ``bdia`` and ``belm``, which have samplers of their own:
    their latents are to be compared with noise that sampled under the same method.

    Args:
        problem: the model and how it is sampled.
        settings: the method.
        x_T: (B, C, H, W) standard normal noise.
        on_step: called with a ``DDIMStep`` after each network evaluation.

    Returns:
        The images, on the device and in the dtype of ``x_T``, with what the method needs to invert them.

    Raises:
        ValueError: settings or tensors that do not fit.
    """
    return _checked(problem, settings, x_T).sample(problem, settings, x_T, on_step)


def invert(
    problem: Problem,
    settings: InversionSettings,
    state: State,
    indices: Tensor | Sequence[int],
    on_step: OnStep | None = None,
) -> State:
    """Latents of images: of what ``sample`` returned, or of the user's, ``State(x_0)``.

    Args:
        problem: the model and how it is sampled.
        settings: the method.
        state: the images.
        indices: (B,) the images' numbers in the whole set, which key the noise of ``forward``.
        on_step: called with a ``DDIMStep`` after each network evaluation; ``alpha_bar`` is the noise level of ``x``.
            ``InversionSettings.evaluations`` says how often.

    Returns:
        The latents, on the device and in the dtype of ``state.x``.

    Raises:
        ValueError: settings or tensors that do not fit; method ``swap`` and an image without its trajectory.
    """
    method = _checked(problem, settings, state.x)
    if len(indices) != len(state.x):
        raise ValueError(f"indices must number the {len(state.x)} images of the state, got {len(indices)} of them")
    if state.partner is not None and state.partner.shape != state.x.shape:
        shapes = f"{tuple(state.partner.shape)} beside {tuple(state.x.shape)}"
        raise ValueError(f"state.partner must have the shape of state.x, got {shapes}; pass on what sample returned")
    return method.invert(problem, settings, state, torch.as_tensor(indices), on_step)


def resample(problem: Problem, settings: InversionSettings, state: State) -> State:
    """Images from an inverted state: the reconstruction.

    ``edict``, ``bdia`` and ``belm`` start from the whole state, partner included, and so go back exactly; the others
    start from ``state.x`` alone.

    Raises:
        ValueError: settings or tensors that do not fit.
    """
    return _checked(problem, settings, state.x).resample(problem, settings, state)
