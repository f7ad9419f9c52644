"""What a folder holds, for comparing before and after."""

from pathlib import Path
from typing import Any

from probediff.runs.folder import RunFolder

#: Records of what clocks say.
CLOCKS = {"timing", "training", "run"}


def read_values(folder: Path) -> dict[tuple[int, str], Any]:
    """Values by step and probe."""
    records = RunFolder(folder).records()
    return {(r["step"], r["probe"]): r["values"] for r in records if r["probe"] not in CLOCKS}


def read_errors(folder: Path) -> dict[tuple[int, str], str]:
    """Why there is no result, by step and probe."""
    return {(r["step"], r["probe"]): r["error"] for r in RunFolder(folder).records() if r.get("error")}


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, by name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
