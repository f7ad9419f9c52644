"""A run's own folder: configuration, records, checkpoints, samples and pictures, readable without any service."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from probediff.files import save_tensors
from probediff.runs.provenance import provenance
from probediff.runs.results import ProbeResult

#: Probe names that close an event and a run: what comes before them in the records is whole.
END_OF_EVENT, FINISHED = "timing", "run"


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
        save_tensors(self.sample_path(step), {"x_0": x_0.to(torch.float16)})

    def load_samples(self, step: int) -> Tensor:
        """The samples of ``step``, (N, C, H, W) float32."""
        return load_file(self.sample_path(step))["x_0"].float()

    def save_arrays(self, step: int, probe: str, arrays: dict[str, Tensor]) -> None:
        """Store the per-sample results of a probe beside the samples."""
        save_tensors(self.path / "samples" / f"step={step:08d}.{probe}.safetensors", arrays)

    def save_picture(self, step: int, name: str, picture: Tensor) -> Path:
        """Write a (3, H, W) uint8 picture as PNG."""
        path = self.path / "pictures" / f"step={step:08d}.{name}.png"
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(path)
        return path

    def append(self, *records: dict[str, Any]) -> None:
        """Append records in one write; numbers that are not finite become null.

        Raises:
            OSError: when they cannot be written; the file is then as it was.
        """
        lines = "".join(json.dumps(_finite(record), allow_nan=False) + "\n" for record in records)
        with self.records_path.open("ab") as file:
            size = file.tell()
            try:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def records(self) -> list[dict[str, Any]]:
        """All records in the order of writing; an incomplete last line, left by a kill, does not count."""
        if not self.records_path.exists():
            return []
        *lines, _ = self.records_path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line.strip()]

    def is_finished(self) -> bool:
        """Whether a run has come to its end here."""
        return any(record["probe"] == FINISHED for record in self.records())

    def rewind(self, step: int) -> bool:
        """Make the folder that of a run that has just saved its checkpoint of ``step``.

        Everything that was recorded later goes, and so does an event at ``step`` that was cut short.

        Returns:
            Whether the event at ``step`` is complete.
        """
        complete = any(record["step"] == step and record["probe"] == END_OF_EVENT for record in self.records())
        last_step = step if complete else step - 1
        self.reopen(last_step)
        for later in (s for s in self.sample_steps() if s > last_step):
            self.sample_path(later).unlink()
        return complete

    def reopen(self, last_step: int | None = None) -> None:
        """Take back what was recorded at the end of the run, and everything after ``last_step``."""
        end = ("_final", FINISHED)
        kept = [
            record
            for record in self.records()
            if not record["probe"].endswith(end) and (last_step is None or record["step"] <= last_step)
        ]
        partial = self.records_path.with_name(self.records_path.name + ".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        partial.replace(self.records_path)

    def store(self, step: int, probe: str, result: ProbeResult) -> None:
        """Keep the per-sample arrays and the pictures of one probe's result."""
        if result.arrays:
            self.save_arrays(step, probe, result.arrays)
        for name, picture in result.pictures.items():
            self.save_picture(step, f"{probe}.{name}", picture)

    def save_config(self, text: str) -> None:
        """Write the configuration as it ran, with versions and git commit as comments at its head."""
        header = "".join(f"# {key}: {value}\n" for key, value in provenance().items())
        (self.path / "config.yaml").write_text(header + text, encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
