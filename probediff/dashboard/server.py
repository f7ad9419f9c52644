"""A project on a W&B server: what its runs log, and the workspace in it."""

import json
import secrets
import string
from dataclasses import dataclass
from typing import Any

from probediff.dashboard.workspace import WORKSPACE_NAME
from probediff.runs.catalogue import default_keys
from probediff.runs.descriptions import Kind

_READ = """query ProjectKeysAndViews($entity: String!, $project: String!) {
    project(name: $project, entityName: $entity) {
        runs(first: 100, order: "-created_at") { edges { node { state historyKeys } } }
        allViews(viewType: "project-view", first: 1000) { edges { node { id name displayName spec } } }
    }
}"""

_WRITE = """mutation UpsertView(
    $id: ID, $entity: String, $project: String, $name: String, $title: String, $spec: String
) {
    upsertView(input: {id: $id, entityName: $entity, projectName: $project, name: $name, displayName: $title,
        description: "", type: "project-view", spec: $spec, createdUsing: WANDB_SDK}) { view { id name } }
}"""

_KINDS: dict[str, Kind] = {
    **{"image-file": "picture", "images/separated": "picture", "histogram": "histogram", "table-file": "table"},
}


@dataclass(frozen=True)
class View:
    """A workspace that is there already.

    Attributes:
        id: W&B's id of it.
        name: the name in its address.
        spec: its JSON.
    """

    id: str
    name: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class ProjectState:
    """What a project holds.

    Attributes:
        keys: what the newest 100 runs logged.
        any_finished: whether one of them has come to its end, so that no key is still to come.
        view: the workspace of this name, if there is one.
    """

    keys: dict[str, Kind]
    any_finished: bool
    view: View | None


class Project:
    """A project that is reached with the user's own key.

    Args:
        entity: W&B user or team.
        project: name of the project.
    """

    def __init__(self, entity: str, project: str) -> None:
        self.entity = entity
        self.project = project

    def read(self) -> ProjectState:
        """What is there now.

        Raises:
            ValueError: no such project, or a workspace of another version.
            OSError: the server does not answer, or refuses.
        """
        project = self._execute(_READ, {}).get("project")
        if project is None:
            raise ValueError(
                f"ENTITY/PROJECT must be a project that your key may see, got {self.entity}/{self.project}; "
                f"it is made by the first run that is logged to it"
            )
        runs = [edge["node"] for edge in project["runs"]["edges"]]
        keys: dict[str, Kind] = {}
        for run in runs:
            keys |= _kinds(run.get("historyKeys") or {})
        return ProjectState(keys, any(run["state"] == "finished" for run in runs), _view(project["allViews"]["edges"]))

    def write(self, spec: dict[str, Any], view: View | None) -> str:
        """Store ``spec`` as ``view`` or as a new workspace; returns its address."""
        letters = string.ascii_lowercase + string.digits
        code = "".join(secrets.choice(letters) for _ in range(11))
        name = view.name if view else f"nw-{code}-v"
        variables = {"name": name, "title": WORKSPACE_NAME, "spec": json.dumps(spec)}
        self._execute(_WRITE, variables | ({"id": view.id} if view else {}))
        address = name.removeprefix("nw-").removesuffix("-v")
        return f"{self._url}/{self.entity}/{self.project}?nw={address}"

    def _execute(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        import wandb
        from wandb_workspaces._graphql import execute_graphql, get_app_url

        variables = {"entity": self.entity, "project": self.project} | variables
        try:
            api = wandb.Api()
            self._url = get_app_url(api).rstrip("/")
            return execute_graphql(api, query, variables)
        except Exception as error:  # What is raised differs between wandb's transports and versions.
            raise OSError(
                f"W&B did not answer ({type(error).__name__}: {error}); log in by `wandb login`, set WANDB_BASE_URL "
                f"for a server of your own, or look at the dashboard by --dry_run"
            ) from error


def _kinds(history_keys: dict[str, Any]) -> dict[str, Kind]:
    """W&B's account of the logged keys: ``{"keys": {key: {"typeCounts": [{"type": "number", ...}]}}}``."""
    kinds, usual = dict[str, Kind](), default_keys()
    for key, account in history_keys.get("keys", {}).items():
        types = [count.get("type") for count in account.get("typeCounts") or []]
        kinds[key] = next((_KINDS[name] for name in types if name in _KINDS), usual.get(key, "number"))
    return kinds


def _view(edges: list[dict[str, Any]]) -> View | None:
    from wandb_workspaces.utils.validators import validate_spec_version
    from wandb_workspaces.workspaces.internal import CLIENT_SPEC_VERSION

    node = next((edge["node"] for edge in edges if edge["node"]["displayName"] == WORKSPACE_NAME), None)
    if node is None:
        return None
    spec = json.loads(node["spec"])
    validate_spec_version(spec, expected_version=CLIENT_SPEC_VERSION)
    return View(node["id"], node["name"], spec)
