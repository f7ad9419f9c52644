"""ImageNet at 64 x 64 pixels, from a folder of its photographs."""

from probediff.data.folder import ImageFolder


class ImageNet64(ImageFolder):
    """ImageNet's training images at 64 x 64 RGB, resized as Nichol & Dhariwal did; see `ImageFolder`.

    Args:
        path: Folder of the images, searched with all its subfolders (one a class, as ImageNet is unpacked).
        batch_size: Global batch size, shared by all processes; must divide by their number.
        cache_dir: Folder of the decoded images; by default $XDG_CACHE_HOME/probediff or ~/.cache/probediff.
        num_workers: Worker processes that read batches; 0 reads in the training process.
    """

    def __init__(self, path: str, batch_size: int = 128, cache_dir: str | None = None, num_workers: int = 0) -> None:
        super().__init__(path, 64, batch_size, 3, cache_dir, num_workers)
