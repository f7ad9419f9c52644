"""How near the map from noise to image is to optimal transport, its hubs, and whether two runs learn the same map."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from probediff.measures._rows import (
    CHUNK_ELEMENTS,
    check_at_least,
    check_num_samples,
    column_mean,
    float64_chunks,
    same_length_rows,
    same_shape_rows,
)
from probediff.measures.assignment import assignment_accuracy
from probediff.measures.similarity import ssim
from probediff.measures.uncertainty import rows_without_groups

#: SSIM from which `reproducibility` counts two images as the same. Zhang et al. 2024 ("The Emergence of
#: Reproducibility and Generalizability in Diffusion Models") use 0.6 too, but on a learned copy-detection feature.
SAME_IMAGE_SSIM = 0.6
_NULL_REPEATS = 256
# Of the largest cost: prices that change by less do not change any more.
_SETTLED = 1e-12


@dataclass(frozen=True)
class Transport:
    """The optimal assignment of N noises to N images at squared L2 cost, beside the pairs and the nearest neighbours.

    Attributes:
        identity_share: share of the pairs (noise i, image i) that the optimal assignment keeps; 1 / N by chance.
        nearest_image_share: share of noises assigned to their nearest image; does not depend on the pairing.
        nearest_noise_share: share of images assigned to their nearest noise.
        identity_gap: (cost of the pairs - optimal cost) / optimal cost, at least 0.
        random_gap: the same for random pairs (mean over all permutations): the null of `identity_gap`.
        nearest_image_gap: (cost of nearest images - optimal cost) / optimal cost, at most 0.
        nearest_noise_gap: the same for nearest noises.
        optimal_cost: mean squared L2 distance of the assigned pairs.
        assigned_image: (N,) int64, the image assigned to each noise.
        nearest_image, nearest_noise: (N,) int64, of each noise and of each image.
    """

    identity_share: float
    nearest_image_share: float
    nearest_noise_share: float
    identity_gap: float
    random_gap: float
    nearest_image_gap: float
    nearest_noise_gap: float
    optimal_cost: float
    assigned_image: Tensor
    nearest_image: Tensor
    nearest_noise: Tensor


def optimal_transport(noise: Tensor, x_0: Tensor) -> Transport:
    """Optimal assignment between noises and images by the Hungarian method (scipy's `linear_sum_assignment`).

    The N x N cost is a matrix product in float64, made in chunks around the mean of the noises. Time grows with N^3:
    a tenth of a second at N = 1000, seconds at 2000 to 4000, minutes beyond 10,000.

    Args:
        noise: (N, C, H, W) or (N, D). One shape; `noise[i]` belongs to `x_0[i]`. N at least 2.
        x_0: As `noise`.

    Raises:
        ValueError: Shapes differ, N under 2, values not finite, all noises or all images equal (every assignment is
            then optimal), or an optimal cost of 0.
    """
    cost = _costs(noise, x_0)
    return _transport_of(cost, _assign(cost))


def transports_without_groups(noise: Tensor, x_0: Tensor) -> Iterator[Transport]:
    """What `optimal_transport` gives without each group of samples, for the delete-a-group jackknife.

    The matrix of costs is made once, and less the prices of noises and images at which the whole assignment is the
    best, nearly all of it is found at once. Arguments and errors are those of `optimal_transport`.
    """
    cost = _costs(noise, x_0)
    if len(cost) < 3:
        return
    reduced = _less_prices(cost, _assign(cost))
    for kept in rows_without_groups(len(cost)):
        yield _transport_of(cost[kept][:, kept], _assign(reduced[kept][:, kept]))


def _less_prices(cost: Tensor, assigned: Tensor) -> Tensor:
    """(N, N) costs less a price of each noise and each image, such that all are 0 or more, and 0 for assigned pairs.

    The prices are the dual solution of the assignment: those of images are shortest paths over what it costs to swap.
    """
    own = cost.gather(1, assigned[:, None])
    swap, price = cost - own, torch.zeros_like(cost[0])
    for _ in range(len(cost)):
        lower = torch.minimum(price, (swap + price[assigned][:, None]).amin(dim=0))
        is_settled = bool((price - lower).amax() <= _SETTLED * own.abs().amax())
        price = lower
        if is_settled:
            break
    return (swap + price[assigned][:, None] - price).clamp_(min=0)


def _assign(cost: Tensor) -> Tensor:
    """(N,) the image of each noise in the assignment of the least total cost."""
    from scipy.optimize import linear_sum_assignment

    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1]).to(cost.device)


def _costs(noise: Tensor, x_0: Tensor) -> Tensor:
    """(N, N) float64 squared distances of every noise to every image."""
    noise, x_0 = same_shape_rows(noise=noise, x_0=x_0)
    check_num_samples("noise and x_0", len(noise), 2, "an assignment with a choice")
    for name, rows in (("noise", noise), ("x_0", x_0)):
        if bool((rows == rows[0]).all()):
            raise ValueError(
                f"{name} must hold different samples, got {len(rows)} equal ones; every assignment is then optimal"
            )
    return _squared_distances(noise, x_0)


def _transport_of(cost: Tensor, assigned: Tensor) -> Transport:
    own = torch.arange(len(cost), device=cost.device)
    inverse = torch.empty_like(assigned).scatter_(0, assigned, own)
    nearest_image, nearest_noise = cost.argmin(dim=1), cost.argmin(dim=0)
    optimal = float(cost[own, assigned].mean())
    if optimal <= 0:
        raise ValueError("noise and x_0 must be different sets, got the same one; an optimal cost of 0 has no gaps")

    def gap(costs: Tensor) -> float:
        return (float(costs.mean()) - optimal) / optimal

    return Transport(
        identity_share=_share(assigned == own),
        nearest_image_share=_share(assigned == nearest_image),
        nearest_noise_share=_share(inverse == nearest_noise),
        identity_gap=gap(cost[own, own]),
        random_gap=gap(cost),
        nearest_image_gap=gap(cost.amin(dim=1)),
        nearest_noise_gap=gap(cost.amin(dim=0)),
        optimal_cost=optimal,
        assigned_image=assigned,
        nearest_image=nearest_image,
        nearest_noise=nearest_noise,
    )


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) float64 squared L2 distances between the rows of two sets."""
    centre = column_mean(a)
    # As many rows of b at a time as keep the product's operands small.
    size = max(1, CHUNK_ELEMENTS // a.shape[1])
    columns = []
    for start in range(0, len(b), size):
        right = b[start : start + size].double() - centre
        norms = right.square().sum(dim=1)
        rows = [_tile(left - centre, right, norms) for (left,) in float64_chunks(a, for_products=True)]
        columns.append(torch.cat(rows))
    return torch.cat(columns, dim=1)


def _tile(left: Tensor, right: Tensor, right_norms: Tensor) -> Tensor:
    return (left.square().sum(dim=1)[:, None] + right_norms - 2 * (left @ right.T)).clamp_(min=0)


def hubness(captured: Tensor) -> float:
    """Skewness of how often each candidate is a nearest neighbour (Radovanović et al. 2010, eq. 1, k = 1).

    E (n - mean)^3 / std^3 over the candidates; 0 where all are chosen equally often. Report `null_hubness` beside it.

    Args:
        captured: (N,). Counts, as from `hub_counts`.

    Raises:
        ValueError: Not (N,) with N > 1.
    """
    if captured.ndim != 1 or len(captured) < 2:
        raise ValueError(f"captured must be (N,) with N > 1, got shape {tuple(captured.shape)}; use hub_counts")
    return float(_skewness(captured[None])[0])


def _skewness(counts: Tensor) -> Tensor:
    centred = counts.double() - counts.double().mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1)
    return centred.pow(3).mean(dim=1) / variance.pow(1.5).where(variance > 0, 1.0)


@cache
def null_hubness(num: int) -> float:
    """Expected `hubness` if each of `num` queries chose one of `num` candidates at random; about 1.

    Mean over 256 drawn sets of counts, from a generator with a fixed seed.

    Raises:
        ValueError: `num` under 2.
    """
    check_at_least("num", num, 2)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(num, (_NULL_REPEATS, num), generator=generator)
    counts = torch.zeros(_NULL_REPEATS, num, dtype=torch.int64).scatter_add_(1, chosen, torch.ones_like(chosen))
    return float(_skewness(counts).mean())


@dataclass(frozen=True)
class Reproducibility:
    """How alike the images are that two runs make from the same noises.

    Attributes:
        mean_ssim: mean structural similarity of x[i] and y[i].
        same_share: share of pairs whose SSIM is above the threshold.
        mean_l2: mean L2 distance of x[i] and y[i].
        mean_ssim_null, same_share_null, mean_l2_null: the same for x[i] and y[i + 1], cyclic.
        x_finds_y, y_finds_x: share of images whose nearest neighbour (L2) in the other set is their partner; 1 / N
            (`retrieval_null`) by chance.
    """

    mean_ssim: float
    same_share: float
    mean_l2: float
    mean_ssim_null: float
    same_share_null: float
    mean_l2_null: float
    x_finds_y: float
    y_finds_x: float
    retrieval_null: float


def reproducibility(x: Tensor, y: Tensor, threshold: float = SAME_IMAGE_SSIM) -> Reproducibility:
    """Do two runs make the same images from the same noises? After Zhang et al. 2024, with SSIM as the score.

    Args:
        x: (N, C, H, W) in [-1, 1], N at least 2, H and W at least 7; x[i] and y[i] come from the same noise.
        y: As `x`.
        threshold: SSIM above which two images count as the same.

    Raises:
        ValueError: Shapes differ, N under 2, images under 7 pixels, values not finite, or `threshold` outside -1..1.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be an SSIM in -1..1, got {threshold}; the default is {SAME_IMAGE_SSIM}")
    rows = same_length_rows(x=x, y=y)[0]
    check_num_samples("x and y", len(rows), 2, "mismatched pairs")
    paired, shifted = _scores(x, y, threshold), _scores(x, y.roll(-1, dims=0), threshold)
    retrieval = assignment_accuracy(noise=x, x_0=y)
    return Reproducibility(*paired, *shifted, retrieval.noise_to_image, retrieval.image_to_noise, 1 / len(rows))


def _scores(x: Tensor, y: Tensor, threshold: float) -> tuple[float, float, float]:
    scores = ssim(x, y)
    chunks = float64_chunks(x.flatten(1), y.flatten(1))
    lengths = torch.cat([torch.linalg.vector_norm(a - b, dim=1) for a, b in chunks])
    return float(scores.mean()), _share(scores > threshold), float(lengths.mean())
