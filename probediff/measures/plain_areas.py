"""Is the inversion error larger where the image is flat? (P1, figure 1)

P1 is *There and Back Again*.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.measures._rows import as_rows, check_num_samples, same_shape_rows
from probediff.measures.uncertainty import WithError, error_of_means, mean_with_error, split_errors

#: P1's authors' threshold. Here it is in units of pixels in [-1, 1]: 3.2 of 256 grey levels.
PLAIN_THRESHOLD = 0.025


@dataclass(frozen=True)
class PlainAreaErrors:
    """Mean absolute error |latent - noise| of the pixels inside and outside plain areas, over the whole set.

    `plain_share` is the share of plain pixels, `ratio` that of inside to outside. The nulls are the same where each
    image meets the errors of another (the next one in the set): errors that have nothing to do with the image give
    `inside_null` and `outside_null` alike. NaN where there is no pixel of a kind. `standard_errors` are those of the
    others, by name.
    """

    inside: float
    outside: float
    inside_null: float
    outside_null: float
    plain_share: float
    ratio: float
    ratio_null: float
    standard_errors: dict[str, float]


def plain_areas(x_0: Tensor, threshold: float = PLAIN_THRESHOLD) -> Tensor:
    """Where an image is flat, (N, H, W) bool: pixels that hardly differ from their neighbours in any channel.

    A pixel is plain if the mean of the absolute differences to the pixel below and to the right is under `threshold`
    in every channel. In the last row and column the difference to the pixel above or to the left stands in.

    Args:
        x_0: (N, C, H, W) in [-1, 1], H and W at least 2.
        threshold: In the units of the pixels.

    Raises:
        ValueError: Another shape, values not finite, or a threshold that is not positive.
    """
    as_rows("x_0", x_0)
    if x_0.ndim != 4 or min(x_0.shape[2:]) < 2:
        raise ValueError(
            f"x_0 must be (N, C, H, W) with H and W at least 2, got shape {tuple(x_0.shape)}; pass larger images"
        )
    if not (math.isfinite(threshold) and threshold > 0):
        raise ValueError(f"threshold must be positive and finite, got {threshold}; P1's is {PLAIN_THRESHOLD}")
    down, across = x_0.diff(dim=2).abs(), x_0.diff(dim=3).abs()
    down, across = torch.cat([down, down[:, :, -1:]], dim=2), torch.cat([across, across[..., -1:]], dim=3)
    return ((down + across) / 2 < threshold).all(dim=1)


def plain_area_errors(
    noise: Tensor, x_0: Tensor, latent: Tensor, threshold: float = PLAIN_THRESHOLD
) -> PlainAreaErrors:
    """The inversion error split by `plain_areas` of the image.

    Args:
        noise: (N, C, H, W) of one shape, N at least 2, H and W at least 2.
        x_0: As `noise`, in [-1, 1].
        latent: As `noise`.
        threshold: As for `plain_areas`.

    Raises:
        ValueError: Shapes differ, N under 2, values not finite, or as `plain_areas`.
    """
    same_shape_rows(noise=noise, x_0=x_0, latent=latent)
    check_num_samples("x_0", len(x_0), 2, "the null")
    plain = plain_areas(x_0, threshold)
    error = (latent - noise).abs().double().mean(dim=1)
    numbers = {"plain_share": mean_with_error(plain.double().mean(dim=(1, 2)))}
    for ending, errors in (("", error), ("_null", error.roll(-1, dims=0))):
        numbers |= {f"{name}{ending}": number for name, number in _split(errors, plain).items()}
    values, standard_errors = split_errors(numbers)
    return PlainAreaErrors(**values, standard_errors=standard_errors)


def _split(error: Tensor, plain: Tensor) -> dict[str, WithError]:
    """Mean error inside, outside, and their ratio; each is a function of means over the images."""
    terms = [(part * flags).sum(dim=(1, 2)).double() for flags in (plain, ~plain) for part in (error, flags)]
    means = torch.stack([term.mean() for term in terms])
    # The mean of nothing is NaN, which is what is wanted.
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "inside": lambda means: means[0] / means[1],
        "outside": lambda means: means[2] / means[3],
        "ratio": lambda means: means[0] * means[3] / (means[1] * means[2]),
    }
    return {name: WithError(float(f(means)), error_of_means(f, *terms)) for name, f in functions.items()}
