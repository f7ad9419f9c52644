"""The models and the data of a run, from its own folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probediff.data import ImageDataModule
from probediff.data.base import check_same_images
from probediff.denoisers import EpsModel, UNet
from probediff.denoisers.architecture import describe_misfit
from probediff.files import check_dense, load_strictly, read_checkpoint
from probediff.models.arguments import build_data, build_network, typed_arguments
from probediff.models.base import ProbeModel, Weights, conventions_of
from probediff.models.own_module import OwnRecipe
from probediff.runs.by_step import step_of
from probediff.runs.configuration import CONFIG, MODULE, has_checksum
from probediff.runs.folder import CHECKPOINTS, RunFolder
from probediff.schedule import NoiseSchedule, ScheduleName


def load_checkpoint_model(
    path_or_run: str | Path,
    step: int | None = None,
    weights: Weights = "ema",
    ema_rate: float | None = None,
    trust: bool = False,
    network: nn.Module | None = None,
) -> ProbeModel:
    """The model of a checkpoint of ``probediff fit``, as the run's own probes saw it.

    Args:
        path_or_run: folder of a run, or one of its checkpoint files.
        step: which checkpoint of the run; by default the newest one that loads.
        weights: averaged (``ema``) or ``raw`` weights.
        ema_rate: which average; the first of ``model.ema_rates`` by default.
        trust: import and run a class that is none of this package: that of a LightningModule of one's own, of the run's
            network, or of its data, where neither records nor ``data.json`` say the shape of the images.
        network: an untrained network of the run's class, which is filled and used; nothing is imported then.

    Returns:
        The model in the precision of the checkpoint. From a checkpoint that was thinned out to float16 the weights are
        float32 again, and the conventions say ``"stored_dtype": "float16"``.

    Raises:
        FileNotFoundError: no such file, no run around it, or no checkpoint of that step.
        ValueError: no checkpoint of this run, an average that it does not keep, or a configuration that cannot be read.
    """
    path = Path(path_or_run).expanduser()
    run = run_of(path)
    recipe: _Recipe | OwnRecipe
    if isinstance(RunFolder(run).config().get(MODULE), dict):
        if network is not None:
            raise ValueError(f"network must be left out for {run}, whose module builds its own, got one")
        recipe = OwnRecipe.of(run, weights, ema_rate, trust)
    else:
        recipe = _Recipe.of(run, weights, ema_rate, trust, network)
    if not path.is_dir():
        if step is not None:
            raise ValueError(f"step must be left out for a checkpoint file, got {step} for {path}; or name the run")
        return recipe.load(path)
    checkpoints = RunFolder(run).checkpoints()
    if not checkpoints:
        raise FileNotFoundError(f"{run / CHECKPOINTS} must hold step=*.ckpt, got none: copy the checkpoints there")
    if step is None:
        return _newest(recipe, list(checkpoints.values()))
    if step not in checkpoints:
        raise FileNotFoundError(f"step must be one of the checkpoints of {run}, {list(checkpoints)}, got {step}")
    return recipe.load(checkpoints[step])


def load_run_data(run: Path, trust: bool = False) -> ImageDataModule:
    """The run's data module from its configuration, set up: ``images`` and ``train_dataloader`` are ready.

    Args:
        run: folder of the run.
        trust: import and run the class that the configuration names, also if it is none of this package.

    Raises:
        FileNotFoundError: no run there, or its data are gone.
        ValueError: the configuration names no data module, one that needs ``trust``, or arguments that it does not
            take; or the images are others than those that the run began with.
    """
    data = build_data(Path(run), read_run_config(run)["data"], trust)
    data.prepare_data()
    data.setup("fit")
    check_same_images(run, RunFolder(run).data_fingerprint(), data)
    return data


def read_run_config(run: str | Path) -> dict[str, Any]:
    """The ``config.yaml`` that ``probediff fit`` wrote into a run's folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no configuration of ``probediff fit``.
    """
    path = Path(run) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{run} must be the folder of a run of `probediff fit`, got no {CONFIG} in it")
    config = RunFolder(run).config()
    if MODULE in config:
        raise ValueError(
            f"{run} must be a run of `probediff fit`, got one of a module or loop of its own, whose folder does not "
            f"say which images it was trained on; name a folder of images where the command takes one (--reference DIR)"
        )
    if missing := [key for key in ("model", "network", "data") if not isinstance(config.get(key), dict)]:
        raise ValueError(f"{path} must be written by `probediff fit`, got a file without {', '.join(missing)}")
    # Earlier versions wrote no checksum, but always all sections.
    if "trainer" in config and not has_checksum(path) and _LAST_SECTION not in config:
        raise ValueError(f"{path} must hold all that `probediff fit` wrote, got a part: it was cut short; restore it")
    return config


@dataclass(frozen=True)
class Diffusion:
    """What readers of a run need of the section ``model`` of its configuration."""

    schedule: ScheduleName
    num_train_timesteps: int
    ema_rates: list[float]
    rescale_timesteps: bool
    random_flip: bool = False

    @classmethod
    def of(cls, run: Path, config: dict[str, Any]) -> Diffusion:
        """That of a run; raises ValueError where the section lacks something, or holds something else."""
        place, names = f"model of {run / CONFIG}", [field.name for field in fields(cls)]
        typed = typed_arguments(cls, {k: v for k, v in config["model"].items() if k in names}, place)
        if missing := [name for name in names if name not in typed and name != "random_flip"]:
            raise ValueError(f"{place} must be written by `probediff fit`, got one without {', '.join(missing)}")
        return cls(**typed)

    def noise_schedule(self) -> NoiseSchedule:
        """The schedule."""
        return NoiseSchedule.from_name(self.schedule, self.num_train_timesteps)


def flips_images(run: Path) -> bool | None:
    """Whether the training of a run flips its images; None for a module or loop of its own, which does not say it."""
    config = RunFolder(run).config()
    return None if MODULE in config else Diffusion.of(run, config).random_flip


def run_of(path: Path) -> Path:
    """The run folder that ``path`` is or lies in; raises FileNotFoundError where there is none."""
    if path.is_dir():
        return path
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be the folder of a run or one of its checkpoints, got no such file")
    for folder in path.absolute().parents[:2]:
        if (folder / CONFIG).is_file():
            return folder
    raise FileNotFoundError(
        f"{path} must lie in a run of `probediff fit` or in its folder checkpoints, got no config.yaml beside it or "
        "above: copy the run's config.yaml there; a published checkpoint is loaded by load_published"
    )


#: Of a configuration of versions without checksums.
_LAST_SECTION = "whitening"
_MOST_PIXELS = 2**16
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True)
class _Recipe:
    """How to make the model of one run out of a checkpoint: which tensors, and the network that they fill."""

    prefix: str
    ema_rate: float | None
    schedule_name: str
    schedule: NoiseSchedule
    skeleton: EpsModel
    image_shape: tuple[int, int, int]

    @classmethod
    def of(cls, run: Path, weights: Weights, ema_rate: float | None, trust: bool, network: nn.Module | None) -> _Recipe:
        config = read_run_config(run)
        diffusion = Diffusion.of(run, config)
        shape = _image_shape(run, config, trust)
        prefix, rate = _select(run, diffusion.ema_rates, weights, ema_rate)
        place = f"network of {run / CONFIG}"
        if network is None and "class_path" in config["network"]:
            network = build_network(config["network"], place, trust)
        elif network is None:
            sizes = {"image_size": shape[1], "in_channels": shape[0], "out_channels": 2 * shape[0]}
            arguments = typed_arguments(UNet, config["network"] | sizes, place)
            # On the meta device nothing is initialised, so the global random state stays as it is.
            with torch.device("meta"):
                network = UNet(**arguments)
        schedule = diffusion.noise_schedule()
        skeleton = EpsModel(network, len(schedule), diffusion.rescale_timesteps, in_channels=shape[0])
        skeleton.requires_grad_(False).eval()
        return cls(prefix, rate, diffusion.schedule, schedule, skeleton, shape)

    def load(self, path: Path) -> ProbeModel:
        """The model with the weights of one checkpoint, full or thinned out."""
        checkpoint = read_checkpoint(path, mmap=True)
        needed = {"state_dict": dict, "global_step": int}
        content = checkpoint if isinstance(checkpoint, dict) else {}
        if missing := [key for key, kind in needed.items() if not isinstance(content.get(key), kind)]:
            raise ValueError(f"{path} must be a checkpoint of `probediff fit`, got a file without {', '.join(missing)}")
        step = int(checkpoint["global_step"])
        named = step_of(path)
        if step < 0 or named not in (None, step):
            raise ValueError(f"{path} must be of the step in its name, got {step}: it was renamed, or is damaged")
        check_dense(path, checkpoint["state_dict"])
        stored = {
            name.removeprefix(self.prefix): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(self.prefix)
        }
        wanted = {name: tensor.dtype for name, tensor in self.skeleton.state_dict().items()}
        # The network's type and the one in the file; a network of one's own may count in whole numbers beside.
        kinds = {(wanted.get(name, torch.float32), tensor.dtype) for name, tensor in stored.items()}
        are_strange = any(ours != theirs and not {ours, theirs} <= _DTYPES for ours, theirs in kinds)
        if are_strange or len(dict(kinds)) < len(kinds):
            types = ", ".join(sorted(str(theirs) for _, theirs in kinds))
            raise ValueError(f"{path} must hold weights of one floating-point type, got {types}")
        is_thinned = any(theirs == torch.float16 != ours for ours, theirs in kinds)
        # Copies, because the file may be thinned out while the model is in use.
        weights = {
            name: tensor.to(wanted.get(name, torch.float32)) if tensor.dtype == torch.float16 else tensor.clone()
            for name, tensor in stored.items()
        }
        requirement = f"{path} must hold in {self.prefix}* the weights of the network in the config.yaml of its run"
        networks = ({k.removeprefix("unet."): v for k, v in s.items()} for s in (stored, self.skeleton.state_dict()))
        load_strictly(self.skeleton, weights, requirement, describe_misfit(*networks), assign=True)
        others = {"stored_dtype": "float16"} if is_thinned else {}
        conventions = conventions_of(
            self.skeleton, self.schedule_name, self.schedule, self.image_shape, self.ema_rate, **others
        )
        return ProbeModel(self.skeleton, self.schedule, self.image_shape, step, conventions)


def _newest(recipe: _Recipe | OwnRecipe, paths: Sequence[Path]) -> ProbeModel:
    """The model of the last checkpoint that loads; others are passed over with a warning."""
    for path in reversed(paths):
        try:
            return recipe.load(path)
        except ValueError as error:
            warnings.warn(f"passing over a checkpoint: {error}", stacklevel=3)
            oldest = error
    raise ValueError(f"none of the {len(paths)} checkpoints loads; the oldest one: {oldest}") from oldest


def _select(run: Path, rates: list[float], weights: Weights, ema_rate: float | None) -> tuple[str, float | None]:
    """Prefix of the chosen weights in a state dict of ``DiffusionModule``, and their averaging rate."""
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights must be 'ema' or 'raw', got {weights!r}")
    if weights == "raw":
        return "eps_model.", None
    if not rates or (ema_rate is not None and ema_rate not in rates):
        raise ValueError(
            f"ema_rate must be one of the averages that {run} keeps, {list(rates)}, got {ema_rate}; "
            "choose one of them or the raw weights (weights raw)"
        )
    index = 0 if ema_rate is None else rates.index(ema_rate)
    return f"ema.models.{index}.", rates[index]


def _image_shape(run: Path, config: dict[str, Any], trust: bool) -> tuple[int, int, int]:
    """(C, H, W) as recorded, so that a run can be probed where its data are not; else from its data module."""
    folder = RunFolder(run)
    shapes = [record["conventions"].get("image_shape") for record in folder.records()]
    images = folder.data_fingerprint().get("shape")
    shapes.append(images[1:] if isinstance(images, list) else None)
    for shape in filter(None, shapes):
        if len(shape) == 3 and all(isinstance(size, int) and 0 < size < _MOST_PIXELS for size in shape):
            return shape[0], shape[1], shape[2]
    data = build_data(run, config["data"], trust)
    return data.channels, data.image_size, data.image_size
