"""When probes run: at which training steps, also by the lists of *There and Back Again*."""

from dataclasses import dataclass
from typing import Literal

import lightning as L

#: Steps at which the authors of *There and Back Again* saved checkpoints of their CIFAR-10 runs.
P1_CIFAR10 = frozenset({5, 10, 25, *range(50, 401, 50), *range(390, 39_001, 390), *range(39_390, 500_001, 1_950)})
#: The same for their ImageNet runs (the last one is as far as they trained).
P1_IMAGENET64 = frozenset({5, 10, 25, 50, 100, *range(250, 10_308, 250), *range(10_307, 1_500_001, 10_307)})

#: Each is a file, and counting them takes longer than training where there are more.
_MOST_CHECKPOINTS = 1_000_000
_NAMED = {"p1_cifar10": P1_CIFAR10, "p1_imagenet64": P1_IMAGENET64}


@dataclass(frozen=True)
class ProbeSchedule:
    """Training steps at which a checkpoint is saved and probed: the union of all that is given here.

    Step 0 (before training) and the last step are always probed.

    Args:
        steps: a list of steps.
        every_n_steps: every so many steps.
        per_decade: so many steps per factor of ten, evenly spaced on a logarithmic axis.
        named: the authors' list, ``p1_cifar10`` or ``p1_imagenet64``.
    """

    steps: tuple[int, ...] = ()
    every_n_steps: int | None = None
    per_decade: int | None = None
    named: Literal["p1_cifar10", "p1_imagenet64"] | None = None

    def check(self, last_step: int) -> None:
        """Raise ValueError for negative steps, intervals below 1, and more checkpoints than a folder can hold.

        Args:
            last_step: of the training; -1 where it is not known yet.
        """
        for name, value in (("every_n_steps", self.every_n_steps), ("per_decade", self.per_decade)):
            if value is not None and value < 1:
                raise ValueError(f"probing.schedule.{name} must be at least 1, got {value}")
        if any(step < 0 for step in self.steps):
            raise ValueError(f"probing.schedule.steps must be at least 0, got {sorted(self.steps)[:3]}")
        counts = {
            "every_n_steps": last_step // self.every_n_steps if self.every_n_steps else 0,
            "per_decade": (self.per_decade or 0) * len(str(last_step)),
        }
        for name, count in counts.items():
            if count > _MOST_CHECKPOINTS:
                raise ValueError(
                    f"probing.schedule.{name} must lead to at most {_MOST_CHECKPOINTS:,} checkpoints, got "
                    f"{getattr(self, name)}, which leads to {count:,} in {last_step:,} steps; probe less often"
                )

    def until(self, last_step: int) -> frozenset[int]:
        """All due steps in 0..``last_step``.

        Raises:
            ValueError: as ``check``.
        """
        self.check(last_step)
        due = {0, last_step, *self.steps, *(_NAMED[self.named] if self.named else ())}
        if self.every_n_steps is not None:
            due.update(range(self.every_n_steps, last_step, self.every_n_steps))
        if self.per_decade is not None:
            count = self.per_decade * len(str(last_step))
            due.update(round(10 ** (k / self.per_decade)) for k in range(count + 1))
        return frozenset(step for step in due if step <= last_step)


def last_step(trainer: L.Trainer, module: L.LightningModule) -> int:
    """The last step of the training, as ``trainer.global_step`` counts; a later one where that is not known before."""
    if not module.automatic_optimization:  # steps as often in a batch as it likes
        return trainer.max_steps if trainer.max_steps != -1 else _MOST_CHECKPOINTS
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 <= steps < float("inf") else _MOST_CHECKPOINTS  # of data without a length
