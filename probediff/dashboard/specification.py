"""Which panel shows which key: sections and panels as plain data, by the catalogue of probes and by rules for names.

A key that the catalogue lacks still gets its panel: keys of one probe share one when they differ only in the thing that
is measured (``noise_hubness``, ``image_hubness``) or in being the null of the other (``hubness_null``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from probediff.runs.catalogue import PROBES
from probediff.runs.descriptions import Description, Kind
from probediff.runs.record import ERROR_PREFIX

#: The axis of every curve.
STEP_KEY = "trainer/global_step"
#: W&B's own keys, and standard errors, which W&B shows in a section of their own.
_BOOKKEEPING = re.compile(rf"_.*|epoch|{STEP_KEY}|{ERROR_PREFIX}/.*")
#: Words of a quantity that say what is measured and not which measure it is.
_SUBJECTS = frozenset({"noise", "image", "latent", "sample", "hubs", "null"})
_SPELLED = {"deg": "(deg)", "seconds": "(s)", "std": "standard deviation"} | {
    word: word.upper() for word in ("cka", "fid", "kid", "ks", "ssim", "svcca")
}
_ORDER: tuple[Kind, ...] = ("picture", "number", "histogram", "table")


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: its heading.
        kind: ``number`` for curves over training steps, ``picture`` with a step slider, ``histogram``, or ``table``.
        keys: what it shows; one key unless it shows curves.
        log_x: whether the training steps are on a logarithmic axis (which leaves out step 0).
        name: what identifies it when a dashboard is updated, whatever its keys are.
    """

    title: str
    kind: Kind
    keys: tuple[str, ...]
    log_x: bool
    name: str


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def specification(keys: Mapping[str, Kind]) -> list[Section]:
    """The dashboard for ``keys``: every one that is no bookkeeping is in exactly one panel.

    Sections come in the order of the catalogue, then those of probes that it lacks; results at the end of a run join
    those of their probe.
    """
    sections: dict[str, dict[tuple[Kind, str], list[str]]] = {probe.section: {} for probe in PROBES.values()}
    for key, kind in sorted(keys.items(), key=lambda item: _ORDER.index(item[1])):
        if not is_bookkeeping(key):
            probe, quantity = _parts(key)
            shared = kind == "number" and (probe.column(quantity).panel or _shared_name(probe.key, quantity))
            panels = sections.setdefault(probe.section, {})
            panels.setdefault((kind, shared or f"{probe.key}/{quantity}"), []).append(key)
    return [
        Section(title, tuple(_panel(title, kind, name, members) for (kind, name), members in panels.items()))
        for title, panels in sections.items()
        if panels
    ]


def is_bookkeeping(key: str) -> bool:
    """Whether no panel shows a key: W&B's own, the axis, standard errors, and settings beside the results of probes."""
    probe, quantity = _parts(key)
    return _BOOKKEEPING.fullmatch(key) is not None or probe.column(quantity).is_setting


def _parts(key: str) -> tuple[Description, str]:
    """``probe/inversion_angles/latent_std`` -> ``inversion_angles``, ``latent_std``; ``train/loss`` -> itself."""
    name, _, quantity = key.removeprefix("probe/").partition("/")
    section = _in_words(name.removesuffix("_final"))
    return PROBES.get(name, Description(name, section=section)), quantity or name


def _shared_name(probe: str, quantity: str) -> str:
    """Equal for the quantities that share a panel by their names."""
    return f"{probe}/" + "_".join(word for word in quantity.split("_") if word not in _SUBJECTS)


def _panel(section: str, kind: Kind, name: str, keys: list[str]) -> Panel:
    probe, quantity = _parts(keys[0])
    panel = probe.column(quantity).panel
    if len(keys) > 1:
        quantity = name.partition("/")[2] or probe.key
    title = name if name == panel else _in_words(quantity.removesuffix("_histogram").removesuffix("_table"))
    return Panel(title, kind, tuple(keys), kind == "number" and probe.log_steps, f"{section}/{kind}/{name}")


def _in_words(name: str) -> str:
    """``at_noise_deg`` -> ``At noise (deg)``."""
    words = " ".join(_SPELLED.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]
