"""The sections of a report, in their order."""

from collections.abc import Callable

from probediff.report import (
    family,
    geometry,
    latents,
    mapping,
    network_images,
    num_steps,
    outside,
    overview,
    reproducing,
    structure,
    whitening,
)
from probediff.report.groups import Comparison
from probediff.report.parts import Section
from probediff.report.verdicts.section import verdicts

SECTIONS: tuple[Callable[[Comparison], Section], ...] = (
    verdicts,
    overview.overview,
    overview.training,
    family.exact_denoisers,
    geometry.pictures,
    latents.correlation,
    geometry.triangle,
    geometry.heat_map,
    geometry.angles_over_training,
    mapping.assignment_table,
    num_steps.by_num_steps,
    mapping.assignment_curves,
    mapping.settling,
    mapping.hubs,
    latents.normality,
    latents.noise_image_map,
    latents.interpolation,
    latents.quality,
    latents.inversion_methods,
    structure.structure,
    network_images.network_images,
    whitening.whitening,
    outside.outside_probes,
    reproducing.reproducibility,
    overview.all_values,
)
