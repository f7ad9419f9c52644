"""The files of a pipeline of diffusers: where they are, and what they say that diffusers would pass over.

Only JSON files and safetensors are read: no pickle, and no code that lies beside the weights.
"""

import importlib
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from probediff.files import check_plain_file

#: Keys without meaning here: of which library the arrays were that schedulers of 2022 returned.
_HARMLESS = ("tensor_format",)
#: Schedulers that diffusers lets DDIM stand in for, though their networks want scaled inputs and no betas.
_OF_OTHER_MODELS = ("EDMEulerScheduler",)
_WEIGHTS = "diffusion_pytorch_model"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def import_library(name: str, user: str = "a pipeline") -> Any:
    """A library of the extra ``hub``; raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{user} needs {name}, which cannot be imported ({error}): pip install 'probediff[hub]'"
        ) from error


def find_pipeline(spec: str, files: Sequence[str], classes: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """Folder of a pipeline, here or in the local cache of the hub, and its index.

    Args:
        spec: Folder, or id on the hub.
        files: Patterns of the files to fetch from the hub.
        classes: Of which its class must be one; any by default.

    Raises:
        ImportError: An id, and diffusers is not installed.
        FileNotFoundError: No such folder, and no such pipeline on a hub that answers.
        ValueError: It is no pipeline, or one of another class.
    """
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        import_library("diffusers")
        folder = _fetch(spec, files)
    index = read_json(folder / "model_index.json")
    if classes and index.get("_class_name") not in classes:
        raise ValueError(f"{spec} must be one of {', '.join(classes)}, got {index.get('_class_name')}")
    return folder, index


def _fetch(spec: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if not _HUB_ID.fullmatch(spec):
        raise FileNotFoundError(f"{spec} must be a file, a folder or the id of a pipeline on the hub, got none of them")
    try:
        return Path(snapshot_download(spec, allow_patterns=list(files)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{spec} is no folder here, and could not be fetched from the Hugging Face hub: check its name and the "
            f"network, or give a folder that holds the pipeline ({type(error).__name__}: {reason})"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a pipeline; raises ValueError where it is missing or holds no object."""
    if not path.is_file():
        raise ValueError(f"{path.parent} must hold a pipeline of diffusers, got a folder without {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, got one that cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def part_folder(folder: Path, name: str) -> Path:
    """Where a part of a pipeline lies; old pipelines have no folder for each."""
    return folder / name if (folder / name).is_dir() else folder


def build_scheduler(spec: object, scheduler_class: Any, config: dict[str, Any]) -> Any:
    """A scheduler of diffusers with these settings.

    Raises:
        ValueError: A setting has a value that it cannot have.
    """
    try:
        return scheduler_class(**config)
    except Exception as error:  # diffusers checks little, so that torch and numpy raise what they like
        reason = " ".join(str(error).split())
        raise ValueError(f"{spec} must have a scheduler_config.json that its class can take, got: {reason}") from error


def read_scheduler(place: Path, cls: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A scheduler's settings that a class of diffusers takes, and those that belong to samplers of other classes.

    Args:
        place: Its folder.
        cls: The class, which may be another one than that of the file.

    Raises:
        ValueError: The file is of a class that this one does not stand in for, contradicts itself, or has a setting
            that none of these classes knows.
    """
    path = place / "scheduler_config.json"
    config = _honour_predict_epsilon(path, read_json(path))
    relatives = {r.__name__: r for r in [cls, *cls().compatibles] if r.__name__ not in _OF_OTHER_MODELS}
    if (class_name := config.get("_class_name", cls.__name__)) not in relatives:
        raise ValueError(
            f"{path} must be of a scheduler that {cls.__name__} stands in for, got {class_name}: models of "
            f"{', '.join(sorted(relatives))} can be probed"
        )
    _check_known(path, config, {name for relative in relatives.values() for name in _settings_of(relative)})
    known = _settings_of(cls)
    left_out = {name: config[name] for name in config if name not in known and _has_meaning(name, config[name])}
    return {name: value for name, value in config.items() if name in known}, left_out


def _honour_predict_epsilon(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Say as `prediction_type` what files of 2022 said as `predict_epsilon`."""
    if (predict_epsilon := config.pop("predict_epsilon", None)) is None:
        return config
    if not isinstance(predict_epsilon, bool):
        raise ValueError(f"predict_epsilon in {path} must be true or false, got {predict_epsilon!r}: correct it there")
    meant = "epsilon" if predict_epsilon else "sample"
    stated = config.get("prediction_type") or meant
    if stated != meant:
        raise ValueError(
            f"predict_epsilon in {path} must agree with prediction_type, got {json.dumps(predict_epsilon)}, which "
            f"means {meant!r}, and {stated!r}: remove the wrong one there"
        )
    return config | {"prediction_type": meant}


def _settings_of(cls: Any) -> set[str]:
    """Names that the configuration of a class of diffusers may have."""
    return set(inspect.signature(cls.__init__).parameters) - {"self"}


def _has_meaning(name: str, value: Any) -> bool:
    return value is not None and not name.startswith("_") and name not in _HARMLESS


def _check_known(path: Path, config: dict[str, Any], known: set[str]) -> None:
    """Raise ValueError for settings that diffusers would leave out with no more than a line in its log."""
    unknown = {name: value for name, value in config.items() if name not in known and _has_meaning(name, value)}
    if unknown:
        listed = ", ".join(f"{name}: {json.dumps(value)}" for name, value in unknown.items())
        raise ValueError(
            f"{path} must hold settings that the installed diffusers knows, got {listed}: install a version of "
            "diffusers that knows them, or remove them from the file if the model does not depend on them"
        )


def load_network(
    cls: Any, place: Path, stem: str = _WEIGHTS, differences: Sequence[str] = ("missing", "unexpected")
) -> Any:
    """A network of diffusers or transformers with the weights beside its configuration, in float32 and eval mode.

    Args:
        cls: Its class.
        place: Its folder.
        stem: How the names of its files of weights begin.
        differences: In what files and network must not differ.

    Raises:
        ValueError: There are no safetensors, or not those of the configuration, or it has a setting that the class
            does not know.
    """
    config = read_json(place / "config.json")
    if not list(place.glob(f"{stem}*.safetensors*")):
        raise ValueError(
            f"{place} must hold {stem}.safetensors, got {sorted(path.name for path in place.iterdir())}. Weights as "
            ".bin are pickles and are not read: load the pipeline with diffusers and write it anew with "
            "save_pretrained(folder, safe_serialization=True)"
        )
    for path in place.glob(f"{stem}*.safetensors*"):
        check_plain_file(path)
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if stem == _WEIGHTS:
        _check_known(place / "config.json", config, _settings_of(cls))
        options["low_cpu_mem_usage"] = False
    # The network is initialised before its weights are read.
    with torch.random.fork_rng(devices=[]):
        try:
            model, info = cls.from_pretrained(place, torch_dtype=torch.float32, **options)
        except Exception as error:  # damaged files raise classes of safetensors, transformers and torch
            reason = " ".join(str(error).split())
            raise ValueError(f"{place} must hold the whole weights of its config.json, got: {reason}") from error
    if problems := [f"{kind} {key}" for kind in differences for key in sorted(info[f"{kind}_keys"])]:
        raise ValueError(
            f"{place} must hold the weights of its config.json, got {len(problems)} differences: "
            f"{'; '.join(problems[:5])}. Fetch or save it anew"
        )
    return model.eval().requires_grad_(False)
