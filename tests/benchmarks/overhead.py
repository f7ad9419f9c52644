"""The share of a training step that is not the network: images, randomness, averages, logging, Lightning.

A run of the command line times itself: the loss, the backward pass and the optimiser are the network, all else that
happens between two steps is overhead. Both come from the same steps of the same run.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch

from probediff.training.module import DiffusionModule
from tests.benchmarks.harness import Figure

_WARM_UP = 10
_SMALL_PROBES = (
    *("--probing.schedule.steps", "[]", "--probing.schedule.named", "null"),
    *("--probing.settings.num_samples", "16", "--probing.settings.num_steps", "2"),
)


class StepClock(L.Callback):
    """Adds up the time of the network and of everything, from step ``_WARM_UP`` on."""

    #: The one that the command line has made.
    last: ClassVar[StepClock]

    def __init__(self) -> None:
        StepClock.last = self
        self.network = self.everything = 0.0
        self.steps = 0
        self._mark = self._first = 0.0

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the clock around the loss and the optimiser."""
        assert isinstance(pl_module, DiffusionModule)
        loss = pl_module.loss

        def timed(*arguments: Any) -> torch.Tensor:
            self._mark = self._now()
            value = loss(*arguments)
            self._add()
            return value

        pl_module.loss = timed
        trainer.optimizers[0].register_step_post_hook(lambda *_: self._add())

    def _add(self) -> None:
        now = self._now()
        self.network += now - self._mark
        self._mark = now

    def on_before_backward(self, *_: Any) -> None:
        """What lies between the loss and here is Lightning's."""
        self._mark = self._now()

    def on_after_backward(self, *_: Any) -> None:
        """End of the backward pass; the optimiser follows."""
        self._add()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """The steps that count begin after the warm-up."""
        now = self._now()
        if trainer.global_step == _WARM_UP:
            self._first, self.network = now, 0.0
        self.everything = now - self._first
        self.steps = trainer.global_step - _WARM_UP


def measure(network: str, num_steps: int) -> list[dict[str, Any]]:
    """One figure: per cent of a step beside the network, for the configuration ``network`` as it is."""
    from probediff.commands.fit import fit

    config = {"small": "cifar10_small", "32 px": "cifar10"}[network]
    steps = _WARM_UP + num_steps
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (10_000, 3, 32, 32), dtype=np.uint8)
        np.save(Path(folder) / "train_images.npy", images)
        arguments = ["--config", f"configs/{config}.yaml", "--run_dir", f"{folder}/run", *_SMALL_PROBES]
        arguments += ["--data.root", "null", "--data.download", "false", "--data.arrays", folder]
        arguments += ["--trainer.max_steps", str(steps), "--wandb.mode", "offline"]
        arguments += ["--trainer.callbacks+", "tests.benchmarks.overhead.StepClock"]
        if fit(arguments):
            raise RuntimeError(f"the run failed: probediff fit {' '.join(arguments)}")
    clock = StepClock.last
    share = 1 - clock.network / clock.everything
    case = f"configs/{config}.yaml, all beside the network"
    return [
        Figure(
            "share of a training step",
            case,
            100 * share,
            "per cent",
            note=f"{clock.everything / clock.steps * 1e3:.1f} ms a step, of {clock.steps} steps; W&B offline",
        ).__dict__
    ]
