"""The whole analysis of a model: P2's figures 2 to 5, its table, and slope and R² against the number of iterations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from probediff.noise import seeded_noise
from probediff.whitening.closed_form import GaussianNoises
from probediff.whitening.pairs import BatchStore, Iterates, NoiseMaker
from probediff.whitening.pictures import correlation_picture, noises_picture, rows_picture, whitened_picture
from probediff.whitening.relation import averages, cells, low_part, pair_statistics, with_low_part
from probediff.whitening.spectral import TRUSTED_SHARE, SpectralFit, along_eigenvectors, compared, spectral_fit
from probediff.whitening.transforms import compare_transforms

_CORNER = 256
_SLOPE_CHANGE = 0.05
_HYPOTHESES = {0.0: "a multiple of the image", -0.5: "ZCA whitening", -1.0: "the inverse covariance"}


@dataclass(frozen=True)
class Plan:
    """What is computed.

    Attributes:
        counts: numbers of iterations, ascending.
        timestep: of the iteration (P2: 0.98 T).
        shown_timesteps: of figure 3.
        num_steps: DDIM steps of the full map, one curve point each; the last one is for samples too.
        num_samples: noises of figure 2.
        num_shown: images in pictures.
        noise_seed: of figure 2's noises.
    """

    counts: Sequence[int]
    timestep: int
    shown_timesteps: Sequence[int]
    num_steps: Sequence[int]
    num_samples: int
    num_shown: int
    noise_seed: int

    def evaluations(self, num_images: int) -> int:
        """Network evaluations, each of one image."""
        most, shown = max(self.counts), min(self.num_shown, num_images)
        inverted = num_images * sum(self.num_steps)
        return num_images * most + shown * len(self.shown_timesteps) * most + inverted + self.sampled()

    def sampled(self) -> int:
        """Those for figure 2 alone."""
        return 2 * self.num_samples * self.num_steps[-1]


@dataclass
class Findings:
    """What is written.

    Attributes:
        values: for ``whitening.json``.
        arrays: for ``whitening.safetensors``.
        pictures: (3, H, W) uint8 by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)


