"""Whether a model is wired rightly: schedule, timestep scale, range of the images, kind and sign of the prediction.

A network that is wired wrongly gives numbers all the same, and they look plausible. What tells is its error on noised
real images, level by level, beside that of the Gaussian denoiser of these images, which needs no network
(``probediff.denoisers.stationary``). With e, g and z the mean squared errors, in units of the noise, of the network, of
that denoiser, and of the best multiple of x_t plus the best colour (all that a network without knowledge of images can
do), a reading of the network (``probediff.probing.readings``)

- *explains* it when the geometric means over the noise levels of e / g and e / z are at most 1.15 and 0.75. e / g is
  the same in units of v or x_0. A network that has learnt nothing, or little more than the size of its input, has e / z
  near 1 or above under every reading, under v and x_0 too, where zero is a good answer at high noise;
- is *clearly better* than the declared one when its e / g is smaller by the factor 1.1 and by four standard errors
  over the images, which all readings see with the same noise. A level counts for a factor of two at most, so that none
  decides alone.

The wiring is **wrong** when another reading explains the network and is clearly better: the best such one is named. It
is **right** when the declared one explains the network and no other is better by the factor 1.05 and four standard
errors. Otherwise it is **undecided**: the network is untrained or half-trained, or its wiring has two faults, or one
that is not known here.

The thresholds are from networks of 1.2 M parameters on CIFAR-10 (three seeds) and small ones on digits and patches,
of all kinds of prediction, at 0 to 4,000 steps. Wired rightly, the best other reading was better by the factor 1.00
at most once e / g and e / z were below the thresholds, and worse by up to 1.4 later. Before, v was better than noise
or image by up to 1.6, for the reason above, but at an e / g of 1.26 and more. The true reading of a wrongly wired
network was better by 1.2 to 2 from step 400 on; only networks that predict x_0 hardly show another schedule (1.02 to
1.12).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from probediff.models.base import ProbeModel
from probediff.probing.reading_errors import ReadingErrors, measure_readings
from probediff.probing.readings import declared_reading, other_readings
from probediff.schedule import NoiseSchedule

_GOOD, _INFORMED = 1.15, 0.75
_CLEAR, _SLIGHT, _STANDARD_ERRORS = 1.1, 1.05, 4.0
_NUM_LEVELS, _FEWEST_LEVELS = 8, 4
# At more noise, small networks are bad that are good elsewhere; at less, none is far from knowing nothing.
_LOG_SNR = (-3.0, 5.0)
_FEWEST_IMAGES = 8


@dataclass(frozen=True)
class Wiring:
    """What ``check_wiring`` finds.

    Attributes:
        verdict: right, wrong or undecided.
        finding: what is wrong, and its cure; empty unless the verdict is wrong.
        reason: why it is undecided; empty otherwise.
        num_images: how many real images were noised.
        seed: of the noise.
        log_snr: log(a / (1 - a)) of the noise levels with a = alpha_bar, falling; empty where none was looked at.
        timestep: of the levels.
        error: mean squared error of the predicted noise as the model is declared; NaN where it is not finite.
        gaussian_error: that of the Gaussian denoiser.
    """

    verdict: Literal["right", "wrong", "undecided"]
    finding: str
    reason: str
    num_images: int
    seed: int
    log_snr: tuple[float, ...] = ()
    timestep: tuple[int, ...] = ()
    error: tuple[float, ...] = ()
    gaussian_error: tuple[float, ...] = ()

    @property
    def ratio(self) -> tuple[float, ...]:
        """The model's error beside the Gaussian denoiser's, by level: below 1 where it knows more than that."""
        return tuple(e / max(g, 1e-9) for e, g in zip(self.error, self.gaussian_error, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Plain types; errors that are not finite are None."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return plain | {"error": [error if math.isfinite(error) else None for error in self.error]}

    def in_words(self) -> str:
        """One line."""
        if self.verdict != "right":
            return f"wiring {self.verdict}: {self.finding or self.reason}"
        ratio = f"{min(self.ratio):.2f} to {max(self.ratio):.2f}"
        return f"wiring right: {ratio} times the error of a Gaussian denoiser on {self.num_images} noised images"


def check_wiring(model: ProbeModel, images: Tensor, seed: int = 420, batch_size: int = 64) -> Wiring:
    """Look whether a model is wired rightly; the head of this file says when a fault is named, and when not.

    It costs 8 evaluations of the network an image for what is declared, for each other schedule (2 or 3), timestep
    scale (up to 3) and range (1): 1,800 for 32 images.

    Args:
        model: the model, in eval mode, on the device to work on; it is left as it is.
        images: (N, c, h, w) real images, as its probes get them, in [-1, 1]; 32 are plenty, below 8 little is decided.
        seed: of the noise.
        batch_size: images a network evaluation.

    Raises:
        ValueError: fewer than two images, other ones than the model's, not finite ones, or a batch of none.
    """
    if images.ndim != 4 or len(images) < 2 or tuple(images.shape[1:]) != model.pixel_shape:
        shape = ", ".join(map(str, model.pixel_shape))
        raise ValueError(f"images must be (N, {shape}), two at least, got {tuple(images.shape)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    images = images.detach().float().cpu()
    if not images.isfinite().all():
        raise ValueError("images must be finite, got some that are not")
    count = len(images)
    if finding := _image_range(images, model.clip or model.encode is not None):
        return Wiring("wrong", finding, "", count, seed)
    log_snr = _levels(model.schedule)
    if count < _FEWEST_IMAGES or len(log_snr) < _FEWEST_LEVELS:
        reason = (
            f"{count} images at {len(log_snr)} noise levels are too few; {_FEWEST_IMAGES} and {_FEWEST_LEVELS} "
            f"are needed, with log(a / (1 - a)) from {_LOG_SNR[0]:g} to {_LOG_SNR[1]:g}"
        )
        return Wiring("undecided", "", reason, count, seed)
    codes = model.codes(images)
    readings = [declared_reading(model), *other_readings(model, codes)]
    declared, *others = measure_readings(model, readings, codes, log_snr, seed, batch_size)
    error, gaussian_error = (tuple(rows.mean(0).tolist()) for rows in (declared.network, declared.gaussian))
    error = tuple(value if math.isfinite(value) else math.nan for value in error)
    timestep = tuple(readings[0].timestep(value) for value in log_snr)
    verdict, words = _judge(declared, others, log_snr)
    finding, reason = (words if verdict == name else "" for name in ("wrong", "undecided"))
    return Wiring(verdict, finding, reason, count, seed, log_snr, timestep, error, gaussian_error)


def _levels(schedule: NoiseSchedule) -> tuple[float, ...]:
    """Log SNR of different timesteps, evenly spaced as far as the schedule has them, falling."""
    log_snr = schedule.alpha_bar.logit()
    lowest, highest = max(_LOG_SNR[0], float(log_snr[-1])), min(_LOG_SNR[1], float(log_snr[0]))
    wanted = torch.linspace(highest, lowest, _NUM_LEVELS, dtype=torch.float64)
    nearest = (log_snr[:, None] - wanted).abs().argmin(0).unique()
    inside = nearest[(log_snr[nearest] >= lowest - 1) & (log_snr[nearest] <= highest + 1)]
    return tuple(log_snr[inside].tolist())


def _image_range(images: Tensor, in_range: bool) -> str:
    """What is wrong with the range of the images by themselves, where it must be [-1, 1]."""
    lowest, highest = float(images.min()), float(images.max())
    if not in_range:
        return ""
    if lowest >= 0 and highest > 2:
        return f"the images lie in {lowest:g} to {highest:g}, not in [-1, 1]: hand in x / 127.5 - 1, and train on such"
    # Images of [-1, 1] whose darkest pixel is mid-grey are rare, and then it is not as near to 0 as in all these.
    if 0 <= lowest < 0.02 and 0.5 < highest <= 1.01:
        return (
            f"the images lie in [0, 1] ({lowest:g} to {highest:g}), not in [-1, 1]: hand in 2 x - 1, and train on such"
        )
    if float((images.abs() > 1.01).float().mean()) > 0.01:
        return f"the images lie in {lowest:g} to {highest:g}, not in [-1, 1]: scale them, or give clip=False"
    return ""


def _judge(
    declared: ReadingErrors, others: Sequence[ReadingErrors], log_snr: Sequence[float]
) -> tuple[Literal["right", "wrong", "undecided"], str]:
    """The verdict, and what is wrong, or why nothing is decided."""
    finite = declared.network.isfinite().all(0)
    if not finite.all():
        places = ", ".join(f"{value:.1f}" for value, is_finite in zip(log_snr, finite, strict=True) if not is_finite)
        return "undecided", f"the model's output is not finite at log(a / (1 - a)) = {places}"
    gains = {other: other.gain_over(declared) for other in others if other.network.isfinite().all()}
    better = [other for other, (gain, surety) in gains.items() if gain >= _SLIGHT and surety >= _STANDARD_ERRORS]
    named = [other for other in better if gains[other][0] >= _CLEAR and _explains(other)]
    if named:
        best = min(named, key=lambda other: other.ratio)
        errors = f"{declared.ratio:.2g} times the error of a Gaussian denoiser as declared, {best.ratio:.2g} times so"
        return "wrong", f"{best.reading.finding} ({errors}): {best.reading.cure}"
    if not _explains(declared):
        pairs = zip(log_snr, declared.log_ratio.exp().tolist(), strict=True)
        worse = ", ".join(f"{ratio:.1f} at {value:.1f}" for value, ratio in pairs if ratio > _GOOD)
        errors = f"times the error of a Gaussian denoiser by log(a / (1 - a)): {worse}" if worse else "little is learnt"
        return (
            "undecided",
            f"no known wiring explains the network, which is untrained or wired in another way ({errors})",
        )
    if better:
        best = min(better, key=lambda other: other.ratio)
        return (
            "undecided",
            f"perhaps {best.reading.finding}, which is {gains[best][0] - 1:.0%} better, too little to say",
        )
    return "right", ""


def _explains(errors: ReadingErrors) -> bool:
    return errors.ratio <= _GOOD and errors.trivial_ratio <= _INFORMED
