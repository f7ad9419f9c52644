"""Where numbers go beside the run's own folder: Weights & Biases, which only this and `wandb_*` know here."""

import os
import re
import secrets
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_only

from probediff.files import read_bytes, whole_file
from probediff.runs.folder import END_OF_EVENT, WANDB, WANDB_ID, RunFolder
from probediff.runs.results import Event, ProbeResult
from probediff.runs.stored_results import read_picture
from probediff.runs.wandb_artifacts import DATA_SET, checkpoint_artifact, data_artifact, describe_data
from probediff.runs.wandb_files import LoggedResult, read_logged_results
from probediff.runs.wandb_media import payload_of
from probediff.runs.wandb_settings import (
    INIT_TIMEOUT_SEC,
    PROJECT,
    WandbSettings,
    check_environment,
    from_environment,
    resolve_mode,
)

#: How keys end that say how long something took.
_CLOCKS = ("_seconds", "_per_second")


class FailsafeWandbLogger(WandbLogger):
    """A WandbLogger whose failures never stop training: the first one is reported, then W&B is left alone.

    The run's own records are complete without it. No W&B run begins, and nothing is written, before something is
    logged: a start that is refused leaves no trace.

    Args:
        settings: where W&B gets the run.
        save_dir: the run's own folder.

    Raises:
        ValueError: settings, or environment variables of W&B, that it does not take.
    """

    def __init__(self, settings: WandbSettings, save_dir: Path) -> None:
        mode = resolve_mode(settings.mode)
        if mode != "disabled":
            check_environment(settings)
        settings = replace(settings, **from_environment(vars(settings)))
        import wandb

        super().__init__(
            name=settings.name or save_dir.name,
            version=_read_id(save_dir)[0] or secrets.token_hex(4),
            save_dir=save_dir,
            project=settings.project or PROJECT,
            offline=mode == "offline",
            entity=settings.entity,
            group=settings.group,
            tags=settings.tags,
            job_type=settings.job_type,
            notes=settings.notes,
            mode=mode,
            # The run's own tables are printed instead of W&B's summary.
            settings=wandb.Settings(
                quiet=True, init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_TIMEOUT_SEC)
            ),
        )
        # Lightning passes an argument that wandb only warns about and is going to remove.
        self._wandb_init.pop("anonymous", None)
        self._folder = save_dir
        self._is_open = False
        self.failed = False
        #: What W&B's local logs of earlier starts have; None where they are not there to tell.
        self._earlier: dict[Event, LoggedResult] | None = {}
        self._sent: set[Event] = set()
        self._changed_steps: set[int] = set()
        self._data: dict[str, Any] = {}
        self._artifact_failed = False

    @rank_zero_only
    def open(self) -> None:
        """Begin the W&B run, or go on with that of the folder; whatever logs does it by itself."""
        if not self._is_open and self._wandb_init["mode"] != "disabled":
            self._is_open = True
            self._attempt(self._begin)

    def _begin(self) -> None:
        stored, starts = _read_id(self._folder)
        if stored is None and (self._folder / WANDB_ID).exists():
            warnings.warn(
                f"{self._folder / WANDB_ID} is damaged: W&B gets the run as a new one, {self._id}", stacklevel=5
            )
        # Read before there is a log of this start.
        earlier = read_logged_results(self._folder, stored, starts) if stored else {}
        self._wandb_init["id"] = stored or self._id
        self._folder.mkdir(parents=True, exist_ok=True)
        run = super().experiment
        if run.id != stored:  # a new one, also where the agent of a sweep has given an id: it has nothing yet
            earlier, starts = {}, []
        self._id, self._earlier = run.id, earlier
        with whole_file(self._folder / WANDB_ID) as file:
            file.write("".join(f"{line}\n" for line in (run.id, *starts, Path(run.dir).parent.name)).encode())
        self._attempt_artifact(lambda: self._declare_data(run, is_new=earlier == {}))

    def _declare_data(self, run: Any, is_new: bool) -> None:
        """Say which images the run trains on, once."""
        self._data = describe_data(RunFolder(self._folder))
        if not (self._data and is_new):
            return
        run.config.update({DATA_SET: self._data}, allow_val_change=True)
        if self._wandb_init["mode"] == "online":
            # It waits for the server, for which no training should.
            use = partial(self._attempt_artifact, lambda: run.use_artifact(data_artifact(self._data)))
            threading.Thread(target=use, daemon=True).start()

    def _attempt_artifact(self, action: Callable[[], object]) -> None:
        """Declare an artifact; W&B gets the numbers whether or not it takes that."""
        try:
            action()
        except Exception as error:
            if not self._artifact_failed:
                warnings.warn(
                    f"Weights & Biases was not told of data or checkpoints ({type(error).__name__}: {error}); training "
                    "goes on, and so do its numbers",
                    stacklevel=4,
                )
            self._artifact_failed = True

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self.failed:
            return
        try:
            action()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.failed = True
        warnings.warn(
            f"Weights & Biases failed and gets nothing more from this run ({type(error).__name__}: {error}). "
            f"Training goes on; everything is in {self.save_dir}.",
            stacklevel=4,
        )

    @property
    def experiment(self) -> Any:
        """The W&B run; before ``open``, and once W&B has failed, a stand-in that swallows everything."""
        if self._is_open and not self.failed:
            try:
                return super().experiment
            except Exception as error:
                self._give_up(error)
        return DummyExperiment()

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log scalars under the trainer's step."""
        self.open()
        self._attempt(lambda: super(FailsafeWandbLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the run's configuration."""
        self.open()
        self._attempt(lambda: super(FailsafeWandbLogger, self).log_hyperparams(params))

    @rank_zero_only
    def log_result(self, step: int, probe: str, result: ProbeResult) -> None:
        """Log everything of one probe as one W&B step, with the trainer's step as its axis.

        A run that goes on from a checkpoint before the last one measures again what W&B has already. The numbers are
        the same unless settings have changed, and what is the same is not sent twice: W&B's history only grows.
        """
        self.open()
        self._attempt(lambda: self._send((step, probe), result))

    def _send(self, event: Event, result: ProbeResult) -> None:
        logged = (self._earlier or {}).get(event)
        if logged is None or not _is_repeated(result, logged):
            self.experiment.log({"trainer/global_step": event[0]} | payload_of(*event, result))
            self._changed_steps.add(event[0])
        self._sent.add(event)

    @rank_zero_only
    def log_checkpoint(self, step: int, path: Path, weights_sha256: str) -> None:
        """Refer to a checkpoint as an output of the run; what W&B has of an event that is as before is not repeated."""
        self.open()
        is_known = (step, END_OF_EVENT) in (self._earlier or {})
        if self.failed or not self._is_open or (is_known and step not in self._changed_steps):
            return

        def declare() -> None:
            artifact = checkpoint_artifact(str(self._id), step, path, weights_sha256, self._data)
            self.experiment.log_artifact(artifact, aliases=[f"step-{step}", "latest"])

        self._attempt_artifact(declare)

    def missing_events(self, events: Sequence[Event]) -> list[Event]:
        """Those of ``events`` that W&B has not by its local logs, in their order, also told to the user."""
        if not events:
            return []
        self.open()
        if self.failed or not self._is_open:
            return []
        if self._earlier is None:
            print(
                f"what W&B has of this run is not known, for local logs of earlier starts are gone from "
                f"{self._folder / WANDB}: nothing is sent again",
                flush=True,
            )
            return []
        missing = [event for event in events if event not in self._earlier and event not in self._sent]
        if missing:
            steps = sorted({step for step, _ in missing})
            span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
            print(f"W&B lacked {len(missing)} results of {span}: sent again", flush=True)
        return missing

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the run, marking it as failed after an exception; what is logged later goes on with it."""

        def finish() -> None:
            if self._experiment is not None:
                self._experiment.finish(exit_code=0 if status == "success" else 1)
                self._experiment = None
            self._is_open = False

        self._attempt(finish)

    @property
    def version(self) -> str | None:
        """Id of the W&B run; None when W&B failed."""
        return None if self.failed else super().version


def _read_id(folder: Path) -> tuple[str | None, list[str]]:
    """Id of the folder's W&B run, None where there is none or the file is damaged, and the folders of its local logs.

    Earlier versions wrote the id alone.
    """
    try:
        *lines, rest = read_bytes(folder / WANDB_ID).decode().split("\n")
    except (OSError, ValueError):
        return None, []
    if rest or not lines or not all(re.fullmatch(r"[\w-]+", line, re.ASCII) for line in lines):
        return None, []
    return lines[0], lines[1:]


def _is_repeated(result: ProbeResult, logged: LoggedResult) -> bool:
    """Whether W&B's log has these numbers and pictures; clocks, on which no two starts agree, do not count."""
    numbers = [(_comparable(of.values), _comparable(of.standard_errors)) for of in (result, logged)]
    if numbers[0] != numbers[1] or result.pictures.keys() != logged.pictures.keys():
        return False
    try:
        return all(torch.equal(read_picture(logged.pictures[name]), shown) for name, shown in result.pictures.items())
    except (OSError, ValueError, SyntaxError):  # the file is gone or damaged
        return False


def _comparable(values: Mapping[str, float]) -> dict[str, str]:
    # As text: NaN is not equal to NaN.
    return {key: repr(float(value)) for key, value in values.items() if not key.endswith(_CLOCKS)}
