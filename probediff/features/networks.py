"""Frozen feature networks that say how alike two images are: DINO, CLIP, and any other of timm and open_clip."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from probediff.exceptions import FeatureLoadError
from probediff.features.weights import hub_file
from probediff.files import load_strictly, read_weights

GRAMMAR = "'dino', 'clip', 'timm/NAME' or 'open_clip/NAME', each optionally followed by '=WEIGHTS_FILE'"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SHORT_NAMES = {"dino": "timm/vit_small_patch16_224.dino", "clip": "open_clip/ViT-B-32"}
HUB_FILES = {
    "dino": ("timm/vit_small_patch16_224.dino", "model.safetensors"),
    "clip": ("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"),
}
# Names under which timm and open_clip keep weights on the hub, best first.
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class Preprocessing:
    """What a feature network expects of its input.

    Attributes:
        resize: Shorter side after resizing, in pixels.
        crop: Height and width of the centre crop, in pixels.
        mean, std: Mean and standard deviation of the three channels in [0, 1].
        interpolation: ``bicubic`` or ``bilinear``, both antialiased.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], C = 1 or 3 -> (B, 3, crop, crop) float32, normalised.

        Values beyond [-1, 1] are clipped, as they are when an image is saved, and so is the overshoot of the resizing.

        Raises:
            ValueError: ``images`` has another shape.
            TypeError: ``images`` is not floating point.
        """
        _check_images(images)
        unit = images.float().clamp(-1, 1).add(1).div(2).expand(-1, 3, -1, -1)
        height, width = unit.shape[-2:]
        shorter = min(height, width)
        size = (int(self.resize * height / shorter), int(self.resize * width / shorter))
        # Pillow, for which the networks were made, resizes rows, clips, then resizes columns.
        resized = self._resize(self._resize(unit, (height, size[1])), size)
        top, left = (round((side - self.crop) / 2) for side in size)
        cropped = resized[..., top : top + self.crop, left : left + self.crop]
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (cropped - mean) / std

    def _resize(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        # antialias selects the bicubic kernel of Pillow (a = -0.5) even where it enlarges.
        return interpolate(images, size, mode=self.interpolation, antialias=True, align_corners=False).clamp(0, 1)


class FeatureNetwork(nn.Module):
    """A network whose weights never change and that is always in evaluation mode.

    Args:
        name: What the network is called in records.
        body: Network from (B, 3, crop, crop), as ``preprocessing`` makes them, to (B, F).
        preprocessing: What ``body`` expects of its input.
    """

    def __init__(self, name: str, body: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.preprocessing = preprocessing
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in evaluation mode, whatever the module around this one does."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], C = 1 or 3 -> features (B, F) float32, also within autocast."""
        with torch.autocast(images.device.type, enabled=False):
            features: Tensor = self.body(self.preprocessing(images))
        return features.float()


