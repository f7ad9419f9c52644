"""Checkpoints that appear only when they are whole, and the newest one that loads."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from packaging.version import Version
from torch import nn

from probediff.denoisers import UNet
from probediff.denoisers.architecture import describe_misfit
from probediff.files import read_checkpoint, remove_partials, whole_file
from probediff.models.own_module import RAW_STATE
from probediff.runs.by_step import step_of
from probediff.runs.folder import checkpoints_in
from probediff.training.module import DiffusionModule

#: What Lightning reads of a checkpoint, and the types.
_NEEDED = {
    **{"state_dict": dict, "loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list},
    **{"global_step": int, "epoch": int, "pytorch-lightning_version": str},
}
#: Where the state dict of a training module has the network.
_UNET = "eps_model.unet."


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


def load_checkpoint(path: Path, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """Read a training checkpoint without unpickling code, and check that this training can go on from it.

    Args:
        path: the file; its checksums are compared.
        trainer: the trainer that is to go on, before it has begun.
        module: the module that will be trained on.

    Raises:
        ValueError: it is damaged in any way, no checkpoint of a training, or one of another model; it says why.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    content = checkpoint if isinstance(checkpoint, dict) else {}
    if missing := [name for name, kind in _NEEDED.items() if not isinstance(content.get(name), kind)]:
        raise ValueError(f"{path} is no checkpoint of a training: it lacks {', '.join(missing)}")
    if step_of(path) not in (None, checkpoint["global_step"]):
        raise ValueError(
            f"{path} must be of the step in its name, got step {checkpoint['global_step']}; it was renamed"
        )
    try:
        Version(checkpoint["pytorch-lightning_version"])
        _check_weights(checkpoint["state_dict"], module.state_dict())
        _check_optimizer(checkpoint, cast(DiffusionModule, module))
        _check_structure(checkpoint["loops"]["fit_loop"], trainer.fit_loop.state_dict(), "loops.fit_loop")
        for callback in getattr(trainer, "callbacks", []):
            if state := checkpoint["callbacks"].get(callback.state_key):
                # On a copy: this checkpoint may not be the one that is gone on with.
                copy.copy(callback).load_state_dict(copy.deepcopy(state))
    except Exception as error:  # a part of the wrong type may raise anything
        raise ValueError(f"{path} cannot be gone on with: {error} ({type(error).__name__})") from error
    return dict(checkpoint)


def _check_weights(there: Mapping[str, Any], wanted: Mapping[str, torch.Tensor]) -> None:
    misfit = describe_misfit(*({k.removeprefix(_UNET): v for k, v in state.items()} for state in (there, wanted)))
    cure = f": {misfit}" if misfit else ""
    if differing := sorted(set(there) ^ set(wanted)):
        raise ValueError(f"it is of another model: {len(differing)} tensors differ, {differing[0]} first{cure}")
    for name, tensor in wanted.items():
        if there[name].shape != tensor.shape or there[name].is_floating_point() != tensor.is_floating_point():
            shapes = f"{name} is {tuple(there[name].shape)}, not {tuple(tensor.shape)}"
            raise ValueError(f"it is of another model: {shapes}{cure}")


def _check_optimizer(checkpoint: Mapping[str, Any], module: DiffusionModule) -> None:
    """Whether there is one optimiser that knows every parameter, from the first step on with its state."""
    (optimizer,) = checkpoint["optimizer_states"]
    shapes = [p.shape for p in module.parameters() if p.requires_grad]
    known = [index for group in optimizer["param_groups"] for index in group["params"]]
    if known != list(range(len(shapes))):
        raise ValueError(f"its optimiser must know {len(shapes)} parameters, got {len(known)}")
    wanted, schedules = _states_after_a_step(module, shapes)
    _check_groups("schedule of the learning rate", checkpoint["lr_schedulers"], schedules)
    _check_groups("optimiser", optimizer["param_groups"], wanted["param_groups"])
    stepped = wanted["state"].items() if checkpoint["global_step"] else ()
    if not isinstance(module.eps_model.unet, UNet):  # parts of another network may be unused, and have no state
        stepped = [(index, state) for index, state in stepped if index in optimizer["state"]]
    for index, state in stepped:
        for name, value in state.items():
            value_there = optimizer["state"][index][name]
            if isinstance(value, torch.Tensor) and value_there.shape != value.shape:
                raise ValueError(f"{name} of parameter {index} is {tuple(value_there.shape)}, not {value.shape}")


def _check_groups(kind: str, there: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> None:
    """Whether the settings of an optimiser, or those of schedules, are of the same kind."""
    if len(there) != len(wanted):
        raise ValueError(f"it must have {len(wanted)} of the kind {kind}, got {len(there)}")
    for settings, ours in zip(there, wanted, strict=True):
        # Versions of PyTorch add switches.
        both = {**ours, **settings}
        if differing := [k for k in sorted(ours.keys() ^ settings.keys()) if not isinstance(both[k], bool | None)]:
            raise ValueError(f"it is of another {kind}: they differ in {', '.join(differing)}")


def _states_after_a_step(
    module: DiffusionModule, shapes: list[torch.Size]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the module's optimiser and its schedule, if there is one, would save after a step; nothing is computed."""
    parameters = [nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer, schedule = module.make_optimizer(parameters)
    # An optimiser of one's own may compute what the meta device cannot: its state is not compared then.
    with suppress(Exception):
        optimizer.step()
    return optimizer.state_dict(), [] if schedule is None else [schedule.state_dict()]


def _check_structure(there: Any, wanted: Any, place: str) -> None:
    """Whether everything that a new training would save is there: Lightning reads over what is missing."""
    if isinstance(wanted, dict):
        for key, part in wanted.items():
            if not isinstance(there, dict) or key not in there:
                raise ValueError(f"it lacks {place}.{key}")
            _check_structure(there[key], part, f"{place}.{key}")
    elif isinstance(wanted, int) and not (isinstance(there, int) and there >= 0):
        raise ValueError(f"{place} must be a count, got {there!r}")


def newest_loadable(folder: Path, trainer: L.Trainer, module: L.LightningModule) -> Path | None:
    """The newest checkpoint in ``folder`` that can be gone on with; warnings say why others are passed over."""
    for path in reversed(checkpoints_in(folder).values()):
        try:
            load_checkpoint(path, trainer, module)
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
    # Where Lightning keeps an average, the raw weights stand beside it.
    states = {name: checkpoint[name] for name in ("state_dict", RAW_STATE) if name in checkpoint}
    kept: dict[str, Any] = {
        name: {k: v.half() if v.is_floating_point() else v for k, v in state.items()} for name, state in states.items()
    }
    others = ("global_step", "pytorch-lightning_version", "hyper_parameters")
    kept |= {name: checkpoint[name] for name in others if name in checkpoint}
    with whole_file(path) as file:
        torch.save(kept, file)


def thin_out(folder: Path, keep_full: int) -> None:
    """Keep the newest ``keep_full`` checkpoints of ``folder`` whole and the weights of the one before them.

    Called after every save, so that each checkpoint is thinned out once.
    """
    if older := list(checkpoints_in(folder).values())[:-keep_full]:
        keep_weights_only(older[-1])
