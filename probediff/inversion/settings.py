"""Which inversion method, and the few options that methods have."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Method = Literal["ddim", "forward", "swap", "fixed_point", "renoise", "newton", "edict", "bdia", "belm"]

EXACT_METHODS: tuple[Method, ...] = ("edict", "bdia", "belm")
_TWO_STEP_METHODS: tuple[Method, ...] = ("bdia", "belm")


@dataclass(frozen=True)
class InversionSettings:
    """How images are inverted; each option is read by the methods named with it, the others ignore it.

    Args:
        method: one of ``ddim``, ``forward``, ``swap``, ``fixed_point``, ``renoise``, ``newton``, ``edict``, ``bdia``,
            ``belm``; their modules say what they do and where they are from.
        num_replaced: forward, swap: how many of the first inversion steps are replaced (P1's authors: 3 and 5).
        noise_seed: forward: seed of its own noise; must not be the seed of the noises that sampling started from.
        iterations: fixed_point: network evaluations a step.
        damping: fixed_point: share of the old iterate that is kept, 0 up to but not including 1.
        anderson_memory: fixed_point: how many earlier iterates Anderson acceleration combines; 0 turns it off.
        renoise_iterations: renoise: how often a step's estimate is noised again.
        renoise_average: renoise: how many of the last estimates are averaged.
        newton_iterations: newton: network evaluations, each with a gradient, a step.
        newton_prior_weight: newton: weight of the guidance towards the forward process.
        edict_mixing: edict: mixing weight p, above 1/2 and at most 1; rounding errors grow by 1/p² a step.
        bdia_gamma: bdia: weight of the backward integration, above 0 and at most 1; rounding errors grow by 1/gamma a
            step.
    """

    method: Method = "ddim"
    num_replaced: int = 3
    noise_seed: int = 999
    iterations: int = 5
    damping: float = 0.0
    anderson_memory: int = 0
    renoise_iterations: int = 9
    renoise_average: int = 2
    newton_iterations: int = 2
    newton_prior_weight: float = 0.1
    edict_mixing: float = 0.93
    bdia_gamma: float = 1.0

    def check(self, num_steps: int, clip: bool = False, clip_inversion: bool = False) -> None:
        """Raise ValueError for settings that ``num_steps`` steps could not be inverted with, before any work.

        ``clip`` and ``clip_inversion`` are those of the problem.
        """
        if self.method not in get_args(Method):
            raise ValueError(f"inversion.method must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        if self.method == "forward":
            self._check_whole("num_replaced", 0, num_steps - 1, " (with all steps replaced nothing of it is left)")
            self._check_whole("noise_seed", 0, (1 << 64) - 1)
        if self.method == "swap":
            self._check_whole("num_replaced", 0, num_steps)
        if self.method == "fixed_point":
            self._check_whole("iterations", 1)
            self._check_whole("anderson_memory", 0)
            self._check_real("damping", 0 <= self.damping < 1, "at least 0 and below 1")
        if self.method == "renoise":
            self._check_whole("renoise_iterations", 0)
            self._check_whole("renoise_average", 1, self.renoise_iterations + 1, " (renoise_iterations + 1)")
        if self.method == "newton":
            self._check_whole("newton_iterations", 1)
            self._check_real("newton_prior_weight", 0 <= self.newton_prior_weight < math.inf, "at least 0")
        if self.method == "edict":
            self._check_real("edict_mixing", 0.5 < self.edict_mixing <= 1, "above 0.5 and at most 1")
        if self.method == "bdia":
            self._check_real("bdia_gamma", 0 < self.bdia_gamma <= 1, "above 0 and at most 1")
        if self.method in EXACT_METHODS and (clip or clip_inversion):
            raise ValueError(
                f"inversion.method {self.method!r} inverts its sampler exactly, which clipping would prevent: clip and "
                f"clip_inversion must be false, got clip={clip} and clip_inversion={clip_inversion}; turn both off"
            )

    def evaluations(self, num_steps: int, from_image: bool = False) -> tuple[int, int]:
        """Network evaluations per image of (sampling, inversion).

        ``from_image``: inversion starts from a bare image and not from what ``sample`` returned. A ``newton``
        evaluation also takes a gradient, which costs about two more.
        """
        per_step = {
            "fixed_point": self.iterations,
            "renoise": self.renoise_iterations + 1,
            "newton": self.newton_iterations,
            "edict": 2,
        }.get(self.method, 1)
        inversion = num_steps * per_step
        if self.method in ("forward", "swap"):
            inversion -= self.num_replaced
        if self.method in _TWO_STEP_METHODS and not from_image:
            inversion -= 1
        return num_steps * (2 if self.method == "edict" else 1), inversion

    def _check_whole(self, name: str, low: int, high: int | None = None, why: str = "") -> None:
        value = getattr(self, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < low or (high is not None and value > high):
            limits = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
            raise ValueError(f"inversion.{name} must be {limits}{why} for method {self.method!r}, got {value!r}")

    def _check_real(self, name: str, valid: bool, limits: str) -> None:
        if not valid:
            raise ValueError(
                f"inversion.{name} must be {limits} for method {self.method!r}, got {getattr(self, name)!r}"
            )
