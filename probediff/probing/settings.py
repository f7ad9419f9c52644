"""What a probe pass is told and what it gives, and how a model is looked at without leaving traces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from probediff.files.capacity import EVALUATION_SEC, check_memory, check_time
from probediff.inversion import InversionSettings
from probediff.models.base import ProbeModel
from probediff.noise import MAX_SEED
from probediff.schedule import Convention, NoiseSchedule


@dataclass(frozen=True)
class PassSettings:
    """What a probe pass generates and how; every field goes into every record.

    Args:
        num_samples: N, number of fixed noises.
        num_steps: DDIM steps of sampling and of inversion.
        convention: DDIM convention, ``openai`` (P1) or ``diffusers``.
        clip: clip predicted images to [-1, 1] while sampling.
        clip_inversion: clip predicted images to [-1, 1] while inverting; changes every statistic of the latents.
        noise_seed: seed of the fixed noises (P1: 420); noise i depends on this seed and i only.
        weights: probe the averaged (``ema``) or the ``raw`` weights.
        ema_rate: which average to probe; the first of ``model.ema_rates`` by default.
        batch_size: samples per network evaluation; does not change the numbers.
        inversion: which method inverts the samples, ``ddim`` by default (P1).
    """

    num_samples: int = 1000
    num_steps: int = 100
    convention: Convention = "openai"
    clip: bool = True
    clip_inversion: bool = True
    noise_seed: int = 420
    weights: Literal["ema", "raw"] = "ema"
    ema_rate: float | None = None
    batch_size: int = 128
    inversion: InversionSettings = InversionSettings()  # noqa: RUF009 (frozen)

    def check(self, schedule: NoiseSchedule, image_shape: Sequence[int]) -> None:
        """Raise ValueError for settings that a pass over a model could not run with.

        Args:
            schedule: of the model.
            image_shape: (C, H, W) of what it makes.
        """
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"probing.settings.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.noise_seed <= MAX_SEED:
            limit = "at least 0" if self.noise_seed < 0 else "at most 2**64-1"
            raise ValueError(f"probing.settings.noise_seed must be {limit}, got {self.noise_seed}")
        schedule.ddim_timesteps(self.num_steps, self.convention)
        self.inversion.check(self.num_steps, self.clip, self.clip_inversion)
        # Noises, samples and latents, which are compared as a whole.
        size = 3 * 4 * self.num_samples * math.prod(image_shape)
        check_memory("probing.settings.num_samples", self.num_samples, size, "probe fewer samples")
        evaluations = self.num_samples * sum(self.inversion.evaluations(self.num_steps))
        check_time("a pass", f"{evaluations:,} network evaluations", evaluations * EVALUATION_SEC)

    def check_model(self, model: ProbeModel) -> None:
        """Raise ValueError for settings that a pass over this model could not run with, or that it is not made for."""
        self.check(model.schedule, model.image_shape)
        clipping = [name for name in ("clip", "clip_inversion") if getattr(self, name)]
        if clipping and not model.clip:
            raise ValueError(
                f"probing.settings.{clipping[0]} must be False for a model that was wrapped with clip=False, whose "
                f"images do not lie in [-1, 1], got True"
            )
