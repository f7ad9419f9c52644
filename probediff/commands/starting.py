"""What a start of ``fit`` finds in its folder, whether it may begin or go on there, and the first thing it writes."""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning as L
import yaml

from probediff.data import ImageDataModule
from probediff.data.base import check_same_images, fingerprint
from probediff.denoisers import EpsModel
from probediff.files import write_json
from probediff.models.run import load_checkpoint_model, run_of
from probediff.runs.aside import set_aside, set_aside_after
from probediff.runs.changes import Changes, compare_configs, refuse
from probediff.runs.conditions import WEIGHTS
from probediff.runs.configuration import CONFIG, has_checksum, read_history
from probediff.runs.folder import CHECKPOINTS, DATA, END_OF_EVENT, RunFolder
from probediff.sweep.lineage import record_trial
from probediff.training.checkpoints import load_checkpoint, newest_loadable

#: What a checkpoint of another run must share with this one; everything else may be new in a run that branches off.
_SHARED = (
    *("model.loss", "model.schedule", "model.num_train_timesteps", "model.rescale_timesteps", "model.ema_rates"),
    *("network.", "optimizer", "lr_scheduler"),
)
#: Keys that a configuration lacks where they are not given.
_UNSET = {"optimizer": None, "lr_scheduler": None}


