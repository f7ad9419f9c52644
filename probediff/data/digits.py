"""Handwritten digits that scikit-learn carries: 8 x 8 pixels, grey, no download."""

import numpy as np
import numpy.typing as npt

from probediff.data.base import ImageDataModule


class Digits(ImageDataModule):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, one channel.

    Args:
        batch_size: Global batch size, shared by all processes; must divide by their number.
        num_workers: Worker processes that read batches; 0 reads in the training process.
    """

    image_size = 8
    channels = 1

    def __init__(self, batch_size: int = 128, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)

    def load(self) -> npt.NDArray[np.uint8]:
        """The digits (1797, 1, 8, 8) uint8; the 17 grey levels 0..16 spread over 0..255."""
        from sklearn.datasets import load_digits

        levels: npt.NDArray[np.float64] = load_digits().images
        return np.rint(levels * (255 / 16)).astype(np.uint8)[:, None]
