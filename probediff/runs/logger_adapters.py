"""Results on their way to any logger of Lightning: numbers to all of them, the rest in the way of those that can."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from probediff.runs.folder import END_OF_EVENT
from probediff.runs.results import CheckpointLogger, ProbeResult, ResultLogger, errors_of, scalars_of

#: The checkpoint of an event and the digest of the weights in it.
Checkpoint = tuple[Path, str]


class LoggerAdapter:
    """Hands results to one logger, whose first failure is told, and the last thing that it gets.

    This one does it by ``log_metrics``, which every logger has; pictures go to those that have a ``log_image``.

    Args:
        logger: of Lightning, or any other with a ``log_metrics(metrics, step)``.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self._failed = False

    def log_event(self, step: int, results: Mapping[str, ProbeResult], checkpoint: Checkpoint | None = None) -> None:
        """Log what probes found at one step.

        Args:
            step: training step.
            results: by the name of the probe.
            checkpoint: that of the step, where there is one.
        """
        self.attempt(lambda: self._send(step, results, checkpoint))

    def attempt(self, action: Callable[[], object]) -> None:
        """Run an action on the logger, unless it has failed before."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            warnings.warn(
                f"{type(self.logger).__name__} failed and gets no more results of probes "
                f"({type(error).__name__}: {error}). Training goes on; everything is in the run's own records.",
                stacklevel=4,
            )

    def _send(self, step: int, results: Mapping[str, ProbeResult], _: Checkpoint | None) -> None:
        if numbers := scalars_of(results) | errors_of(results):
            self.logger.log_metrics(numbers, step)
        for probe, result in results.items():
            for name, picture in result.pictures.items():
                self._show(f"probe/{probe}/{name}", picture, step)
        # What a killed process holds in its memory is lost with it. Loggers that are not Lightning's may not have it.
        if hasattr(self.logger, "save"):
            self.logger.save()

    def _show(self, key: str, picture: Tensor, step: int) -> None:
        if hasattr(self.logger, "log_image"):
            self.logger.log_image(key=key, images=[picture.permute(1, 2, 0).numpy()], step=step)


class _TensorBoardAdapter(LoggerAdapter):
    def _show(self, key: str, picture: Tensor, step: int) -> None:
        self.logger.experiment.add_image(key, picture, step)

    def _send(self, step: int, results: Mapping[str, ProbeResult], checkpoint: Checkpoint | None) -> None:
        for probe, result in results.items():
            for name in result.histograms:
                if len(values := result.finite_values(name)):
                    self.logger.experiment.add_histogram(f"probe/{probe}/{name}_histogram", values, step)
        super()._send(step, results, checkpoint)


class _WandbAdapter(LoggerAdapter):
    """Of W&B's steps an event takes one, so that all of it stands at one training step."""

    def _send(self, step: int, results: Mapping[str, ProbeResult], _: Checkpoint | None) -> None:
        from probediff.runs.wandb_media import payload_of

        payload: dict[str, Any] = {}
        for probe, result in results.items():
            payload |= payload_of(step, probe, result)
        self.logger.log_metrics(payload, step)


class _ResultAdapter(LoggerAdapter):
    """For loggers that know what a result is."""

    logger: ResultLogger

    def _send(self, step: int, results: Mapping[str, ProbeResult], checkpoint: Checkpoint | None) -> None:
        for probe, result in results.items():
            # The last of an event: who finds it in a log knows that the checkpoint was told of.
            if probe == END_OF_EVENT and checkpoint is not None and isinstance(self.logger, CheckpointLogger):
                self.logger.log_checkpoint(step, *checkpoint)
            self.logger.log_result(step, probe, result)


def adapt(logger: Any) -> LoggerAdapter:
    """The way to hand results to a logger.

    Raises:
        ValueError: it is no logger.
    """
    if isinstance(logger, ResultLogger):
        return _ResultAdapter(logger)
    if not hasattr(logger, "log_metrics"):
        raise ValueError(f"loggers must have log_metrics(metrics, step), got a {type(logger).__name__}")
    # Whoever has a logger of Lightning has imported it, and a loop without a trainer needs not to.
    for module, name, way in _WAYS:
        if module in sys.modules and isinstance(logger, getattr(sys.modules[module], name)):
            return way(logger)
    return LoggerAdapter(logger)


_WAYS: tuple[tuple[str, str, type[LoggerAdapter]], ...] = (
    ("lightning.fabric.loggers.tensorboard", "TensorBoardLogger", _TensorBoardAdapter),
    ("lightning.pytorch.loggers.wandb", "WandbLogger", _WandbAdapter),
)
