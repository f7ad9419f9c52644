"""Data modules of unconditional training images, one a data set, and their step-keyed order."""

from probediff.data.base import ImageDataModule, ImageTensors
from probediff.data.cifar10 import CIFAR10
from probediff.data.digits import Digits
from probediff.data.folder import ImageFolder
from probediff.data.imagenet64 import ImageNet64
from probediff.data.patches import Patches
from probediff.data.prepared import PreparedImages
from probediff.data.sampler import StepKeyedBatchSampler
from probediff.data.streamed import StreamedImages

__all__ = [
    "CIFAR10",
    "Digits",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet64",
    "ImageTensors",
    "Patches",
    "PreparedImages",
    "StepKeyedBatchSampler",
    "StreamedImages",
]
