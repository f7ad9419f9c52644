"""The data modules: what they load, refuse, and feed to a real Trainer."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from probediff.data import CIFAR10, Digits, ImageDataModule, ImageTensors, Patches, StepKeyedBatchSampler
from probediff.data.patches import cut_patches


class Given(ImageDataModule):
    """Serves a given array as 4 x 4 RGB."""

    image_size = 4
    channels = 3

    def __init__(self, array: Any, batch_size: int = 2, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        self.array = array

    def load(self) -> Any:
        return self.array


class Recorder(lightning.LightningModule):
    """Remembers every batch it is given."""

    def __init__(self, seed: Any = 3) -> None:
        super().__init__()
        self.seed = seed
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.clone())
        return self.weight * batch.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def a_trainer(tmp_path: Path, **options: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    rest = {"enable_checkpointing": False, "default_root_dir": tmp_path, "use_distributed_sampler": False}
    return lightning.Trainer(**quiet, **rest, **options)


def random_bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def expected_batches(data: ImageDataModule, steps: range, seed: int = 3) -> list[torch.Tensor]:
    """What (seed, step) alone says each batch must be."""
    sampler = StepKeyedBatchSampler(len(data.images), data.batch_size, seed)
    images = torch.from_numpy(np.array(data.images)).float() / 127.5 - 1
    return [images[sampler.batch_indices(step)] for step in steps]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(actual) == len(expected)
    torch.testing.assert_close(torch.stack(actual), torch.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_three_epochs_follow_the_step(tmp_path: Path, num_workers: int) -> None:
    data, model = Digits(400, num_workers), Recorder()
    a_trainer(tmp_path, max_epochs=3).fit(model, data)
    assert_same(model.seen, expected_batches(data, range(12)))
    assert not torch.equal(model.seen[0], model.seen[4])


@pytest.mark.filterwarnings("error:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(("stop", "num_workers"), [(3, 0), (4, 0), (6, 0), (6, 1)])
def test_a_resumed_run_sees_the_same_images(tmp_path: Path, stop: int, num_workers: int) -> None:
    first, second = Recorder(), Recorder()
    trainer = a_trainer(tmp_path, max_steps=stop)
    trainer.fit(first, Digits(400, num_workers))
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    data = Digits(400, num_workers)
    a_trainer(tmp_path, max_steps=9).fit(second, data, ckpt_path=tmp_path / "stopped.ckpt", weights_only=True)
    assert_same(first.seen + second.seen, expected_batches(data, range(9)))


def test_short_epochs_skip_no_image(tmp_path: Path) -> None:
    data, model = Digits(400), Recorder()
    a_trainer(tmp_path, max_epochs=3, limit_train_batches=2).fit(model, data)
    assert_same(model.seen, expected_batches(data, range(6)))


def test_a_module_without_a_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Recorder.seed must be an int .* got None; set self.seed"):
        a_trainer(tmp_path, max_epochs=1).fit(Recorder(seed=None), Digits(400))


def test_loader_without_a_trainer() -> None:
    data = Digits(700)
    data.setup("fit")
    loader = data.train_dataloader()
    assert len(loader) == 2
    assert not loader.pin_memory
    assert_same(list(loader), expected_batches(data, range(2), seed=0))


def test_scaling_is_exact_at_both_ends() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(64, 1, 2, 2)
    images = ImageTensors(levels)
    batch = images.__getitems__([0, 63, 1])
    assert batch.dtype == torch.float32
    assert (batch.min(), batch.max()) == (-1, 1)
    assert torch.equal(images[1], batch[2])
    torch.testing.assert_close(batch[1].double(), torch.tensor([[[252.0, 253], [254, 255]]]).double() / 127.5 - 1)


def test_a_read_only_memory_map_with_channels_last(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_bytes(7, 4, 4, 3))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    data = Given(mapped.transpose(0, 3, 1, 2), batch_size=7)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.is_contiguous()
    assert_same([batch], expected_batches(data, range(1), seed=0))
    assert isinstance(data.images, np.memmap)


def test_tensors_are_taken_and_loaded_once() -> None:
    data = Given(torch.from_numpy(random_bytes(5, 3, 4, 4)))
    data.setup("fit")
    data.array = None
    data.setup("fit")
    np.testing.assert_array_equal(data.images, random_bytes(5, 3, 4, 4))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 3, 4, 4), np.uint8), "images must hold at least one image, got 0"),
        (
            np.zeros((2, 3, 4, 5), np.uint8),
            r"images must have shape \(N, 3, 4, 4\), got \(2, 3, 4, 5\); set image_size",
        ),
        (np.zeros((2, 1, 4, 4), np.uint8), r"got \(2, 1, 4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"got \(3, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.float32), r"images must be uint8 \(0..255\), got float32; scale"),
    ],
)
def test_wrong_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Given(array).setup("fit")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Digits(0)
    with pytest.raises(ValueError, match="num_workers must be at least 0, got -1"):
        Digits(1, -1)
    with pytest.raises(RuntimeError, match=r"Digits.images: nothing is loaded yet; call setup\('fit'\)"):
        _ = Digits().images
    with pytest.raises(ValueError, match=r"image_size must lie in 1..427, .* got 428"):
        Patches(image_size=428)
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        Patches(num_images=0)
    with pytest.raises(ValueError, match="patch_seed must be at least 0, got -1"):
        Patches(patch_seed=-1)


def test_digits_equal_scikit_learns() -> None:
    data = Digits()
    data.setup("fit")
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.images.max() == 255
    np.testing.assert_allclose(data.images[:, 0] / 255 * 16, load_digits().images, atol=0.04)


def test_patches_lie_in_the_photographs() -> None:
    data = Patches(image_size=9, num_images=40)
    data.setup("fit")
    assert data.images.shape == (40, 3, 9, 9)
    photographs = np.stack(load_sample_images().images).transpose(0, 3, 1, 2)
    corner = data.images[:, :, 0, 0]
    for patch, pixel in zip(data.images[:10], corner[:10], strict=True):
        places = np.argwhere((photographs == pixel[None, :, None, None]).all(axis=1))
        fits = (photographs[p, :, r : r + 9, c : c + 9] for p, r, c in places)
        assert any(np.array_equal(found, patch) for found in fits)


def test_patches_follow_their_seed_and_reach_every_position() -> None:
    codes = np.arange(2 * 5 * 4).reshape(2, 5, 4, 1).astype(np.uint8)
    patches = cut_patches(codes, 2, 500, seed=1)
    assert patches.shape == (500, 1, 2, 2)
    assert len(np.unique(patches[:, 0, 0, 0])) == 2 * 4 * 3
    np.testing.assert_array_equal(patches[:, 0, 1, 1] - patches[:, 0, 0, 0], 5)
    np.testing.assert_array_equal(patches, cut_patches(codes, 2, 500, seed=1))
    assert (patches != cut_patches(codes, 2, 500, seed=2)).any()


def loaded(**arguments: Any) -> np.ndarray:
    data = CIFAR10(**arguments)
    data.prepare_data()
    data.setup("fit")
    return data.images


def test_cifar10_takes_files_pairs_and_folders(tmp_path: Path) -> None:
    images = random_bytes(6, 3, 32, 32)
    first, last, labels = tmp_path / "train_images.npy", tmp_path / "last.npy", tmp_path / "train_labels.npy"
    np.save(first, images)
    np.save(last, images.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(loaded(arrays=str(tmp_path)), images)
    np.save(labels, np.zeros(6, np.uint8))
    for arrays in (str(first), [str(first)], str(last), [str(last), str(labels)], str(tmp_path)):
        np.testing.assert_array_equal(loaded(arrays=arrays), images)
    np.testing.assert_array_equal(loaded(arrays=str(first), num_images=4), images[:4])
    with pytest.raises(ValueError, match=r"num_images must lie in 1..6, the images found, got 7"):
        loaded(arrays=str(first), num_images=7)


def test_cifar10_refuses_wrong_files_with_the_cure(tmp_path: Path) -> None:
    images, labels, pickled, text = (str(tmp_path / name) for name in ("i.npy", "l.npy", "p.npy", "t.npy"))
    np.save(images, random_bytes(6, 3, 32, 32))
    np.save(labels, np.zeros(5, np.uint8))
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    Path(text).write_text("no array")
    with pytest.raises(ValueError, match=r"as many, got 6 images in .* and labels of shape \(5,\)"):
        loaded(arrays=[images, labels])
    with pytest.raises(ValueError, match=r"arrays must hold uint8 images .* got uint8 \(5,\) .* list images before"):
        loaded(arrays=[labels, images])
    with pytest.raises(ValueError, match=r"must name one or two .npy files, images and labels, got 3"):
        loaded(arrays=[images, labels, images])
    for broken in (pickled, text):
        with pytest.raises(ValueError, match=r"arrays: .* must be an .npy file of numbers, got .*data.root"):
            loaded(arrays=broken)
    with pytest.raises(
        FileNotFoundError, match=r"there is no file .*train_images.npy; give data.root.* or data.arrays"
    ):
        loaded(arrays=str(tmp_path))


def test_cifar10_refuses_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"exactly one of root and arrays .* got neither; give data.root"):
        CIFAR10()
    with pytest.raises(ValueError, match="got both"):
        CIFAR10(root="a", arrays="b")
    with pytest.raises(ValueError, match="download=true needs root"):
        CIFAR10(arrays="b", download=True)
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        CIFAR10(arrays="b", num_images=0)
    with pytest.raises(FileNotFoundError, match=r"root must hold torchvision's CIFAR-10, got .* or data.arrays"):
        loaded(root=str(tmp_path))


def test_cifar10_takes_torchvisions_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own reader is replaced: its checksums admit the real files only."""
    from torchvision import datasets

    images = random_bytes(4, 32, 32, 3)
    calls: list[tuple[str, bool]] = []

    class Stored:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            calls.append((root, download))
            self.data = images if train else 255 - images

    monkeypatch.setattr(datasets, "CIFAR10", Stored)
    np.testing.assert_array_equal(loaded(root="there"), images.transpose(0, 3, 1, 2))
    loaded(root="there", download=True)
    assert calls == [("there", False), ("there", True), ("there", False)]
    held_out = CIFAR10(root="there").held_out_images(2)
    torch.testing.assert_close(held_out, 1 - torch.from_numpy(images[[0, 3]]).permute(0, 3, 1, 2) / 127.5)


def test_cifar10_of_the_real_set(tmp_path: Path) -> None:
    """The real images, unpacked by the script that lies beside them, have the means that are known of the test set."""
    folder = Path(os.environ.get("PROBEDIFF_DATA", "")) / "cifar10"
    if not (folder / "unpack.py").exists():
        pytest.skip("PROBEDIFF_DATA names no folder that holds cifar10/unpack.py")
    subprocess.run([sys.executable, str(folder / "unpack.py"), str(tmp_path), "--parts", "test"], check=True)
    images = loaded(arrays=str(tmp_path / "test_images.npy"))
    assert images.shape == (10000, 3, 32, 32)
    np.testing.assert_allclose(images.mean(axis=(0, 2, 3)) / 255, [0.4942, 0.4851, 0.4504], atol=0.0005)


def test_sizes_are_known_before_anything_is_loaded() -> None:
    modules = [Digits(), Patches(image_size=12), CIFAR10(arrays="absent")]
    assert [(module.image_size, module.channels) for module in modules] == [(8, 1), (12, 3), (32, 3)]
