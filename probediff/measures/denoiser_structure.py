"""What a denoiser is like: how near to the truth, and to the exact denoisers from linear statistics to memorisation.

The exact denoisers are a family with a bandwidth h, from the training set (h = 0) to its Gaussian (h = 1); see
``probediff.denoisers.SmoothedEmpiricalDenoiser``. All images are those of one noise level, of N images that are
independent of one another: every number has the standard error over them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from probediff.measures._rows import as_rows, check_num_samples, same_shape_rows
from probediff.measures.explained import (
    explained_share,
    explained_variance,
    ratio_of_sums,
    relative_distance,
    root_of_ratio,
    share_taken_away,
    squared_distances,
)
from probediff.measures.uncertainty import WithError

_NUM_STEPS = 200
_NUM_ERRORS = 2.0
#: A bandwidth is told apart when its interval leaves this part of [0, 1] out.
_LEFT_OUT = 0.1
#: Of the distance between two members: how wrong the bandwidth can be in its middle, where only splines are known.
_WRONG_BETWEEN = 0.3
#: Of the norm of an image, in float32.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class BandwidthFit:
    """The member of the family that is nearest to a network at one noise level.

    Attributes:
        bandwidth: h of the least mean squared distance.
        low: Smallest h whose mean squared distance is not larger by more than two standard errors of the difference,
            which is taken image by image; and what the interpolation between members leaves open.
        high: Largest such h.
        explained: `explained_share` of that member by the network.
        is_identified: Whether the interval leaves a tenth of [0, 1] out and ``explained`` is above zero by two standard
            errors. Otherwise ``low`` and ``high`` are 0 and 1.
    """

    bandwidth: float
    low: float
    high: float
    explained: WithError
    is_identified: bool


@dataclass(frozen=True, eq=False)
class LevelImages:
    """Images of one noise level, (N, D) or (N, C, H, W) each.

    Attributes:
        truth: Clean images x_0.
        noised: x_0 + sigma eps.
        null: `isotropic_denoised` of them.
        network: Those that a network denoised.
        members: (K, N, ...), those of the exact denoisers from the training set (h = 0) to the Gaussian (h = 1).
    """

    truth: Tensor
    noised: Tensor
    null: Tensor
    network: Tensor
    members: Tensor


@dataclass(frozen=True)
class Structure:
    """What a network is like at one noise level; numbers without an error are nulls, or those of exact denoisers.

    Attributes:
        r2: `explained_share` of the truth by the network; with the truths of other images, and by the Gaussian and the
            training set.
        distance: `relative_distance` of the network to the truth.
        linear_share: `explained_share` of the network by the Gaussian denoiser; with the Gaussian's of other images.
        image_gaussian, image_training_set: `explained_variance` of the network's images by these two denoisers.
        score_gaussian, score_training_set: Likewise of its scores, which are proportional to denoised - noised.
        gaussian_lead: By how many standard errors the network's mean squared distance to the training set's denoiser
            is larger than that to the Gaussian one.
        fit: The nearest exact denoiser.
        member_r2: (K,) `explained_share` of each exact denoiser by the network.
        member_distance: (K,) `relative_distance` of the network to each.
    """

    r2: WithError
    r2_null: float
    r2_gaussian: float
    r2_training_set: float
    distance: WithError
    linear_share: WithError
    linear_share_null: float
    image_gaussian: WithError
    image_training_set: WithError
    score_gaussian: WithError
    score_training_set: WithError
    gaussian_lead: float
    fit: BandwidthFit
    member_r2: list[WithError]
    member_distance: list[WithError]


def structure(images: LevelImages, bandwidths: Sequence[float]) -> Structure:
    """All that is known of a network at one noise level.

    Args:
        images: Of this level, N at least 2.
        bandwidths: Of its K members, ascending from 0 to 1.

    Raises:
        TypeError, ValueError: As `best_bandwidth`.
    """
    truth, null, network = images.truth, images.null, images.network
    first, last = images.members[0], images.members[-1]
    noised = images.noised.double()
    score, *scores = (x.double() - noised for x in (network, last, first))
    # Of a network that takes nothing away there is rounding left, and no score.
    is_score = score.flatten(1).norm(dim=1) > _ROUNDING * noised.flatten(1).norm(dim=1)
    score[~is_score] = 0
    n, g, d = same_shape_rows(network=network, gaussian=last, training_set=first)
    lead = squared_distances(n, d) - squared_distances(n, g)
    others = [x.roll(1, 0) for x in (truth, last, null)]
    # Of all members at once: to check and to convert each by itself would take longer than the sums.
    members = images.members.double().flatten(2)
    to_network, to_null = ((members - rows.double().flatten(1)).square().sum(dim=2) for rows in (network, null))
    return Structure(
        r2=explained_share(truth, network, null),
        r2_null=explained_share(others[0], network, others[2]).value,
        r2_gaussian=explained_share(truth, last, null).value,
        r2_training_set=explained_share(truth, first, null).value,
        distance=relative_distance(network, truth),
        linear_share=explained_share(network, last, null),
        linear_share_null=explained_share(network, others[1], null).value,
        image_gaussian=explained_variance(network, last),
        image_training_set=explained_variance(network, first),
        score_gaussian=explained_variance(score, scores[0]),
        score_training_set=explained_variance(score, scores[1]),
        gaussian_lead=float(lead.mean() / lead.std()) * math.sqrt(len(lead)),
        fit=best_bandwidth(network, images.members, bandwidths, null),
        member_r2=list(map(share_taken_away, to_network, to_null)),
        member_distance=list(map(root_of_ratio, to_network, members.square().sum(dim=2))),
    )


@dataclass(frozen=True)
class MemorisationGap:
    """How much better a denoiser does on images that it was trained on than on others: the difference of R².

    Attributes:
        network: `explained_share` of the truth by the network, of the images seen less of those unseen.
        gaussian: That of the Gaussian denoiser, the null: the images of the two splits differ.
        training_set: That of the training set's denoiser, complete memorisation.
        excess: The network's less the Gaussian's; its error is smaller, for the two are compared image by image.
    """

    network: WithError
    gaussian: WithError
    training_set: WithError
    excess: WithError


def memorisation_gap(seen: LevelImages, unseen: LevelImages) -> MemorisationGap:
    """The gap at one noise level between images that were trained on and held-out ones.

    Raises:
        TypeError, ValueError: As `explained_share`.
    """

    def shares(images: LevelImages) -> list[WithError]:
        named = {"truth": images.truth, "network": images.network, "null": images.null}
        t, n, o, g, d = same_shape_rows(**named, gaussian=images.members[-1], training_set=images.members[0])
        excess = ratio_of_sums(squared_distances(t, g) - squared_distances(t, n), squared_distances(t, o))
        return [*(explained_share(t, prediction, o) for prediction in (n, g, d)), excess]

    gaps = (
        WithError(a.value - b.value, math.hypot(a.error, b.error))
        for a, b in zip(shares(seen), shares(unseen), strict=True)
    )
    return MemorisationGap(*gaps)


def best_bandwidth(network: Tensor, members: Tensor, bandwidths: Sequence[float], null: Tensor) -> BandwidthFit:
    """Which bandwidth h makes the exact denoiser that is nearest to a network; over images, by squared distance.

    Between members the denoised image is the cubic spline through theirs, so that the squared distance of every h
    follows from the inner products of the differences; the least is found to 1/200.

    Args:
        network: (N, D) or (N, C, H, W) denoised images, N at least 2.
        members: (K, N, ...) those of the exact denoisers, K at least 4.
        bandwidths: The K bandwidths, ascending from 0 to 1.
        null: (N, ...), as for `explained_share`.

    Raises:
        TypeError: No floating-point tensors.
        ValueError: Other shapes or bandwidths, fewer than two images, or values not finite.
    """
    hs = list(bandwidths)
    if len(hs) < 4 or hs[0] != 0 or hs[-1] != 1 or sorted(set(hs)) != hs or len(hs) != len(members):
        raise ValueError(f"bandwidths must ascend from 0 to 1, one a member and at least 4, got {hs}; pass others")
    rows = as_rows("network", network)
    check_num_samples("network", len(rows), 2, "a standard error")
    grid = [step / _NUM_STEPS for step in range(_NUM_STEPS + 1)]
    basis = torch.from_numpy(CubicSpline(hs, torch.eye(len(hs), dtype=torch.float64).numpy())(grid)).to(rows.device)
    differences = torch.stack([rows.double() - as_rows("members", member).double() for member in members], dim=1)
    gram = differences @ differences.mT
    # The basis sums to 1 at every h, so that the spline of differences is the difference of the spline.
    distances = torch.einsum("gk,nkl,gl->ng", basis, gram, basis)
    best = int(distances.mean(dim=0).argmin())
    more = distances - distances[:, best : best + 1]
    is_near = more.mean(dim=0) <= _NUM_ERRORS * more.std(dim=0) / math.sqrt(len(rows))
    near = is_near.nonzero()[:, 0].tolist()
    low, high = (_widened(grid[end], hs) for end in (near[0], near[-1]))
    nearest = torch.einsum("k,k...->...", basis[best], members.double())
    explained = explained_share(nearest, network.double(), null.double())
    is_known = explained.value > _NUM_ERRORS * explained.error and high[1] - low[0] <= 1 - _LEFT_OUT
    ends = (low[0], high[1]) if is_known else (0.0, 1.0)
    return BandwidthFit(grid[best], *ends, explained, is_known)


def _widened(h: float, members: list[float]) -> tuple[float, float]:
    """How small and how large h can be for all that splines between members know; exact at the members."""
    left = max(member for member in members if member <= h)
    right = min(member for member in members if member >= h)
    wrong = 4 * _WRONG_BETWEEN * (h - left) * (right - h) / (right - left) if right > left else 0.0
    return max(0.0, h - wrong), min(1.0, h + wrong)
