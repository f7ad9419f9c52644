"""Streaming from litdata's chunks: the bounded cache, two processes, stops and resumes."""

import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from probediff.data import ImageTensors, StreamedImages
from probediff.data.base import StepKeyedLoader
from probediff.prepare.images import prepare_images
from probediff.prepare.stream import write_stream

pytest.importorskip("litdata")
NUM_IMAGES = 200


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images of 4 x 4 pixels that carry their number, in 41 shards, one of which is empty."""
    root = tmp_path_factory.mktemp("streamed")
    (root / "source").mkdir()
    for index in range(NUM_IMAGES):
        image = np.full((4, 4, 3), index, np.uint8)
        image[:, :, 1] = np.random.default_rng(index).integers(0, 256, (4, 4))
        Image.fromarray(image).save(root / "source" / f"{index:03}.png")
    for letter in "abcde":
        (root / "source" / f"099{letter}.png").write_text("no image")
    prepare_images(root / "source", root / "prepared", 4, 1, images_per_shard=5)
    return root / "prepared"


@pytest.fixture(scope="module")
def stream(prepared: Path) -> Path:
    write_stream(prepared, prepared.parent / "stream")
    return prepared.parent / "stream"


def whole(prepared: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(prepared.glob("*.npy"))])


def loaded(url: str, tmp_path: Path, **options: Any) -> StreamedImages:
    data = StreamedImages(url, 4, batch_size=16, cache_dir=str(tmp_path / "cache"), **options)
    data.setup("fit")
    return data


def test_litdata_reads_what_was_written(prepared: Path, stream: Path) -> None:
    """litdata's own reader is the oracle of the format."""
    from litdata import StreamingDataset

    dataset = StreamingDataset(str(stream))
    images = np.stack([dataset[index] for index in range(len(dataset))])
    np.testing.assert_array_equal(images, whole(prepared))


def test_what_litdata_writes_is_read(tmp_path: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    images = np.random.default_rng(0).integers(0, 256, (11, 1, 4, 4), dtype=np.uint8)
    writer = BinaryWriter(str(tmp_path / "stream"), chunk_size=4)
    for index, image in enumerate(images):
        writer[index] = image
    writer.done()
    writer.merge()
    data = loaded(str(tmp_path / "stream"), tmp_path, channels=1)
    np.testing.assert_array_equal(data.images[np.arange(11)], images)


@pytest.mark.parametrize("scheme", ["", "local:"])
def test_streamed_equals_prepared(prepared: Path, stream: Path, tmp_path: Path, scheme: str) -> None:
    data = loaded(f"{scheme}{stream}", tmp_path)
    rows = np.random.default_rng(0).permutation(NUM_IMAGES)
    np.testing.assert_array_equal(data.images[rows], whole(prepared)[rows])
    assert (tmp_path / "cache").exists() == bool(scheme)
    copy = pickle.loads(pickle.dumps(data.images))
    np.testing.assert_array_equal(copy[rows], whole(prepared)[rows])


def test_the_cache_stays_bounded(prepared: Path, stream: Path, tmp_path: Path) -> None:
    """Two epochs with room for 33 of 40 chunks, fetched one at a time."""
    chunk_bytes = (stream / "chunk-0-0.bin").stat().st_size
    data = loaded(f"local:{stream}", tmp_path, max_cache_gb=33 * chunk_bytes / 1e9)
    expected = whole(prepared)
    sampler, most = data.order(seed=0), 0
    for step in range(2 * NUM_IMAGES // 16):
        for row in sampler.batch_indices(step).numpy():
            np.testing.assert_array_equal(data.images[np.array([row])][0], expected[row])
        most = max(most, len(list((tmp_path / "cache").rglob("*.bin"))))
    assert 30 <= most <= 33
    with pytest.raises(ValueError, match=r"max_cache_gb must be at least .* for this set, got .*; or chunks would be"):
        loaded(f"local:{stream}", tmp_path, max_cache_gb=31 * chunk_bytes / 1e9)


def test_a_chunk_that_another_process_removed_is_fetched_again(stream: Path, prepared: Path, tmp_path: Path) -> None:
    data = loaded(f"local:{stream}", tmp_path)
    _ = data.images[np.arange(NUM_IMAGES)]
    for path in (tmp_path / "cache").rglob("*.bin"):
        path.unlink()
    np.testing.assert_array_equal(data.images[np.arange(NUM_IMAGES)], whole(prepared))


def read_as_rank(stream: Path, cache: Path, rank: int, steps: range) -> None:
    """Write the numbers of the images that one of two processes reads, as its loader gives them."""
    data = StreamedImages(f"local:{stream}", 4, batch_size=16, cache_dir=str(cache))
    data.setup("fit")
    sampler = data.order(seed=7, rank=rank, world_size=2)
    sampler.follow(lambda: steps.start)
    loader = StepKeyedLoader(ImageTensors(data.images), batch_sampler=sampler, collate_fn=lambda batch: batch)
    seen = [number for batch, _ in zip(loader, steps, strict=False) for number in numbers(batch)]
    (cache.parent / f"{rank}.txt").write_text(",".join(map(str, seen)))


def numbers(batch: torch.Tensor) -> list[int]:
    return [int(number) for number in ((batch[:, 0, 0, 0] + 1) * 127.5).round()]


def ranks_see(stream: Path, cache: Path, steps: range) -> np.ndarray:
    """Numbers (steps, 16) of the images that two processes at once read."""
    # Forked: a fresh interpreter would take seconds to import Lightning.
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=read_as_rank, args=(stream, cache, rank, steps)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
        assert process.exitcode == 0
    parts = [np.fromstring((cache.parent / f"{rank}.txt").read_text(), sep=",", dtype=int) for rank in range(2)]
    return np.concatenate([part.reshape(len(steps), 8) for part in parts], axis=1)


def test_two_processes_stopped_and_resumed_see_every_image_once(stream: Path, tmp_path: Path) -> None:
    """12.5 batches an epoch: a stop after 5 lies within it; the half batch belongs to the next epoch."""
    parts = [ranks_see(stream, tmp_path / "cache", steps) for steps in (range(5), range(5, 13))]
    seen = np.concatenate(parts)
    assert seen.shape == (13, 16)
    np.testing.assert_array_equal(np.sort(seen.reshape(-1)[:NUM_IMAGES]), np.arange(NUM_IMAGES))


class Recorder(lightning.LightningModule):
    """Remembers the numbers of the images it is given."""

    seed = 7

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen += numbers(batch)
        return self.weight * batch.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(stream: Path, tmp_path: Path, max_steps: int, checkpoint: Path | None = None) -> tuple[Recorder, Any]:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    rest = {"enable_checkpointing": False, "default_root_dir": tmp_path, "use_distributed_sampler": False}
    model, trainer = Recorder(), lightning.Trainer(max_steps=max_steps, **quiet, **rest)
    data = StreamedImages(f"local:{stream}", 4, batch_size=16, cache_dir=str(tmp_path / "cache"))
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    return model, trainer


def test_a_run_resumed_from_its_checkpoint_sees_every_image_once(stream: Path, tmp_path: Path) -> None:
    first, trainer = fit(stream, tmp_path, 5)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    second, _ = fit(stream, tmp_path, 25, tmp_path / "stopped.ckpt")
    epochs = np.reshape(first.seen + second.seen, (2, NUM_IMAGES))
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(NUM_IMAGES), (2, 1)))
    assert (epochs[0] != epochs[1]).any()


