"""The schedule and the shared pass: at due steps save a checkpoint, generate, invert, and ask every probe."""

import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from tempfile import mkdtemp
from typing import Any

import lightning as L
from torch import Tensor

from probediff.callbacks.base import Probe
from probediff.callbacks.due_steps import ProbeSchedule, last_step
from probediff.callbacks.interval import TrainingInterval
from probediff.callbacks.metrics import check_monitors, share_metrics
from probediff.callbacks.pass_bar import show_pass
from probediff.callbacks.stopping import StopRequest
from probediff.callbacks.trained_model import (
    bring_average_up_to_date,
    callbacks_of,
    describe_run,
    go_before_averaging,
    known_images,
    loss_of,
    model_now,
    training_images,
)
from probediff.exceptions import describe_failure
from probediff.models.base import ProbeModel, at_rest, undisturbed
from probediff.models.own_module import Loader, ModelFunction
from probediff.probing.probe import ProbeContext, check_probes, images_function, least_work
from probediff.probing.processes import on_first_process
from probediff.probing.recorder import Recorder, conventions_for, pass_request
from probediff.probing.run_config import begin_run
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import is_survivable, run_pass
from probediff.probing.wiring_watch import WiringWatch
from probediff.runs.folder import RunFolder
from probediff.runs.gaps import tell_gaps, tell_processes, tell_redefined
from probediff.runs.lock import claim
from probediff.runs.tracking import Tracker
from probediff.training.checkpoints import save_checkpoint, thin_out
from probediff.training.module import DiffusionModule


