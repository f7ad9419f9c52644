"""Standard errors of the statistics of latents: from single samples, or the jackknife of sums by group."""

import torch
from torch import Tensor

from probediff.measures._rows import as_rows, centred_columns, float64_chunks
from probediff.measures.normality import Normality, band_powers, patches
from probediff.measures.uncertainty import (
    NUM_GROUPS,
    error_of_means,
    jackknife_error,
    mean_with_error,
    moments_with_errors,
    share_error,
)

# Of float64: share of a pixel's squares that counts as nothing without a group.
_ROUNDING = 1e-12


def normality_errors(latents: Tensor, normality: Normality, shapiro_samples: int = 1000) -> dict[str, float]:
    """Standard errors of the scalars of `latent_normality` over fresh latents, by name; NaN where N is too small.

    Args:
        latents: (N, C, H, W) that were measured.
        normality: What `latent_normality` gave for them.
        shapiro_samples: As it was given there.
    """
    rows = as_rows("latents", latents)
    num = len(rows)
    mean, std = moments_with_errors(rows)
    squares = torch.cat([chunk.square().mean(dim=1) for (chunk,) in float64_chunks(rows)])
    return {
        "mean": mean.error,
        "std": std.error,
        "pixel_divergence": _divergence_error(rows),
        "ks_mean_distance": mean_with_error(normality.ks_distances).error,
        "ks_rejected_share": share_error(normality.ks_rejected_share.value, num),
        "shapiro_rejected_share": share_error(normality.shapiro_rejected_share.value, min(shapiro_samples, num)),
        "squared_norm_per_value": mean_with_error(squares).error,
        "norm_outside_share": share_error(normality.norm_outside_share.value, num),
        "low_to_high_power": error_of_means(lambda means: means[0] / means[1], *band_powers(latents)),
        "patch_correlation": _patch_correlation_error(latents),
    }


def _divergence_error(rows: Tensor) -> float:
    """Of the mean over pixels of (v + m² - 1 - log v) / 2."""
    group = torch.arange(len(rows), device=rows.device) % NUM_GROUPS
    centre = rows.double().mean(dim=0)
    sums = torch.zeros(int(group.max()) + 1, rows.shape[1], dtype=torch.float64, device=rows.device)
    squares, start = torch.zeros_like(sums), 0
    for (chunk,) in float64_chunks(rows):
        of_group = group[start : start + len(chunk)]
        sums.index_add_(0, of_group, chunk - centre)
        squares.index_add_(0, of_group, (chunk - centre).square())
        start += len(chunk)
    left = (len(rows) - torch.bincount(group))[:, None].double()
    mean = -sums / left
    variance = (squares.sum(dim=0) - squares - left * mean.square()) / (left - 1)
    divergence = (variance + (centre + mean).square() - 1 - variance.log()) / 2
    return jackknife_error(divergence.mean(dim=1))


def _patch_correlation_error(latents: Tensor) -> float:
    """Of the mean absolute correlation between the pixels of patches."""
    group = torch.arange(len(latents), device=latents.device) % NUM_GROUPS
    members = [group == index for index in range(int(group.max()) + 1)]
    total, pairs = torch.zeros(2, len(members), dtype=torch.float64, device=latents.device)
    for patch in patches(latents):
        columns = centred_columns(patch)
        products = columns.T @ columns
        for index, missing in enumerate(members):
            rows = columns[missing]
            count = len(columns) - len(rows)
            mean = -rows.sum(dim=0) / count
            left = products - rows.T @ rows - count * torch.outer(mean, mean)
            # Of a pixel that is the same in all other samples rounding is left; it is in no pair.
            varies = left.diagonal() > _ROUNDING * products.diagonal()
            scale = left.diagonal().where(varies, torch.inf).sqrt()
            sizes = (left / scale / scale[:, None]).abs_().clamp_(max=1.0)
            total[index] += sizes.sum() - sizes.diagonal().sum()
            pairs[index] += varies.sum() * (varies.sum() - 1)
    return jackknife_error(total / pairs)
