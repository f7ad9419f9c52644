"""LightningModules of one's own: what a run's folder says of them, and how they are built again from it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser

from probediff.exceptions import describe_failure
from probediff.files import check_dense, load_strictly, read_checkpoint
from probediff.models.base import ProbeModel, Weights, undisturbed
from probediff.runs.configuration import CONFIG, MODULE
from probediff.runs.folder import RunFolder
from probediff.runs.sources import CLASS_PATH, FILE, has_changed, import_source, is_importable, locate, refuse_untrusted

#: ``(weights, ema_rate) -> model``: what a module that can be probed has as its method.
ModelFunction = Callable[[Weights, float | None], ProbeModel]
#: ``(checkpoint file, weights, ema_rate) -> model``
Loader = Callable[[Path, Weights, float | None], ProbeModel]
INIT_ARGS, FUNCTION, UNKNOWN = "init_args", "function", "unknown"
#: Where Lightning's WeightAveraging keeps the raw weights; those under ``state_dict`` are then the averages.
RAW_STATE = "current_model_state"
#: For the records of probes of such an average.
AVERAGED_BY = {"averaged_by": "WeightAveraging"}
_CURE = (
    "Its networks must be made in __init__ or configure_model by arguments that it saves; else give Probing(loader=...)"
)


@runtime_checkable
class ProbedModule(Protocol):
    """What a LightningModule needs so that it can be probed while it trains."""

    def probe_model(self, weights: Weights, ema_rate: float | None) -> ProbeModel:
        """The model as it is now, with averaged (``ema``) or ``raw`` weights."""


def describe_module(
    module: L.LightningModule, arguments: Mapping[str, Any] | None = None, loader: Loader | None = None
) -> dict[str, Any]:
    """How a module is built again: class path and arguments, or the function that loads it, or why that is not known.

    Args:
        module: the module.
        arguments: of its class, from the configuration that it was built from; by default those that it saved with
            ``save_hyperparameters``.
        loader: loads its checkpoints instead.
    """
    if loader is not None:
        if not is_importable(loader):
            raise ValueError(f"loader must be a function of a module or script, which can be imported, got {loader!r}")
        return {FUNCTION: locate(loader)}
    cls = type(module)
    if not is_importable(cls):
        return {UNKNOWN: f"where to import {cls.__qualname__} from: it stands in no module or script by itself"}
    needed = list(signature(cls.__init__).parameters.values())[1:]
    saved = _saved_arguments(module, needed)
    if arguments is None and needed and not saved:
        return locate(cls) | {UNKNOWN: f"the arguments of {cls.__qualname__}: call save_hyperparameters() in __init__"}
    values = dict(saved if arguments is None else arguments)
    missing = [p.name for p in needed if p.default is Parameter.empty and p.kind < Parameter.VAR_POSITIONAL]
    missing = [name for name in missing if name not in values]
    missing += [name for name, value in values.items() if not _is_plain(value)]
    if missing:
        return locate(cls) | {UNKNOWN: f"its argument {missing[0]}, which is not saved in plain types"}
    return locate(cls) | {INIT_ARGS: values}


def _saved_arguments(module: L.LightningModule, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """What was saved with ``save_hyperparameters`` of these parameters of the class, as Lightning itself reads it."""
    saved = {key: value for key, value in module.hparams.items() if not key.startswith("_")}
    if any(p.kind == Parameter.VAR_KEYWORD for p in parameters):
        return saved
    names = {p.name for p in parameters}
    # One argument that holds all of them: ``save_hyperparameters(config)``.
    if (whole := getattr(module, "_hparams_name", None)) in names and whole not in saved:
        return {whole: saved}
    # Those of a base class, and what was noted beside them, are no arguments of this one.
    return {key: value for key, value in saved.items() if key in names}


def _is_plain(value: Any) -> bool:
    try:
        yaml.safe_dump(value)
    except yaml.YAMLError:
        return False
    return True


@dataclass(frozen=True)
class OwnRecipe:
    """How to make the model of a run out of a checkpoint, where a module of one's own was trained.

    Attributes:
        build: the class, or the function that loads a checkpoint.
        arguments: of the class; None for a function.
        weights: averaged or raw weights.
        ema_rate: which average; the module's own choice by default.
    """

    build: Callable[..., Any]
    arguments: dict[str, Any] | None
    weights: Weights
    ema_rate: float | None

    @classmethod
    def of(cls, run: Path, weights: Weights, ema_rate: float | None, trust: bool) -> Self:
        """That of a run, by what `describe_module` wrote into its configuration; its class is imported.

        Raises:
            ValueError: it needs ``trust``, or the folder does not say how to build it.
        """
        described = RunFolder(run).config()[MODULE]
        where = f"{MODULE} of {run / CONFIG}"
        source = described.get(FUNCTION, described)
        if UNKNOWN in described or not isinstance(source, Mapping) or CLASS_PATH not in source:
            reason = described.get(UNKNOWN, "nothing")
            raise ValueError(
                f"{where} must say how its model is built, but does not know {reason}. Write there class_path and "
                f"init_args, or function: {{class_path: my_module.load}}, (checkpoint, weights, ema_rate) -> ProbeModel"
            )
        refuse_untrusted(where, "a class of probediff", str(source[CLASS_PATH]), trust)
        if has_changed(source):
            warnings.warn(
                f"{source[FILE]} has changed since the run began; its model is built as it is now", stacklevel=3
            )
        arguments = None if FUNCTION in described else dict(described.get(INIT_ARGS) or {})
        return cls(import_source(source, where), arguments, weights, ema_rate)

    def load(self, path: Path) -> ProbeModel:
        """The model with the weights of one checkpoint, full or thinned out."""
        if self.arguments is None:
            model = self.build(path, self.weights, self.ema_rate)
            if not isinstance(model, ProbeModel):
                raise ValueError(f"{self.build.__name__} must return a ProbeModel, got {type(model).__name__}")
            return model
        checkpoint = read_checkpoint(path, mmap=True)
        content = checkpoint if isinstance(checkpoint, dict) else {}
        averages = RAW_STATE in content
        state = content.get(RAW_STATE if averages and self.weights == "raw" else "state_dict")
        if not isinstance(state, dict) or not isinstance(content.get("global_step"), int):
            raise ValueError(f"{path} must be a checkpoint of Lightning, got a file without state_dict or global_step")
        check_dense(path, state)
        is_thinned = "optimizer_states" not in content and any(t.dtype == torch.float16 for t in state.values())
        restored = {name: t.float() if is_thinned and t.dtype == torch.float16 else t for name, t in state.items()}
        content = content | {"state_dict": restored}
        with undisturbed(torch.nn.Identity()):
            module = _build(self.build, self.arguments, content)
        kinds, own = _floating_types(restored), _floating_types(module.state_dict())
        if len(kinds) == 1 and kinds != own and not is_thinned:  # as the trainer's precision has made it
            module.to(*kinds)
        if module.strict_loading:
            requirement = f"{path} must hold the weights of {self.build.__qualname__}"
            load_strictly(module, content["state_dict"], requirement, _CURE)
        else:
            module.load_state_dict(content["state_dict"], strict=False)
        module.eval().requires_grad_(False)
        # Of averages that Lightning keeps, the module knows nothing: the weights that it has are the ones meant.
        model = probe_model_of(module)(*(("raw", None) if averages else (self.weights, self.ema_rate)))
        others = AVERAGED_BY if averages and self.weights == "ema" else {}
        others |= {"stored_dtype": "float16"} if is_thinned else {}
        return replace(model, step=content["global_step"], conventions=model.conventions | others)


def _floating_types(state: Mapping[str, torch.Tensor]) -> set[torch.dtype]:
    return {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}


def _build(cls: Callable[..., Any], arguments: dict[str, Any], checkpoint: dict[str, Any]) -> L.LightningModule:
    """The module before it takes the weights, by Lightning's hooks; classes that the arguments name are built too."""
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_class_arguments(cls, MODULE, fail_untyped=False)
        built: L.LightningModule = parser.instantiate(parser.parse_object({MODULE: arguments}))[MODULE]
        built.configure_model()
        built.on_load_checkpoint(checkpoint)
    except Exception as error:  # a class of one's own may raise anything
        words = describe_failure(error)
        raise ValueError(
            f"{cls.__qualname__} must be made of {INIT_ARGS} in the {CONFIG} of its run, got {words}; {_CURE}"
        ) from error
    return built


def probe_model_of(module: L.LightningModule) -> ModelFunction:
    """Its method `probe_model`.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(module, ProbedModule):
        raise ValueError(
            f"{type(module).__name__} must have a method probe_model(weights, ema_rate) -> ProbeModel, got none; write "
            f"it with probediff.models.wrap_network, or give Probing(model=...)"
        )
    return module.probe_model
