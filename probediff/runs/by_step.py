"""Files of a run that carry a training step in their names, and the arrays in them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from probediff.files import verify_tensors

if TYPE_CHECKING:
    import numpy as np


def name_step(step: int) -> str:
    """How the names of the files of a step begin."""
    return f"step={step:08d}"


def step_of(path: Path) -> int | None:
    """The step in the name of a file; None where there is none."""
    match = re.match(r"step=(\d+)\.", path.name)
    return int(match[1]) if match else None


def files_by_step(folder: Path, ending: str) -> dict[int, Path]:
    """Files ``step=<step><ending>`` by step, ascending."""
    matches = ((re.fullmatch(r"step=(\d+)(\..+)", path.name), path) for path in folder.glob(f"step=*{ending}"))
    found = sorted((int(match[1]), path) for match, path in matches if match and match[2] == ending)
    return {step: path for step, path in found if path.is_file()}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file; empty where there is none, and, with a warning, where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        return {}
    try:
        verify_tensors(path)
        return load_file(path)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        warnings.warn(f"arrays are left out: {error}", stacklevel=2)
        return {}


def read_first_rows(path: Path, name: str, count: int) -> np.ndarray | None:
    """The first rows of one array, float32; None where it is not there or, with a warning, damaged."""
    import numpy as np

    rows = read_arrays(path).get(name)
    return None if rows is None else np.asarray(rows[:count], dtype=np.float32)
