"""Images of a data set that are not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probediff.data import CIFAR10, Digits
from tests.data.test_modules import random_bytes


def test_cifar10_has_held_out_images_beside_its_training_images(tmp_path: Path) -> None:
    train, test = random_bytes(3, 3, 32, 32), 255 - random_bytes(5, 32, 32, 3)
    np.save(tmp_path / "train_images.npy", train)
    named = [str(tmp_path), str(tmp_path / "train_images.npy"), [str(tmp_path / "train_images.npy")]]
    assert all(CIFAR10(arrays=arrays).held_out_images(2) is None for arrays in named)
    np.save(tmp_path / "test_images.npy", test)
    expected = torch.from_numpy(test[[0, 2, 4]].copy()).permute(0, 3, 1, 2) / 127.5 - 1
    for arrays in named:
        torch.testing.assert_close(CIFAR10(arrays=arrays, num_images=1).held_out_images(3), expected)
    np.save(tmp_path / "other.npy", train)
    assert CIFAR10(arrays=str(tmp_path / "other.npy")).held_out_images(2) is None
    np.save(tmp_path / "test_images.npy", test[0])
    with pytest.raises(ValueError, match=r"arrays must hold uint8 images .*test_images.npy"):
        CIFAR10(arrays=str(tmp_path)).held_out_images(2)
    assert Digits().held_out_images(2) is None