def test_missing_litdata_names_the_extra(
    prepared: Path, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for action in (lambda: StreamedImages("s3://bucket/set", 64), lambda: write_stream(prepared, tmp_path / "out")):
        with pytest.raises(ImportError, match=r"litdata is not installed; .* pip install 'probediff\[stream\]'"):
            action()
    StreamedImages(str(stream), 4).setup("fit")


def test_wrong_sets_are_refused(stream: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"url must hold litdata's index.json, got .*; give the folder or URL"):
        loaded(str(tmp_path), tmp_path)
    with pytest.raises(OSError, match=r"index.json cannot be fetched .*; give the folder or URL"):
        loaded(f"local:{tmp_path}", tmp_path)
    with pytest.raises(ValueError, match=r"url must hold uint8 arrays \(1, 4, 4\), got others in .*; set image_size"):
        _ = loaded(str(stream), tmp_path, channels=1).images[np.array([0])]
    other = tmp_path / "other"
    shutil.copytree(stream, other)
    (other / "chunk-0-3.bin").write_bytes(b"short")
    with pytest.raises(OSError, match=r"must have \d+ bytes, got 5; delete it, and copy the set again"):
        _ = loaded(str(other), tmp_path).images[np.arange(NUM_IMAGES)]
    (other / "chunk-0-3.bin").unlink()
    with pytest.raises(OSError, match=r"chunk-0-3.bin cannot be fetched"):
        _ = loaded(f"local:{other}", tmp_path).images[np.arange(NUM_IMAGES)]
    content = json.loads((other / "index.json").read_text())
    wrong = {
        json.dumps(content | {"config": content["config"] | {"compression": "zstd"}}): "one plain NumPy array an item",
        json.dumps(content | {"chunks": []}): "at least one chunk",
        "{}": "a damaged one",
    }
    for text, message in wrong.items():
        (other / "index.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            loaded(str(other), tmp_path)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        StreamedImages("a", 0)
    with pytest.raises(ValueError, match=r"channels must be 3 \(RGB\) or 1 \(grey\), got 2"):
        StreamedImages("a", 8, 2)
    with pytest.raises(ValueError, match="max_cache_gb must be above 0, got 0"):
        StreamedImages("a", 8, max_cache_gb=0)
    with pytest.raises(RuntimeError, match=r"nothing is loaded yet; call setup\('fit'\) first"):
        StreamedImages("a", 8).order(0)


def test_streams_are_written_whole_or_not_at_all(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("x")
    with pytest.raises(ValueError, match=r"OUT must be new or empty, got .*full; name another folder or delete it"):
        write_stream(prepared, tmp_path / "full")
    with pytest.raises(ValueError, match=r"OUT must be a local folder, got s3:/.*; copy it to the bucket afterwards"):
        write_stream(prepared, Path("s3://bucket/set"))
    broken = tmp_path / "broken"
    shutil.copytree(prepared, broken)
    os.unlink(broken / "images-00007.npy")
    with pytest.raises(FileNotFoundError, match=r"PREPARED misses images-00007.npy in .*; start `probediff prepare`"):
        write_stream(broken, tmp_path / "out")

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("litdata.streaming.writer.BinaryWriter.merge", full_disk)
    with pytest.raises(OSError, match=r"OUT: no space left to write .*out \(No space left on device\); free some"):
        write_stream(prepared, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "full"]