class Probing(L.Callback):
    """Probes a run at checkpoints: saves a checkpoint, runs the shared pass once, hands it to all enabled probes.

    Probes are found among the trainer's callbacks. Everything goes to the trainer's ``default_root_dir`` and to its
    loggers. Any LightningModule with a method ``probe_model(weights, ema_rate) -> ProbeModel`` is probed, see
    ``probediff.models.wrap_network``; where Lightning's ``WeightAveraging`` keeps an average, ``ema`` means that one.

    Args:
        schedule: when to probe.
        settings: what to generate and how.
        progress: show how far a probe pass is.
        keep_full_checkpoints: keep so many newest checkpoints whole and of older ones the weights in float16, a quarter
            of the size; all are kept whole by default.
        model: the model, or ``(weights, ema_rate) -> model``, instead of the module's method.
        loader: ``(checkpoint, weights, ema_rate) -> model``, by which the model is loaded afterwards, for a module that
            its class and arguments do not build again.
        real_images: (N, C, H, W) in [-1, 1], or n -> n of them, for probes that compare with them and for the check of
            the model's wiring; by default those of a data module of probediff.
    """

    def __init__(
        self,
        schedule: ProbeSchedule = ProbeSchedule(),  # noqa: B008 (frozen)
        settings: PassSettings = PassSettings(),  # noqa: B008 (frozen)
        progress: bool = True,
        keep_full_checkpoints: int | None = None,
        model: ModelFunction | ProbeModel | None = None,
        loader: Loader | None = None,
        real_images: Tensor | Callable[[int], Tensor] | None = None,
    ) -> None:
        if keep_full_checkpoints is not None and keep_full_checkpoints < 1:
            raise ValueError(
                f"probing.keep_full_checkpoints must be at least 1, got {keep_full_checkpoints}: no run could go on"
            )
        self.schedule = schedule
        self.settings = settings
        self.progress = progress
        self.keep_full_checkpoints = keep_full_checkpoints
        self.model = model
        self.loader = loader
        self.real_images = images_function(real_images)
        self.wiring: WiringWatch | None = None
        #: Whether the run's configuration is written here; `probediff fit` writes it itself.
        self.describes_run = True
        self.stop = StopRequest()
        self._probed_at = self._seen_step = -1
        self._looked_back = False
        self._restored: dict[str, Any] | None = None
        self._num_processes = 1
        self._nothing_kept: str | None = None
        self._owning = ExitStack()
        self._interval = TrainingInterval()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check what can be known before the module is set up, and come before what averages its weights."""
        if trainer.max_steps == trainer.max_epochs == -1:
            raise ValueError(
                "trainer.max_steps (or trainer.max_epochs) must be set: without an end there is no last step to probe"
            )
        self.schedule.check(trainer.max_steps)
        go_before_averaging(trainer, self)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check everything else before the first training step: the module may have made its network just now."""
        model = self._model(trainer, pl_module)
        self.settings.check_model(model)
        self.probes = [c for c in callbacks_of(trainer) if isinstance(c, Probe) and c.enabled]
        folder = RunFolder(trainer.default_root_dir)
        real_images, training = known_images(trainer, pl_module, self.real_images)
        shape, pixels = model.image_shape, model.pixels
        self.context = ProbeContext(self.settings, shape, folder, real_images, pixels, training, model.schedule)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._nothing_kept = mkdtemp(prefix="probediff-")
            folder = RunFolder(self._nothing_kept)
            self.context = least_work(replace(self.context, folder=folder), self.probes, model.schedule)
            self.settings = self.context.settings
        check_probes(self.probes, self.context)
        check_monitors(trainer, self.probes, self.context.folder)
        if not isinstance(pl_module, DiffusionModule):  # which is probed as it trains, by the same wiring
            images = real_images or partial(training_images, trainer, model.pixel_shape)
            self.wiring = WiringWatch(self.context.folder, images)

    def _model(self, trainer: L.Trainer, module: L.LightningModule) -> ProbeModel:
        return model_now(trainer, module, self.model, self.settings)

    def state_dict(self) -> dict[str, Any]:
        """The running loss since the last event and its seconds, so that a resumed run records the same mean."""
        return self._interval.state_dict(self._seen_step) | {"num_processes": self._num_processes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the running loss of the checkpoint.

        Raises:
            ValueError: it is not there.
        """
        for name, kind in (("loss_sum", float), ("loss_count", int)):
            if not isinstance(state_dict.get(name), kind):
                raise ValueError(f"the state of Probing must hold {name}, got {state_dict.get(name)!r}")
        self._restored = state_dict

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Probe the untrained model, or bring a resumed run to where it was."""
        self.stop.install(trainer)
        self._begin(trainer, pl_module)

    def _begin(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        folder = self.context.folder
        if self._restored is None and folder.records():
            raise ValueError(
                f"{folder.path} already holds a run; go on with it by --resume auto or ckpt_path; or take another"
            )
        if trainer.is_global_zero:
            self._take_folder(trainer, module)
        model = self._model(trainer, module)
        # Lightning's stand-ins for loggers in a trial run seem to have every method.
        tracker = Tracker(folder, [] if trainer.fast_dev_run else trainer.loggers)  # type: ignore[attr-defined]
        self.recorder = Recorder(self.probes, self.context, tracker, conventions_for(self.settings, model))
        self._due = self.schedule.until(last_step(trainer, module))
        self._num_processes = trainer.world_size
        self._interval.restore(self._restored, trainer, module.device)
        if trainer.is_global_zero:
            tell_processes((self._restored or {}).get("num_processes", self._num_processes), self._num_processes)
        step = self._seen_step = trainer.global_step
        if trainer.is_global_zero:
            tell_gaps(folder, step, self._due)
            tell_redefined(folder)
        complete = trainer.is_global_zero and folder.rewind(step)
        if trainer.is_global_zero:
            tracker.send_again()
        share_metrics(trainer, tracker)
        if trainer.strategy.reduce_boolean_decision(complete, all=False):
            self._finish_event(step)
        elif step in self._due:
            self._probe(trainer, module, save=not folder.checkpoint_path(step).exists())
        elif not folder.checkpoint_path(step).exists():
            # A run that branches off from another one: it can go on from here, whatever comes.
            self._save(trainer, module)
        if folder.checkpoint_path(step).exists() and isinstance(module, DiffusionModule):
            module.last_checkpoint = folder.checkpoint_path(step)

    def _take_folder(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        folder = self.context.folder
        self._owning.enter_context(claim(folder.path, "trainer.default_root_dir"))
        folder.create()
        if self.describes_run:
            described = describe_run(trainer, module, self.settings, self.probes, self.loader)
            begin_run(folder, described, None if self._restored is None else trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probe at due steps; stop, with a checkpoint, when a signal asked for it."""
        if (loss := loss_of(outputs)) is not None:
            self._interval.add(trainer, loss)
        step = trainer.global_step
        if step == self._seen_step:
            # Gradients are still being accumulated, and no checkpoint holds them.
            return
        # With several optimisers a batch is several steps.
        is_due = not self._due.isdisjoint(range(self._seen_step + 1, step + 1))
        self._seen_step = step
        if is_due:
            bring_average_up_to_date(trainer, pl_module, (outputs, batch, batch_idx))
            self._probe(trainer, pl_module)
        elif self.stop.agreed(trainer):
            bring_average_up_to_date(trainer, pl_module, (outputs, batch, batch_idx))
            saved = self._save(trainer, pl_module)
            raise self.stop.error(f" at step {step}" + ("" if saved else ", of which no checkpoint could be written"))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Probe the last step if it was not due, then let probes look back over the whole run."""
        if trainer.global_step != self._probed_at:
            self._probe(trainer, pl_module)
        self._look_back(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete a run that was killed after its last training step: Lightning then has nothing left to train."""
        if not self._looked_back:
            pl_module.to(trainer.strategy.root_device)
            self._begin(trainer, pl_module)
            self._look_back(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals and the folder back."""
        self._leave_folder()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Lightning does not tear down what fails."""
        self._leave_folder()

    def _leave_folder(self) -> None:
        self.stop.uninstall()
        self._owning.close()
        if self._nothing_kept is not None:
            shutil.rmtree(self._nothing_kept, ignore_errors=True)

    def lost_results(self) -> list[str]:
        """What of the run could not be kept, such as ``samples of step 5, 10``; empty if nothing is missing."""
        return self.recorder.tracker.lost_results()

    def _look_back(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._looked_back = True
        with undisturbed(module):
            on_first_process(partial(self.recorder.finish, trainer.global_step), trainer.strategy.root_device)

    def _save(self, trainer: L.Trainer, module: L.LightningModule) -> bool:
        self._interval.reduce(trainer)
        path = self.context.folder.checkpoint_path(trainer.global_step)
        try:
            save_checkpoint(trainer, path)
            if self.keep_full_checkpoints is not None and trainer.is_global_zero:
                thin_out(path.parent, self.keep_full_checkpoints)
        except OSError as error:
            self.recorder.tracker.note_loss("checkpoint", trainer.global_step)
            warnings.warn(f"{error}; training goes on without it. Free some space.", stacklevel=2)
            return False
        if isinstance(module, DiffusionModule):
            module.last_checkpoint = path
        return True

    def _probe(self, trainer: L.Trainer, module: L.LightningModule, save: bool = True) -> None:
        step, device = trainer.global_step, trainer.strategy.root_device
        if isinstance(module, DiffusionModule):
            module.raise_if_not_finite()
        if save:
            self._save(trainer, module)
        entries = self._interval.entries(trainer)
        start = time.perf_counter()
        with undisturbed(module), show_pass(trainer, self.stop, self.progress) as advance, ExitStack() as at_work:
            event, failure = None, None
            if self.probes:
                model = at_work.enter_context(at_rest(self._model(trainer, module), device))
                if self.wiring is not None:
                    self.wiring.look(model)
                try:
                    event = run_pass(model, self.settings, pass_request(self.probes), advance)
                except Exception as error:
                    # Before the first training step nothing is lost by an end, and what is wrong stays wrong.
                    if step == 0 or not is_survivable(error):
                        raise
                    failure = describe_failure(error)
            record = partial(self.recorder.record, step, event, start, advance, entries, failure)
            on_first_process(record, device)
        share_metrics(trainer, self.recorder.tracker)
        self._finish_event(step)

    def _finish_event(self, step: int) -> None:
        self._probed_at = step
        self._interval.begin(step)
