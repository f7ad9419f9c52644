"""SDEdit from random noise, from found noise, and from the DDIM latent.

After section 6 of P2 (*First-step inference in diffusion models learns image de-whitening*).

An edit of strength s starts with the share s of the sampling steps still to do. SDEdit (Meng et al. 2022) starts from
the image with noise added, sqrt(a) x_0 + sqrt(1 - a) z; DDIM inversion starts from the state at the same level that
leads back to the image.

What theory says of Gaussian data: along an eigenvector of the covariance with eigenvalue l let p = a l / (a l + 1 - a)
be the share of the image in the state. Random noise leaves a mean squared distance to the image of l (2 - 2 sqrt(p)),
noise that is the whitened image l (sqrt(p) + sqrt(1 - p) - 1)^2, which is less for every p in (0, 1), and DDIM
inversion none but that of its steps. So the three keep ever more of the image and change it ever less.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from probediff.editing.models import Sampler
from probediff.editing.variation import likeness
from probediff.features.networks import FeatureNetwork, extract
from probediff.measures.similarity import cosine_similarity

NoiseKind = Literal["random", "found", "ddim"]
NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)


@dataclass(frozen=True, eq=False)
class Edit:
    """B images edited with one strength and one kind of noise.

    Attributes:
        strength: in (0, 1].
        noise: the kind.
        num_steps: sampling steps that were done.
        images: (B, K, c, h, w) pixels in [-1, 1]; K is 1 for the DDIM latent.
        numbers: (B, K) by name: ``ssim`` with the input (structure kept), ``features``, cosine similarity of features
            with the input's, where there is a network, and ``distance``, L2 to the input (change achieved).
    """

    strength: float
    noise: NoiseKind
    num_steps: int
    images: Tensor
    numbers: dict[str, Tensor]


def edit_images(
    sampler: Sampler,
    images: Tensor,
    strength: float,
    kind: NoiseKind,
    noise: Tensor | None = None,
    features: FeatureNetwork | None = None,
) -> Edit:
    """Edit images (B, c, h, w) in [-1, 1].

    Args:
        sampler: the model, under the new prompt if it takes one.
        images: pixels.
        strength: share of the sampling steps to do.
        kind: of the noise.
        noise: (B, K, C, H, W), for other kinds than ``ddim``.
        features: network for ``features``.

    Raises:
        ValueError: a strength outside (0, 1], or noise that is missing or has another size.
    """
    num_steps = sampler.path.steps_for(strength)
    codes = sampler.codes(images)
    if kind == "ddim":
        starts, chains = sampler.invert(codes, num_steps), 1
    else:
        if noise is None or noise.shape[:1] + noise.shape[2:] != codes.shape:
            shape = None if noise is None else tuple(noise.shape)
            raise ValueError(f"noise must be (B, K, ...) for codes of shape {tuple(codes.shape)}, got {shape}")
        chains = noise.shape[1]
        starts = sampler.path.noised(codes[:, None], noise, num_steps).flatten(0, 1)
    edits = sampler.images(starts, num_steps).unflatten(0, (-1, chains))
    numbers = likeness(edits, images)
    if features is not None:
        own, theirs = (extract(features, x, sampler.batch_size, sampler.device) for x in (images, edits.flatten(0, 1)))
        similarity = cosine_similarity(theirs, own.repeat_interleave(chains, dim=0))
        numbers["features"] = similarity.unflatten(0, (-1, chains))
    return Edit(strength, kind, num_steps, edits, numbers)
