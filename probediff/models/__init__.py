"""Any model that can be probed, ready to use: checkpoints of a run, published ones, the Gaussian of a run's images."""

import importlib
from typing import TYPE_CHECKING, Any

from probediff.models.base import ProbeModel
from probediff.models.wrapped import wrap_network

if TYPE_CHECKING:
    from probediff.models.baseline import fit_gaussian
    from probediff.models.published import load_published
    from probediff.models.run import load_checkpoint_model, load_run_data

__all__ = [
    "ProbeModel",
    "fit_gaussian",
    "load_checkpoint_model",
    "load_published",
    "load_run_data",
    "wrap_network",
]

_HOMES = {
    "fit_gaussian": "baseline",
    "load_checkpoint_model": "run",
    "load_published": "published",
    "load_run_data": "run",
}


def __getattr__(name: str) -> Any:
    """Import what reads runs where it is used: a model of one's own is probed without Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
