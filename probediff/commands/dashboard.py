"""Make the workspace "probediff" in a W&B project: a section a probe, every curve over training
steps (logarithmic for the probes, whose interest is early; such an axis leaves out step 0), pictures with a step
slider, histograms of the angles. Runs of one W&B group (--wandb.group) are shown as their mean and range.

Started again, it adds panels for what runs have logged since; panels, sections and settings that a person added or
changed are left alone. Needs wandb-workspaces: pip install 'probediff[dashboard]'.

Examples:
  probediff dashboard my-team/probediff
  probediff dashboard my-team/probediff --dry_run
  probediff dashboard my-team/probediff --dry_run --json
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from probediff.commands.runner import light_parser, run_guarded
from probediff.dashboard.specification import Section, specification
from probediff.dashboard.workspace import WORKSPACE_NAME, new_view, updated_view
from probediff.runs.catalogue import default_keys
from probediff.runs.descriptions import Kind


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = light_parser("dashboard", __doc__)
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="W&B user or team, and the project")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print what would be made for runs with all probes at their defaults; needs no network",
    )
    parser.add_argument("--dry-run", action="store_true", help=argparse.SUPPRESS)  # as it was spelt before
    parser.add_argument("--json", action="store_true", help="with --dry_run: print it as JSON")
    return parser


def dashboard(arguments: Sequence[str]) -> int:
    """``probediff dashboard``: returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    entity, _, project = options.project.partition("/")
    if not entity or not project or "/" in project:
        parser.error(f"ENTITY/PROJECT must be two names with a slash between them, got {options.project!r}")
    if options.json and not options.dry_run:
        parser.error("--json prints the specification, so it needs --dry_run")
    return run_guarded(
        parser.prog, lambda: print(_dry_run(options.json) if options.dry_run else _save(entity, project))
    )


def _dry_run(as_json: bool) -> str:
    sections = specification(default_keys())
    return json.dumps([asdict(section) for section in sections], indent=2) if as_json else describe(sections)


def describe(sections: Sequence[Section]) -> str:
    """The specification for a reader: sections, panels, and the keys of each."""
    panels = [panel for section in sections for panel in section.panels]
    lines = [f'Workspace "{WORKSPACE_NAME}": {len(sections)} sections, {len(panels)} panels']
    for section in sections:
        lines += ["", section.title]
        for panel in section.panels:
            what = {"number": "curve", "picture": "picture", "histogram": "histogram", "table": "table"}[panel.kind]
            lines.append(f"  {panel.title} ({what}{', logarithmic steps' if panel.log_x else ''})")
            lines += [f"      {key}" for key in panel.keys]
    return "\n".join(lines)


def _save(entity: str, project: str) -> str:
    # Says how to install what is missing, before anything is asked of the server.
    new_view(entity, project, [])
    from probediff.dashboard.server import Project

    server = Project(entity, project)
    state = server.read()
    keys: dict[str, Kind] = state.keys if state.any_finished else default_keys() | state.keys
    new = new_view(entity, project, specification(keys))
    url = server.write(updated_view(state.view.spec, new) if state.view else new, state.view)
    return f"{'updated' if state.view else 'made'} {url}"
