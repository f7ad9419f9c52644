"""From a source of image files to a folder of decoded shards, by several processes, restartable."""

import multiprocessing
import shutil
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from probediff.display.progress import progress_bar
from probediff.exceptions import WorkerDiedError
from probediff.files import explain_disk_errors, lock_folder, read_json, remove_partials, whole_file, write_json
from probediff.files.capacity import WORKER_BYTES, check_memory
from probediff.prepare.manifest import (
    MANIFEST,
    UNFINISHED,
    UNREADABLE,
    Identity,
    Manifest,
    Shard,
    identity_from,
    read_manifest,
)
from probediff.prepare.shards import ShardTask, finished_shards, remove_records, start_worker, write_shard
from probediff.prepare.sources import Entry, entries_digest, list_entries
from probediff.prepare.walking import LeftOut

# 25 MB at 64 x 64: little to do again after a kill, few files for 1.3 million images.
IMAGES_PER_SHARD = 2048
CURE = "give the SOURCE and --image_size that it was begun with, or another OUT, or delete it"


def prepare_images(
    source: Path, out: Path, image_size: int, num_workers: int, images_per_shard: int = IMAGES_PER_SHARD
) -> Manifest:
    """Decode all images of ``source`` to ``out``: shards (n, 3, S, S) uint8 and manifest.json, written last.

    Started again after it was stopped in any way, it goes on with the shards that are missing. The content of ``out``
    depends on the names and bytes of the images and on the size only (its manifest counts what else the source holds,
    too), not on the number of processes, the interruptions or whether the images lay in folders or tars.

    Args:
        source: Folder of images, tar file, or folder of class tars.
        out: New or empty folder, or one that an earlier call began.
        image_size: Height and width in pixels.
        num_workers: Number of processes.
        images_per_shard: Source files a shard.

    Raises:
        FileNotFoundError: ``source`` is missing or holds no image.
        ValueError: An argument is out of its range, ``out`` lies in ``source`` or holds something else, or no image
            could be read.
        OSError: ``out`` cannot be written, the disk is full, or a folder of ``source`` cannot be read.
        WorkerDiedError: A worker process was killed.
    """
    _check_arguments(source, out, image_size, num_workers)
    left_out = LeftOut()
    entries = list_entries(source, left_out)
    left_out.tell(source)
    identity = Identity(entries_digest(entries), len(entries), image_size, images_per_shard)
    with explain_disk_errors(out, "OUT"):
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out):
            remove_partials(out)
            shards = _begin(out, identity)
            slices = range(0, len(entries), images_per_shard)
            tasks = [
                ShardTask(out, index, source, entries[start : start + images_per_shard], image_size)
                for index, start in enumerate(slices)
                if index not in shards
            ]
            _check_space(out, sum(len(task.entries) for task in tasks), image_size)
            shards |= _write_all(tasks, num_workers, len(entries))
            manifest = Manifest(identity, tuple(shards[index] for index in sorted(shards)), left_out.counts)
            _finish(out, manifest, entries)
    return manifest


def _check_arguments(source: Path, out: Path, image_size: int, num_workers: int) -> None:
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    check_memory("image_size", image_size, 3 * image_size**2, "lower it")
    check_memory("num_workers", num_workers, num_workers * WORKER_BYTES, "each is a process; lower it")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"OUT must not lie in SOURCE, got {out} in {source}; name a folder outside of it")


def _begin(out: Path, identity: Identity) -> dict[int, Shard]:
    """Make sure that ``out`` is for this set; return the shards that are whole already."""
    shards: dict[int, Shard] = {}
    if (out / MANIFEST).exists():
        manifest = read_manifest(out)
        begun, shards = manifest.identity, dict(enumerate(manifest.shards))
    elif (out / UNFINISHED).exists():
        begun = _read_unfinished(out / UNFINISHED)
    elif entry := next(out.iterdir(), None):
        raise ValueError(
            f"OUT must be new, empty or begun by this command, got {out}, which holds {entry.name}; name another"
        )
    else:
        write_json(out / UNFINISHED, asdict(identity))
        return {}
    if begun != identity:
        raise ValueError(f"OUT must be for this SOURCE and size, got {out} with {_difference(begun, identity)}; {CURE}")
    # A shard that was made anew after the manifest has a record of its own until the manifest is, too.
    shards |= finished_shards(out)
    return {index: shard for index, shard in shards.items() if shard.is_present(out, identity.image_size)}


def _read_unfinished(path: Path) -> Identity:
    try:
        return identity_from(read_json(path))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"OUT must be begun by this command, got {path}, which is damaged ({error}); {CURE}"
        ) from error


def _difference(begun: Identity, identity: Identity) -> str:
    if begun.image_size != identity.image_size:
        return f"images of {begun.image_size} pixels (now {identity.image_size})"
    if begun.decoding_version != identity.decoding_version:
        return (
            f"a set of version {begun.decoding_version} of the decoding (now {identity.decoding_version}), which can "
            "be trained on if it is finished, but not gone on with"
        )
    if begun.source_sha256 != identity.source_sha256:
        return f"{begun.num_entries} files of other names or sizes (now {identity.num_entries})"
    return "a set of another version of this program"


def _check_space(out: Path, num_images: int, image_size: int) -> None:
    needed, free = num_images * 3 * image_size**2, shutil.disk_usage(out).free
    if needed > free:
        raise OSError(
            f"OUT needs {needed / 1e9:.1f} GB more, got {out} with {free / 1e9:.1f} GB free; free some or choose "
            "another disk"
        )


def _write_all(tasks: list[ShardTask], num_workers: int, num_entries: int) -> dict[int, Shard]:
    """Run the tasks in processes of their own, which the first error stops."""
    shards: dict[int, Shard] = {}
    left = sum(len(task.entries) for task in tasks)
    # A fresh interpreter in each worker: forking a process that has threads may hang.
    context = multiprocessing.get_context("spawn")
    with (
        progress_bar(total=num_entries, initial=num_entries - left, desc="preparing", unit=" images") as bar,
        ProcessPoolExecutor(max(1, min(num_workers, len(tasks))), context, start_worker) as pool,
    ):
        try:
            futures: dict[Future[Shard], ShardTask] = {pool.submit(write_shard, task): task for task in tasks}
            for future in as_completed(futures):
                task = futures.pop(future)
                shards[task.index] = future.result()
                bar.update(len(task.entries))
        except BrokenProcessPool as error:
            raise WorkerDiedError(
                "a worker process was killed (out of memory?); start the same command again with a smaller "
                "--num_workers: it goes on from the parts that are done"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return shards


def _finish(out: Path, manifest: Manifest, entries: list[Entry]) -> None:
    """Write the list of unreadable files and the manifest, then remove what only a restart needs."""
    if manifest.num_images == 0:
        name, reason = manifest.unreadable[0]
        raise ValueError(
            f"SOURCE must hold images that can be read, got {len(entries)} files and none of them can ({name}: "
            f"{reason}); check the files and --image_size, and delete {out}"
        )
    with whole_file(out / UNREADABLE) as file:
        lines = ["name\treason", *(f"{_one_line(name)}\t{reason}" for name, reason in manifest.unreadable)]
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    manifest.write(out)
    (out / UNFINISHED).unlink(missing_ok=True)
    remove_records(out)
    remove_partials(out)


def _one_line(name: str) -> str:
    return name.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
