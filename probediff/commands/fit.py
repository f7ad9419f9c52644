"""Train a diffusion model and probe it at checkpoints.

Any key of a configuration file can be given as an option, such as --network.channels 64. --print_config shows the
whole configuration without running it.

Examples:
  probediff fit --config configs/digits.yaml
  probediff fit --config configs/cifar10.yaml --data.root ~/data --trainer.devices 8
  probediff fit --config configs/cifar10.yaml --run_dir runs/cifar10/mine --resume auto
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import ModelSummary, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only

from probediff.callbacks import Probing
from probediff.callbacks.metrics import KeepStopped, place_checkpoints
from probediff.callbacks.progress_lines import ProgressLines
from probediff.commands import own_classes
from probediff.commands.deaths import explain_death
from probediff.commands.old_names import accept_old_names, rename_callbacks
from probediff.commands.options import CommandParser, available_probes
from probediff.commands.printing import print_once, quiet_libraries
from probediff.commands.runner import STATUS_LOST, run_guarded
from probediff.commands.signals import INTERRUPTED, STOPPED
from probediff.commands.starting import BeginRun, Start
from probediff.commands.trainer_options import check_trainer_options, explain_trainer_errors
from probediff.data import ImageDataModule
from probediff.exceptions import StoppedBySignalError
from probediff.files import whole_file
from probediff.runs.configuration import refuse_secrets
from probediff.runs.folder import ERROR, RunFolder
from probediff.runs.grouping import group_of
from probediff.runs.lock import WAIT_SEC, claim
from probediff.runs.loggers import FailsafeWandbLogger
from probediff.runs.summary import run_summary
from probediff.runs.wandb_settings import WandbSettings, from_environment
from probediff.sweep.lineage import claim_trial_folder
from probediff.training.module import DiffusionModule

_RUN_DIR_VARIABLE = "PROBEDIFF_RUN_DIR"
_PARSER_MODE = "omegaconf+"


@dataclass(frozen=True)
class _Place:
    """Where the run lies.

    Args:
        run_dir: Folder of the run (runs/<config name>/<start time>, in a sweep runs/sweep-<id>/<values>).
        resume: Go on with a run: 'auto' takes the newest checkpoint that loads (in --run_dir, or else in the newest
            folder of this configuration) and starts anew where there is none; or a checkpoint file.
    """

    run_dir: str | None = None
    resume: str | None = None


class FitCLI(LightningCLI):
    """``probediff fit``: builds the run that a configuration describes; ``fit`` below starts it.

    Args:
        arguments: of the command line.
        owning: the run's folder is ours until it is closed, which is the end of this object by default.
    """

    def __init__(self, arguments: list[str], owning: ExitStack | None = None) -> None:
        self._owning = owning or ExitStack()
        self._has_own_network = own_classes.names_network_class(arguments)
        accept_old_names(_PARSER_MODE, own_classes.leave_out_sizes if self._has_own_network else None)
        super().__init__(
            DiffusionModule,
            ImageDataModule,
            subclass_mode_data=True,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=CommandParser,
            seed_everything_default=0,
            trainer_defaults={
                "enable_checkpointing": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 50,
            },
            parser_kwargs={
                "name": "fit",
                "arguments": "--config FILE",
                "text": __doc__,
                "parser_mode": _PARSER_MODE,
                "default_env": False,
            },
            args=arguments,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments that were handed over (LightningCLI would warn about them)."""
        self.config = parser.parse_args(rename_callbacks(args))
        if not 0 <= self.config.seed_everything < 2**32:
            raise ValueError(f"--seed_everything must be in 0..2**32-1, got {self.config.seed_everything}")
        own_classes.refuse_unused(self.config, args)
        # Recorded as what they are.
        if self.config.wandb.mode != "disabled":
            for key, value in from_environment(self.config.wandb).items():
                self.config.wandb[key] = value
        sources = self.config.get("config") or []
        self.config_name = Path(str(sources[0])).stem if sources else "fit"

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed, an integer: initial weights and all training randomness follow from it."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of the initial weights and of all training randomness."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys beside ``trainer``, ``model`` and ``data``, and the values that must agree."""
        parser.add_class_arguments(_Place)
        parser.add_class_arguments(WandbSettings, "wandb")
        # As `add_lightning_class_args`, without what is for modules of one's own in Python.
        parser.callback_keys.append("probing")
        parser.add_class_arguments(
            Probing,
            "probing",
            skip={"model", "loader", "real_images"},
            fail_untyped=False,
            instantiate=True,
            sub_configs=True,
        )
        for name, probe in available_probes().items():
            parser.add_lightning_class_args(probe, name)
        parser.link_arguments("seed_everything", "model.seed")
        own_classes.add_network(parser, self._has_own_network)
        own_classes.add_optimizer(parser)

    def before_instantiate_classes(self) -> None:
        """Settle the run folder, and compare what is there, before anything expensive starts."""
        check_trainer_options(self.config.trainer)
        if self.is_trial_run:
            # Nothing of it is kept, so that it must not meet a run either.
            self.run_dir = Path(self._owning.enter_context(TemporaryDirectory(prefix="probediff-")))
        else:
            self.run_dir = self._choose_run_dir()
        text = self._config_text()
        refuse_secrets(text)
        self.start = Start(self.run_dir, None if self.is_trial_run else self.config.resume, text)
        if getattr(rank_zero_only, "rank", 0) == 0:
            self._owning.enter_context(claim(self.run_dir, "--run_dir", WAIT_SEC))
            self.start.check(self.parser.get_defaults().as_dict())

    def instantiate_classes(self) -> None:
        """Make data, network, module and trainer; the module keeps, for its checkpoints, what its network is."""
        if not self._has_own_network:
            return super().instantiate_classes()
        with own_classes.explain_network_errors():
            super().instantiate_classes()
        self.model.hparams["network"] = yaml.safe_load(self._config_text())["network"]

    @property
    def is_trial_run(self) -> bool:
        """Whether ``--trainer.fast_dev_run`` asks for a few steps that only show whether everything works."""
        return bool(self.config.trainer.fast_dev_run)

    def _choose_run_dir(self) -> Path:
        # Processes that Lightning launches inherit the variable, so that all ranks agree on one folder.
        if _RUN_DIR_VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
            return Path(os.environ[_RUN_DIR_VARIABLE])
        run_dir = Path(self.config.run_dir or self._default_run_dir())
        os.environ[_RUN_DIR_VARIABLE] = str(run_dir)
        return run_dir

    def _default_run_dir(self) -> Path:
        if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            raise ValueError(
                "--run_dir must be given when torchrun or SLURM starts the processes, got none: "
                "each would take its own start time for the name of the folder"
            )
        if (trial_folder := claim_trial_folder(self._owning)) is not None:
            return trial_folder
        parent = Path("runs") / self.config_name
        started = [folder for folder in sorted(parent.glob("*/")) if RunFolder(folder).checkpoints()]
        if self.config.resume == "auto" and started:
            return started[-1]
        return parent / datetime.now().strftime("%Y-%m-%dT%H-%M-%S")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the run folder as its root and W&B as its logger."""
        chosen = self.config_init.trainer
        if chosen.logger in (None, True):
            settings = self.config_init.wandb
            if settings.group is None:
                # Runs that differ by their seed only are one group, whose mean and range dashboards show.
                settings = replace(settings, group=group_of(yaml.safe_load(self._config_text()), self.config_name))
            kwargs["logger"] = False if settings.mode == "disabled" else FailsafeWandbLogger(settings, self.run_dir)
        # Of a trial run nothing is kept.
        added: list[L.Callback] = [] if self.is_trial_run else [BeginRun(self.start)]
        if chosen.enable_progress_bar is not False:
            # In a log file a bar would be a line at every refresh.
            added.append(TQDMProgressBar(refresh_rate=10) if sys.stdout.isatty() else ProgressLines())
        if chosen.enable_model_summary is not False:
            added.append(ModelSummary(max_depth=1))
        listed = chosen.callbacks or []
        kwargs["callbacks"] = [*(listed if isinstance(listed, list) else [listed]), *added]
        kwargs |= place_checkpoints(kwargs["callbacks"], self.run_dir)
        with explain_trainer_errors(chosen):
            trainer = super().instantiate_trainer(default_root_dir=str(self.run_dir), **kwargs)
        for probing in (c for c in trainer.callbacks if isinstance(c, Probing)):  # type: ignore[attr-defined]
            probing.describes_run = False
        trainer.callbacks.append(KeepStopped())  # type: ignore[attr-defined]
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ValueError(
                f"trainer.strategy must be one whose processes each run this command, such as ddp, got "
                f"{chosen.strategy!r}: what copies of this process find out would be lost with them"
            )
        return trainer

    def _config_text(self) -> str:
        # Where it lies and how it was started is no part of what a run is: a copy of it would go on in its place.
        config = self.config.clone()
        config.run_dir = config.resume = None
        for key in ("optimizer", "lr_scheduler"):
            if config[key] is None:  # as in earlier versions: groups of runs stay together
                del config[key]
        return str(self.parser.dump(config, skip_unset=False))


