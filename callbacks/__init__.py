"""Lightning callbacks that probe a run: when, and on what. The measures are in ``probediff.measures``."""

from callbacks.angles import InversionAngles
from callbacks.assignment import AssignmentAccuracy
from callbacks.base import Probe, ProbeContext
from callbacks.correlation import PixelCorrelation
from callbacks.generation import FixedNoiseGeneration
from callbacks.probing import Probing
from callbacks.schedule import ProbeSchedule
from callbacks.similarity import CheckpointSimilarity
from callbacks.stopping import StoppedBySignalError

__all__ = [
    "AssignmentAccuracy",
    "CheckpointSimilarity",
    "FixedNoiseGeneration",
    "InversionAngles",
    "PixelCorrelation",
    "Probe",
    "ProbeContext",
    "ProbeSchedule",
    "Probing",
    "StoppedBySignalError",
]
