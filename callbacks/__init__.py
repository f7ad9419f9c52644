"""Lightning callbacks that probe a run: when, and on what. The measures are in ``probediff.measures``."""

from callbacks.afterwards import ProbeTask, probe_afterwards, same_numbers
from callbacks.angles import InversionAngles
from callbacks.assignment import AssignmentAccuracy
from callbacks.base import Probe, ProbeContext
from callbacks.correlation import PixelCorrelation
from callbacks.generation import FixedNoiseGeneration
from callbacks.interpolation import LatentInterpolation
from callbacks.noise_image_map import NoiseImageMap
from callbacks.normality import LatentNormality
from callbacks.paper_compat import PaperCompat
from callbacks.probing import Probing
from callbacks.quality import SampleQuality
from callbacks.schedule import ProbeSchedule
from callbacks.similarity import CheckpointSimilarity
from callbacks.stopping import StoppedBySignalError
from callbacks.trajectory import TrajectoryHeatmap
from callbacks.whitening import Whitening

__all__ = [
    "AssignmentAccuracy",
    "CheckpointSimilarity",
    "FixedNoiseGeneration",
    "InversionAngles",
    "LatentInterpolation",
    "LatentNormality",
    "NoiseImageMap",
    "PaperCompat",
    "PixelCorrelation",
    "Probe",
    "ProbeContext",
    "ProbeSchedule",
    "ProbeTask",
    "Probing",
    "SampleQuality",
    "StoppedBySignalError",
    "TrajectoryHeatmap",
    "Whitening",
    "probe_afterwards",
    "same_numbers",
]
