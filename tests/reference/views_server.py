"""A stand-in for the part of W&B's server that a dashboard needs, on loopback: a project's runs and its saved views."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Stored:
    """What the server holds.

    Attributes:
        project: the project's name; another one is not found.
        runs: nodes with ``state`` and ``historyKeys``.
        views: nodes with ``id``, ``name``, ``displayName`` and ``spec`` (a string of JSON).
    """

    project: str = "project"
    runs: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL operation."""
        if "upsertView" in query:
            return {"upsertView": {"view": self._upsert(variables)}}
        if "allViews" in query:
            if variables["project"] != self.project:
                return {"project": None}
            as_edges = [[{"node": node} for node in nodes] for nodes in (self.runs, self.views)]
            return {"project": {"runs": {"edges": as_edges[0]}, "allViews": {"edges": as_edges[1]}}}
        return {"viewer": {"id": "1", "entity": "team", "username": "person", "flags": "{}", "teams": {"edges": []}}}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = {"name": variables["name"], "displayName": variables["title"], "spec": variables["spec"]}
        if "id" in variables:
            (view,) = (view for view in self.views if view["id"] == variables["id"])
        else:
            view = {"id": f"view{len(self.views)}"}
            self.views.append(view)
        view.update(given)
        return {"id": view["id"], "name": view["name"]}


@contextmanager
def views_server() -> Iterator[Stored]:
    """Serve until the end of the block."""
    stored = Stored()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            # W&B's client sends more than queries, such as an empty request to see whether the server is there.
            text = self.rfile.read(int(self.headers["Content-Length"]))
            request = json.loads(text) if text else {"query": ""}
            body = json.dumps({"data": stored.answer(request["query"], request.get("variables") or {})}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stored.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield stored
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