def fit(arguments: list[str]) -> int:
    """``probediff fit``: train and probe; returns the exit status."""
    quiet_libraries()
    try:
        return run_guarded("probediff fit", partial(_fit, arguments))
    finally:
        # It was for the processes of this run: those of a later one must not write into its folder.
        os.environ.pop(_RUN_DIR_VARIABLE, None)


def _fit(arguments: list[str]) -> int | None:
    with ExitStack() as owning:
        cli = FitCLI(arguments, owning)
        print_once(f"run folder: {cli.run_dir}{', for a moment' if cli.is_trial_run else ''}")
        with _errors_in(cli.start):
            cli.start.choose_checkpoint(cli.trainer, cli.model)
            if (checkpoint := cli.start.checkpoint) is not None:
                finished = " with a finished run" if cli.start.folder.is_finished() else ""
                print_once(f"going on{finished} from {checkpoint}")
            try:
                cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
            except StoppedBySignalError as stop:
                print_once(f"{stop}; go on with: probediff fit --config ... --run_dir {cli.run_dir} --resume auto")
                return INTERRUPTED if stop.is_interrupt else STOPPED
        return _conclude(cli)


def _conclude(cli: FitCLI) -> int | None:
    """Say what there is, and last what there is not; returns the exit status."""
    folder = RunFolder(cli.run_dir)
    if cli.is_trial_run:
        print_once("everything works; nothing of this was kept (trainer.fast_dev_run)")
        return None
    print_once(run_summary(folder))
    (probing,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, Probing))  # type: ignore[attr-defined]
    if lost := probing.lost_results():
        print_once(f"LOST, because it could not be written to {cli.run_dir}: {'; '.join(lost)}")
        return STATUS_LOST
    return None


@contextmanager
def _errors_in(start: Start) -> Iterator[None]:
    """Keep the traceback of an error in the run folder, once the run has begun there."""
    try:
        yield
    except Exception as error:
        shown = explain_death(error, start.run_dir) or error
        if start.begun:
            path = start.run_dir / ERROR
            with suppress(OSError):  # the error may be that nothing can be written
                with whole_file(path) as file:
                    file.write(traceback.format_exc().encode())
                shown.add_note(f"The traceback is in {path}")
        if shown is error:
            raise
        raise shown from error
