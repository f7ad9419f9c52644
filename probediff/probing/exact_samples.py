"""Images that exact denoisers make from the fixed noises of a run, batch by batch, and kept there."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probediff.ddim import OnStep
from probediff.files import explain_disk_errors, read_object, write_json
from probediff.inversion import sampler
from probediff.models.base import ProbeModel, at_rest, conditions_of
from probediff.models.baseline import RunImages
from probediff.models.exact import EXACT_NAME, ExactModel
from probediff.noise import seeded_noise
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import problem_of
from probediff.probing.stored_runs import name_sampler
from probediff.runs.batches import PartialPass
from probediff.runs.conditions import WEIGHTS, as_json
from probediff.runs.folder import COMPARED_SAMPLES, END_OF_EVENT, PROBED, RunFolder, probed_folder

#: Images a batch: what is lost when the work is interrupted. Another number makes other files.
BATCH_SIZE = 16
#: An evaluation of one image that takes longer is not timed with a whole batch.
_QUICK_SEC = 0.25
_MADE_OF = "denoiser.json"
#: What decides about samples of the same noises.
_OF_SAMPLES = ("noise_seed", "num_steps", "convention", "clip")


@dataclass(frozen=True)
class ExactSamples:
    """What one exact denoiser makes of the first fixed noises; kept in the folder of the run that it is fitted to.

    Attributes:
        exact: the denoiser.
        images: that it is fitted to.
        settings: how many are made, and how.
    """

    exact: ExactModel
    images: RunImages
    settings: PassSettings

    @cached_property
    def _key(self) -> dict[str, Any]:
        """All that they depend on but their number."""
        settings = asdict(self.settings)
        return {
            **{key: settings[key] for key in _OF_SAMPLES},
            "sampler": name_sampler(settings["inversion"]),
            **{"kind": self.exact.kind, "options": self.exact.options, "mirrored": self.images.mirrored},
            **{"fitted_to": len(self.images.indices), "images_sha256": self.images.digest},
            **{key: getattr(self.images.diffusion, key) for key in ("schedule", "num_train_timesteps")},
        }

    @cached_property
    def _store(self) -> PartialPass:
        folder = self.exact.run / PROBED / self.exact.name / COMPARED_SAMPLES
        return PartialPass(folder, self._key, "RUN")

    @property
    def _batches(self) -> list[Tensor]:
        return list(torch.arange(self.settings.num_samples).split(BATCH_SIZE))

    @property
    def num_evaluations(self) -> int:
        """Of the denoiser, for each image."""
        return self.settings.inversion.evaluations(self.settings.num_steps)[0]

    @property
    def label(self) -> str:
        """What the denoiser is called beside the number of its images."""
        name = self.exact.name.removeprefix(EXACT_NAME)
        return name.removesuffix(f",images={self.exact.num_images}")

    @property
    def num_images(self) -> int:
        """M, training images that it is fitted to."""
        return len(self.images.indices)

    @property
    def probed_folder(self) -> Path:
        """Where ``probediff probe exact:RUN,...`` leaves its samples of the same number of steps."""
        return probed_folder(self.exact.run / PROBED / self.exact.name, self.settings.num_steps)

    def missing(self) -> list[Tensor]:
        """Indices of the batches that are not there yet, or damaged."""
        return [indices for indices in self._batches if self._store.load(indices) is None]

    def load(self) -> Tensor:
        """All of them, (N, C, H, W) float32; there must be no missing ones."""
        rows = [self._store.load(indices) for indices in self._batches]
        return torch.cat([batch["x_0"] for batch in rows if batch is not None])

    def made_of(self) -> dict[str, Any]:
        """What the denoiser was, and where it was evaluated last; empty where that file is gone or damaged."""
        try:
            return read_object(self._store.path / _MADE_OF)
        except ValueError:
            return {}

    def take_from_probe(self, model: ProbeModel) -> bool:
        """Keep those that ``probediff probe exact:RUN,...`` stored with the same settings; whether there are any."""
        folder = RunFolder(self.probed_folder)
        settings = {key: self._key[key] for key in (*_OF_SAMPLES, "sampler")}
        wanted = as_json(settings | model.conventions | {WEIGHTS: model.digest})
        try:
            event = next(record for record in reversed(folder.records()) if record["probe"] == END_OF_EVENT)
            x_0 = folder.load_samples(event["step"])
        except (StopIteration, OSError, ValueError):
            return False
        there = event["conventions"] | {WEIGHTS: event.get(WEIGHTS)}
        there["sampler"] = name_sampler(there.get("inversion"))
        if any(there.get(key) != value for key, value in wanted.items()) or len(x_0) < self.settings.num_samples:
            return False
        self._describe(model, {"stored_dtype": "float16"})
        for indices in self._batches:
            self._store.save(indices, {"x_0": x_0[indices]})
        return True

    def make(self, model: ProbeModel, batches: Sequence[Tensor], device: torch.device, on_step: OnStep) -> None:
        """Sample and keep batches; ``on_step`` is called after each evaluation."""
        with at_rest(model, device) as there:
            self._describe(there, {})
            sample = sampler(problem_of(there, self.settings), self.settings.inversion)
            for indices in batches:
                x_T = seeded_noise(self.settings.noise_seed, indices, there.image_shape).to(there.weight)
                self._store.save(indices, {"x_0": sample(x_T, on_step).x.float().cpu()})

    def _describe(self, model: ProbeModel, others: dict[str, Any]) -> None:
        words = model.conventions | others | conditions_of(model.weight.device) | {WEIGHTS: model.digest}
        with explain_disk_errors(self._store.path, "RUN"):
            self._store.path.mkdir(parents=True, exist_ok=True)
            write_json(self._store.path / _MADE_OF, words | {"batch_size": BATCH_SIZE})


def time_evaluation(model: ProbeModel, settings: PassSettings, device: torch.device) -> tuple[int, float]:
    """How long one evaluation takes, at the middle one of the sampler's steps: images in it, and seconds.

    Of one image, and where that is quick, of a whole batch.
    """
    with at_rest(model, device) as there:
        problem = problem_of(there, settings)
        timestep = problem.path.timesteps[len(problem.path) // 2]
        for count in (1, min(BATCH_SIZE, settings.num_samples)):
            x = seeded_noise(settings.noise_seed, range(count), there.image_shape).to(there.weight)
            start = time.perf_counter()
            problem.predict(x, timestep)[0].cpu()
            seconds = time.perf_counter() - start
            if seconds > _QUICK_SEC:
                break
    return count, seconds
