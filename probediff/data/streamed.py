"""Sets that are larger than the disk: litdata's chunks, streamed from a bucket."""

from typing import cast

from probediff.data.base import ImageDataModule, cache_folder, check_image_shape
from probediff.data.chunked import CHUNKS_PER_BLOCK, ChunkedBatchSampler
from probediff.data.litdata_chunks import ChunkStore, LitdataImages, is_remote
from probediff.prepare.stream import require_litdata


class StreamedImages(ImageDataModule):
    """Images in litdata's chunks, as ``probediff prepare stream`` writes them, from a bucket or a local folder.

    litdata's own ``StreamingDataset`` deals the chunks out to processes, drops images so that all get as many, and has
    another order on another number of processes, so that not every image comes exactly once an epoch. Here litdata only
    moves chunks, and `ChunkedBatchSampler` gives the order: exact whatever the number of processes, stops and resumes.
    The price is that each machine fetches all chunks each epoch, one block of chunks after the other.

    Args:
        url: s3://, gs://, azure:// or other URL that litdata knows, or a local folder, which is read in place.
        image_size: Height and width in pixels.
        channels: 3 for RGB, 1 for grey.
        batch_size: Global batch size, shared by all processes; must divide by their number.
        num_workers: Worker processes that read batches; they also hide the time that fetching takes.
        cache_dir: Folder of the fetched chunks; by default $XDG_CACHE_HOME/probediff or ~/.cache/probediff.
        max_cache_gb: Size of that folder in GB (1e9 bytes) from which on the chunks opened longest ago are removed.

    Raises:
        ImportError: ``url`` is remote and litdata is not installed.
        ValueError: ``image_size``, ``channels`` or ``max_cache_gb`` is out of its range.
    """

    def __init__(
        self,
        url: str,
        image_size: int,
        channels: int = 3,
        batch_size: int = 128,
        num_workers: int = 0,
        cache_dir: str | None = None,
        max_cache_gb: float = 50.0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_image_shape(image_size, channels)
        if not max_cache_gb > 0:
            raise ValueError(f"max_cache_gb must be above 0, got {max_cache_gb}")
        self.url = url
        self.image_size = image_size
        self.channels = channels
        self.cache_dir = cache_folder(cache_dir)
        self.max_cache_gb = max_cache_gb
        if is_remote(url):
            require_litdata()

    def load(self) -> LitdataImages:
        """The images (N, C, S, S) uint8, fetched chunk by chunk when they are asked for.

        Raises:
            OSError: The index cannot be fetched.
            ValueError: The chunks hold something else, or the cache is too small for the order.
        """
        store = ChunkStore(self.url, self.cache_dir, int(self.max_cache_gb * 1e9))
        return LitdataImages(store, (self.channels, self.image_size, self.image_size), 2 * CHUNKS_PER_BLOCK)

    def order(self, seed: int, rank: int = 0, world_size: int = 1) -> ChunkedBatchSampler:
        """Batches of indices that visit the chunks block by block."""
        counts = cast(LitdataImages, self.images).counts.tolist()
        return ChunkedBatchSampler(counts, self.batch_size, seed, rank, world_size)
