"""Which exact denoiser foretells the images of trained networks? Samples of exact denoisers from the fixed noises of
runs beside those that the runs stored at every training step; runs of several seeds say how much can be foretold.

Examples:
  probediff compare runs/cifar10/seed0 runs/cifar10/seed1 runs/cifar10/seed2
  probediff compare runs/digits/RUN --denoisers h=0,h=0.4,h=1,local,pca_locality
  probediff compare runs/digits/RUN --denoisers denoiser=local,patch_size=3,equivariant,border=zeros,images=500
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from probediff.commands.comparison_table import describe_comparison
from probediff.commands.options import CommandParser, check_at_least, device_of
from probediff.commands.runner import run_command
from probediff.commands.sampling_exact import make_missing
from probediff.files import write_json
from probediff.models.baseline import RunImages
from probediff.models.exact import EXACT_NAME
from probediff.models.exact_list import read_denoisers
from probediff.probing.exact_samples import ExactSamples
from probediff.probing.image_prediction import Predicted, measure_predictions
from probediff.probing.stored_runs import StoredRun, read_stored_runs
from probediff.runs.conditions import all_differing_settings
from probediff.runs.definitions import DEFINITIONS, SSIM
from probediff.runs.folder import COMPARED, PROBED
from probediff.runs.kept_results import explain_damage, lock_results, read_result
from probediff.runs.lock import claim

_DENOISERS = "h=0,h=0.4,h=1,nearest,local,pca_locality,equivariant"
#: Debiased CKA needs so many.
_FEWEST_SAMPLES = 4


def build_parser() -> CommandParser:
    """All options of the command."""
    parser = CommandParser("compare", "RUN [RUN ...]", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="runs of the same noises, data and schedule")
    parser.add_argument(
        "--denoisers",
        type=str,
        default=_DENOISERS,
        help="exact denoisers of the first run's images, named as after exact:RUN; a kind alone will do",
    )
    parser.add_argument("--images", type=int, default=5000, help="fit each to so many training images at most")
    parser.add_argument("--num_samples", type=int, default=64, help="the first noises, so many at most")
    parser.add_argument("--device", type=str | None, help="cuda, cuda:1 or cpu; by default cuda where there is one")
    parser.add_argument(
        "--out", metavar="DIR", type=str | None, help="folder of the result; by default RUN/probes/compare"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import and run the class of the run's data where it is none of probediff; give it for runs of your own "
        "or of people you trust",
    )
    return parser


def compare(arguments: Sequence[str]) -> int:
    """``probediff compare``: returns the exit status."""
    return run_command(build_parser(), arguments, _compare, "stopped; the same command goes on where it was")


def _compare(options: Any) -> None:
    check_at_least(options, images=2, num_samples=_FEWEST_SAMPLES)
    device, runs = device_of(options), read_stored_runs([Path(run) for run in options.runs])
    num_samples = min(options.num_samples, *(run.num_samples for run in runs))
    if num_samples < _FEWEST_SAMPLES:
        raise ValueError(f"RUN must have samples of {_FEWEST_SAMPLES} noises at least, got {num_samples}; leave it out")
    first = runs[0]
    images, settings = RunImages.of(first.folder.path, None, options.trust), first.pass_settings(num_samples)
    settings.check(images.schedule, first.settings["image_shape"])
    asked = read_denoisers(options.denoisers, images, options.images)
    out = Path(options.out or first.folder.path / PROBED / "compare")
    with claim(out, "--out"):
        comparison = Comparison(out / COMPARED, runs, num_samples)
        known = read_denoisers(comparison.earlier, images, len(images.indices)) if comparison.earlier else []
        part = cache(lambda count: images if count is None else images.part(count, "images"))
        every = {e.name: ExactSamples(e, part(e.num_images), settings) for e in (*asked, *known)}
        make_missing([every[exact.name] for exact in asked], device)
        result = comparison.write(list(every.values()))
    print(f"{describe_comparison(result)}\n\nEverything lies in {out / COMPARED}")


class Comparison:
    """The result file, to which denoisers and runs are added.

    Args:
        path: where it lies; it may be there already.
        runs: that are compared.
        num_samples: N.

    Attributes:
        earlier: list of the denoisers that are in it already.

    Raises:
        ValueError: the file is damaged, has other settings, or a run that is not compared now.
    """

    def __init__(self, path: Path, runs: Sequence[StoredRun], num_samples: int) -> None:
        self._path, self._runs, self._num_samples = path, runs, num_samples
        of_images = {"data"} if runs[0].settings["data_sha256"] else set[str]()
        self._conventions = {key: value for key, value in runs[0].settings.items() if key not in of_images}
        self._conventions |= {"num_samples": num_samples, DEFINITIONS: {"ssim": SSIM}}
        self.earlier = self._read()

    def _read(self) -> str:
        there = read_result(self._path, dict)
        if there is None:
            return ""
        with explain_damage(self._path):
            differing = all_differing_settings(there["conventions"], self._conventions)
            gone = [str(run["path"]) for run in there["runs"] if not any(_is_of(run, other) for other in self._runs)]
            earlier = ",".join(str(denoiser["name"]) for denoiser in there["denoisers"])
        words = [f"{key} is {old} there and {new} now" for key, (old, new) in differing.items()]
        words += [f"{folder} is compared there and not now" for folder in gone]
        if words:
            raise ValueError(
                f"--out must be a folder without results of other settings or runs, got {self._path}: "
                f"{'; '.join(words)}; give another --out (samples of exact denoisers are used again), or remove it"
            )
        return earlier

    def write(self, every: Sequence[ExactSamples]) -> dict[str, Any]:
        """Measure with all samples that are whole, and write the result."""
        whole = [samples for samples in every if not samples.missing()]
        predicted = [Predicted(samples.label, samples.num_images, samples.load()) for samples in whole]
        found = measure_predictions(self._runs, predicted, self._num_samples)
        found.left_out += [
            f"{samples.exact.name.removeprefix(EXACT_NAME)} was there and is left out, for its samples are gone"
            for samples in every
            if samples not in whole
        ]
        result = {
            "conventions": self._conventions,
            "runs": [_describe_run(run) for run in self._runs],
            "denoisers": [_describe_denoiser(samples) for samples in whole],
            **vars(found),
        }
        with lock_results(self._path.parent):
            write_json(self._path, result)
        return result


def _describe_run(run: StoredRun) -> dict[str, Any]:
    weights = {str(step): run.weights(step) for step in sorted(run.events)}
    described = {"name": run.name, "path": str(run.folder.path), "seed": run.seed, "weights_sha256": weights}
    return described | {key: run.events[max(run.events)]["conventions"].get(key) for key in ("weights", "ema_rate")}


def _is_of(described: dict[str, Any], run: StoredRun) -> bool:
    """Whether a run is the one that was described, which may have been moved or trained on."""
    now = _describe_run(run)
    weights, has_all = described["weights_sha256"], described["weights_sha256"].items() <= now["weights_sha256"].items()
    return bool(described["path"] == now["path"] or (None not in weights.values() and has_all))


def _describe_denoiser(samples: ExactSamples) -> dict[str, Any]:
    name = samples.exact.name.removeprefix(EXACT_NAME)
    return {"name": name, "denoiser": samples.label, "images": samples.num_images, "made_of": samples.made_of()}
