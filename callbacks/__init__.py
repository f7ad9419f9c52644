"""Lightning callbacks that probe a run: when, and on what. The measures are in ``probediff.measures``."""

from probediff.callbacks.angles import InversionAngles
from probediff.callbacks.assignment import AssignmentAccuracy
from probediff.callbacks.base import Probe
from probediff.callbacks.coordinator import Probing
from probediff.callbacks.correlation import PixelCorrelation
from probediff.callbacks.denoiser_structure import DenoiserStructure
from probediff.callbacks.due_steps import ProbeSchedule
from probediff.callbacks.generation import FixedNoiseGeneration
from probediff.callbacks.interpolation import LatentInterpolation
from probediff.callbacks.noise_image_map import NoiseImageMap
from probediff.callbacks.normality import LatentNormality
from probediff.callbacks.paper_compat import PaperCompat
from probediff.callbacks.quality import SampleQuality
from probediff.callbacks.similarity import CheckpointSimilarity
from probediff.callbacks.trajectory import TrajectoryHeatmap
from probediff.callbacks.whitening import Whitening

__all__ = [
    "AssignmentAccuracy",
    "CheckpointSimilarity",
    "DenoiserStructure",
    "FixedNoiseGeneration",
    "InversionAngles",
    "LatentInterpolation",
    "LatentNormality",
    "NoiseImageMap",
    "PaperCompat",
    "PixelCorrelation",
    "Probe",
    "ProbeSchedule",
    "Probing",
    "SampleQuality",
    "TrajectoryHeatmap",
    "Whitening",
]
