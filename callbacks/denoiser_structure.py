"""When does a network leave the linear regime, and does it head for memorisation? Exact denoisers beside it, by level.

Its explained variances are those of Wang & Vastola 2024, *The unreasonable effectiveness of Gaussian score
approximation for diffusion models and its applications*.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from probediff import pictures
from probediff.callbacks.base import Probe
from probediff.callbacks.exact_images import BANDWIDTHS, ExactImages, Level, find_levels, sigmas_of
from probediff.denoisers.empirical import basis_bytes
from probediff.files.capacity import check_memory
from probediff.measures import memorisation_gap, structure
from probediff.measures.denoiser_structure import MemorisationGap, Structure
from probediff.measures.uncertainty import WithError
from probediff.probing.probe import ProbeContext, TrainingImages
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult
from probediff.schedule import NoiseSchedule

#: What is larger than zero by so many standard errors is taken to be so.
_NUM_ERRORS = 2.0


class DenoiserStructure(Probe):
    """How near the network is to exact denoisers of its training images, by noise level, on images it was trained on.

    And on held-out images, where the data set has any. The exact denoisers are evaluated at the first event only. Off
    unless asked for: their basis takes a quarter of an hour at 64x64 pixels.

    Args:
        enabled: whether the probe runs.
        num_images: real images of each split.
        num_training_images: images behind the exact denoisers and their covariance, spread over the training set; all
            where there are fewer. Fewer than an image has values make the covariance singular.
        sigmas: noise levels sqrt((1 - alpha_bar) / alpha_bar); those that the schedule lacks are left out.
    """

    def __init__(
        self,
        enabled: bool = False,
        num_images: int = 60,
        num_training_images: int = 50_000,
        sigmas: list[float] = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40],  # noqa: B006
    ) -> None:
        super().__init__(enabled)
        self.check_options(2, num_images=num_images, num_training_images=num_training_images)
        if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas) or sorted(set(sigmas)) != list(sigmas):
            raise ValueError(
                f"denoiser_structure.sigmas must be noise levels above 0 that ascend, got {sigmas}; such as [0.1,1,10]"
            )
        self.num_images = num_images
        self.num_training_images = num_training_images
        self.sigmas = [float(sigma) for sigma in sigmas]
        self._real_images: Callable[[int], Tensor] | None = None
        self._training: TrainingImages | None = None
        self._exact: ExactImages | None = None

    def check(self, context: ProbeContext) -> None:
        """Needs real images in the shape of what the model diffuses, and noise levels that its schedule has."""
        off = f"set --{self.name()}.enabled false"
        if context.real_images is None:
            raise ValueError(f"denoiser_structure needs real images, got a run without a data set; {off}")
        try:
            images = context.real_images(2)
            held_out = None if context.training is None else context.training.held_out(2)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or {off}") from error
        for few in [images] if held_out is None else [images, held_out]:
            if few.shape[1:] != context.image_shape:
                raise ValueError(
                    f"denoiser_structure needs images in the shape of what the model diffuses, "
                    f"{tuple(context.image_shape)}, got {tuple(few.shape[1:])}; {off}"
                )
            if len(few) < 2:
                raise ValueError(f"denoiser_structure needs at least 2 images, got {len(few)}; give more, or {off}")
        size = math.prod(context.image_shape)
        needed = basis_bytes(size, context.training is not None and bool(context.training.mirrored))
        check_memory("denoiser_structure", f"images of {size} values", needed, off)
        if context.schedule is not None:
            self._levels(context.schedule)
        if (context.real_images, context.training) != (self._real_images, self._training):
            self._real_images, self._training, self._exact = context.real_images, context.training, None

    def _levels(self, schedule: NoiseSchedule) -> list[Level]:
        if not (levels := find_levels(schedule, self.sigmas)):
            there = sigmas_of(schedule)
            raise ValueError(
                f"denoiser_structure.sigmas must be noise levels of the schedule, which are {float(there[0]):.3g} to "
                f"{float(there[-1]):.3g}, got {self.sigmas}; give others"
            )
        return levels

    def measure(self, event: ProbePass) -> ProbeResult:
        """The ladder of noise levels as a table, arrays and a picture, and what it comes to in a few numbers."""
        if event.model is None or self._real_images is None:
            raise ValueError("denoiser_structure needs a pass that can ask the network, got one that cannot")
        start, seconds = time.perf_counter(), dict[str, float]()
        exact = self._exact
        if exact is None or not exact.is_of(event.schedule, event.settings.noise_seed):
            images, training = self._real_images(self.num_training_images), self._training or TrainingImages()
            model = (event.schedule, self._levels(event.schedule), event.model.weight.device)
            exact = ExactImages.evaluate(images, training, self.num_images, model, event.settings.noise_seed)
            self._exact, seconds = exact, {"exact": time.perf_counter() - start}
        ladders: list[list[Structure]] = [[] for _ in exact.splits]
        gaps: list[MemorisationGap] = []
        for index in range(len(exact.levels)):
            beside = [exact.beside(event.denoise, split, index) for split in range(len(exact.splits))]
            for ladder, images_of_level in zip(ladders, beside, strict=True):
                ladder.append(structure(images_of_level, BANDWIDTHS))
            if len(beside) == 2 and self._training is not None:
                gaps.append(memorisation_gap(*beside))
        values = (
            self._settings(exact) | _summary(exact.levels, ladders[0], gaps) | _by_level(exact.levels, ladders, gaps)
        )
        arrays = _table(exact.levels, ladders, gaps)
        picture = pictures.structure({name: column.numpy() for name, column in arrays.items()})
        of_levels = zip(exact.levels, ladders[0], strict=True)
        errors = {f"linear_share_sigma_{level.asked:g}": row.linear_share.error for level, row in of_levels}
        errors |= {key.removesuffix("_error"): value for key, value in values.items() if key.endswith("_error")}
        errors = {key: error for key, error in errors.items() if not math.isnan(error)}
        pictures_of_levels = {"levels": picture}
        return ProbeResult(values, arrays, pictures_of_levels, (), "", ("levels",), seconds, errors)

    def _settings(self, exact: ExactImages) -> dict[str, float]:
        mirrored = None if self._training is None else self._training.mirrored
        sizes = [len(split) for split in exact.splits]
        return {
            "num_images": float(sizes[0]),
            "num_held_out_images": float(sum(sizes[1:])),
            "num_training_images": float(exact.num_training_images),
            "num_levels": float(len(exact.levels)),
            "num_levels_left_out": float(len(self.sigmas) - len(exact.levels)),
            "num_network_evaluations": float(sum(sizes) * len(exact.levels)),
            "of_training_images": float(self._training is not None),
            # Not a number where that is not known, and then they are not.
            "mirrored": math.nan if mirrored is None else float(mirrored),
        }


def _summary(levels: list[Level], ladder: list[Structure], gaps: list[MemorisationGap]) -> dict[str, float]:
    """Numbers of all levels: those of the middle one in each order, and where the Gaussian is the nearer one."""
    r2, linear = (_middle(ladder, key) for key in (lambda row: row.r2.value, lambda row: row.linear_share.value))
    fit = _middle([row for row in ladder if row.fit.is_identified], lambda row: row.fit.bandwidth)
    nearer = [level.sigma for level, row in zip(levels, ladder, strict=True) if row.gaussian_lead > _NUM_ERRORS]
    values = {
        "num_levels_identified": float(sum(row.fit.is_identified for row in ladder)),
        "bandwidth": math.nan if fit is None else fit.fit.bandwidth,
        "bandwidth_low": math.nan if fit is None else fit.fit.low,
        "bandwidth_high": math.nan if fit is None else fit.fit.high,
        "nearer_to_gaussian_from_sigma": min(nearer, default=math.nan),
        "nearer_to_gaussian_to_sigma": max(nearer, default=math.nan),
    }
    for name, row in (("r2", r2), ("linear_share", linear)):
        estimate, null = getattr(row, name), getattr(row, f"{name}_null")
        values |= {name: estimate.value, f"{name}_error": estimate.error, f"{name}_null": null}
    if gaps:
        clearest = max(range(len(gaps)), key=lambda index: _in_errors(gaps[index].excess))
        gap = gaps[clearest]
        values |= {
            "memorisation_gap": gap.network.value,
            "memorisation_gap_error": gap.network.error,
            "memorisation_gap_null": gap.gaussian.value,
            "memorisation_gap_complete": gap.training_set.value,
            "memorisation_excess": gap.excess.value,
            "memorisation_excess_error": gap.excess.error,
            "memorisation_sigma": levels[clearest].sigma,
        }
    return values


def _by_level(levels: list[Level], ladders: list[list[Structure]], gaps: list[MemorisationGap]) -> dict[str, float]:
    """What is worth a curve over training at every level; a bandwidth where it can be told apart."""
    values = {}
    for split, ladder in zip(("", "held_out_"), ladders, strict=False):
        for level, row in zip(levels, ladder, strict=True):
            known = row.fit.bandwidth if row.fit.is_identified else math.nan
            values[f"{split}bandwidth_sigma_{level.asked:g}"] = known
    values |= {
        f"linear_share_sigma_{o.asked:g}": row.linear_share.value for o, row in zip(levels, ladders[0], strict=True)
    }
    # In standard errors: at high noise an excess says nothing without its error.
    of_gaps = zip(levels, gaps, strict=bool(gaps))
    return values | {f"memorisation_z_sigma_{level.asked:g}": _in_errors(gap.excess) for level, gap in of_gaps}


def _table(levels: list[Level], ladders: list[list[Structure]], gaps: list[MemorisationGap]) -> dict[str, Tensor]:
    """Columns ``levels_*`` of one row for each split and level, training images first, and arrays of the members."""
    rows = [
        (number, level, row) for number, ladder in enumerate(ladders) for level, row in zip(levels, ladder, strict=True)
    ]
    columns: dict[str, list[Any]] = {
        "held_out": [number for number, _, _ in rows],
        "sigma_asked": [level.asked for _, level, _ in rows],
        "sigma": [level.sigma for _, level, _ in rows],
        "timestep": [level.timestep for _, level, _ in rows],
        **{f"bandwidth{end}": [getattr(row.fit, key) for _, _, row in rows] for end, key in _OF_FIT.items()},
        **_numbers([row for _, _, row in rows]),
        **_numbers([row.fit for _, _, row in rows], "bandwidth_"),
    }
    for name in ("network", "excess", "gaussian", "training_set") if gaps else ():
        parts = [getattr(gap, name) for gap in gaps]
        # Of both splits together: it stands in the rows of the first one.
        missing = [math.nan] * (len(rows) - len(parts))
        columns[f"gap_{name}"] = [part.value for part in parts] + missing
        columns[f"gap_{name}_error"] = [part.error for part in parts] + missing
    arrays = {f"levels_{name}": torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    for name in ("member_r2", "member_distance"):
        estimates = [getattr(row, name) for _, _, row in rows]
        arrays[name] = torch.tensor([[e.value for e in of_row] for of_row in estimates], dtype=torch.float64)
        arrays[f"{name}_error"] = torch.tensor([[e.error for e in of_row] for of_row in estimates], dtype=torch.float64)
    return arrays | {"member_bandwidth": torch.tensor(BANDWIDTHS, dtype=torch.float64)}


_OF_FIT = {"": "bandwidth", "_low": "low", "_high": "high", "_identified": "is_identified"}


def _numbers(rows: list[Any], prefix: str = "") -> dict[str, list[float]]:
    """The attributes of alike objects that are numbers, with errors or without."""
    columns: dict[str, list[float]] = {}
    for name, value in vars(rows[0]).items():
        column = [getattr(row, name) for row in rows]
        if isinstance(value, WithError):
            columns |= {
                f"{prefix}{name}": [e.value for e in column],
                f"{prefix}{name}_error": [e.error for e in column],
            }
        elif isinstance(value, float) and not prefix:
            columns[name] = column
    return columns


def _in_errors(estimate: WithError) -> float:
    return estimate.value / estimate.error if estimate.error > 0 else 0.0


def _middle(ladder: list[Structure], key: Callable[[Structure], float]) -> Structure | None:
    """The level whose number is the median one (of an even number the larger of two); None where there is none."""
    known = sorted((row for row in ladder if not math.isnan(key(row))), key=key)
    return known[len(known) // 2] if known else None
