"""A prepared set as chunks that litdata understands, to be streamed from a bucket."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np

from probediff.display.progress import progress_bar
from probediff.files import PARTIAL, explain_disk_errors, map_array
from probediff.prepare.manifest import Manifest, read_manifest

MISSING_LITDATA = "litdata is not installed; install it with pip install 'probediff[stream]'"


def require_litdata() -> None:
    """Raise unless litdata is there.

    Raises:
        ImportError: It is not; the message names the extra.
    """
    if importlib.util.find_spec("litdata") is None:
        raise ImportError(MISSING_LITDATA)


def write_stream(prepared: Path, out: Path) -> Manifest:
    """Copy a prepared set to a folder that ``litdata.StreamingDataset`` reads: one chunk a shard, one array an image.

    The folder appears when it is whole. Its index carries the time of writing, which litdata puts there.

    Args:
        prepared: Folder that `prepare_images` made.
        out: Folder to make; must not exist, or be empty.

    Raises:
        ImportError: litdata is not installed.
        FileNotFoundError: ``prepared`` is no finished set, or misses shards.
        ValueError: ``out`` is a URL or holds something.
        OSError: ``out`` cannot be written.
    """
    require_litdata()
    manifest = read_manifest(prepared)
    if missing := manifest.missing(prepared):
        raise FileNotFoundError(f"PREPARED misses {', '.join(missing)} in {prepared}; start `probediff prepare` again")
    if ":/" in str(out):
        raise ValueError(
            f"OUT must be a local folder, got {out}; copy it to the bucket afterwards (aws s3 sync OUT URL)"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"OUT must be new or empty, got {out}; name another folder or delete it")
    partial = out.with_name(f".{out.name}{PARTIAL}")
    try:
        with explain_disk_errors(out, "OUT"):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _write_chunks(prepared, manifest, partial)
            partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _write_chunks(prepared: Path, manifest: Manifest, folder: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_size=manifest.identity.images_per_shard)
    index = 0
    with progress_bar(total=manifest.num_images, desc="writing chunks", unit=" images") as bar:
        for shard in manifest.shards:
            images = map_array(prepared / shard.file)
            for image in images:  # litdata takes items one by one
                writer[index] = np.asarray(image)
                index += 1
            bar.update(shard.count)
    writer.done()
    writer.merge()
