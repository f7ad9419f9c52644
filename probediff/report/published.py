"""Published figures of three papers, to stand beside a run's own.

P1 is *There and Back Again*, P2 is *First-step inference in diffusion models learns image de-whitening*.

Transcribed from tables 1 and 2 of P1: means over the three models of a data set. What a table does not give is left
out. P1 does not say what its ± is; in its authors' later code that of table 1 is the standard deviation of the ten
largest correlations, that of table 2 the standard deviation over eight divisions of the noises.
"""

from dataclasses import dataclass

from probediff.report.groups import Estimate

#: What is known of the ± beside a published value.
UNDEFINED_SPREAD = "± not defined in P1"
SOURCE = f"There and Back Again (P1), tables 1 and 2; means over three models, N = 1K by its text; {UNDEFINED_SPREAD}"
#: P1, figure 3: the share of sampling steps after which the trajectory passes the latent, lowest and highest.
PASSES_LATENT = (0.5, 0.7)
#: P1, figure 2, in words: the paper prints no angles.
ANGLES = {"noise": None, "image": "acute, never 0", "latent": "obtuse"}
#: P2, table beside section 4.2: 2-norm and Frobenius norm of W - W_diff, ImageNet. They scale with the range of the
#: pixels, with D and with N.
FIRST_STEP_DISTANCES = {"pca": (7.8795, 434.2), "zca": (3.8305, 136.6), "cholesky": (4.8027, 204.6)}

Value = tuple[float, float]


@dataclass(frozen=True)
class Published:
    """The published figures of one data set.

    Attributes:
        data: CIFAR-10, ImageNet-64 or LDM-CelebA.
        correlation: mean of the top-10 absolute correlations between pixels (table 1), and what stands behind its ±.
        assignment: by number of DDIM steps, image to noise and noise to image in per cent (table 2).
    """

    data: str
    correlation: dict[str, Value]
    assignment: dict[int, tuple[Value, Value]]


_CIFAR10 = Published(
    "CIFAR-10",
    {"noise": (0.159, 0.003), "latent": (0.462, 0.009), "sample": (0.986, 0.001)},
    {
        10: ((90.3, 6.3), (94.0, 2.6)),
        100: ((98.9, 1.2), (50.4, 1.9)),
        1000: ((99.1, 1.0), (46.8, 3.0)),
        4000: ((99.1, 1.0), (46.4, 3.0)),
    },
)
#: One cell of table 1 for both data sets.
_NOISE_64PX = (0.177, 0.007)
_IMAGENET64 = Published(
    "ImageNet-64",
    {"noise": _NOISE_64PX, "latent": (0.219, 0.006), "sample": (0.966, 0.001)},
    {
        10: ((99.4, 0.0), (100.0, 0.0)),
        100: ((100.0, 0.0), (59.0, 7.1)),
        1000: ((99.8, 0.2), (44.6, 6.3)),
        4000: ((99.5, 0.3), (43.3, 6.7)),
    },
)
_LDM_CELEBA = Published(
    "LDM-CelebA",
    {"noise": _NOISE_64PX, "latent": (0.179, 0.008), "sample": (0.904, 0.005)},
    {steps: ((100.0, 0.0), (100.0, 0.0)) for steps in (10, 100, 1000)},
)

ALL = {figures.data: figures for figures in (_CIFAR10, _IMAGENET64, _LDM_CELEBA)}


def published_for(data: str | None) -> tuple[Published, bool]:
    """The figures for a data set, and whether they are of that one; those of CIFAR-10 stand in for any other."""
    return (ALL[data], True) if data in ALL else (_CIFAR10, False)


def published_estimate(value: Value, digits: int) -> Estimate:
    """A published value with what stands behind its ±, as a cell of a table."""
    mean, spread = value
    return Estimate(mean, spread, None, digits, UNDEFINED_SPREAD)


def published_note(data: str | None) -> str:
    """Where published values come from, and whether they are of the data of these runs."""
    published, is_same = published_for(data)
    if is_same:
        return f"Published values: {SOURCE}."
    other = f"They are those of {published.data}, not of the data of these runs ({data or 'unpublished or mixed'})."
    return f"Published values: {SOURCE}. {other}"


def _by_sigma(gaussian: tuple[float, ...], training_set: tuple[float, ...]) -> dict[float, tuple[float, float]]:
    return dict(zip(_SIGMAS, zip(gaussian, training_set, strict=True), strict=True))


#: Noise levels sigma of the table below.
_SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0)
EXPLAINED_VARIANCE_SOURCE = (
    "Wang & Vastola 2024, table cifar10_uncond_edm_5k_epoch (code Animadversio/GaussianTeleportationDiffusion): an EDM "
    "network on CIFAR-10 at two epochs"
)
#: Explained variance of the network's score and image by the Gaussian and by the training set, by epoch and sigma.
EXPLAINED_VARIANCE: dict[str, dict[str, dict[float, tuple[float, float]]]] = {
    "score": {
        "epoch 200": _by_sigma(
            (0.828, 0.863, 0.962, 0.988, 0.996, 0.999, 1.0, 1.0, 1.0),
            (0.239, 0.558, 0.882, 0.957, 0.982, 0.997, 1.0, 1.0, 1.0),
        ),
        "epoch 5000": _by_sigma(
            (0.835, 0.903, 0.966, 0.988, 0.997, 1.0, 1.0, 1.0, 1.0),
            (0.769, 0.867, 0.941, 0.969, 0.985, 0.998, 1.0, 1.0, 1.0),
        ),
    },
    "image": {
        "epoch 200": _by_sigma(
            (0.996, 0.986, 0.961, 0.936, 0.91, 0.826, 0.68, 0.552, 0.475),
            (0.983, 0.953, 0.871, 0.763, 0.567, 0.469, 0.665, 0.556, 0.478),
        ),
        "epoch 5000": _by_sigma(
            (0.993, 0.984, 0.958, 0.94, 0.934, 0.949, 0.954, 0.935, 0.826),
            (0.991, 0.976, 0.921, 0.822, 0.589, 0.519, 0.952, 0.945, 0.828),
        ),
    },
}
