"""The model that a trainer trains, whoever wrote its LightningModule, and what the run's folder says of both."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.cli import SaveConfigCallback

from probediff.data import ImageDataModule
from probediff.models.base import ProbeModel
from probediff.models.own_module import AVERAGED_BY, Loader, ModelFunction, describe_module, probe_model_of
from probediff.probing.probe import Probe, TrainingImages
from probediff.probing.run_config import describe_probes
from probediff.probing.settings import PassSettings
from probediff.runs.configuration import MODULE
from probediff.training.module import DiffusionModule

_TRAINER_OPTIONS = ("max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "precision")


def model_now(
    trainer: L.Trainer, module: L.LightningModule, given: ModelFunction | ProbeModel | None, settings: PassSettings
) -> ProbeModel:
    """The model as it is now, with the weights that the settings ask for.

    Args:
        trainer: its callbacks may keep an average (Lightning's ``WeightAveraging``), which is then the one meant.
        module: the module in training.
        given: the model, or what makes it; by default the module's own method ``probe_model``.
        settings: whether averaged or raw weights are meant, and which average.

    Raises:
        ValueError: there is no such method, average or model.
    """
    others: dict[str, Any] = {}
    if isinstance(given, ProbeModel):
        model, others = given, {"weights": given.conventions.get("weights", "as given")}
    else:
        averaged = averaged_module(trainer) if settings.weights == "ema" and given is None else None
        if averaged is None:
            make = given or probe_model_of(module)
            model = make(settings.weights, settings.ema_rate)
            if settings.weights == "ema" and trainer.global_step > 0 and not isinstance(module, DiffusionModule):
                _tell_raw_weights(model, make)
        else:
            # The module knows nothing of this average: its copy has it as if it were its own weights.
            model, others = probe_model_of(averaged)("raw", None), AVERAGED_BY
    if not isinstance(model, ProbeModel):
        raise ValueError(f"probe_model must return a ProbeModel, got {type(model).__name__}; see wrap_network")
    return replace(model, step=trainer.global_step, conventions=model.conventions | others)


def _tell_raw_weights(model: ProbeModel, make: ModelFunction) -> None:
    """Warn of averages that are none: records would say of raw weights that they are averaged."""
    try:
        raw = make("raw", None)
    except Exception:  # it has averages only
        return
    if isinstance(model, ProbeModel) and raw.digest == model.digest:
        warnings.warn(
            "probe_model gives the same weights for 'ema' and 'raw', and records call them averaged: probe raw ones "
            "(PassSettings(weights='raw')), or keep an average, such as EMAWeightAveraging among the callbacks",
            stacklevel=5,
        )


def averaged_module(trainer: L.Trainer) -> L.LightningModule | None:
    """The copy of the module with averaged weights that a callback of Lightning keeps, if one does."""
    for callback in _averaging(trainer):
        if (average := callback._average_model) is not None:
            return cast(L.LightningModule, average.module)
    return None


def _averaging(trainer: L.Trainer) -> list[WeightAveraging]:
    return [c for c in callbacks_of(trainer) if isinstance(c, WeightAveraging)]


def callbacks_of(trainer: L.Trainer) -> list[Callback]:
    """The trainer's callbacks."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def go_before_averaging(trainer: L.Trainer, probing: Callback) -> None:
    """Let the probes come first: at the end Lightning puts the average in the place of the raw weights."""
    callbacks = callbacks_of(trainer)
    if averaging := _averaging(trainer):
        first = callbacks.index(averaging[0])
        if callbacks.index(probing) > first:
            callbacks.remove(probing)
            callbacks.insert(first, probing)
            # A new list: the trainer is going through the old one.
            trainer.callbacks = callbacks  # type: ignore[attr-defined]


def bring_average_up_to_date(trainer: L.Trainer, module: L.LightningModule, step: Sequence[Any]) -> None:
    """Let Lightning's averages see the step before the probes do; each of them counts it once.

    Args:
        trainer: the trainer.
        module: its module.
        step: outputs, batch and index of the batch, as callbacks get them.
    """
    for callback in _averaging(trainer):
        callback.on_train_batch_end(trainer, module, *step)


ImagesFunction = Callable[[int], torch.Tensor]


def known_images(
    trainer: L.Trainer, module: L.LightningModule, given: ImagesFunction | None
) -> tuple[ImagesFunction | None, TrainingImages | None]:
    """Real images for the probes, those given or those of probediff's data module; what is known of them as trained on.

    Whether a module of one's own flips its images, and whether images that are given are its training images, is not
    known.
    """
    data = getattr(trainer, "datamodule", None)
    if given is not None or not isinstance(data, ImageDataModule):
        return given, None
    mirrored = module.random_flip if isinstance(module, DiffusionModule) else None
    return data.real_images, TrainingImages(mirrored, data.held_out_images)


def training_images(trainer: L.Trainer, shape: tuple[int, int, int], count: int) -> torch.Tensor:
    """Images (N, C, H, W) in [-1, 1] of the data set that the trainer reads, spread evenly, for a look at them.

    The items are read beside the loader, which is not touched. Those in [0, 1] or 0..255 are taken to [-1, 1]; whether
    the network sees them so, the network shows.

    Raises:
        ValueError: there is no data set with a length, or no item of it has a tensor of this shape.
    """
    loader = trainer.train_dataloader
    dataset: Any = getattr(loader, "dataset", None)
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(f"real_images must be given to Probing, for {type(loader).__name__} has no data set of items")
    total = len(dataset)
    images = [_find_image(dataset[k * total // count], shape) for k in range(min(count, total))]
    stacked = torch.stack(images)
    if not stacked.is_floating_point() or stacked.max() > 2:
        return stacked.float() / 127.5 - 1
    return stacked.float() if stacked.min() < 0 else stacked.float() * 2 - 1


def _find_image(item: Any, shape: tuple[int, int, int]) -> torch.Tensor:
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else [item]
    for part in parts:
        if isinstance(part, torch.Tensor) and tuple(part.shape) == shape:
            return part
    raise ValueError(f"real_images must be given to Probing, for no part of an item of the data set is {shape}")


def loss_of(outputs: Any) -> torch.Tensor | None:
    """The loss of a batch, where the module says it: with manual optimisation it need not."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss if isinstance(loss, torch.Tensor) and loss.numel() == 1 else None


def describe_run(
    trainer: L.Trainer,
    module: L.LightningModule,
    settings: PassSettings,
    probes: Sequence[Probe],
    loader: Loader | None,
) -> dict[str, Any]:
    """The configuration of a run that `probediff fit` did not start, as plain types."""
    options = {name: getattr(trainer, name) for name in _TRAINER_OPTIONS}
    plain = {name: value for name, value in options.items() if isinstance(value, int | float | str | None)}
    described = describe_module(module, _configured_arguments(trainer), loader)
    return {MODULE: described, "trainer": plain, **describe_probes(settings, probes)}


def _configured_arguments(trainer: L.Trainer) -> dict[str, Any] | None:
    """The arguments of the module in the configuration of a LightningCLI; None where there is none."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, SaveConfigCallback):
            text = callback.parser.dump(callback.config, skip_none=False)
            section = (yaml.safe_load(text) or {}).get("model")
            if isinstance(section, dict):
                return dict(section.get("init_args") or {}) if "class_path" in section else section
    return None
