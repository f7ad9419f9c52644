"""Filtered posterior means: one formula for the analytic denoisers that average training images or their patches.

With a = alpha_bar, an output pixel p and what is averaged, images or patches, numbered by i (Niedoba et al.,
*Filtered Posterior Mean Collections*, arXiv 2605.24192):

    x_hat_0[p] = sum_i softmax_i(-1/2 (x_t - sqrt(a) x_i)^T Lambda_p (x_t - sqrt(a) x_i)) (w_p . x_i)

Three choices make a denoiser: the precision Lambda_p that weighs the query, the weights w_p of the response, and the
source of the x_i. Here Lambda_p is 1 / (1 - a) on the pixels that p looks at and 0 elsewhere, and the response is the
pixel itself. Which pixels, and which source, is what the subclasses say.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from probediff.denoisers.gaussian import check_images, check_query, in_full_precision, register_levels
from probediff.schedule import NoiseSchedule

#: So many numbers are in one working array at most, unless one query and one image need more.
_WORKING_NUMBERS = 1 << 24

#: Points (m, C, H, W) -> exponents (P, N, S) of P softmaxes for N queries over S sources, and responses (P, S, R).
Compare = Callable[[Tensor], tuple[Tensor, Tensor]]


class Query(NamedTuple):
    """Noised images without the centre of the training images, their sqrt(alpha_bar) and their 1 - alpha_bar.

    Shapes (B, C, H, W), (B,) and (B,).
    """

    rows: Tensor
    scale: Tensor
    noise: Tensor


class FilteredPosteriorMean(nn.Module):
    """`eps_model` whose image is a posterior mean over training images or patches; the subclass makes the choices.

    The training images are streamed in chunks through an online softmax, so that beside them memory is bounded: each
    of about five working arrays has at most 2^24 numbers (64 MiB in float32), or what one query and one image need if
    that is more. The module has the dtype of the images.

    Args:
        images: (M, C, H, W) floating point, in the range the denoiser will see, [-1, 1]; M at least 2.
        schedule: Noise schedule whose alpha_bar the timesteps index.
        mirrored: Whether each image counts with its mirror image, as for a network whose training flips them.

    Attributes:
        points: (M, C, H, W), the images less `centre`.
        centre: (C, 1, 1), the mean of each channel: what is taken out of both sides saves digits.

    Raises:
        TypeError: When the images are not floating point.
        ValueError: On fewer than two images, other shapes, or values not finite.
    """

    points: Tensor
    centre: Tensor
    signal_variance: Tensor
    noise_variance: Tensor

    def __init__(self, images: Tensor, schedule: NoiseSchedule, mirrored: bool = False) -> None:
        super().__init__()
        check_images(images)
        centre = images.mean((0, 2, 3), dtype=torch.float64)[:, None, None].to(images)
        if not bool(centre.isfinite().all()):
            raise ValueError("images must be finite, got inf or nan: check how they were decoded")
        self.mirrored = mirrored
        self.register_buffer("points", images.detach() - centre)
        self.register_buffer("centre", centre)
        register_levels(self, schedule, images)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the noise that goes with the expected image in `x`.

        Args:
            x: (B, C, H, W) of the images' size, or (B, C * H * W).
            timestep: (B,) int64 in 0..T-1 (not checked, as this would wait for the device).

        Returns:
            eps in the shape and dtype of `x`.

        Raises:
            TypeError: When the module was moved to fewer digits than float32.
            ValueError: On other shapes.
        """
        return self.predict(x, timestep)[1]

    @in_full_precision
    def predict(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expected image and the noise that goes with it; arguments and errors as of `forward`."""
        shape = self.points.shape[1:]
        check_query(x, timestep, shape.numel())
        if x.dim() == 4 and x.shape[1:] != shape:
            raise ValueError(
                f"x must be (B, {', '.join(map(str, shape))}) as the training images, got {tuple(x.shape)}"
            )
        scale, noise = self.signal_variance[timestep].sqrt(), self.noise_variance[timestep]
        column = scale[:, None, None, None]
        rows = x.reshape(len(x), *shape).to(self.points.dtype) - column * self.centre
        image = torch.empty_like(rows)
        keys = self._keys(timestep)
        for key in keys.unique().tolist():
            for part in (keys == key).nonzero()[:, 0].split(max(1, _WORKING_NUMBERS // self._numbers_a_pair)):
                image[part] = self._expected_image(Query(rows[part], scale[part], noise[part]), key)
        eps = (rows - column * image) / noise[:, None, None, None].sqrt()
        return (image + self.centre).reshape(x.shape).to(x.dtype), eps.reshape(x.shape).to(x.dtype)

    @abstractmethod
    def _expected_image(self, query: Query, key: int) -> Tensor:
        """The expected image less `centre`, (B, C, H, W), of queries that agree in what `_keys` returned."""

    def _keys(self, timestep: Tensor) -> Tensor:
        """(B,) integers; queries of different ones need different arrays, such as patches of another size."""
        return torch.zeros_like(timestep)

    @property
    def _numbers_a_pair(self) -> int:
        """Numbers in the largest working array for one query and one image."""
        return 1

    @property
    def _numbers_an_image(self) -> int:
        """Numbers in the largest working array that belong to one image, whatever the number of queries."""
        return self.points[0].numel()

    def _chunks(self, num_queries: int) -> Iterator[Tensor]:
        """The points (m, C, H, W), each chunk followed by its mirror images where these count."""
        limits = _WORKING_NUMBERS // (num_queries * self._numbers_a_pair), _WORKING_NUMBERS // self._numbers_an_image
        for chunk in self.points.split(max(1, min(limits))):
            yield chunk
            if self.mirrored:
                yield chunk.flip(-1)

    def _posterior_mean(self, compare: Compare, num_queries: int) -> Tensor:
        """sum_i p_i response_i (P, N, R), the softmax p of the exponents taken over all images."""
        total = weight = self.points.new_zeros(())
        largest = self.points.new_full((), -torch.inf)
        for points in self._chunks(num_queries):
            exponents, responses = compare(points)
            # The largest exponent so far is taken out, so that the weights of all images are never held at once.
            new_largest = torch.maximum(largest, exponents.detach().amax(-1, keepdim=True))
            decay = (largest - new_largest).exp()
            weights = (exponents - new_largest).exp_()
            weight = weight * decay + weights.sum(-1, keepdim=True)
            total = total * decay + weights @ responses
            largest = new_largest
        return total / weight


def extend_query(patches: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
    """(P, N, K) -> (P, N, K + 1), whose products with `extend_source` are the exponents but for one number a query.

    -|x - sqrt(a) y|^2 / (2 (1 - a)) = sqrt(a) / (1 - a) x . y - a / (2 (1 - a)) |y|^2 - ..., scale (N,) being sqrt(a)
    and noise (N,) 1 - a.
    """
    halves = (-(scale.square()) / (2 * noise)).expand(len(patches), -1)[..., None]
    return torch.cat([patches * (scale / noise)[:, None], halves], -1)


def extend_source(patches: Tensor) -> Tensor:
    """(P, S, K) -> (P, K + 1, S): the patches and their squared lengths."""
    return torch.cat([patches, patches.square().sum(-1, keepdim=True)], -1).mT


class OptimalDenoiser(FilteredPosteriorMean):
    """The optimal denoiser of the training images: every pixel looks at the whole image, the source is the images.

    It equals `SmoothedEmpiricalDenoiser` with bandwidth 0 and needs no eigenbasis. In float32 the exponents have
    seven digits, which near t = 0 tell apart images that are not nearly the same. Arguments as of the base class.
    """

    def _expected_image(self, query: Query, key: int) -> Tensor:
        rows = extend_query(query.rows.flatten(1)[None], query.scale, query.noise)

        def compare(points: Tensor) -> tuple[Tensor, Tensor]:
            flat = points.flatten(1)[None]
            return rows @ extend_source(flat), flat

        return self._posterior_mean(compare, len(query.rows)).reshape(query.rows.shape)


class NearestImage(FilteredPosteriorMean):
    """The training image nearest to the query, of which sqrt(alpha_bar) x_i is compared with x_t.

    The limit of `OptimalDenoiser` in which the exponents are multiplied by a number that grows without bound. Among
    equals the image that comes first counts. Arguments as of the base class.
    """

    def _expected_image(self, query: Query, key: int) -> Tensor:
        rows = extend_query(query.rows.flatten(1)[None], query.scale, query.noise)
        image, largest = torch.zeros_like(query.rows), query.noise.new_full((len(query.rows),), -torch.inf)
        for points in self._chunks(len(query.rows)):
            exponent, index = (rows @ extend_source(points.flatten(1)[None]))[0].max(1)
            is_nearer = exponent > largest
            image[is_nearer] = points[index[is_nearer]]
            largest = torch.maximum(largest, exponent)
        return image
