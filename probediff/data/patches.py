"""Natural-image patches cut from two photographs that scikit-learn carries: no download."""

import numpy as np
import numpy.typing as npt

from probediff.data.base import ImageDataModule

# Height of both photographs, their shorter side.
LARGEST_PATCH = 427


class Patches(ImageDataModule):
    """RGB patches at random positions of scikit-learn's two photographs (427 x 640 pixels each).

    Args:
        batch_size: Global batch size, shared by all processes; must divide by their number.
        image_size: Height and width of a patch in pixels, 1 .. 427.
        num_images: Number of patches.
        patch_seed: Seed of the positions; the same seed cuts the same patches.
        num_workers: Worker processes that read batches; 0 reads in the training process.

    Raises:
        ValueError: ``image_size`` or ``num_images`` is out of its range.
    """

    channels = 3

    def __init__(
        self,
        batch_size: int = 128,
        image_size: int = 16,
        num_images: int = 20000,
        patch_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if not 1 <= image_size <= LARGEST_PATCH:
            raise ValueError(
                f"image_size must lie in 1..{LARGEST_PATCH}, the height of the photographs, got {image_size}"
            )
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        if patch_seed < 0:
            raise ValueError(f"patch_seed must be at least 0, got {patch_seed}")
        self.image_size = image_size
        self.num_images = num_images
        self.patch_seed = patch_seed

    def load(self) -> npt.NDArray[np.uint8]:
        """Cut the patches: (num_images, 3, image_size, image_size) uint8."""
        from sklearn.datasets import load_sample_images

        photographs = np.stack(load_sample_images().images)
        return cut_patches(photographs, self.image_size, self.num_images, self.patch_seed)


def cut_patches(photographs: npt.NDArray[np.uint8], size: int, num_patches: int, seed: int) -> npt.NDArray[np.uint8]:
    """Square patches at positions drawn uniformly over photographs, rows and columns.

    Args:
        photographs: (P, H, W, C).
        size: Height and width of a patch in pixels.
        num_patches: Number of patches N.
        seed: Seed of the positions.

    Returns:
        (N, C, size, size), a contiguous copy.
    """
    windows = np.lib.stride_tricks.sliding_window_view(photographs, (size, size), axis=(1, 2))
    rng = np.random.default_rng(seed)
    position = tuple(rng.integers(0, extent, num_patches) for extent in windows.shape[:3])
    return np.ascontiguousarray(windows[position])
