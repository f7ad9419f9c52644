"""Found noises: searched for, checked, and kept in a file with all that they depend on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probediff.display.progress import progress_bar
from probediff.editing.noise_search import NoiseSearch, NoiseSearchSettings, search_noise
from probediff.files import digest_tensors, load_tensors, save_tensors
from probediff.measures.in_distribution import in_distribution
from probediff.measures.whitening import WhiteningTransform
from probediff.runs.summary import format_table

_SEARCH = tuple(field.name for field in fields(NoiseSearch))
_COLUMNS = {
    **{"check": "check", "value": "value", "null": "null", "z": "z", "p_value": "p"},
    **{"z_of_one_noise": "z of one noise (rms)", "p_value_of_one_noise": "p of it"},
}
_P_VALUES = ("p_value", "p_value_of_one_noise")
#: How often white noise is taken for something else by any p in the table.
_FALSE_ALARM_RATE = 0.01


@dataclass(frozen=True, eq=False)
class FoundNoises:
    """K noises for each of B images.

    Attributes:
        images: (B, c, h, w) float32 pixels in [-1, 1].
        search: the result of the search; its noises are (B, K, C, H, W).
        names: of the B images.
        conventions: what the noises depend on, as plain types.
    """

    images: Tensor
    search: NoiseSearch
    names: list[str]
    conventions: dict[str, Any]

    @property
    def noise(self) -> Tensor:
        """(B, K, C, H, W) float32."""
        return self.search.noise

    @property
    def digest(self) -> str:
        """What tells noises and images apart from any others, for the records of what is made of them."""
        return digest_tensors({"noise": self.noise, "images": self.images}.items())

    def save(self, path: str | PathLike[str]) -> None:
        """Write them as safetensors."""
        tensors = {name: getattr(self.search, name) for name in _SEARCH} | {"images": self.images}
        words = {"names": json.dumps(self.names), "conventions": json.dumps(self.conventions, sort_keys=True)}
        save_tensors(Path(path), tensors, {"format": "probediff found noises"} | words)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FoundNoises:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or holds something else.
        """
        requirement = "be a file of `probediff search-noise`"
        if not Path(path).is_file():
            raise FileNotFoundError(f"NOISES must {requirement}, got {path}: not there")
        tensors, words = load_tensors(Path(path), (*_SEARCH, "images"), ("names", "conventions"), requirement)
        images, noise = tensors.pop("images"), tensors["noise"]
        try:
            names, conventions = map(json.loads, words.values())
        except ValueError as error:
            raise ValueError(f"{path} must {requirement}, got damaged words in it ({error}); make it anew") from error
        is_whole = isinstance(names, list) and images.ndim == 4 and noise.ndim == 5 and noise.shape[:2].numel() > 0
        if not (is_whole and len(images) == len(noise) == len(names) and isinstance(conventions, dict)):
            raise ValueError(f"{path} must hold noises of each of its images, got other shapes; make it anew")
        return cls(images, NoiseSearch(**tensors), names, conventions)


def describe_search(settings: NoiseSearchSettings, statistics: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What found noises depend on beside the images, as plain types; ``statistics`` says it of the statistics.

    A GPU draws other random numbers than a CPU. ``centred`` says what was done, as it did before it was an option.
    """
    asked = {name: value for name, value in asdict(settings).items() if name != "centre"}
    return asked | {"centred": settings.is_centred, "drawn_on": device.type, "statistics": statistics}


def search_with_progress(x_0: Tensor, whitening: WhiteningTransform, settings: NoiseSearchSettings) -> NoiseSearch:
    """`search_noise` with a progress bar that shows the mean loss; all on the CPU afterwards."""
    total = len(x_0) * settings.num_chains * settings.num_iterations
    with progress_bar(total=total, desc="searching", unit="proposal", unit_scale=True) as bar:

        def on_progress(proposals: int, _: int, losses: Tensor) -> None:
            bar.update(proposals - bar.n)
            bar.set_postfix(loss=f"{float(losses.mean()):.4g}", refresh=False)

        search = search_noise(x_0, whitening.to(x_0.device), settings, on_progress=on_progress)
    return NoiseSearch(**{name: getattr(search, name).cpu() for name in _SEARCH})


def sidak_level(rate: float, count: int) -> float:
    """What the smallest of ``count`` independent p-values is below with probability ``rate`` where nothing is there."""
    return float(1 - (1 - rate) ** (1 / count))


def distribution_checks(noise: Tensor) -> list[dict[str, Any]]:
    """Whether noises (B, K, C, H, W) could be white Gaussian noise: one row a check, with its null, z and p-values.

    z is that of the mean over all of them, and many noises show what a single one does not. What leads different noises
    to different sides is not in the mean: so there is also the root mean square of the z of single noises.
    """
    checks = in_distribution(noise.flatten(0, 1)).checks()
    return [
        {
            "check": name,
            "value": float(test.value.mean()),
            "null": test.null,
            "z": test.mean_z,
            "z_of_one_noise": test.rms_z,
            **dict(zip(_P_VALUES, test.p_values(), strict=True)),
        }
        for name, test in checks.items()
    ]


def distribution_table(rows: list[dict[str, Any]]) -> str:
    """The checks as a table for people, with a sentence that says what they mean.

    It looks at every p in the table.
    """
    table = format_table(list(_COLUMNS.values()), [[row.get(name) for name in _COLUMNS] for row in rows])
    if not all(name in row for row in rows for name in _P_VALUES):
        return f"{table}\nAn earlier version measured this, without p-values: it does not tell whether this is noise."
    count = len(rows) * len(_P_VALUES)
    level = sidak_level(_FALSE_ALARM_RATE, count)
    far = [str(row["check"]) for row in rows if min(row[name] for name in _P_VALUES) < level]
    rate = f"of white noise, about {_FALSE_ALARM_RATE:.0%} of such tables"
    if far:
        return (
            f"{table}\nThe noises are not white Gaussian noise by: {', '.join(far)} (p < {level:.2g}; {rate} say so)."
        )
    return (
        f"{table}\nNothing here tells the noises from white Gaussian noise: all {count} p are {level:.2g} or more "
        f"({rate} are not)."
    )
