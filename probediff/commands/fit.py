"""The command line: the only place where configuration becomes objects."""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import pkgutil
import re
import sys
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import yaml
from lightning.pytorch.callbacks import ModelSummary, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from probediff import callbacks
from probediff.callbacks import Probe, Probing
from probediff.commands.cpu import set_up_cpu
from probediff.commands.runner import keep_traceback, words_for
from probediff.data import ImageDataModule
from probediff.denoisers import UNet
from probediff.exceptions import StoppedBySignalError
from probediff.report.table import run_summary
from probediff.runs.folder import RunFolder
from probediff.runs.grouping import group_of
from probediff.runs.lock import WAIT_SEC, hold, holder, release
from probediff.runs.loggers import FailsafeWandbLogger, WandbSettings
from probediff.sweep.lineage import claim_trial_folder, lineage_of
from probediff.training.checkpoints import load_checkpoint, newest_loadable
from probediff.training.module import DiffusionModule

_RUN_DIR_VARIABLE = "PROBEDIFF_RUN_DIR"
#: Exit status of a run that a signal stopped and that wants to be started again (EX_TEMPFAIL of sysexits.h).
_STATUS_STOPPED = 75


def available_probes() -> dict[str, type[Probe]]:
    """All probes of the package ``probediff.callbacks`` by configuration key; a new file there is found by itself."""
    found: dict[str, type[Probe]] = {}
    for part in pkgutil.iter_modules(callbacks.__path__):
        module = importlib.import_module(f"probediff.callbacks.{part.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, Probe) and member is not callbacks.Probe and member.__module__ == module.__name__:
                found[member.name()] = member
    return found


class FitParser(LightningArgumentParser):
    """A parser whose errors say which key may have been meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with the message and the nearest known keys."""
        keys = [action.dest for action in self._actions]
        group = re.search(r"Group '([\w.]+)'", message)
        for word in re.findall(r"[\w.]*\w", message.split("Got value")[0]):
            full = f"{group[1]}.{word}" if group and not word.startswith(group[1]) else word
            close = difflib.get_close_matches(full, keys, n=1, cutoff=0.8)
            if close and full not in keys:
                message += f" (did you mean {close[0]}?)"
                break
        super().error(message, ex)


class FitCLI(LightningCLI):
    """``probediff fit``: builds the run that a configuration describes; ``fit`` below starts it."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(
            DiffusionModule,
            ImageDataModule,
            subclass_mode_data=True,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_class=FitParser,
            seed_everything_default=0,
            trainer_defaults={
                "enable_checkpointing": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 50,
            },
            parser_kwargs={
                "prog": "probediff fit",
                "usage": "probediff fit --config FILE [--KEY VALUE ...]",
                "description": "Train a diffusion model and probe it at checkpoints. Any key of a configuration file "
                "can be given as an option, e.g. --network.channels 64. "
                "--print_config shows the whole configuration without running it.",
                "parser_mode": "omegaconf+",
                "default_env": False,
            },
            args=arguments,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments that were handed over (LightningCLI would warn about them)."""
        self.config = parser.parse_args(args)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed, an integer: initial weights and all training randomness follow from it."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of the initial weights and of all training randomness."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys beside ``trainer``, ``model`` and ``data``, and the values that must agree."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run (runs/<config name>/<start time>, in a sweep runs/sweep-<id>/<values>).",
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Go on with a run: 'auto' takes the newest checkpoint that loads (in --run_dir, or else in the newest "
            "folder of this configuration) and starts anew where there is none; or a checkpoint file.",
        )
        parser.add_class_arguments(UNet, "network")
        parser.add_class_arguments(WandbSettings, "wandb")
        parser.add_lightning_class_args(Probing, "probing")
        for name, probe in available_probes().items():
            parser.add_lightning_class_args(probe, name)
        parser.link_arguments("seed_everything", "model.seed")
        for source, target in (("image_size", "image_size"), ("channels", "in_channels")):
            parser.link_arguments(f"data.{source}", f"network.{target}", apply_on="instantiate")
        # Noise and variance: the network of both losses, so that a checkpoint fits either.
        parser.link_arguments(
            "data.channels", "network.out_channels", compute_fn=lambda channels: 2 * channels, apply_on="instantiate"
        )
        parser.link_arguments("network", "model.network", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Settle the run folder before anything expensive starts."""
        self.run_dir = self._resolve_run_dir()
        RunFolder(self.run_dir).create()
        if getattr(rank_zero_only, "rank", 0) == 0 and not hold(self.run_dir, WAIT_SEC):
            raise ValueError(
                f"process {(holder(self.run_dir) or {}).get('process')} is at work in {self.run_dir}; "
                f"wait for its end, or give another --run_dir"
            )
        set_up_cpu()

    def _resolve_run_dir(self) -> Path:
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
        if (trial_folder := claim_trial_folder()) is not None:
            return trial_folder
        sources = self.config.get("config") or []
        parent = Path("runs") / (Path(str(sources[0])).stem if sources else "fit")
        if self.config.resume == "auto" and (started := sorted(parent.glob("*/checkpoints/step=*.ckpt"))):
            return started[-1].parents[1]
        return parent / datetime.now().strftime("%Y-%m-%dT%H-%M-%S")

    def checkpoint_to_resume(self) -> Path | None:
        """The checkpoint that ``--resume`` asks for.

        Raises:
            ValueError: when a file was named that cannot be gone on with.
        """
        keys = self.model.state_dict().keys()
        if self.config.resume is None:
            return None
        if self.config.resume == "auto":
            return newest_loadable(self.run_dir / "checkpoints", keys)
        load_checkpoint(Path(self.config.resume), keys)
        return Path(self.config.resume)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the run folder as its root and W&B as its logger."""
        given = self.config_init.trainer
        if given.logger in (None, True):
            settings = self._grouped(self.config_init.wandb)
            kwargs["logger"] = False if settings.mode == "disabled" else FailsafeWandbLogger(settings, self.run_dir)
        added: list[L.Callback] = []
        if given.enable_progress_bar is not False:
            added.append(TQDMProgressBar(refresh_rate=10))
        if given.enable_model_summary is not False:
            added.append(ModelSummary(max_depth=1))
        listed = given.callbacks or []
        kwargs["callbacks"] = [*added, *(listed if isinstance(listed, list) else [listed])]
        return super().instantiate_trainer(default_root_dir=str(self.run_dir), **kwargs)

    def _grouped(self, settings: WandbSettings) -> WandbSettings:
        """Runs that differ by their seed only are one group, whose mean and range dashboards show."""
        if settings.group is not None:
            return settings
        sources = self.config.get("config") or []
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return replace(settings, group=group_of(config, Path(str(sources[0])).stem if sources else "fit"))

    def after_instantiate_classes(self) -> None:
        """Write the configuration where the run will be."""
        if self.trainer.is_global_zero:
            text = self.parser.dump(self.config, skip_none=False)
            RunFolder(self.run_dir).save_config(text)
            lineage = lineage_of(self.run_dir)
            for logger in self.trainer.loggers:
                logger.log_hyperparams(yaml.safe_load(text) | ({"lineage": lineage} if lineage else {}))


def quiet_libraries() -> None:
    """Leave out the libraries' advice that does not apply here."""
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        # The averaged copies of the network are meant to be in eval mode.
        "Found .* module\\(s\\) in eval mode at the start of training.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


def fit(arguments: list[str]) -> int:
    """``probediff fit``: train and probe; returns the exit status.

    An error that the user can cure is printed in one line, with the traceback in the run folder.
    """
    quiet_libraries()
    run_dir: Path | None = None
    try:
        cli = FitCLI(arguments)
        run_dir = cli.run_dir
        print_once(f"run folder: {run_dir}")
        checkpoint = cli.checkpoint_to_resume()
        if checkpoint is not None and RunFolder(run_dir).is_finished():
            print_once(f"going on with a finished run from {checkpoint}")
        elif checkpoint is not None:
            print_once(f"going on from {checkpoint}")
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except StoppedBySignalError as stop:
        print_once(f"{stop}; go on with: probediff fit --config ... --run_dir {run_dir} --resume auto")
        return _STATUS_STOPPED
    except Exception as error:
        words = words_for(error, run_dir)
        if words is not None:
            print(f"probediff fit: error: {words}", file=sys.stderr)
        keep_traceback(run_dir)
        if words is None:
            raise
        return 1
    finally:
        if run_dir is not None:
            release(run_dir)
    print_once(run_summary(RunFolder(run_dir)))
    return 0


@rank_zero_only
def print_once(text: str) -> None:
    """Print on the first process only."""
    print(text, flush=True)
