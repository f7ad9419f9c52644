"""A run's own folder: configuration, records, checkpoints, samples and pictures, readable without any service."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from probediff.probing import ProbeResult

_PACKAGES = ("probediff", "torch", "torchvision", "lightning", "wandb", "timm", "open_clip_torch")


class RunFolder:
    """The layout of a run folder.

    ``config.yaml``; ``records.jsonl``, one JSON object a line, only ever appended to; ``checkpoints/step=%08d.ckpt``;
    ``samples/step=%08d.safetensors`` (x_0 as float16) with per-sample results of each probe beside it;
    ``pictures/step=%08d.<probe>.<name>.png``; ``wandb/``.

    Args:
        path: the folder; nothing is written until ``create``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.records_path = self.path / "records.jsonl"

    def create(self) -> RunFolder:
        """Make the folder and its parts.

        Raises:
            ValueError: when it cannot be written to.
        """
        try:
            for part in ("checkpoints", "samples", "pictures"):
                (self.path / part).mkdir(parents=True, exist_ok=True)
            self.records_path.touch()
        except OSError as error:
            raise ValueError(f"--run_dir must be a folder that can be written to, got {self.path}: {error}") from error
        return self

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies."""
        return self.path / "checkpoints" / f"step={step:08d}.ckpt"

    def sample_path(self, step: int) -> Path:
        """Where the samples of ``step`` lie."""
        return self.path / "samples" / f"step={step:08d}.safetensors"

    def sample_steps(self) -> list[int]:
        """Steps with stored samples, ascending."""
        matches = (re.fullmatch(r"step=(\d+)\.safetensors", p.name) for p in (self.path / "samples").iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def save_samples(self, step: int, x_0: Tensor) -> None:
        """Store (N, C, H, W) samples as float16 (error at most 2^-11, an eighth of a grey level of 8 bits)."""
        _save_tensors(self.sample_path(step), {"x_0": x_0.to(torch.float16)})

    def load_samples(self, step: int) -> Tensor:
        """The samples of ``step``, (N, C, H, W) float32."""
        return load_file(self.sample_path(step))["x_0"].float()

    def save_arrays(self, step: int, probe: str, arrays: dict[str, Tensor]) -> None:
        """Store the per-sample results of a probe beside the samples."""
        _save_tensors(self.path / "samples" / f"step={step:08d}.{probe}.safetensors", arrays)

    def save_picture(self, step: int, name: str, picture: Tensor) -> Path:
        """Write a (3, H, W) uint8 picture as PNG."""
        path = self.path / "pictures" / f"step={step:08d}.{name}.png"
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(path)
        return path

    def append(self, record: dict[str, Any]) -> None:
        """Append one record; numbers that are not finite become null."""
        with self.records_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All records in the order of writing."""
        with self.records_path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]

    def store(
        self, step: int, probe: str, result: ProbeResult, conventions: dict[str, Any], seconds: float | None = None
    ) -> None:
        """Keep one probe's result: record, per-sample arrays and pictures."""
        if result.arrays:
            self.save_arrays(step, probe, result.arrays)
        for name, picture in result.pictures.items():
            self.save_picture(step, f"{probe}.{name}", picture)
        if result.values:
            timing = {} if seconds is None else {"seconds": round(seconds, 3)}
            self.append({"step": step, "probe": probe, "values": result.values, "conventions": conventions, **timing})

    def save_config(self, text: str) -> None:
        """Write the configuration as it ran, with versions and git commit as comments at its head."""
        header = "".join(f"# {key}: {value}\n" for key, value in provenance().items())
        (self.path / "config.yaml").write_text(header + text, encoding="utf-8")


def provenance() -> dict[str, str]:
    """Versions, machine and git commit that a number depends on."""
    found = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["git_commit"] = _git_commit() or "not in a git checkout"
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"
    return found


def _git_commit() -> str | None:
    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    partial = path.with_name(path.name + ".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
