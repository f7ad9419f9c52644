"""Checkpoints that appear only when they are whole, and the newest one that loads."""

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from probediff.files import read_checkpoint, remove_partials, whole_file
from probediff.runs.folder import checkpoints_in

_NEEDED = ("state_dict", "global_step", "loops", "optimizer_states", "callbacks")


class _WholeFileIO(TorchCheckpointIO):
    """Writes whole files only, and keeps a failure instead of raising it.

    Lightning waits for all processes after the first one has written, so that an error there would hang the others.
    """

    failure: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        try:
            remove_partials(Path(path).parent)
            with whole_file(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its file writer.
            self.failure = error


def save_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Save a checkpoint under ``path``; every process must call this, the first one writes.

    A kill or a full disk leaves no file of that name; see `probediff.files.whole_file`.

    Raises:
        OSError: when it cannot be written (on the first process only).
    """
    lightnings_io, whole_file_io = trainer.strategy.checkpoint_io, _WholeFileIO()
    trainer.strategy.checkpoint_io = whole_file_io
    try:
        trainer.save_checkpoint(path, weights_only=False)
    finally:
        trainer.strategy.checkpoint_io = lightnings_io
    if whole_file_io.failure is not None:
        raise OSError(f"the checkpoint {path} could not be written: {whole_file_io.failure}") from whole_file_io.failure


def load_checkpoint(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """Read a training checkpoint without unpickling code.

    Args:
        path: the file.
        keys: keys of the state dict of the module that will be trained on.

    Raises:
        ValueError: when it is truncated, no checkpoint of a training, or one of another model.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    if missing := [name for name in _NEEDED if not isinstance(checkpoint, dict) or name not in checkpoint]:
        raise ValueError(f"{path} is no checkpoint of a training: it lacks {', '.join(missing)}")
    if differing := sorted(set(checkpoint["state_dict"]) ^ set(keys)):
        raise ValueError(
            f"{path} is a checkpoint of another model: {len(differing)} tensors differ, {differing[0]} first"
        )
    return dict(checkpoint)


def newest_loadable(folder: Path, keys: Collection[str]) -> Path | None:
    """The newest checkpoint in ``folder`` that loads; others are passed over with a warning that names them."""
    for path in reversed(checkpoints_in(folder).values()):
        try:
            load_checkpoint(path, keys)
        except ValueError as error:
            warnings.warn(f"passing over a checkpoint: {error}", stacklevel=2)
        else:
            return path
    return None


def keep_weights_only(path: Path) -> None:
    """Rewrite a full checkpoint with its raw and averaged weights alone, in float16; others are left as they are.

    A quarter of the size with one average (before: weights, average and two moments of the optimiser in float32).
    Probes still run on it, within the rounding to 11 bits; training cannot go on from it.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    if "optimizer_states" not in checkpoint:
        return
    weights = {k: v.half() if v.is_floating_point() else v for k, v in checkpoint["state_dict"].items()}
    kept = {"state_dict": weights} | {name: checkpoint[name] for name in ("global_step", "pytorch-lightning_version")}
    with whole_file(path) as file:
        torch.save(kept, file)


def thin_out(folder: Path, keep_full: int) -> None:
    """Keep the newest ``keep_full`` checkpoints of ``folder`` whole and the weights of the one before them.

    Called after every save, so that each checkpoint is thinned out once.
    """
    if older := list(checkpoints_in(folder).values())[:-keep_full]:
        keep_weights_only(older[-1])
