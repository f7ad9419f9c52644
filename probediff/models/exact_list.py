"""Several exact denoisers in one option: ``h=0,h=0.4,local,denoiser=equivariant,border=zeros,images=500``."""

from collections.abc import Iterable
from dataclasses import replace

from probediff.models.baseline import RunImages
from probediff.models.exact import EXACT, FAMILY, KINDS, ExactModel

_KIND, _BANDWIDTH = "denoiser=", "h="


def read_denoisers(text: str, images: RunImages, most_images: int) -> list[ExactModel]:
    """The exact denoisers of a run that a list with commas names.

    Each begins with ``h=H``, ``denoiser=KIND`` or a kind alone; what follows up to the next one are its options, as in
    ``exact:RUN,KEY=VALUE,...``.

    Args:
        text: the list.
        images: all of the run.
        most_images: each is fitted to so many images at most, unless its own option ``images`` says how many; the
            Gaussian (h = 1, wiener) always to all.

    Returns:
        Those that differ, in the order of the list.

    Raises:
        ValueError: an entry that names no denoiser, options that it does not take, or more images than there are.
    """
    found = []
    for words in _split(text):
        exact = ExactModel.parse(f"{EXACT}{images.run},{','.join(words)}")
        if exact.num_images is not None:
            images.part(exact.num_images, "images")
        elif most_images < len(images.indices):
            exact = replace(exact, num_images=most_images)
        found.append(replace(exact, num_images=None) if exact.is_of_statistics else exact)
    return list({exact.name: exact for exact in found}.values())


def _split(text: str) -> Iterable[list[str]]:
    """The words of each denoiser; a kind alone becomes ``denoiser=KIND``."""
    groups: list[list[str]] = []
    for word in (part.strip() for part in text.split(",")):
        is_kind = word in KINDS or word.startswith(_KIND)
        # The family from the Gaussian to the training images may be named before its bandwidth.
        completes = bool(groups) and groups[-1][0] == _KIND + FAMILY and not _has_bandwidth(groups[-1])
        if is_kind or (word.startswith(_BANDWIDTH) and not completes):
            groups.append([word if "=" in word else _KIND + word])
        elif groups and "=" in word:
            groups[-1].append(word)
        else:
            raise ValueError(
                f"--denoisers must list h=H (0 is the training set, 1 its Gaussian) or kinds ({', '.join(KINDS)}), "
                f"each with its options KEY=VALUE after it, with commas between, got {word!r}"
            )
    return groups


def _has_bandwidth(words: Iterable[str]) -> bool:
    return any(word.startswith(_BANDWIDTH) for word in words)
