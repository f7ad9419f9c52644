"""A stand-in for W&B's server: as much of it as ``wandb agent`` talks to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Run id and values of each trial.
Trials = list[tuple[str, dict[str, Any]]]


class StandIn(ThreadingHTTPServer):
    """Serves one sweep on loopback: hands out its trials one after another, then tells the agent to end.

    Args:
        config: the sweep file's text.
        trials: what is handed out.
    """

    daemon_threads = True

    def __init__(self, config: str, trials: Trials) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.config = config
        self.waiting = list(trials)
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(query)
        if "mutation CreateAgent" in query:
            return {"createAgent": {"agent": {"id": "agent"}}}
        if "mutation Heartbeat" in query:
            commands = self.commands(json.loads(variables["runState"]))
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
        if "query SweepWithRuns" in query:
            sweep = {"id": "sweep", "name": "smoke1", "method": "grid", "state": "RUNNING", "config": self.config}
            return {"project": {"sweep": {**sweep, "runs": {"edges": []}}}}
        if "viewer" in query:
            return {"viewer": {"id": "v", "entity": "someone", "username": "someone", "flags": "{}", "teams": None}}
        return {}

    def commands(self, running: dict[str, bool]) -> list[dict[str, Any]]:
        if running:
            return []
        if not self.waiting:
            return [{"type": "exit"}]
        run_id, values = self.waiting.pop(0)
        args = {key: {"value": value} for key, value in values.items()}
        return [{"type": "run", "run_id": run_id, "program": "unused.py", "args": args}]


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"data": self.server.answer(asked["query"], asked.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
