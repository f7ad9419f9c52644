"""Results read back from a run's own folder."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from probediff.files import load_whole, open_plain_file
from probediff.runs.by_step import name_step
from probediff.runs.folder import PICTURES, SAMPLES, RunFolder
from probediff.runs.record import STANDARD_ERRORS
from probediff.runs.results import ProbeResult


def read_result(folder: RunFolder, record: dict[str, Any]) -> ProbeResult:
    """The result that a record, and the pictures and arrays of its step and probe, were written from.

    What was not finite comes back as NaN. Pictures and arrays that cannot be read are left out with a warning.

    Args:
        folder: the run's folder.
        record: one of its records.
    """
    prefix = f"{name_step(record['step'])}.{record['probe']}"
    values, errors = (
        {key: math.nan if value is None else value for key, value in record.get(part, {}).items()}
        for part in ("values", STANDARD_ERRORS)
    )
    arrays = _read_arrays(folder.path / SAMPLES / f"{prefix}.safetensors")
    known = folder.catalogue().get(record["probe"])
    histograms = [name for name in arrays if known and known.column(f"{name}_histogram").kind == "histogram"]
    tables = [column.key.removesuffix("_table") for column in known.columns if column.kind == "table"] if known else []
    tables = [name for name in tables if any(key.startswith(f"{name}_") for key in arrays)]
    pictures = _read_pictures(folder.path / PICTURES, f"{prefix}.")
    return ProbeResult(values, arrays, pictures, tuple(histograms), tables=tuple(tables), standard_errors=errors)


def _read_arrays(path: Path) -> dict[str, Tensor]:
    try:
        return load_whole(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        warnings.warn(f"arrays are left out: {error}", stacklevel=3)
        return {}


def _read_pictures(folder: Path, prefix: str) -> dict[str, Tensor]:
    pictures = {}
    for path in sorted(path for path in folder.glob("step=*.png") if path.name.startswith(prefix)):
        try:
            pictures[path.stem.removeprefix(prefix)] = read_picture(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as Pillow's reader raises
            warnings.warn(f"a picture is left out: {path} cannot be read ({error})", stacklevel=3)
    return pictures


def read_picture(path: Path) -> Tensor:
    """A picture file as (3, H, W) uint8.

    Raises:
        OSError, ValueError, SyntaxError: it is missing or damaged.
    """
    with open_plain_file(path) as file, Image.open(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