@dataclass
class Start:
    """One start of ``probediff fit``: everything is checked first, and written when the training begins.

    Attributes:
        run_dir: the run's folder.
        resume: what ``--resume`` says.
        config_text: the configuration of this start as YAML.
        checkpoint: what the training goes on from.
        begun: whether anything was written.
    """

    run_dir: Path
    resume: str | None
    config_text: str
    checkpoint: Path | None = None
    begun: bool = False
    _step: int = 0
    _changes: Changes = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.run_dir)

    @property
    def holds_run(self) -> bool:
        """Whether a run has begun in the folder."""
        return bool(self.folder.records() or self.folder.checkpoints())

    def check(self, defaults: Mapping[str, Any]) -> None:
        """Compare the configuration with that of the run that is in the folder, before any work.

        Args:
            defaults: of all options.

        Raises:
            ValueError: there is a run and it is not to be gone on with, or it is another one, or a file is damaged.
        """
        if not self.holds_run:
            return
        self.folder.catalogue(), self.folder.lineage()  # damaged ones raise, now rather than later
        if self.resume is None:
            raise ValueError(
                f"{self.run_dir} already holds a run; go on with it by --resume auto, or give another --run_dir"
            )
        if stored := self.folder.config():
            measured = {record["probe"] for record in self.folder.records()}
            self._changes, refused = compare_configs(stored, yaml.safe_load(self.config_text), defaults, measured)
            refuse(self.run_dir, refused)
        else:
            warnings.warn(
                f"{self.run_dir} has no {CONFIG}: whether this start has the settings of its run is not known",
                stacklevel=2,
            )

    def choose_checkpoint(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Find the checkpoint that ``--resume`` asks for; all processes find the same one.

        Raises:
            ValueError: a file was named that cannot be gone on with, or a checkpoint is beyond the last step of this
                start, or not the one that the run has probed.
        """
        if self.resume is None:
            return
        path: Path | None
        if self.resume == "auto":
            path = newest_loadable(self.run_dir / CHECKPOINTS, trainer, module)
        else:
            path = Path(self.resume)
            self._check_file(path)
        if path is None:
            if (history := read_history(self.run_dir)) and not self.holds_run:
                origin = history[-1].get("checkpoint")
                raise ValueError(
                    f"{self.run_dir} must have a checkpoint to go on from, got a branch of {origin} that has none yet; "
                    f"give --resume {origin} again"
                )
            return
        self._step = int(load_checkpoint(path, trainer, module)["global_step"])
        if -1 < trainer.max_steps < self._step:
            raise ValueError(
                f"trainer.max_steps must be at least {self._step}, the step of {path}, got {trainer.max_steps}; "
                f"raise it, or name an earlier checkpoint by --resume FILE and another --run_dir"
            )
        self._check_weights(path, module)
        self.checkpoint = path

    def _check_weights(self, path: Path, module: L.LightningModule) -> None:
        """Whether a checkpoint holds the weights that the run has probed at its step; older records do not say it."""
        records = [r for r in self.folder.records() if r["step"] == self._step and r["probe"] == END_OF_EVENT]
        if not records or WEIGHTS not in records[0] or not self.folder.config_path.is_file():
            return
        conventions = records[0]["conventions"]
        network = deepcopy(cast(EpsModel, module.eps_model).unet)
        weights, ema_rate = conventions["weights"], conventions["ema_rate"]
        model = load_checkpoint_model(path, weights=weights, ema_rate=ema_rate, network=network)
        if model.digest != records[0][WEIGHTS]:
            raise ValueError(
                f"{path} must be the checkpoint that the run has probed at step {self._step}, got other weights: it is "
                f"one of another run; put back the right one, or remove it to go on from an earlier one"
            )

    def _check_file(self, path: Path) -> None:
        """Whether a checkpoint that was named is one of this run, or of a run of the same model to branch off from."""
        if path.is_dir():
            raise ValueError(
                f"--resume must be auto or a checkpoint, got the folder {path}; name a file such as "
                f"{path}/checkpoints/step=00000100.ckpt, or give --run_dir {path} --resume auto"
            )
        if not path.exists():
            raise ValueError(f"--resume must be auto or a checkpoint: {path} cannot be read, there is no such file")
        if self.holds_run:
            if path.resolve().parent != (self.run_dir / CHECKPOINTS).resolve():
                raise ValueError(
                    f"--resume must be auto or a checkpoint of the run in {self.run_dir}, got {path}; to branch off "
                    f"from another run give a --run_dir without a run"
                )
            return
        try:
            run = run_of(path)
        except FileNotFoundError:
            return  # no configuration beside it: its tensors are compared anyway
        _, refused = compare_configs(RunFolder(run).config(), yaml.safe_load(self.config_text), _UNSET)
        refuse(run, {key: change for key, change in refused.items() if key.startswith(_SHARED)})

    def begin(self, trainer: L.Trainer) -> None:
        """Write what this start is: the configuration of a new run, or a line of history of one that goes on.

        Raises:
            ValueError: the images are not those that the run began with.
        """
        if self.begun or not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)
        data = data if isinstance(data, ImageDataModule) else None
        goes_on = self.checkpoint is not None and self.holds_run
        if goes_on and data is not None:
            if not (known := self.folder.data_fingerprint()):
                warnings.warn(
                    f"{self.run_dir} has no {DATA}: whether the images are those that the run began with is not known",
                    stacklevel=2,
                )
            check_same_images(self.run_dir, known, data)
        self.begun = True
        self._make_room(goes_on)
        self.folder.create()
        record_trial(self.run_dir)
        if not (goes_on and self.folder.config_path.exists()):
            self.folder.save_config(self.config_text)
        if data is not None:
            write_json(self.run_dir / DATA, fingerprint(data.images) | data.describe())
        if self.checkpoint is not None:
            self.folder.append_history(self._step, self._changes, checkpoint=str(self.checkpoint))
            self._tell_changes()
        lineage = self.folder.lineage()
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.config_text) | ({"lineage": lineage} if lineage else {}))

    def _make_room(self, goes_on: bool) -> None:
        """Keep aside what would be overwritten."""
        words = None
        if goes_on and self.resume != "auto" and (later := set_aside_after(self.run_dir, self._step)):
            words = f"what was there of later steps is in {later}"
        elif self.holds_run and not goes_on:
            words = f"no checkpoint can be gone on with: starting anew; what was there is in {set_aside(self.run_dir)}"
        elif not goes_on and self.folder.config_path.is_file() and not has_checksum(self.folder.config_path):
            words = f"a {CONFIG} that no run has written is kept in {set_aside(self.run_dir)}"
        if words is not None:
            warnings.warn(words, stacklevel=3)

    def _tell_changes(self) -> None:
        for key, (before, after) in self._changes.items():
            print(f"changed from step {self._step} on: {key} from {before!r} to {after!r}", flush=True)


class BeginRun(L.Callback):
    """Lets a start write when everything else has been checked: when the training begins, before the probes."""

    def __init__(self, start: Start) -> None:
        self.start = start

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The usual moment."""
        self.start.begin(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """For a run with nothing left to train, which Lightning does not begin."""
        self.start.begin(trainer)
