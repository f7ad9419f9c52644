"""The methods by name, with one signature: sample, invert, resample."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from probediff.ddim import OnStep, State, walk
from probediff.inversion import bdia, belm, ddim, edict, fixed_point, forward, newton, renoise, swap
from probediff.inversion.problem import MethodSteps, Problem, invert_level_by_level
from probediff.inversion.settings import InversionSettings, Method

#: ``(x_T, on_step) -> the images``
Sampler = Callable[[Tensor, OnStep | None], State]
#: ``(images, their numbers, on_step) -> the latents``
Inverter = Callable[[State, Tensor, OnStep | None], State]


_METHODS: dict[Method, MethodSteps] = {
    "ddim": MethodSteps(ddim.invert),
    "forward": MethodSteps(forward.invert),
    "swap": MethodSteps(swap.invert, swap.sample),
    "fixed_point": MethodSteps(partial(invert_level_by_level, fixed_point.estimate_preimage)),
    "renoise": MethodSteps(partial(invert_level_by_level, renoise.estimate_preimage)),
    "newton": MethodSteps(partial(invert_level_by_level, newton.estimate_preimage)),
    "edict": MethodSteps(edict.invert, edict.sample, edict.resample),
    "bdia": bdia.METHOD,
    "belm": belm.METHOD,
}


def _find_method(problem: Problem, settings: InversionSettings) -> MethodSteps:
    """The method by its name, when problem and settings fit together."""
    len(problem.path)
    settings.check(problem.num_steps, problem.clip, problem.clip_inversion)
    return _METHODS[settings.method]


def _ddim_sampler(problem: Problem) -> Sampler:
    path = problem.path
    return partial(walk, problem.predict, path.sampling_legs(), problem.clip, path.rederives_eps)


def sampler(problem: Problem, settings: InversionSettings) -> Sampler:
    """The sampler that a method inverts, checked once and ready for batch after batch.

    That is ``ddim_sample`` for all methods but ``edict``, ``bdia`` and ``belm``, which have samplers of their own:
    their latents are to be compared with noise that sampled under the same method.

    Args:
        problem: the model and how it is sampled.
        settings: the method.

    Returns:
        ``(x_T (B, C, H, W), on_step) -> State``: the images, on the device and in the dtype of ``x_T``, with what the
        method needs to invert them; ``on_step`` is called with a ``DDIMStep`` after each network evaluation.

    Raises:
        ValueError: settings that do not fit; the sampler itself raises it for tensors that do not.
    """
    method = _find_method(problem, settings)
    return _ddim_sampler(problem) if method.sample is None else partial(method.sample, problem, settings)


def inverter(problem: Problem, settings: InversionSettings) -> Inverter:
    """The inversion by a method, checked once and ready for batch after batch.

    Args:
        problem: the model and how it is sampled.
        settings: the method.

    Returns:
        As ``invert`` without its first two arguments; the tensors are not checked.

    Raises:
        ValueError: settings that do not fit.
    """
    return partial(_find_method(problem, settings).invert, problem, settings)


def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None = None) -> State:
    """Images from noise (B, C, H, W), by the sampler that the method inverts; arguments and errors as ``sampler``."""
    _check_batch(x_T)
    return sampler(problem, settings)(x_T, on_step)


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
    _check_batch(state.x)
    if len(indices) != len(state.x):
        raise ValueError(f"indices must number the {len(state.x)} images of the state, got {len(indices)} of them")
    if state.partner is not None and state.partner.shape != state.x.shape:
        shapes = f"{tuple(state.partner.shape)} beside {tuple(state.x.shape)}"
        raise ValueError(f"state.partner must have the shape of state.x, got {shapes}; pass on what sample returned")
    return inverter(problem, settings)(state, torch.as_tensor(indices), on_step)


def resample(problem: Problem, settings: InversionSettings, state: State) -> State:
    """Images from an inverted state: the reconstruction.

    ``edict``, ``bdia`` and ``belm`` start from the whole state, partner included, and so go back exactly; the others
    start from ``state.x`` alone.

    Args:
        problem: the model and how it is sampled.
        settings: the method.
        state: what ``invert`` returned.

    Raises:
        ValueError: settings or tensors that do not fit.
    """
    _check_batch(state.x)
    method = _find_method(problem, settings)
    return (
        _ddim_sampler(problem)(state.x, None) if method.resample is None else method.resample(problem, settings, state)
    )


def _check_batch(x: Tensor) -> None:
    if not x.is_floating_point() or x.ndim < 2:
        raise ValueError(f"the input must be a float tensor (B, ...), got {x.dtype} of shape {tuple(x.shape)}")
