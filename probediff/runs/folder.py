"""The layout of a run's folder: what lies where and under which name. No other module knows it.

Light commands import this module, so that it imports torch, Pillow and safetensors where they are used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probediff.files import load_whole, open_plain_file, read_object, save_tensors, to_json, whole_file, write_json
from probediff.runs.by_step import files_by_step, name_step, read_arrays, read_first_rows
from probediff.runs.catalogue import PROBES
from probediff.runs.configuration import CONFIG, append_history, read_config, read_provenance, write_config
from probediff.runs.descriptions import Description
from probediff.runs.record import Record, read_record, read_records

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from probediff.runs.results import ProbeResult

RECORDS, CATALOGUE, DATA, SET_ASIDE = "records.jsonl", "catalogue.json", "data.json", "set_aside"
WIRING = "wiring.json"
INVERSION_METHODS, WHITENING, WHITENING_ARRAYS = "inversion_methods.json", "whitening.json", "whitening.safetensors"
#: Of `probediff compare`, and the samples of an exact denoiser that it keeps.
COMPARED, COMPARED_SAMPLES = "compare.json", "compare_samples"
CHECKPOINTS, SAMPLES, PICTURES, PROBED = "checkpoints", "samples", "pictures", "probes"
#: Where ModelCheckpoint writes, unless its own argument says otherwise.
MODEL_CHECKPOINTS = "model_checkpoints"
#: What locks, traceback, sweep and W&B leave in the folder.
LOCK, WRITING, ERROR, LINEAGE = "process.lock", "writing.lock", "error.txt", "lineage.json"
WANDB, WANDB_ID = "wandb", "wandb_id.txt"
#: Probe names of the records that close an event and a run: what comes before them is whole.
END_OF_EVENT, FINISHED = "timing", "run"
#: Parts of runs and of reports, in which no run is looked for.
PARTS = frozenset({PROBED, CHECKPOINTS, MODEL_CHECKPOINTS, SAMPLES, PICTURES, WANDB, SET_ASIDE, "figures", "tables"})
_TAIL_BYTES = 65536


class RunFolder:
    """A run's own folder, readable without any service. What reads a file raises ValueError where it is damaged.

    ``config.yaml``; ``records.jsonl``, one JSON object a line, only ever appended to; ``catalogue.json``, which says
    what the quantities in the records are; ``checkpoints/step=%08d.ckpt``; ``samples/step=%08d.safetensors`` (x_0 as
    float16) with per-sample results of each probe beside it; ``pictures/step=%08d.<probe>.<name>.png``; ``wandb/``;
    ``probes/<name>/num_steps=%04d/``, folders of the same layout that ``probediff probe`` writes.

    Args:
        path: the folder; nothing is written until ``create``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.records_path = self.path / RECORDS
        self.config_path = self.path / CONFIG

    def create(self) -> RunFolder:
        """Make the folder and its parts, or raise ValueError where it cannot be written to."""
        try:
            for part in (CHECKPOINTS, SAMPLES, PICTURES):
                (self.path / part).mkdir(parents=True, exist_ok=True)
            self.records_path.touch()
        except OSError as error:
            raise ValueError(f"--run_dir must be a folder that can be written to, got {self.path}: {error}") from error
        return self

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies."""
        return self.path / CHECKPOINTS / f"{name_step(step)}.ckpt"

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints by step, ascending."""
        return checkpoints_in(self.path / CHECKPOINTS)

    def sample_path(self, step: int) -> Path:
        """Where the samples of ``step`` lie."""
        return self.path / SAMPLES / f"{name_step(step)}.safetensors"

    def sample_steps(self) -> list[int]:
        """Steps with stored samples, ascending."""
        return list(files_by_step(self.path / SAMPLES, ".safetensors"))

    def save_samples(self, step: int, x_0: Tensor) -> None:
        """Store (N, C, H, W) samples as float16 (error at most 2^-11, an eighth of a grey level of 8 bits)."""
        save_tensors(self.sample_path(step), {"x_0": x_0.half()})

    def load_samples(self, step: int) -> Tensor:
        """The samples of ``step``, (N, C, H, W) float32."""
        path = self.sample_path(step)
        try:
            return load_whole(path)["x_0"].float()
        except KeyError:
            raise ValueError(f"{path} must hold the samples x_0, got others; remove it") from None

    def first_samples(self, step: int, count: int) -> np.ndarray | None:
        """The first samples of ``step``, (N, C, H, W) float32; None where they cannot be read."""
        return read_first_rows(self.sample_path(step), "x_0", count)

    def save_arrays(self, step: int, probe: str, arrays: dict[str, Tensor]) -> None:
        """Store the per-sample results of a probe beside the samples."""
        save_tensors(self.path / SAMPLES / f"{name_step(step)}.{probe}.safetensors", arrays)

    def newest_arrays(self, probe: str) -> dict[str, np.ndarray]:
        """The last stored arrays of a probe; empty where there are none or they cannot be read."""
        paths = files_by_step(self.path / SAMPLES, f".{probe}.safetensors")
        return read_arrays(paths[max(paths)]) if paths else {}

    def save_picture(self, step: int, name: str, picture: Tensor) -> Path:
        """Write a (3, H, W) uint8 picture as PNG."""
        from PIL import Image

        path = self.path / PICTURES / f"{name_step(step)}.{name}.png"
        with whole_file(path, sync=False) as file:
            Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
        return path

    def newest_picture(self, name: str) -> tuple[int, Path] | None:
        """Step and path of the last picture ``<probe>.<name>``."""
        return max(files_by_step(self.path / PICTURES, f".{name}.png").items(), default=None)

    def store(self, step: int, probe: str, result: ProbeResult) -> None:
        """Keep the per-sample arrays and the pictures of one probe's result."""
        if result.arrays:
            self.save_arrays(step, probe, result.arrays)
        for name, picture in result.pictures.items():
            self.save_picture(step, f"{probe}.{name}", picture)

    def append(self, *records: dict[str, Any]) -> None:
        """Append records in one write, or raise and leave the file as it was; infinities and NaN become null."""
        lines = "".join(to_json(record) + "\n" for record in records).encode()
        with self.records_path.open("ab") as file:
            size = file.tell()
            try:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def records(self) -> list[Record]:
        """All records in the order of writing; an incomplete last line, left by a kill, does not count."""
        return read_records(self.records_path)

    def is_cut_short(self) -> bool:
        """Whether the last line of the records is incomplete."""
        with self.records_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            return file.read() not in (b"", b"\n")

    def last_recorded_step(self) -> int:
        """Step of the last whole record, found without reading them all; 0 before there is one."""
        if not self.records_path.exists():
            return 0
        try:
            with open_plain_file(self.records_path) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = file.read().split(b"\n")[:-1]
            return int(read_record(lines[-1].decode())["step"]) if lines else 0
        except ValueError:
            return 0

    def last_change(self) -> float:
        """When a file of the run was last written, in seconds since 1970; W&B's file grows all the time."""
        times = []
        for pattern in ("*", f"{CHECKPOINTS}/*", f"{SAMPLES}/*", f"{PICTURES}/*", f"{WANDB}/*/*.wandb"):
            for file in self.path.glob(pattern):
                with suppress(OSError):  # the run may rename it in the meantime
                    times.append(file.stat().st_mtime)
        return max(times, default=self.path.stat().st_mtime)

    def is_finished(self) -> bool:
        """Whether a run has come to its end here."""
        return any(record["probe"] == FINISHED for record in self.records())

    def complete_steps(self) -> set[int]:
        """Steps whose events are complete."""
        return {record["step"] for record in self.records() if record["probe"] == END_OF_EVENT}

    def rewind(self, step: int) -> bool:
        """Make the folder that of a run that has just saved its checkpoint of ``step``; whether its event is complete.

        Everything that was recorded later goes, and so does an event at ``step`` that was cut short.
        """
        complete = step in self.complete_steps()
        last_step = step if complete else step - 1
        self.reopen(last_step)
        for later in (later for later in self.sample_steps() if later > last_step):
            self.sample_path(later).unlink()
        return complete

    def reopen(self, last_step: int | None = None) -> None:
        """Take back what was recorded at the end of the run, and everything after ``last_step``."""
        self._keep(
            lambda record: (
                record["probe"] != FINISHED
                and not record["probe"].endswith("_final")
                and (last_step is None or record["step"] <= last_step)
            )
        )

    def forget_incomplete(self) -> None:
        """Take back what was recorded of events that were cut short."""
        complete = self.complete_steps()
        self._keep(lambda record: record["step"] in complete)

    def forget(self, step: int, probes: Collection[str]) -> None:
        """Take back what some probes recorded at a step."""
        self._keep(lambda record: record["step"] != step or record["probe"] not in probes)

    def _keep(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        kept = [record for record in self.records() if is_kept(record)]
        with whole_file(self.records_path) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())

    def save_wiring(self, found: Mapping[str, Any]) -> None:
        """Keep what the check of the model's wiring found last; see ``probediff.probing.wiring``."""
        write_json(self.path / WIRING, dict(found))

    def wiring(self) -> dict[str, Any]:
        """What the check of the model's wiring found: step, verdict, words and numbers; empty where none was made."""
        return read_object(self.path / WIRING)

    def save_catalogue(self, descriptions: Iterable[Description]) -> None:
        """Say what probes record here, beside what the catalogue of the folder says already."""
        entries = read_object(self.path / CATALOGUE)
        described = entries | {description.key: description.to_json() for description in descriptions}
        if described != entries:
            write_json(self.path / CATALOGUE, described)

    def catalogue(self) -> dict[str, Description]:
        """What is known of every probe: the catalogue of this version, then that of the folder."""
        others = {key: e for key, e in read_object(self.path / CATALOGUE).items() if key not in PROBES}
        try:
            return PROBES | {key: Description.from_json(entry) for key, entry in others.items()}
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{self.path / CATALOGUE} is of another version, or damaged ({error}); remove it"
            ) from None

    def save_config(self, text: str) -> None:
        """Write the configuration as it runs, at once; see ``probediff.runs.configuration``."""
        write_config(self.path, text)

    def config(self) -> dict[str, Any]:
        """The configuration with the changes since the run began; empty where there is none."""
        return read_config(self.path)

    def append_history(self, step: int, changed: Mapping[str, tuple[Any, Any]], **others: Any) -> None:
        """Say that the run goes on from a step, with what changes; see ``probediff.runs.configuration``."""
        append_history(self.path, step, changed, **others)

    def provenance(self) -> dict[str, str]:
        """Versions, commit and machine from the head of the configuration."""
        return read_provenance(self.path)

    def data_fingerprint(self) -> dict[str, Any]:
        """Which images the run began with; empty where that is not known."""
        known = read_object(self.path / DATA)
        if not known and (self.path / DATA).exists():
            raise ValueError(f"{self.path / DATA} must say what the images are, got nothing; restore it, or remove it")
        return known

    def lineage(self) -> dict[str, Any]:
        """Sweep, trial and the starts that it goes on from; empty for a run outside of sweeps."""
        lineage = read_object(self.path / LINEAGE)
        earlier = lineage.get("continues")
        starts = [lineage.get("trial"), *(earlier if isinstance(earlier, list) else [earlier])]
        if lineage and not all(isinstance(start, str) for start in starts):
            raise ValueError(
                f"{self.path / LINEAGE} must say the starts of a trial, got none; restore it, or remove it"
            )
        return lineage


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by step, ascending."""
    return files_by_step(folder, ".ckpt")


def probed_folder(folder: Path, num_steps: int) -> Path:
    """Where ``probediff probe`` writes what it measured with so many DDIM steps."""
    return folder / f"num_steps={num_steps:04d}"


def probed_folders(folder: Path) -> list[Path]:
    """The folders of that kind that hold records, by their number of steps as they are written."""
    return sorted(path.parent for path in folder.glob(f"num_steps=*/{RECORDS}"))
