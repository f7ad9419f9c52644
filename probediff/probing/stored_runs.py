"""What runs stored of their networks: the images from the fixed noises at every training step, and how they were made.

Runs may be compared image by image where these settings, the data and the schedule are the same in all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from probediff.inversion import InversionSettings
from probediff.inversion.settings import EXACT_METHODS
from probediff.models.run import Diffusion, read_run_config
from probediff.probing.settings import PassSettings
from probediff.runs.conditions import WEIGHTS, as_json
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.grouping import seed_of
from probediff.runs.listing import distinct_names
from probediff.runs.record import Record

#: What samples of the same noises share.
_OF_SAMPLES = ("noise_seed", "num_steps", "convention", "clip", "image_shape", "schedule", "num_train_timesteps")
#: Of a data module, what does not change the images.
_OF_LOADING = ("batch_size", "num_workers")


@dataclass(frozen=True)
class StoredRun:
    """A run whose samples are compared.

    Attributes:
        name: what tells it from the other runs.
        folder: its folder.
        seed: of its training; None where it does not say it.
        settings: how its samples were made, and of which data.
        events: the record that ends each event, by step.
    """

    name: str
    folder: RunFolder
    seed: int | None
    settings: dict[str, Any]
    events: dict[int, Record]

    @property
    def num_samples(self) -> int:
        """How many fixed noises it has."""
        return int(self.events[max(self.events)]["conventions"]["num_samples"])

    def weights(self, step: int) -> str | None:
        """Which weights made the samples of a step, as far as that was recorded."""
        return self.events[step].get(WEIGHTS)

    def pass_settings(self, num_samples: int) -> PassSettings:
        """How another model makes its images from the first of the same noises."""
        values = {key: self.settings[key] for key in ("noise_seed", "num_steps", "convention", "clip")}
        sampler = self.settings["sampler"]
        inversion = InversionSettings(**sampler) if isinstance(sampler, dict) else InversionSettings()
        return PassSettings(**values, num_samples=num_samples, clip_inversion=False, inversion=inversion)

    def samples(self, step: int, count: int) -> Tensor:
        """The first samples of a step, (N, C, H, W) float32.

        Raises:
            FileNotFoundError: there are none.
            ValueError: they are damaged, fewer, of other settings than those of the last step, or not finite.
        """
        path = self.folder.sample_path(step)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there")
        if differing := _differing(_settings_of(self.events[step]), self.settings):
            raise ValueError(f"{path} was made with {differing}")
        x_0 = self.folder.load_samples(step)[:count]
        if tuple(x_0.shape) != (count, *self.settings["image_shape"]):
            expected = f"{count} of shape {self.settings['image_shape']}"
            raise ValueError(f"{path} must hold samples, {expected}, got an array {tuple(x_0.shape)}")
        if not bool(x_0.isfinite().all()):
            raise ValueError(f"{path} holds samples that are not finite")
        return x_0


def read_stored_runs(paths: Sequence[Path]) -> list[StoredRun]:
    """The runs in these folders, each once.

    Raises:
        FileNotFoundError: no run there.
        ValueError: one has no samples, or they are of other noises, steps, data or another schedule than those of the
            first one.
    """
    names = distinct_names(list(dict.fromkeys(path.expanduser().resolve() for path in paths)))
    runs = [_read(path, name) for path, name in names.items()]
    for run in runs[1:]:
        ours, theirs = run.settings, runs[0].settings
        # Without a fingerprint of the images the configurations must do.
        unknown = {"data_sha256"} if None in (ours["data_sha256"], theirs["data_sha256"]) else {"data"}
        kept = [{key: value for key, value in s.items() if key not in unknown} for s in (ours, theirs)]
        if differing := _differing(*kept):
            raise ValueError(
                f"RUN must be runs of the same noises, steps, data and schedule as {runs[0].folder.path}, got "
                f"{run.folder.path} with {differing}; compare it by itself"
            )
    return runs


def name_sampler(inversion: Any) -> Any:
    """What is known of the sampler from recorded settings of inversion: those of a method with one of its own."""
    is_own = isinstance(inversion, dict) and inversion.get("method") in EXACT_METHODS
    return inversion if is_own else "ddim"


def _read(path: Path, name: str) -> StoredRun:
    config, folder = read_run_config(path), RunFolder(path)
    records = folder.records()
    events = {record["step"]: record for record in records if record["probe"] == END_OF_EVENT}
    if not set(folder.sample_steps()) & events.keys():
        raise ValueError(
            f"RUN must be a run with samples of fixed noises at training steps, got {path} without any; let it train "
            f"on, with --probing.schedule.steps and a probe that needs samples"
        )
    settings = _settings_of(events[max(events)])
    if lacking := [key for key in ("num_samples", *_OF_SAMPLES) if _known(events[max(events)], key) is None]:
        raise ValueError(
            f"the records of {path} must say {', '.join(lacking)} of its samples, got none: it is of an earlier "
            f"version; leave it out"
        )
    data = config["data"]
    arguments = {key: v for key, v in (data.get("init_args") or {}).items() if key not in _OF_LOADING}
    settings |= {
        "data_sha256": folder.data_fingerprint().get("sha256"),
        "data": as_json({"class_path": data.get("class_path"), **arguments}),
        "random_flip": Diffusion.of(path, config).random_flip,
    }
    return StoredRun(name, folder, seed_of(config), settings, events)


def _settings_of(event: Record) -> dict[str, Any]:
    return {key: _known(event, key) for key in _OF_SAMPLES} | {"sampler": name_sampler(_known(event, "inversion"))}


def _known(event: Record, key: str) -> Any:
    return event["conventions"].get(key)


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What differs in two settings, of the keys of the first; empty where nothing does."""
    return "; ".join(
        f"{key} {value} and not {theirs.get(key)}" for key, value in ours.items() if value != theirs.get(key)
    )
