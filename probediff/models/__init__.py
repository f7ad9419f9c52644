"""Any model that can be probed, ready to use: checkpoints of a run, published ones, the Gaussian of a run's images."""

from probediff.models.base import ProbeModel
from probediff.models.baseline import fit_gaussian
from probediff.models.published import load_published
from probediff.models.run import load_checkpoint_model, load_run_data

__all__ = [
    "ProbeModel",
    "fit_gaussian",
    "load_checkpoint_model",
    "load_published",
    "load_run_data",
]
