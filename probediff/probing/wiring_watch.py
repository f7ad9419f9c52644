"""The wiring check beside the events of a run: until the network has learnt enough that it can be decided."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from probediff.exceptions import describe_failure
from probediff.models.base import ProbeModel
from probediff.probing.processes import is_first_process
from probediff.probing.wiring import check_wiring
from probediff.runs.folder import RunFolder

_NUM_IMAGES = 32


class WiringWatch:
    """Checks the wiring of the model at events of a run, on the first process, and keeps what it finds.

    A network that has learnt nothing fits every wiring, so that the check is made again until it decides: at the first
    event, and then whenever the training has come twice as far.

    Args:
        folder: keeps the newest finding.
        real_images: n -> n real images, as the probes would get them; None where there are none.
    """

    def __init__(self, folder: RunFolder, real_images: Callable[[int], Tensor] | None) -> None:
        self._folder = folder
        self._real_images = real_images
        self._told = ""
        self._next_step = 0
        self._is_decided = False  # also in a run that goes on, perhaps wired anew

    def look(self, model: ProbeModel) -> None:
        """Check the model, which is at rest on its device; a finding is a warning, and training goes on."""
        if self._is_decided or model.step < self._next_step or not is_first_process():
            return
        self._next_step = 2 * model.step
        found: dict[str, Any]
        try:
            if self._real_images is None:
                raise ValueError("real_images must be given for it, got none")
            wiring = check_wiring(model, self._real_images(_NUM_IMAGES))
            found = wiring.to_json() | {"words": wiring.in_words()}
        except Exception as error:  # images and network are a user's own
            found = {"verdict": "undecided", "words": f"wiring not checked: {describe_failure(error)}"}
            wiring = None
            self._is_decided = self._real_images is None
        if wiring is not None and wiring.verdict != "undecided":
            self._is_decided = True
        if (wiring is None or wiring.verdict == "wrong") and found["words"] != self._told:
            self._told = found["words"]
            warnings.warn(f"step {model.step}: {found['words']}", stacklevel=3)
        self._folder.save_wiring({"step": model.step} | found)
