"""Finished batches of a pass that is still running, so that a long one can be interrupted and continued."""

import hashlib
import json
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from probediff.files import explain_disk_errors, load_whole, save_tensors


class BatchStore(Protocol):
    """Keeps finished batches, so that long work which was interrupted goes on where it was."""

    def load(self, indices: Tensor) -> dict[str, Tensor] | None:
        """The batch of the samples ``indices``, if it is there."""

    def save(self, indices: Tensor, rows: dict[str, Tensor]) -> None:
        """Keep a batch."""


class PartialPass:
    """A folder with one file a batch, ``rows=<first>-<last>.safetensors``, in full precision.

    Args:
        folder: where partial passes lie.
        key: everything that the batches depend on; another key has other files.
        option: what names the folder on the command line.
    """

    def __init__(self, folder: Path, key: dict[str, Any], option: str = "--out") -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.path = folder / digest[:16]
        self._key = digest
        self._option = option

    def _file(self, indices: Tensor) -> Path:
        return self.path / f"rows={int(indices[0]):07d}-{int(indices[-1]):07d}.safetensors"

    def _words(self, indices: Tensor) -> dict[str, str]:
        return {"key": self._key, "samples": hashlib.sha256(str(indices.tolist()).encode()).hexdigest()}

    def load(self, indices: Tensor) -> dict[str, Tensor] | None:
        """The batch of samples ``indices``, or None where it has not been made yet, or is damaged, which is said."""
        try:
            return load_whole(self._file(indices), self._words(indices))
        except FileNotFoundError:
            return None
        except ValueError as error:
            warnings.warn(f"a finished batch is made again: {error}", stacklevel=2)
            return None

    def save(self, indices: Tensor, rows: dict[str, Tensor]) -> None:
        """Keep a batch; it appears whole or not at all."""
        with explain_disk_errors(self.path, self._option):
            self.path.mkdir(parents=True, exist_ok=True)
            save_tensors(self._file(indices), rows, self._words(indices))

    def clear(self) -> None:
        """Forget the batches, when the pass has been recorded."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # there may be those of other passes
            self.path.parent.rmdir()
