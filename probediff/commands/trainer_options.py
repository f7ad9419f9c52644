"""The options ``--trainer.*``: what Lightning would refuse with a traceback, late, or not at all."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments import (
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from probediff.files.capacity import BATCH_SEC, PROCESS_BYTES, check_memory, check_time

#: Least values; null is always allowed.
_LEAST = {
    "accumulate_grad_batches": 1,
    "num_nodes": 1,
    "max_steps": -1,
    "max_epochs": -1,
    "min_steps": 0,
    "min_epochs": 0,
    "log_every_n_steps": 0,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1,
    "reload_dataloaders_every_n_epochs": 0,
    "fast_dev_run": 0,
    "gradient_clip_val": 0,
}
_ACCELERATORS = {"gpu": ("cuda", "mps"), "auto": ("cpu",)}


def check_trainer_options(chosen: Mapping[str, Any]) -> None:
    """Raise ValueError for options of the trainer that no training can have, before anything is built.

    Args:
        chosen: all options ``--trainer.*`` by name.
    """
    for name, least in _LEAST.items():
        value = chosen[name]
        if value is not None and not least <= value:  # what is no number is not at least anything
            raise ValueError(f"--trainer.{name} must be at least {least}, got {value}")
    if chosen["limit_train_batches"] is not None and not chosen["limit_train_batches"] > 0:
        raise ValueError(
            f"--trainer.limit_train_batches must be above 0, got {chosen['limit_train_batches']}: a share of the "
            f"batches up to 1.0, or their number"
        )
    if chosen["max_steps"] == -1 and chosen["max_epochs"] in (None, -1) and chosen["max_time"] is None:
        raise ValueError(
            "--trainer.max_steps must be set, got -1: without an end there is no last step to probe; give "
            "--trainer.max_steps 1000, or --trainer.max_epochs"
        )
    if chosen["max_time"] is None:
        batches = max(chosen["max_steps"], 1) * chosen["accumulate_grad_batches"]
        name = "--trainer.max_steps times --trainer.accumulate_grad_batches"
        check_time(name, f"{batches:,} batches", batches * BATCH_SEC)
    _check_nodes(chosen["num_nodes"])
    _check_accelerator(chosen["accelerator"])
    _check_devices(chosen["devices"], chosen["accelerator"])


def _check_nodes(num_nodes: int | None) -> None:
    launchers = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
    if (num_nodes or 1) > 1 and "MASTER_ADDR" not in os.environ and not any(each.detect() for each in launchers):
        raise ValueError(
            f"--trainer.num_nodes must be 1 unless other nodes are told of this one, got {num_nodes}, which would wait "
            f"for them forever; start by torchrun or SLURM, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each node"
        )


def _check_accelerator(accelerator: Any) -> None:
    if not isinstance(accelerator, str):
        return
    known = sorted({*AcceleratorRegistry, *_ACCELERATORS})
    if accelerator not in known:
        raise ValueError(f"--trainer.accelerator must be one of {', '.join(known)}, got {accelerator!r}")
    if not any(_is_there(name) for name in _ACCELERATORS.get(accelerator, (accelerator,))):
        raise ValueError(
            f"--trainer.accelerator must be one that this machine has, got {accelerator!r}; leave it out, or give "
            f"--trainer.accelerator cpu; see the options --trainer.*"
        )


def _is_there(name: str) -> bool:
    return bool(AcceleratorRegistry[name]["accelerator"].is_available())


def _check_devices(devices: Any, accelerator: Any) -> None:
    number = int(devices) if isinstance(devices, str) and devices.lstrip("-").isdecimal() else devices
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not any(map(_is_there, _ACCELERATORS["gpu"])))
    least = 1 if on_cpu else -1
    if isinstance(number, int) and (number < least or number == 0):
        raise ValueError(
            f"--trainer.devices must be at least 1, got {devices}: the number of processes; auto is all GPUs, or one "
            f"CPU process"
        )
    if on_cpu and isinstance(number, int):
        check_memory("--trainer.devices", devices, number * PROCESS_BYTES, "each is a process; lower it")
    elif on_cpu and number != "auto":
        raise ValueError(f"--trainer.devices must be a whole number or auto on a CPU, got {devices!r}")


@contextmanager
def explain_trainer_errors(chosen: Mapping[str, Any]) -> Iterator[None]:
    """Raise ValueError with the options that Lightning speaks of where it refuses to build a trainer."""
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        words = " ".join(str(error).split())
        named = [f"{name}={value!r}" for name, value in chosen.items() if name in words or _names(value, words)]
        raise ValueError(
            f"the options --trainer.* must go together, got {', '.join(named) or 'others'}: {words}; change or leave "
            f"out one of them"
        ) from error


def _names(value: Any, words: str) -> bool:
    return isinstance(value, str) and f"{value!r}" in words
