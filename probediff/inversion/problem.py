"""What is inverted: the model, how it is sampled, and walks that ask it at the sampler's levels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probediff.ddim import DDIMPath, DDIMStep, EpsFunction, OnStep, Predict, State, as_predict, ddim_step, implied_image
from probediff.inversion.settings import InversionSettings
from probediff.schedule import Convention, NoiseSchedule


@dataclass(frozen=True)
class Problem:
    """A model and how it is sampled.

    Args:
        eps_model: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``, in eval mode, or what else
            ``probediff.ddim.as_predict`` takes.
        schedule: the schedule that the model was trained with.
        num_steps: DDIM steps.
        convention: ``"openai"`` or ``"diffusers"``, see ``probediff.ddim``.
        clip: clip predicted images to [-1, 1] while sampling.
        clip_inversion: clip them while inverting. ``ddim``, ``forward`` and ``swap`` clip the image predicted in each
            inversion step. ``fixed_point``, ``renoise`` and ``newton`` then look for a preimage under the clipped
            sampling step; it is not unique, and they find the one they come to first. ``edict``, ``bdia`` and ``belm``
            refuse either kind of clipping.
        network_dtype: dtype in which the network is asked, by default that of the state. With states in float64 and a
            network in float32 the exact methods do not suffer from rounding.
    """

    eps_model: EpsFunction
    schedule: NoiseSchedule
    num_steps: int = 100
    convention: Convention = "openai"
    clip: bool = True
    clip_inversion: bool = True
    network_dtype: torch.dtype | None = None

    @cached_property
    def path(self) -> DDIMPath:
        """The sampler's ladder; raises ValueError for a number of steps that the schedule does not allow."""
        return DDIMPath.of(self.schedule, self.num_steps, self.convention, self.clip)

    @cached_property
    def predict(self) -> Predict:
        """What samplers ask: ``(x, timestep) -> (x_0, eps)``."""
        return as_predict(self.eps_model, self.schedule, self.network_dtype)


class Walk:
    """Asks the network at the sampler's levels, and reports once per question."""

    def __init__(self, problem: Problem, on_step: OnStep | None) -> None:
        self.problem = problem
        self.timesteps = problem.path.timesteps
        self.levels = problem.path.levels
        self._on_step = on_step
        self._num_questions = 0

    def eps(self, x: Tensor, timestep: int) -> Tensor:
        """The predicted noise, in the dtype of ``x``."""
        return self.problem.predict(x, timestep)[1]

    def report(self, timestep: int, alpha_bar: float, x: Tensor, x_0: Tensor) -> None:
        """Tell ``on_step`` of the question that led to ``x``."""
        if self._on_step is not None:
            self._on_step(DDIMStep(self._num_questions, timestep, alpha_bar, x.detach(), x_0.detach()))
        self._num_questions += 1

    def moved(self, x: Tensor, eps: Tensor, level: int, to_level: int) -> tuple[Tensor, Tensor]:
        """``x`` moved from one of the sampler's levels to another along ``eps``, without clipping; the image too."""
        x_0 = implied_image(x, eps, self.levels[level])
        return ddim_step(x, x_0, eps, self.levels[level], self.levels[to_level], False, False)

    def preimage_map(self, z: Tensor, x: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """One application of a map whose fixed points z at ``level`` are those that the sampler moves to ``x``.

        z + sqrt(a_i / a_(i-1)) (x - step(z)), with the sampler's step from level i to i - 1. Without clipping this is
        sqrt(a_i / a_(i-1)) x + (sqrt(1 - a_i) - sqrt(a_i (1 - a_(i-1)) / a_(i-1))) eps(z, t_i), the equation that
        AIDI, ReNoise and Newton-Raphson inversion solve. Also returns the image predicted at z.
        """
        high, low = self.levels[level], self.levels[level - 1]
        x_0, eps = self.problem.predict(z, self.timesteps[level - 1])
        rederives_eps = self.problem.path.rederives_eps
        stepped, x_0 = ddim_step(z, x_0, eps, high, low, self.problem.clip_inversion, rederives_eps)
        return z + (high / low) ** 0.5 * (x - stepped), x_0

    def report_preimage(self, level: int, z: Tensor, x_0: Tensor) -> None:
        """Report an estimate ``z`` of the state at ``level``."""
        self.report(self.timesteps[level - 1], self.levels[level], z, x_0)


@dataclass(frozen=True)
class MethodSteps:
    """The three directions of one inversion method; a direction is None where it is plain DDIM sampling.

    Attributes:
        invert: ``(problem, settings, images, their numbers, on_step) -> the latents``.
        sample: ``(problem, settings, x_T, on_step) -> the images``, with what ``invert`` needs.
        resample: ``(problem, settings, latents) -> the images``, from the whole state.
    """

    invert: Callable[[Problem, InversionSettings, State, Tensor, OnStep | None], State]
    sample: Callable[[Problem, InversionSettings, Tensor, OnStep | None], State] | None = None
    resample: Callable[[Problem, InversionSettings, State], State] | None = None


@torch.no_grad()
def invert_level_by_level(
    estimate: Callable[[Walk, Tensor, int, InversionSettings], Tensor],
    problem: Problem,
    settings: InversionSettings,
    state: State,
    indices: Tensor,
    on_step: OnStep | None = None,
) -> State:
    """Estimate the noise that the sampler turned into ``state.x``, one of its steps after the other.

    ``estimate(walk, x, level, settings)`` looks for the state at ``level`` that the sampler moved to ``x``.
    """
    walk, x = Walk(problem, on_step), state.x
    for level in range(1, problem.num_steps + 1):
        x = estimate(walk, x, level, settings)
    return State(x)