@torch.no_grad()
def extract(
    network: FeatureNetwork, images: Tensor, batch_size: int = 64, device: torch.device | str | None = None
) -> Tensor:
    """Features of many images, a batch at a time.

    Args:
        network: Moved to ``device`` and left there.
        images: (N, C, H, W) in [-1, 1], on any device.
        batch_size: Images a batch; bounds memory, changes nothing beyond rounding. Halved, with a warning, as often as
            the device runs out of memory.
        device: Where to compute; by default on the GPU where there is one.

    Returns:
        (N, F) float32 on the CPU, in the order of ``images``.

    Raises:
        ValueError: There is no image, a shape is wrong, or ``batch_size`` < 1.
        TypeError: ``images`` is not floating point.
    """
    _check_images(images)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    starts = range(0, len(images), batch_size)
    try:
        return torch.cat([network(images[start : start + batch_size].to(device)).cpu() for start in starts])
    except torch.OutOfMemoryError:
        if batch_size == 1:
            raise
    warnings.warn(
        f"the feature network {network.name!r} ran out of memory at a batch of {batch_size}; trying {batch_size // 2}",
        stacklevel=2,
    )
    return extract(network, images, batch_size // 2, device)


def load_features(spec: str) -> FeatureNetwork:
    """Build a frozen feature network and load its weights.

    ``dino`` is timm's vit_small_patch16_224.dino and ``clip`` open_clip's ViT-B-32 with OpenAI's weights, as in
    "There and Back Again". ``timm/NAME`` and ``open_clip/NAME`` take any other network with its own preprocessing; of
    several sets of open_clip weights OpenAI's is taken, else the first that ``open_clip.list_pretrained`` lists.
    Without a file the weights come from the hub's cache or else from the hub.

    Args:
        spec: ``dino``, ``clip``, ``timm/NAME`` or ``open_clip/NAME``, each optionally followed by ``=WEIGHTS_FILE``
            (.safetensors, or a state dict saved by ``torch.save``; of CLIP, the whole or its visual tower). OpenAI's
            weights in a file need a NAME that ends in ``-quickgelu``.

    Raises:
        ValueError: ``spec`` follows another grammar.
        FeatureLoadError: The network is unknown, or its weights cannot be had or do not fit.
    """
    parsed = _parse(spec)
    build = _build_timm if parsed.library == "timm" else _build_open_clip
    try:
        # Layers draw the initial values that the weights replace: training must not notice.
        with torch.random.fork_rng(devices=[]):
            body, preprocessing = build(parsed)
    except Exception as error:  # the libraries and the hub client raise anything; each means the same to the user
        raise FeatureLoadError(_load_message(parsed, error)) from error
    return FeatureNetwork(parsed.kind, body, preprocessing)


def load_networks(specs: Sequence[str]) -> dict[str, FeatureNetwork]:
    """Feature networks by the names that records give them; ``specs`` and errors as in ``load_features``."""
    return {spec.split("=")[0].replace("/", "_"): load_features(spec) for spec in specs}


class _Spec(NamedTuple):
    """A parsed specification; ``path`` is None where the weights come from the hub."""

    kind: str
    library: str
    model_name: str
    path: Path | None


def _parse(spec: str) -> _Spec:
    kind, equals, path = spec.partition("=")
    library, _, model_name = SHORT_NAMES.get(kind, kind).partition("/")
    if library not in ("timm", "open_clip") or not model_name or (equals and not path):
        raise ValueError(f"features must be {GRAMMAR}, got {spec!r}; correct it, or list no features: '[]'")
    return _Spec(kind, library, model_name, Path(path) if path else None)


def _build_timm(spec: _Spec) -> tuple[nn.Module, Preprocessing]:
    import timm

    if (config := timm.get_pretrained_cfg(spec.model_name)) is None:
        raise FeatureLoadError(f"timm knows no network {spec.model_name}")
    # Before the network is built: that takes seconds, and most failures are here.
    weights = read_weights(spec.path or hub_file(config.hf_hub_id, config.hf_hub_filename, TIMM_FILES))
    body = timm.create_model(spec.model_name, pretrained=False, num_classes=0)
    classifier = config.classifier or ()
    unused = tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))
    fitting = {key: value for key, value in weights.items() if not key.startswith(unused)}
    load_strictly(body, fitting, "the weights must fit the network")
    if spec.kind == "dino":
        return body, Preprocessing(256, 224, IMAGENET_MEAN, IMAGENET_STD)
    crop = config.input_size[-1]
    return body, Preprocessing(int(crop / config.crop_pct), crop, config.mean, config.std, config.interpolation)


def _build_open_clip(spec: _Spec) -> tuple[nn.Module, Preprocessing]:
    import open_clip

    config = _open_clip_config(spec)
    repository, _, file = str(config.get("hf_hub", "")).rpartition("/")
    weights = read_weights(spec.path or hub_file(repository, file, OPEN_CLIP_FILES))
    # OpenAI's weights need QuickGELU, which open_clip leaves out of the plain names and only warns about.
    quick = bool(config.get("quick_gelu"))
    body: Any = open_clip.create_model(spec.model_name, force_quick_gelu=quick, pretrained_text=False).visual
    tower = {key.removeprefix("visual."): value for key, value in weights.items() if key.startswith("visual.")}
    load_strictly(body, tower or weights, "the weights must fit the network")
    crop = body.image_size if isinstance(body.image_size, int) else body.image_size[0]
    mean, std = tuple(config.get("mean") or CLIP_MEAN), tuple(config.get("std") or CLIP_STD)
    return body, Preprocessing(crop, crop, mean, std, config.get("interpolation") or "bicubic")


def _open_clip_config(spec: _Spec) -> dict[str, Any]:
    """open_clip's facts about a set of weights; nothing is known of a file's unless it stands in for ``clip``."""
    import open_clip

    if spec.path and spec.kind != "clip":
        return {}
    if not (tags := open_clip.list_pretrained_tags_by_model(spec.model_name)):
        raise FeatureLoadError(f"open_clip lists no pretrained weights for {spec.model_name}")
    return dict(open_clip.get_pretrained_cfg(spec.model_name, "openai" if "openai" in tags else tags[0]))


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"images must have shape (N, C, H, W) with C = 1 or 3 and N, H, W > 0, got {tuple(images.shape)}; "
            "add the missing dimensions or choose the channels"
        )
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [-1, 1], got {images.dtype}; scale bytes by / 127.5 - 1")


def _load_message(spec: _Spec, error: Exception) -> str:
    recipe = f"save its state dict with torch.save and give {spec.kind}=FILE"
    if spec.kind in HUB_FILES:
        repository, file = HUB_FILES[spec.kind]
        recipe = f"run `hf download {repository} {file} --local-dir .` and give {spec.kind}={file}"
    return (
        f"the feature network {spec.kind!r} ({spec.library} {spec.model_name}) could not be loaded from "
        f"{spec.path or 'the hub'}: {type(error).__name__}: {error}\n"
        f"To get its weights: where there is a network, {recipe}\n"
        "To do without: --checkpoint_similarity.features '[]' in `fit` and `probe`, no --features in `edit`"
    )
