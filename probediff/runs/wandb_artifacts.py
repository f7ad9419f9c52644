"""Reference artifacts: from which data a W&B run comes, and which checkpoints come from it. No weights are uploaded.

W&B draws data -> run -> checkpoint from them. Offline it takes checkpoints, which ``wandb sync`` hands on, and no
input: the data are named in the run's configuration and beside each checkpoint then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probediff.files import to_json
from probediff.runs.conditions import WEIGHTS
from probediff.runs.folder import DATA, RunFolder

#: Key of the run's configuration that names the data.
DATA_SET = "data_set"
#: Arguments of data modules that say where the images lie.
_PLACES = ("path", "root", "arrays", "url")


def describe_data(folder: RunFolder) -> dict[str, Any]:
    """Name, fingerprint and place of the images that a run began with; empty where its folder does not say it."""
    known = folder.data_fingerprint()
    if "sha256" not in known:
        return {}
    chosen = folder.config().get("data") or {}
    arguments = chosen.get("init_args") or {}
    kind = str(chosen.get("class_path") or "images").rpartition(".")[2]
    place = next((arguments[name] for name in _PLACES if arguments.get(name)), None)
    return {"name": f"{kind}-{known['sha256']}", "place": place} | known


def data_artifact(description: dict[str, Any]) -> Any:
    """The images of a run as an artifact that holds what is known of them, and refers to the file that they lie in.

    W&B would list every file of a folder: what lies in one, or at an address, is named in the metadata alone.
    """
    import wandb

    artifact = wandb.Artifact(description["name"], type="dataset", metadata=description)
    # Where they lie is no part of what they are: runs on two machines have one data set.
    content = {key: value for key, value in description.items() if key != "place"}
    with artifact.new_file(DATA, mode="w") as file:
        file.write(to_json(content, indent=1))
    place = Path(str(description["place"] or ""))
    if place.is_file():
        artifact.add_reference(place.absolute().as_uri(), name=place.name, checksum=False)
    return artifact


def checkpoint_artifact(run_id: str, step: int, path: Path, weights_sha256: str, data: dict[str, Any]) -> Any:
    """A checkpoint as an artifact that refers to the file."""
    import wandb

    metadata = {"step": step, WEIGHTS: weights_sha256} | ({DATA_SET: data} if data else {})
    artifact = wandb.Artifact(f"model-{run_id}", type="model", metadata=metadata)
    artifact.add_reference(path.absolute().as_uri(), name=path.name, checksum=False)
    return artifact
