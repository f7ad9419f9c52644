"""The equivariant local score machine: every pixel looks for its patch at all places of the training images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from probediff.denoisers.filtered import FilteredPosteriorMean, Query, extend_query, extend_source
from probediff.denoisers.patch_sizes import PatchSize, patch_size_by_timestep
from probediff.schedule import NoiseSchedule

Border = Literal["circular", "zeros"]


class Places(NamedTuple):
    """Places of an image along one axis, and whether a patch at one of them is compared with those at all of them."""

    at: Tensor
    is_shared: bool


class EquivariantScoreMachine(FilteredPosteriorMean):
    """Each pixel looks at a square patch around itself, in all channels; the source is the patches of all places.

    The equivariant local score machine (ELS) of Kamb & Ganguli, arXiv 2412.20292. With a `circular` border the query
    goes on at its other side and the source is the patches that lie within a training image, as for a network with
    circular padding. With `zeros` (their boundary-broken ELS) both go on with zeros, as the network's padding does, and
    a patch is compared with those that the border cuts alike: the middle of the image with the middle, a pixel near
    the upper border with those of its row, and a pixel near a corner with its own place.

    In float32 the exponents have seven digits.

    Args:
        images, schedule, mirrored: As of the base class.
        patch_size: As of `LocalScoreMachine`; with a circular border no larger than the image.
        border: ``circular`` or ``zeros``.

    Raises:
        TypeError, ValueError: As of the base class, or on a `patch_size` or `border` of another kind.
    """

    patch_sizes: Tensor

    def __init__(
        self,
        images: Tensor,
        schedule: NoiseSchedule,
        mirrored: bool = False,
        patch_size: PatchSize | None = None,
        border: Border = "circular",
    ) -> None:
        if border not in get_args(Border):
            raise ValueError(f"border must be one of {', '.join(get_args(Border))}, got {border!r}")
        super().__init__(images, schedule, mirrored)
        self.border = border
        height, width = images.shape[2:]
        sizes = patch_size_by_timestep(patch_size, schedule, (height, width), must_fit=border == "circular")
        self._largest_patch = int(sizes.max())
        self.register_buffer("patch_sizes", sizes.to(images.device))

    def _keys(self, timestep: Tensor) -> Tensor:
        return self.patch_sizes[timestep]

    @property
    def _numbers_a_pair(self) -> int:
        return math.prod(self.points.shape[2:]) ** 2

    @property
    def _numbers_an_image(self) -> int:
        return self.points[0].numel() * self._largest_patch**2

    def _expected_image(self, query: Query, key: int) -> Tensor:
        patches = _unfold(query.rows, key, "circular" if self.border == "circular" else "constant")
        image = torch.empty_like(query.rows)
        for rows, columns in self._regions(key):
            mean = self._expected_region(query, patches, key, (rows, columns))
            image[:, :, rows.at[:, None], columns.at] = mean
        return image

    def _regions(self, size: int) -> Iterator[tuple[Places, Places]]:
        """Rows and columns of the regions of an image in which pixels share their source."""
        height, width = (torch.arange(length, device=self.points.device) for length in self.points.shape[2:])
        if self.border == "circular":
            yield Places(height, True), Places(width, True)
            return
        for rows in _split_border(height, size):
            for columns in _split_border(width, size):
                yield rows, columns

    def _expected_region(self, query: Query, patches: Tensor, size: int, region: tuple[Places, Places]) -> Tensor:
        """The expected image (B, C, rows, columns) of the places of a region."""
        rows, columns = region
        num_shared = math.prod(len(places.at) for places in region if places.is_shared)
        scale, noise = (values.repeat_interleave(num_shared) for values in (query.scale, query.noise))
        queries = extend_query(_gather(patches, rows, columns), scale, noise)

        def compare(points: Tensor) -> tuple[Tensor, Tensor]:
            if self.border == "circular":
                sources = _unfold(points, size).flatten(2).permute(0, 2, 1).reshape(1, -1, patches.shape[1])
            else:
                sources = _gather(_unfold(points, size, "constant"), rows, columns)
            centres = sources.unflatten(-1, (-1, size**2))[..., size**2 // 2]
            return queries @ extend_source(sources), centres

        mean = self._posterior_mean(compare, len(query.rows))
        order = _order(rows, columns)
        lengths = (len(query.rows), mean.shape[-1], len(rows.at), len(columns.at))
        return mean.reshape([lengths[axis] for axis in order]).permute([order.index(axis) for axis in range(4)])


def _split_border(places: Tensor, size: int) -> Iterator[Places]:
    """The places where a patch leaves the image, each on its own, and those where it does not, which share theirs."""
    is_inside = (places >= size // 2) & (places < len(places) - size // 2)
    for at, is_shared in ((places[~is_inside], False), (places[is_inside], True)):
        if len(at):
            yield Places(at, is_shared)


def _unfold(images: Tensor, size: int, padding: str | None = None) -> Tensor:
    """All patches (N, C size^2, H', W') of images (N, C, H, W), around every pixel if they are padded."""
    if padding is not None:
        images = functional.pad(images, [size // 2] * 4, mode=padding)
    height, width = (length - size + 1 for length in images.shape[2:])
    return functional.unfold(images, size).unflatten(-1, (height, width))


def _order(rows: Places, columns: Places) -> list[int]:
    """Axes of (N, K, rows, columns) in the order of softmaxes of their own, images, shared places, K."""
    axes = ((2, rows.is_shared), (3, columns.is_shared))
    return [*(axis for axis, shared in axes if not shared), 0, *(axis for axis, shared in axes if shared), 1]


def _gather(patches: Tensor, rows: Places, columns: Places) -> Tensor:
    """Patches (N, K, H, W) of a region as (P, N S, K): P places with a source of their own, S that share theirs."""
    chosen = patches[:, :, rows.at[:, None], columns.at].permute(_order(rows, columns))
    own = math.prod(len(places.at) for places in (rows, columns) if not places.is_shared)
    return chosen.reshape(own, -1, patches.shape[1])
