"""Whitening statistics as a file, and where they may come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from probediff.measures.whitening import WhiteningTransform
from probediff.whitening.statistics import StatisticsSource, load_whitening, save_whitening


def test_saved_statistics_come_back(tmp_path: Path) -> None:
    whitening = WhiteningTransform.from_covariance(
        torch.linspace(-1, 1, 3), torch.diag(torch.tensor([1.0, 2.0, 3.0])), 1e-4
    )
    save_whitening(whitening, tmp_path / "w.safetensors")
    loaded = load_whitening(tmp_path / "w.safetensors")
    assert loaded.ridge == 1e-4
    for name in ("mean", "eigenvalues", "eigenvectors"):
        assert torch.equal(getattr(loaded, name), getattr(whitening, name))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match=r"write it with save_whitening"):
        load_whitening(path)
    path.write_bytes(b"no tensors at all")
    with pytest.raises(ValueError, match=r"must hold whitening statistics"):
        load_whitening(path)
    save_file({"mean": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"must hold whitening statistics"):
        load_whitening(path)
    tensors = {"mean": torch.zeros(3), "eigenvalues": torch.ones(3), "eigenvectors": torch.ones(3, 2)}
    save_file(tensors, path, metadata={"ridge": "0.0"})
    with pytest.raises(ValueError, match=r"got other shapes"):
        load_whitening(path)
    tensors |= {"eigenvalues": torch.zeros(3), "eigenvectors": torch.eye(3)}
    save_file(tensors, path, metadata={"ridge": "0.0"})
    with pytest.raises(ValueError, match=r"positive eigenvalues"):
        load_whitening(path)


@pytest.mark.parametrize(("size", "shape"), [(48, (3, 4, 4)), (64, (1, 8, 8)), (3, (3, 1, 1)), (1, (1, 1, 1))])
def test_statistics_alone_say_how_large_their_images_are(
    tmp_path: Path, size: int, shape: tuple[int, int, int]
) -> None:
    save_whitening(WhiteningTransform.from_covariance(torch.zeros(size), torch.eye(size)), tmp_path / "w.safetensors")
    space = StatisticsSource(statistics=str(tmp_path / "w.safetensors")).space(None, None)
    assert space.shape == space.pixel_shape == shape
