"""When does the map from noise to image settle? (*There and Back Again*, figure 6)"""

from functools import cache

from torch import Tensor

from probediff.callbacks.base import Probe
from probediff.features.networks import FeatureNetwork, extract, load_networks
from probediff.measures import cka, cosine_similarity, ssim, svcca
from probediff.measures.similarity_errors import cka_errors, svcca_error
from probediff.measures.uncertainty import WithError, mean_with_error, split_errors
from probediff.probing.probe import ProbeContext, compare_with_final
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult

Numbers = dict[str, WithError | float]


class CheckpointSimilarity(Probe):
    """CKA, SVCCA, SSIM and feature similarity to the previous checkpoint and, at the end, to the final one.

    Args:
        enabled: whether the probe runs.
        features: feature networks: ``dino`` and ``clip`` with their published weights, or with a local weights file
            ``dino=PATH``; also ``timm/NAME[=PATH]`` and ``open_clip/NAME[=PATH]``. ``[]`` switches them off.
        num_directions: leading directions that SVCCA compares (the paper: 10).
    """

    needs_previous = True

    def __init__(self, enabled: bool = True, features: list[str] = [], num_directions: int = 10) -> None:  # noqa: B006
        super().__init__(enabled)
        self.check_options(1, num_directions=num_directions)
        self.features = list(features)
        self.num_directions = num_directions
        self._networks: dict[str, FeatureNetwork] = {}

    def check(self, context: ProbeContext) -> None:
        """Load the feature networks and check that the measures are defined for these sizes."""
        self.check_num_directions(context, self.num_directions)
        self.check_image_size(context, 7, " (SSIM window)")
        self._folder = context.folder
        self._networks = load_networks(self.features)

    def measure(self, event: ProbePass) -> ProbeResult:
        """Similarity to the samples of the previous checkpoint; nothing at the first one."""
        earlier = [step for step in self._folder.sample_steps() if step < event.step]
        if not earlier:
            return ProbeResult()
        values, errors = split_errors(self.compare(event.x_0, self._folder.load_samples(earlier[-1])))
        return ProbeResult({**values, "previous_step": float(earlier[-1])}, standard_errors=errors)

    def compare(self, x: Tensor, y: Tensor) -> Numbers:
        """How alike two sets of samples are, pair by pair; `check` has loaded the feature networks."""
        return self._compare(x, y, self._features(x), self._features(y))

    def finish(self, context: ProbeContext) -> dict[int, ProbeResult]:
        """Every stored checkpoint against the final one."""
        features_of_final = cache(self._features)
        final_step = float(context.folder.sample_steps()[-1]) if context.folder.sample_steps() else 0.0

        def compare(x_0: Tensor, final: Tensor) -> Numbers:
            return self._compare(x_0, final, self._features(x_0), features_of_final(final)) | {"final_step": final_step}

        return compare_with_final(context.folder, compare)

    def _features(self, x_0: Tensor) -> dict[str, Tensor]:
        return {name: extract(network, x_0) for name, network in self._networks.items()}

    def _compare(self, x: Tensor, y: Tensor, x_features: dict[str, Tensor], y_features: dict[str, Tensor]) -> Numbers:
        biased, debiased = cka_errors(x, y)
        num = self.num_directions
        numbers: Numbers = {
            "cka": WithError(cka(x, y), biased),
            "cka_debiased": WithError(cka(x, y, debiased=True), debiased),
            "svcca": WithError(svcca(x, y, num), svcca_error(x, y, num)),
            "ssim": mean_with_error(ssim(x.clamp(-1, 1), y.clamp(-1, 1))),
        }
        for name, features in x_features.items():
            numbers[f"{name}_cosine"] = mean_with_error(cosine_similarity(features, y_features[name]))
        return numbers
