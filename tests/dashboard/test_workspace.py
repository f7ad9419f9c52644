"""The workspace that W&B gets, and what an update does to one that people have worked on."""

from __future__ import annotations

import builtins
import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from probediff.commands.dashboard import dashboard
from probediff.dashboard.specification import STEP_KEY, specification
from probediff.dashboard.workspace import new_view, updated_view
from probediff.runs.catalogue import default_keys
from probediff.runs.descriptions import Kind
from tests.reference.views_server import Stored, views_server

PERSONS_PANEL = {
    "__id__": "abcdefghijk",
    "viewType": "Run History Line Plot",
    "layout": {"x": 8, "y": 0, "w": 16, "h": 12},
    "config": {"metrics": ["my/metric"], "aFieldThatNoLibraryKnows": [1, {"deep": True}]},
}


def made(keys: dict[str, Kind] | None = None) -> dict[str, Any]:
    return new_view("team", "project", specification(default_keys() if keys is None else keys))


def sections_of(view: dict[str, Any]) -> list[dict[str, Any]]:
    sections: list[dict[str, Any]] = view["section"]["panelBankConfig"]["sections"]
    return sections


def panels_of(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {panel["__id__"]: panel for section in sections_of(view) for panel in section["panels"]}


def shown_keys(view: dict[str, Any]) -> list[str]:
    configs = [panel["config"] for panel in panels_of(view).values()]
    return sorted(key for config in configs for key in [*config.get("metrics", []), *config.get("mediaKeys", [])])


def test_the_workspace_shows_the_keys_of_the_specification_by_steps_and_groups() -> None:
    view, sections = made(), specification(default_keys())
    assert [section["name"] for section in sections_of(view)] == [section.title for section in sections]
    for section, wanted in zip(sections_of(view), sections, strict=True):
        flow = section["flowConfig"]
        assert flow["columnsPerPage"] * flow["rowsPerPage"] >= len(section["panels"]) == len(wanted.panels)
        for panel, spec in zip(section["panels"], wanted.panels, strict=True):
            config = panel["config"]
            if spec.kind == "table":
                assert panel["viewType"] == "Weave" and all(key in str(config) for key in spec.keys)
                continue
            assert config["chartTitle"] == spec.title
            if spec.kind == "picture":
                assert (panel["viewType"], config["mediaKeys"]) == ("Media Browser", list(spec.keys))
                continue
            assert (panel["viewType"], config["metrics"]) == ("Run History Line Plot", list(spec.keys))
            assert config["xAxis"] == STEP_KEY
            assert config["xLogScale"] is spec.log_x
            assert (config["groupAgg"], config["groupArea"]) == ("mean", "minmax")
    assert view["section"]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    assert len(panels_of(view)) == sum(len(section.panels) for section in sections)


def test_nothing_changes_without_new_keys() -> None:
    assert updated_view(made(), made()) == made()


def test_an_update_leaves_everything_that_a_person_did() -> None:
    view = made()
    first, second, *_, last = sections_of(view)
    moved = first["panels"].pop(0)
    moved["layout"] = {"x": 1, "y": 2, "w": 3, "h": 4}
    second["panels"].insert(1, copy.deepcopy(PERSONS_PANEL))
    second["panels"].insert(0, moved)
    sections_of(view).append({"name": "My own", "panels": [PERSONS_PANEL | {"__id__": "zyxwvutsrqp"}], "odd": None})
    view["section"]["panelBankConfig"]["panelConfigOverrides"] = {"__custom_panel__:x": {"color": "red"}}
    view["section"]["runSets"][0]["grouping"] = []
    view["unknown"] = {"kept": True}
    last["name"] = "Renamed"
    assert updated_view(view, made()) == view


def test_an_update_brings_its_own_panels_up_to_date() -> None:
    old_keys: dict[str, Kind] = {
        "probe/pixel_correlation/noise": "number",
        "probe/pixel_correlation/gone": "number",
        "probe/gone/x": "number",
    }
    view = made(old_keys)
    (correlation, gone) = sections_of(view)
    correlation["panels"].insert(1, PERSONS_PANEL)
    gone["panels"].append(PERSONS_PANEL | {"__id__": "zyxwvutsrqp"})
    new = updated_view(view, made())
    assert shown_keys(new) == sorted([*shown_keys(made()), "my/metric", "my/metric"])
    assert sections_of(new)[0]["panels"][1] == PERSONS_PANEL
    assert sections_of(new)[1]["panels"] == [PERSONS_PANEL | {"__id__": "zyxwvutsrqp"}]
    grown = sections_of(new)[0]["panels"][0]
    assert grown["__id__"] == sections_of(view)[0]["panels"][0]["__id__"]
    assert len(grown["config"]["metrics"]) == 4
    assert view == updated_view(view, made(old_keys))


def test_panels_survive_in_a_section_that_the_app_fills() -> None:
    view = made({})
    sections_of(view)[:] = [{"name": "Correlation", "isPanelsAuto": True, "panels": [PERSONS_PANEL]}]
    person, *added = sections_of(updated_view(view, made()))[0]["panels"]
    assert person == PERSONS_PANEL
    assert [panel["isAuto"] for panel in added] == [False]


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layout that is unknown here .*delete it there"):
        updated_view({"section": {"panelBankConfig": {}}}, made())


def test_dry_run_prints_every_key_without_the_library(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_library(monkeypatch)
    shown = {key for section in specification(default_keys()) for panel in section.panels for key in panel.keys}
    assert dashboard(["team/project", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.strip() for line in lines if line.startswith("      ")) == sorted(shown)
    assert dashboard(["team/project", "--dry-run", "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)
    assert sorted(key for section in sections for panel in section["panels"] for key in panel["keys"]) == sorted(shown)


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("wandb"):
            raise ImportError(f"No module named {name!r}")
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_the_extra_is_named_where_it_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_library(monkeypatch)
    assert dashboard(["team/project"]) == 1
    assert "pip install 'probediff[dashboard]'" in capsys.readouterr().err


@pytest.mark.parametrize("project", ["project", "/project", "team/", "https://wandb.ai/team/project"])
def test_a_wrong_project_is_refused(project: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dashboard([project])
    assert f"two names with a slash between them, got {project!r}" in capsys.readouterr().err


def run_command(server: Stored, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because W&B reads the address of its server once."""
    code = "import sys; from probediff.commands.dashboard import dashboard; sys.exit(dashboard(sys.argv[1:]))"
    environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def test_the_command_makes_and_updates_a_workspace_on_a_server() -> None:
    with views_server() as server:
        other = {"id": "mine", "name": "nw-mine-v", "displayName": "mine", "spec": "{}"}
        server.views.append(other)
        server.runs.append({"state": "running", "historyKeys": {"keys": {"probe/new/x": {}}, "lastStep": 1}})
        done = run_command(server, "team/project")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"made {server.url}/team/project?nw=")
        assert server.views[0] == other
        view = json.loads(server.views[1]["spec"])
        assert shown_keys(view) == sorted([*shown_keys(made()), "probe/new/x"])

        sections_of(view)[0]["panels"].insert(0, PERSONS_PANEL)
        server.views[1]["spec"] = json.dumps(view)
        logged = {
            "probe/new/x": {"typeCounts": [{"type": "number", "count": 3}]},
            "probe/new/map": {"typeCounts": [{"type": "image-file", "count": 3}]},
            "probe/new/angles": {"typeCounts": [{"type": "histogram", "count": 3}]},
            "_step": {"typeCounts": [{"type": "number", "count": 3}]},
        }
        server.runs.append({"state": "finished", "historyKeys": {"keys": logged, "lastStep": 9}})
        done = run_command(server, "team/project")
        assert done.stdout.startswith(f"updated {server.url}/team/project?nw="), done.stderr
        assert len(server.views) == 2
        # A run has finished: what no run logged would stay empty, and goes.
        updated = json.loads(server.views[1]["spec"])
        assert shown_keys(updated) == ["my/metric", "probe/new/angles", "probe/new/map", "probe/new/x"]
        kinds = {panel["config"]["chartTitle"]: panel["viewType"] for panel in sections_of(updated)[-1]["panels"]}
        assert kinds == {"Map": "Media Browser", "X": "Run History Line Plot", "Angles": "Run History Line Plot"}

        done = run_command(server, "team/unknown")
        assert done.returncode == 1
        assert "ENTITY/PROJECT must be a project that your key may see, got team/unknown" in done.stderr
