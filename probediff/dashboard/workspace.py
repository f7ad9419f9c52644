"""The specification as a W&B workspace, and its panels put into one that people have worked on."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from probediff.dashboard.specification import STEP_KEY, Panel, Section

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import LinePlot, MediaBrowser, WeavePanelSummaryTable
    from wandb_workspaces.workspaces import Workspace

#: Name of the workspace in the app; the one that an update looks for.
WORKSPACE_NAME = "probediff"
_COLUMNS = 3
_OURS = re.compile(r"probediff[0-9a-f]{12}")


def new_view(entity: str, project: str, sections: Sequence[Section]) -> dict[str, Any]:
    """The JSON that W&B stores for a new workspace.

    Raises:
        ImportError: without ``wandb-workspaces``.
    """
    spec = _workspace(entity, project, sections)._to_model().spec
    return dict(json.loads(spec.model_dump_json(by_alias=True, exclude_none=True)))


def updated_view(view: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``view``, as people left it, with the panels of ``new`` brought up to date.

    Works on W&B's JSON, because the objects of ``wandb-workspaces`` lose whatever they have no field for. Only panels
    that an earlier call made are replaced or removed, each where it lies now; missing ones go to the end of the section
    of their title. Everything else stays as it is: other panels, sections, filters, grouping and settings.

    Raises:
        ValueError: when ``view`` is not laid out in sections.
    """
    view = copy.deepcopy(view)
    try:
        sections = _sections(view)
        present = [panel.get("__id__") for section in sections for panel in section["panels"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"the workspace has a layout that is unknown here (no {error}); delete it there") from error
    wanted = {panel["__id__"]: panel for section in _sections(new) for panel in section["panels"]}
    for section in sections:
        section["panels"] = [_current(panel, wanted) for panel in section["panels"] if not _is_stale(panel, wanted)]
    for section in _sections(new):
        if missing := [panel for panel in section["panels"] if panel["__id__"] not in present]:
            _add(sections, section, missing)
    return view


def _sections(view: dict[str, Any]) -> list[dict[str, Any]]:
    return view["section"]["panelBankConfig"]["sections"]  # type: ignore[no-any-return]


def _is_stale(panel: dict[str, Any], wanted: dict[str, Any]) -> bool:
    panel_id = str(panel.get("__id__"))
    return _OURS.fullmatch(panel_id) is not None and panel_id not in wanted


def _current(panel: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The panel with what it shows brought up to date; its place and size are a person's."""
    new = wanted.get(str(panel.get("__id__")))
    return panel if new is None else panel | {"viewType": new["viewType"], "config": new["config"]}


def _add(sections: list[dict[str, Any]], section: dict[str, Any], missing: list[dict[str, Any]]) -> None:
    for existing in sections:
        if existing.get("name") == section["name"]:
            # The app removes from a section of its own what is not marked as made on purpose.
            marked = {"isAuto": False} if existing.get("isPanelsAuto") else {}
            existing["panels"] = [*existing["panels"], *(panel | marked for panel in missing)]
            return
    sections.append(section | {"panels": missing})


def _workspace(entity: str, project: str, sections: Sequence[Section]) -> Workspace:
    try:
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError as error:
        raise ImportError(
            f"probediff dashboard needs wandb-workspaces ({error}): pip install 'probediff[dashboard]'"
        ) from error
    return ws.Workspace(
        entity=entity,
        project=project,
        name=WORKSPACE_NAME,
        sections=[
            ws.Section(
                name=section.title,
                panels=[_panel(panel) for panel in section.panels],
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(
                    columns=_COLUMNS, rows=math.ceil(len(section.panels) / _COLUMNS)
                ),
            )
            for section in sections
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP_KEY),
        # Runs that differ by their seed only share a W&B group: curves are means over them, with the range shaded.
        runset_settings=ws.RunsetSettings(groupby=[expr.Metric("Group")]),
    )


def _panel(panel: Panel) -> LinePlot | MediaBrowser | WeavePanelSummaryTable:
    import wandb_workspaces.reports.v2 as wr

    chart: LinePlot | MediaBrowser | WeavePanelSummaryTable
    if panel.kind == "picture":
        chart = wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys), num_columns=1)
    elif panel.kind == "table":
        (key,) = panel.keys
        chart = wr.WeavePanelSummaryTable(table_name=key)
    else:
        chart = wr.LinePlot(
            title=panel.title,
            x=STEP_KEY,
            y=list(panel.keys),
            title_x="training step",
            log_x=panel.log_x,
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
    # An update knows its own panels by this.
    chart._id = "probediff" + hashlib.sha256(panel.name.encode()).hexdigest()[:12]
    return chart