def analyse(
    maker: NoiseMaker,
    gaussian: GaussianNoises,
    images: Tensor,
    plan: Plan,
    store: BatchStore | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Findings:
    """Everything that ``probediff whitening`` tells.

    Args:
        maker: the network, or ``gaussian`` itself.
        gaussian: the Gaussian denoiser of the same data; its statistics are those of the transforms.
        images: (N, C, H, W) whose noises are made.
        plan: what is computed.
        store: where finished batches of fixed points are kept.
        say: told what is being done.

    Raises:
        ValueError: noises that do not vary or are not finite.
    """
    found = Findings()
    say("fixed points")
    # The curves of the Gaussian denoiser need its gains only.
    counts = plan.counts[-1:] if maker is gaussian else plan.counts
    made = maker.iterates(images, plan.timestep, counts, store)
    eps = made.eps[max(plan.counts)]
    say("slopes")
    _first_step(found, maker, gaussian, images, plan, made)
    _fixed_point_pictures(found, maker, gaussian, images, plan, eps)
    say("full DDIM map")
    _full_map(found, maker, gaussian, images, plan)
    say("whitening transforms")
    transforms = compare_transforms(images, eps, gaussian, plan.timestep, max(plan.counts))
    found.values |= {"transforms": transforms.rows, "whiteness": transforms.whiteness}
    found.values["residual"] = {
        name: getattr(transforms.residual, f"residual_{name}")
        for name in ("mean", "std", "skewness", "excess_kurtosis")
    }
    found.arrays |= {
        "w_diff": transforms.w_diff.float(),
        "residual_histogram_edges": transforms.residual.histogram_edges,
        "residual_histogram_counts": transforms.residual.histogram_counts,
        "whitened_covariance_corner": transforms.whitened[:_CORNER, :_CORNER].float(),
    }
    found.pictures["f5_whitened_covariance"] = whitened_picture(transforms.whitened[:_CORNER, :_CORNER])
    say("samples")
    _relation(found, maker, tuple(images.shape[1:]), plan)
    return found


def _first_step(
    found: Findings, maker: NoiseMaker, gaussian: GaussianNoises, images: Tensor, plan: Plan, made: Iterates
) -> None:
    """Slope and R² of both denoisers after each number of iterations."""
    along_x = along_eigenvectors(images, gaussian.whitening)
    rows = []
    for count in plan.counts:
        closed = spectral_fit(along_x, along_x * gaussian.iteration_gain(plan.timestep, count))
        fit = closed
        if maker is not gaussian:
            fit = spectral_fit(along_x, along_eigenvectors(made.eps[count], gaussian.whitening))
        rows.append({"iterations": count} | _both(found, gaussian, fit, closed, f"iterations_{count}"))
        rows[-1]["model"] |= made.progress(count)
    found.arrays["eigenvalues"] = gaussian.whitening.eigenvalues
    found.values["first_step"] = rows


def _full_map(found: Findings, maker: NoiseMaker, gaussian: GaussianNoises, images: Tensor, plan: Plan) -> None:
    """The same for the latents of DDIM inversion."""
    along_x = along_eigenvectors(images, gaussian.whitening)
    rows = []
    for num_steps in plan.num_steps:
        closed = spectral_fit(along_x, along_x * gaussian.inversion_gain(num_steps))
        fit = closed
        if maker is not gaussian:
            latents = maker.latents(images, num_steps)
            fit = spectral_fit(along_x, along_eigenvectors(latents, gaussian.whitening))
        rows.append({"num_steps": num_steps} | _both(found, gaussian, fit, closed, f"ddim_{num_steps}"))
    found.values["full_map"] = rows


def _both(
    found: Findings, gaussian: GaussianNoises, fit: SpectralFit, closed: SpectralFit, name: str
) -> dict[str, Any]:
    """The two points; the gains behind them are kept."""
    found.arrays |= {f"gain_{name}": fit.gains.gain, f"gain_error_{name}": fit.gains.standard_error}
    if fit is not closed:
        found.arrays[f"gaussian_gain_{name}"] = closed.gains.gain
    return dict(compared(fit, closed, gaussian.whitening))


def _fixed_point_pictures(
    found: Findings, maker: NoiseMaker, gaussian: GaussianNoises, images: Tensor, plan: Plan, eps: Tensor
) -> None:
    """Figures 3 and 4."""
    shown, most = images[: plan.num_shown], max(plan.counts)
    noises, rows = [], []
    for timestep in plan.shown_timesteps:
        try:
            made = maker.iterates(shown, timestep, [most])
        except ValueError as error:
            rows.append({"timestep": timestep, "error": str(error)})
            continue
        noises.append(made.eps[most])
        rows.append({"timestep": timestep, "noise_rms": float(noises[-1].square().mean().sqrt())})
        rows[-1] |= made.progress(most)
    found.values["figure_3"] = rows
    found.pictures["f3_fixed_points"] = noises_picture(shown, noises)
    closed = gaussian.iterates(shown, plan.timestep, [most]).eps[most]
    rows_shown = [eps[: plan.num_shown], gaussian.whitening.whiten(shown), closed, gaussian.limit(shown, plan.timestep)]
    found.pictures["f4_zca"] = noises_picture(shown, rows_shown)


def _relation(found: Findings, maker: NoiseMaker, shape: tuple[int, ...], plan: Plan) -> None:
    """Figure 2."""
    num_steps, count = plan.num_steps[-1], plan.num_samples
    noise = seeded_noise(plan.noise_seed, range(2 * count), shape)
    own, others = noise[:count], noise[count:]
    made = maker.samples(own, num_steps)
    values, correlation = pair_statistics(own, made)
    low = low_part(own[:1], cells(shape[-1]))[0]
    alike = with_low_part(others, low)
    rows, noise_means, image_means = averages(alike, maker.samples(alike, num_steps), made.mean(dim=0))
    found.values["relation"] = values | {"averages": rows, "num_steps": num_steps}
    found.arrays["cross_correlation_corner"] = correlation[:_CORNER, :_CORNER].float()
    found.pictures["f2_cross_correlation"] = correlation_picture(correlation[:_CORNER, :_CORNER])
    found.pictures["f2_averages"] = rows_picture(noise_means, image_means)


def slope_in_words(rows: list[dict[str, Any]], share: float) -> str:
    """What the slopes say about P2's claim."""
    last = rows[-1]
    slope, gaussian = last["model"]["slope"], last["gaussian"]["slope"]
    if slope is None:
        return "Too few directions have a positive gain for a slope: the noises do not follow the images."
    known = last["model"]["significant_share"]
    if known < TRUSTED_SHARE:
        return (
            f"After {last['iterations']} iterations at {share:g} T the noises follow the images in {known:.0%} of the "
            f"directions only (gain above 3 standard errors), so their slope of {slope:.2f} says nothing: noises that "
            f"have nothing to do with the images have about -1/2 too. Make the noises of more images."
        )
    nearest, name = min(_HYPOTHESES.items(), key=lambda hypothesis: abs(hypothesis[0] - slope))
    text = (
        f"After {last['iterations']} iterations at {share:g} T the gain falls as eigenvalue^{slope:.2f}: of 0 (a "
        f"multiple of the image), -1/2 (ZCA whitening) and -1 (the limit for Gaussian data) it is nearest to "
        f"{nearest:g}, {name}. ZCA whitening at its best scale explains {last['model']['zca_r2_scaled']:.0%} of the "
        f"noises' variance."
    )
    first = rows[0]["model"]["slope"]
    if first is not None and len(rows) > 1 and rows[0]["model"]["significant_share"] >= TRUSTED_SHARE:
        text += (
            f" Between {rows[0]['iterations']} and {last['iterations']} iterations it goes from {first:.2f} to "
            f"{slope:.2f}, so it says as much about their number as about the model."
            if abs(first - slope) > _SLOPE_CHANGE
            else f" It is the same from {rows[0]['iterations']} iterations on, within {_SLOPE_CHANGE}."
        )
    if gaussian is not None:
        text += f" The Gaussian denoiser of the same data is at {gaussian:.2f} there."
    return text
